#!/usr/bin/env python3
"""Show where CPU time goes between client and engine, while a deployment on this machine's local cluster is under load.

    ./run_bm.sh -e load --isl 500 --osl 64 -c 8 & sleep 20; python benchmarks/stages.py
    python benchmarks/stages.py --seconds 60 --py-spy profiles/       # whose code the stages in Python run, too

What a stage costs shows where an arm leaves it out: run it beside an arm of `cpu_serving_path.yaml` and beside its control.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.profiles import MOST, recorded, shares  # noqa: E402
from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser, above_zero, add_base_url  # noqa: E402
from pdbench.manifest import Replica  # noqa: E402
from pdbench.nodes import local_cluster, marked  # noqa: E402
from pdbench.serve.api import deployed  # noqa: E402
from pdbench.serve.client import ServerError  # noqa: E402
from pdbench.serve.counters import finished, grown  # noqa: E402

STAGES = ("client", "proxy", "ingress", "frontend", "engine core", "engine rank", "Ray")
# Part of a process's command line, by stage; Linux cuts the name of vLLM's engine core to 15 letters.
NAMES = {"pdbench.measure.bench_client": "client", "VLLM::EngineCor": "engine core", "VLLM::Worker": "engine rank",
         "ProxyActor": "proxy", "haproxy": "proxy", "LLMRouter": "ingress"}  # fmt: skip


class Used(NamedTuple):
    """A process: its stage on a token's way, and its CPU time so far, in s."""

    stage: str
    seconds: float


def main() -> int:
    """Print what the command line asks for; return the exit code."""
    args = parse_args()
    if not (state := local_cluster.state()):
        print("stages.py: error: no local cluster runs here: its processes are what is counted", file=sys.stderr)
        return 2
    try:
        show(*asyncio.run(watch(args, state["mark"])), args.seconds)
        if args.py_spy:
            show_code(shares(args.py_spy))
    except (ServerError, RuntimeError) as error:
        print(f"stages.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command's options."""
    parser = Parser(prog="stages.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=above_zero, default=30.0, help="how long to watch (default: %(default)s)")
    add_base_url(parser)
    add("--py-spy", type=Path, metavar="DIR", help="sample the stages in Python meanwhile: time by library, and files for "
        "speedscope.app; as root, or with kernel.yama.ptrace_scope=0")  # fmt: skip
    return parser.parse_args(argv)


async def watch(args: argparse.Namespace, mark: str) -> tuple[dict[int, Used], dict[int, Used], float]:
    """Return the processes' CPU time before and after, and the requests that the engines ended in between.

    Raises:
        RuntimeError: there were none.
        ServerError: the deployment does not answer.
    """
    async with deployed(args.base_url) as server:
        replicas = (await server.deployment()).replicas
        counted, before = await server.counters(), used(mark, replicas)
        spying = (
            recorded({pid: one.stage for pid, one in before.items()}, args.py_spy) if args.py_spy else contextlib.nullcontext()
        )
        with spying:
            await asyncio.to_thread(time.sleep, args.seconds)
        after, requests = used(mark, replicas), finished(grown(counted, await server.counters()))
    if not requests:
        raise RuntimeError(f"no request ended within {args.seconds:g} s: put the deployment under load, or watch it for longer")
    return before, after, requests


def used(mark: str, replicas: list[Replica]) -> dict[int, Used]:
    """Return CPU time so far of every process of the cluster, and of bench clients."""
    roles = {replica.pid: "ingress" if replica.role == "ingress" else "frontend" for replica in replicas}
    of_cluster = {process.pid: process for process in marked.marked(mark)}
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline()) or process.name()
            named = next((stage for name, stage in NAMES.items() if name in line), None)
            if process.pid in of_cluster or named == "client":
                times = process.cpu_times()
                found[process.pid] = Used(named or roles.get(process.pid, "Ray"), times.user + times.system)
    return found


def show(before: dict[int, Used], after: dict[int, Used], requests: float, seconds: float) -> None:
    """Print cores and CPU time per request of each stage."""
    spent: Counter[str] = Counter()
    for pid in before.keys() & after.keys():
        spent[after[pid].stage] += after[pid].seconds - before[pid].seconds
    table = Table(title=f"{seconds:g} s, {requests:.0f} requests ended")
    for column in ("stage", "processes", "cores", "CPU ms per request"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in STAGES:
        processes = sum(one.stage == stage for one in after.values())
        table.add_row(stage, str(processes), f"{spent[stage] / seconds:.2f}", f"{1e3 * spent[stage] / requests:.1f}")
    Console(highlight=False).print(table)


def show_code(found: dict[str, dict[str, float]]) -> None:
    """Print for each stage the libraries whose code Python ran most."""
    table = Table("stage", f"the {MOST} libraries whose code ran most", title="whose code Python runs")
    for stage, parts in found.items():
        table.add_row(stage, ", ".join(f"{name} {share:.0%}" for name, share in list(parts.items())[:MOST]))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "stages.py"))

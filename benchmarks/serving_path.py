#!/usr/bin/env python3
"""Compare what is between client and engine: plain vLLM, Ray Serve with its defaults, and with its options.

    python benchmarks/serving_path.py                        # control, Ray's defaults, ours, direct streaming; 1xtp1 and 1P:1D
    python benchmarks/serving_path.py --alone --of 1xtp1     # each option alone, too; of 2xtp1: a router
    python benchmarks/serving_path.py --pin                  # and again with cores of their own, where there are enough
    python benchmarks/serving_path.py --py-spy profiles/     # whose code client, ingress and engines run

On a local cluster of this machine, which must not run yet. Each arm is launched by launch_gptoss.py and measured with
`vllm bench serve`; prints what it reached beside the control, what of its latencies the engines themselves had, and the CPU
time that a token costs in each process on its way. What a stage adds to a token's time shows where an arm leaves it out: the
latencies that Ray exports cannot show it, since their sums are made of the middles of wide buckets. Ratios are of one run on
one machine, the control measured first and again at the end; --json keeps all numbers.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.accounting import MIN_CORES_TO_PIN, STAGES, cpu_seconds, pin, stage_of  # noqa: E402
from benchmarks.client import client  # noqa: E402
from benchmarks.cluster import STACK, URL, cluster, run  # noqa: E402
from benchmarks.profiles import recorded, shares  # noqa: E402
from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser, positive  # noqa: E402
from pdbench.files import write_atomically  # noqa: E402
from pdbench.serve.counters import finished, grown  # noqa: E402

MODES = {"1xtp1": ("bare", "collocated"), "2xtp1": ("bare", "collocated"), "p1xtp1-d1xtp1": ("bare-pd", "pd-pack")}
CONTROL, AGAIN = "bare", "bare, again"


def env(**variables: str) -> list[str]:
    return [word for name, value in variables.items() for word in ("--serve-env", f"RAY_SERVE_{name}={value}")]


def llm(**options: str) -> list[str]:
    return [word for name, value in options.items() for word in ("--llm-option", f"{name}={value}")]


OFF = env(ENABLE_HA_PROXY="0", THROUGHPUT_OPTIMIZED="0") + llm(pd_tokenize_once="false", prewarm_prefill_decode="false")
BATCHES = llm(stream_batching_interval_ms="50")
# Options of launch_gptoss.py by arm; what is not named is as configs/serve.yaml has it.
ARMS = {
    CONTROL: [],
    "Ray's defaults": OFF,
    "ours": [],
    "direct streaming": ["--direct-streaming"],
}
# Each beside Ray's defaults. What RAY_SERVE_THROUGHPUT_OPTIMIZED sets comes first, part by part.
ALONE = {
    "one event loop": OFF + env(RUN_USER_CODE_IN_SEPARATE_THREAD="0", RUN_ROUTER_IN_SEPARATE_LOOP="0"),
    "gRPC": OFF + env(USE_GRPC_BY_DEFAULT="1"),
    "buffered logs": OFF + env(LOG_TO_STDERR="0", REQUEST_PATH_LOG_BUFFER_SIZE="1000"),
    "throughput optimized": OFF + env(THROUGHPUT_OPTIMIZED="1"),
    "HAProxy": OFF + env(ENABLE_HA_PROXY="1"),
    "HAProxy and gRPC": OFF + env(ENABLE_HA_PROXY="1", USE_GRPC_BY_DEFAULT="1"),
    "4 ingress replicas": [*OFF, "--ingress-replicas", "4"],
    "streams in batches of 50 ms": OFF + BATCHES,
    # From here on beside what configs/serve.yaml has.
    "ours, 4 ingress replicas": ["--ingress-replicas", "4"],
    "ours, in batches of 50 ms": BATCHES,
}
# Where there are several replicas to choose from, or P and D.
ALONE_OF = {
    "2xtp1": {"ours, round-robin": ["--router", "round-robin"]},
    "p1xtp1-d1xtp1": {
        "ours, tokenized by P and D": llm(pd_tokenize_once="false"),
        "ours, not prewarmed": llm(prewarm_prefill_decode="false"),
    },
}
REACHED = ("request_throughput", "p99_itl_ms", *(f"{how}_{what}_ms" for how in ("median", "mean") for what in ("ttft", "tpot")))
MOST = 6  # libraries of a stage that are printed
# Its tables need as much, also in a file.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    args = parse_args()
    found: list[dict[str, Any]] = []
    try:
        # Engines on the head: there HAProxy finds them on loopback, also with direct streaming.
        with cluster(workers=0), client() as ask:
            for layout in args.of:
                arms = chosen(layout, args)
                for number, (name, options) in enumerate(arms.items(), start=1):
                    console.print(f"{time.strftime('%H:%M:%S')} {layout}: arm {number} of {len(arms)}, {name}")
                    with deployed(layout, name, options):
                        measure(ask, layout, name, args, found)
                    save(found, args)
    except RuntimeError as error:
        print(f"serving_path.py: error: {error}", file=sys.stderr)
        return 1
    finally:  # print what was measured, however it ended
        save(found, args)
        print_results(found, args)
    return 0


def save(found: list[dict[str, Any]], args: argparse.Namespace) -> None:
    if args.json:
        write_atomically(args.json, json.dumps(found, indent=2))


def print_results(found: list[dict[str, Any]], args: argparse.Namespace) -> None:
    for layout in args.of:
        for pinned in rounds(args):
            rows = [row for row in found if row["layout"] == layout and row["pinned"] == pinned]
            show(rows, f"{layout}, client and engines on cores of their own" if pinned else layout)
        show_code([row for row in found if row["layout"] == layout and "code" in row], layout)


def all_arms(layout: str) -> dict[str, list[str]]:
    return ARMS | ALONE | ALONE_OF.get(layout, {})


def chosen(layout: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the arms of a layout that are to be measured, between control and control again."""
    names = args.arms or (all_arms(layout) if args.alone else ARMS)
    return {CONTROL: []} | {name: options for name, options in all_arms(layout).items() if name in names} | {AGAIN: []}


def parse_args() -> argparse.Namespace:
    parser = Parser(prog="serving_path.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", nargs="+", choices=MODES, default=["1xtp1", "p1xtp1-d1xtp1"], metavar="LAYOUT",
                        help=f"of {', '.join(MODES)} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--alone", action="store_true", help="each option alone, too")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these, beside the control; see the top of this file")
    parser.add_argument("--levels", nargs="+", type=positive, default=[1, 8], metavar="N", help="requests in flight")
    parser.add_argument("--requests", type=positive, default=40, help="per level, or 4 times the level (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=1, help="measurements of each level (default: %(default)s)")
    parser.add_argument("--isl", type=positive, default=500)
    parser.add_argument("--osl", type=positive, default=64, help="at least 2 (default: %(default)s)")
    parser.add_argument("--pin", action="store_true",
                        help="measure each arm again with client and engines on cores of their own")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here")
    parser.add_argument("--py-spy", type=Path, metavar="DIR",
                        help="sample the last level once more: time by library, and files for speedscope.app; as root, "
                             "or with kernel.yama.ptrace_scope=0")  # fmt: skip
    args = parser.parse_args()
    if args.osl < 2:
        parser.error("--osl must be at least 2: a single token has no time to the next")
    if args.pin and os.cpu_count() < MIN_CORES_TO_PIN:
        parser.error(f"--pin needs {MIN_CORES_TO_PIN} cores, and here are {os.cpu_count()}")
    known = {name: None for layout in args.of for name in all_arms(layout)}
    if unknown := set(args.arms or []) - set(known):
        parser.error(f"no arm {min(unknown)}: there are {'; '.join(known)}")
    return args


@contextlib.contextmanager
def deployed(layout: str, name: str, options: list[str]):
    control, behind_ray = MODES[layout]
    mode = control if name in (CONTROL, AGAIN) else behind_ray
    try:
        run("launch_gptoss.py", *STACK, "--layout", layout, "--mode", mode, *options)
        yield
    finally:
        run("launch_gptoss.py", "--stop")


def measure(ask, layout: str, name: str, args: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    """Measure every level of an arm, added to `found`: what client and engines saw, and CPU ms per token and stage."""
    deployment = answer_of("deployment")
    url = deployment.get("serving_url", URL)
    most = max(args.levels)
    ask(url, most, 2 * most, args.isl, args.osl)  # warm
    for pinned in rounds(args):
        if args.pin:
            pin(deployment, ask.pid, own=pinned)
        for level in args.levels * args.repeats:
            reached = measure_level(ask, url, level, deployment, args)
            found.append({"layout": layout, "arm": name, "level": level, "pinned": pinned, **reached})
    if args.py_spy:
        folder, level = args.py_spy / re.sub(r"\W+", "_", f"{layout} {name}"), args.levels[-1]
        with recorded(stage_of(deployment, ask.pid), folder):
            ask(url, level, requests_of(level, args), args.isl, args.osl)  # slowed down: it does not count
        found[-1]["code"] = shares(folder)


def requests_of(level: int, args: argparse.Namespace) -> int:
    return max(args.requests, 4 * level)


def measure_level(ask, url: str, level: int, deployment: dict, args: argparse.Namespace) -> dict[str, Any]:
    counted, before = answer_of("counters"), cpu_seconds(deployment, ask.pid)
    result = ask(url, level, requests_of(level, args), args.isl, args.osl)
    after = cpu_seconds(deployment, ask.pid)
    used = {stage: sum(after[pid][1] - before[pid][1] for pid in after if pid in before and after[pid][0] == stage)
            for stage in STAGES}  # fmt: skip
    return {
        **{key: result[key] for key in REACHED},
        **in_engines(counted_since(counted, requests_of(level, args)), args.osl),
        "cores": sum(used.values()) / result["duration"],
        "cpu_ms_per_token": {stage: 1e3 * seconds / result["total_output_tokens"] for stage, seconds in used.items()},
    }


def answer_of(what: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{URL}/pdbench/{what}", timeout=30) as answer:
        return json.load(answer)


def counted_since(before: dict[str, dict], requests: int) -> dict[str, dict[str, float]]:
    """Return what each engine's role has counted since `before`, when all the requests sent are among it.

    Raises:
        RuntimeError: they are not within some seconds, or there are others.
    """
    deadline = time.monotonic() + 5
    while True:
        counted = grown(before, answer_of("counters"))
        if (seen := finished(counted)) == requests:
            return {role: of_role for role, of_role in counted.items() if role != "ingress"}
        if time.monotonic() > deadline:
            raise RuntimeError(f"{requests} requests were sent, and the engines counted {seen:.0f}: what else uses them?")
        time.sleep(0.05)


def in_engines(counted: dict[str, dict[str, float]], osl: int) -> dict[str, Any]:
    """Return means over a level's requests by the engines' clocks: ms to the first token of each role, and per further token.

    Args:
        counted: on the level, by role.
        osl: output tokens of a request, at least 2.
    """
    first = {role: 1e3 * engine["first_token_seconds"] / engine["requests"] for role, engine in counted.items()}
    decoding = counted.get("decode") or counted["collocated"]
    return {"engine_ttft_ms": first, "engine_tpot_ms": 1e3 * decoding["decode_seconds"] / decoding["requests"] / (osl - 1)}


def rounds(args: argparse.Namespace) -> tuple[bool, ...]:
    """Return whether client and engines have cores of their own in each round of an arm's levels."""
    return (False, True) if args.pin else (False,)


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print three tables, if the control was measured: what was reached beside it, what of it the engines had, CPU by stage."""
    if not any(row["arm"] == CONTROL for row in rows):
        return
    reached = Table(title=f"{title}: beside the control")
    for column in ("arm", "level", "requests/s", "of bare", "TPOT, ms", "of bare", "TTFT, ms", "p99 ITL, ms", "cores"):
        reached.add_column(column, justify="left" if column == "arm" else "right")
    within = Table(title=f"{title}: means by the client's and by the engines' clocks, ms")
    for column in ("arm", "level", "TTFT", "in P", "in D or collocated", "outside", "TPOT", "in the engine"):
        within.add_column(column, justify="left" if column == "arm" else "right")
    cpu = Table(title=f"{title}: CPU time per output token, ms")
    for column in ("arm", "level", *STAGES):
        cpu.add_column(column, justify="left" if column == "arm" else "right")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for level in dict.fromkeys(row["level"] for row in rows):
            mine = median_of(rows, {arm}, level)
            bare = median_of(rows, {CONTROL, AGAIN}, level)
            rate, tpot = mine["request_throughput"], mine["median_tpot_ms"]
            words = [f"{rate:.2f}", f"{rate / bare['request_throughput']:.2f}"]
            words += [f"{tpot:.1f}", f"{tpot / bare['median_tpot_ms']:.2f}"]
            words += [f"{mine['median_ttft_ms']:.0f}", f"{mine['p99_itl_ms']:.0f}", f"{mine['cores']:.2f}"]
            reached.add_row(arm, str(level), *words)
            engines, ttft = mine["engine_ttft_ms"], mine["mean_ttft_ms"]
            parts = [engines.get("prefill"), engines.get("decode", engines.get("collocated")), ttft - sum(engines.values())]
            cells = ["" if ms is None else f"{ms:.0f}" for ms in (ttft, *parts)]
            within.add_row(arm, str(level), *cells, f"{mine['mean_tpot_ms']:.1f}", f"{mine['engine_tpot_ms']:.1f}")
            used = mine["cpu_ms_per_token"]
            cpu.add_row(arm, str(level), *(f"{used[stage]:.2f}" for stage in STAGES))
    for table in (reached, within, cpu):
        console.print(table)


def show_code(rows: list[dict[str, Any]], title: str) -> None:
    """Print for each profiled arm and stage the libraries whose code Python ran most."""
    if not rows:
        return
    table = Table(title=f"{title}: whose code Python runs")
    for column in ("arm", "level", "stage", f"the {MOST} most"):
        table.add_column(column, justify="right" if column == "level" else "left")
    for row in rows:
        for stage, parts in row["code"].items():
            most = ", ".join(f"{name} {share:.0%}" for name, share in list(parts.items())[:MOST])
            table.add_row(row["arm"], str(row["level"]), stage, most)
    console.print(table)


def median_of(rows: list[dict[str, Any]], arms: set[str], level: int) -> dict[str, Any]:
    """Return medians over the measurements of a level, inner dictionaries' too."""
    some = [row for row in rows if row["arm"] in arms and row["level"] == level]

    def of(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: of([value[key] for value in values if key in value]) for key in values[0]}
        return statistics.median(values)

    return {key: of([row[key] for row in some]) for key in some[0] if key not in ("layout", "arm", "level", "pinned", "code")}


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "serving_path.py"))

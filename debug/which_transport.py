#!/usr/bin/env python
"""Show which transport moves the KV cache, with the lines of UCX that prove it.

    python debug/which_transport.py LOG...     output of engines that ran with UCX_PROTO_INFO=y
    python debug/which_transport.py --live     the running deployment: every pair of prefill and decode

launch_gptoss.py sets UCX_PROTO_INFO=y for every PD deployment. Exit code 1 if nothing names a transport, or if one of RDMA is
there by name only: UCX emulates its reads in messages.
"""

import argparse
import asyncio
import datetime
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser, add_base_url  # noqa: E402
from pdbench.manifest import Deployment  # noqa: E402
from pdbench.network.transport_pairs import pairs  # noqa: E402
from pdbench.network.ucx_log import TABLE, Read, read_tables  # noqa: E402
from pdbench.nodes import cluster  # noqa: E402
from pdbench.serve.api import deployed  # noqa: E402
from pdbench.serve.client import ServerError  # noqa: E402

REPEATED = "repeated"  # Ray's driver folds lines that look alike, and a table's rows do


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="which_transport.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="*", type=Path, metavar="LOG", help="- is standard input")
    parser.add_argument("--live", action="store_true", help="ask the running deployment and its nodes")
    add_base_url(parser)
    parser.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or the one that runs here")
    args = parser.parse_args(argv)
    if bool(args.logs) == args.live:
        parser.error("give either log files or --live")
    return args


def from_logs(paths: list[Path]) -> bool:
    """Print what each reader in the files says; False if none says anything, or one that reads over RDMA are emulated.

    Raises:
        ValueError: a file cannot be read.
    """
    lines = []
    for path in paths:
        try:
            text = sys.stdin.read() if str(path) == "-" else path.read_text(errors="replace")
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        lines += text.splitlines()
    reads = read_tables(lines)
    for reader in dict.fromkeys(read.process for read in reads):
        print(f"reader {reader or '(unnamed)'}")
        show([read for read in reads if read.process == reader])
    if not reads:
        folded = any(f"[{REPEATED} " in line for line in lines)
        print("no line names what carries KV reads: " + (
            "Ray folded lines that look alike: run the driver with RAY_DEDUP_LOGS=0, or give the workers' own logs" if folded
            else "did the engines run with UCX_PROTO_INFO=y, and was a request completed?"))  # fmt: skip
    return bool(reads) and not any(read.emulated for read in reads)


def show(reads: list[Read]) -> None:
    """Print the rows of one reader, and the lines that prove them."""
    for read in dict.fromkeys(reads):
        print(f"  {', '.join(read.transports)}: {read.how}, {read.low:g} bytes to {read.high:g}, {read.connection}")
        print(f"    {read.line.strip()}")
        if read.emulated:
            kinds = ", ".join(sorted({name.partition("/")[0] for name in read.emulated}))
            print(f"    FAIL: {kinds} by name, emulated in fact: the card cannot read that memory, and large reads go in "
                  "messages; see GPUDirect in debug/doctor.py, and UCX's version")  # fmt: skip


async def ask(base_url: str) -> tuple[Deployment, dict]:
    async with deployed(base_url) as running:
        return await running.deployment(), await running.counters()


def live(args: argparse.Namespace) -> bool:
    """Print every pair of the running deployment; False if UCX named no transport for one, or emulates RDMA's reads.

    Raises:
        ServerError: no deployment of this repository answers.
        ConnectionError: there is no Ray cluster.
    """
    deployment, counters = asyncio.run(ask(args.base_url))
    if deployment.transport is None:
        raise ServerError(f"{deployment.layout} is collocated: it moves no KV cache")
    if deployment.transport["backend"] != "UCX":
        raise ServerError(f"the backend is {deployment.transport['backend']}: UCX is not used")
    ray = cluster.connect(args.address)
    since = datetime.datetime.fromisoformat(deployment.launched).timestamp()
    files = cluster.each_file_once(cluster.on_every_node(ray, cluster.engine_lines, TABLE, since).values())
    reads = [read for lines in files for read in read_tables(lines)]
    decode = {r.pid: r.node_ip for r in deployment.replicas if r.role == "decode"}
    ranks = {pid: cluster.on_every_node(ray, cluster.process_tree, [pid])[ip] for pid, ip in decode.items()}
    found = pairs(deployment.replicas, ranks, reads)
    print(f"{deployment.layout} {deployment.mode}, UCX_TLS={deployment.transport['ucx_tls'] or 'unset'}")
    for pair in found:
        p, d = pair.prefill, pair.decode
        said = ", ".join(pair.transports) or "UCX named no transport: was a request completed?"
        print(f"prefill {p.replica_id} on {p.node_ip} -> decode {d.replica_id} on {d.node_ip}: {said}")
        show(list(pair.reads))
    moved = counters.get("decode", {})
    seconds, size = moved.get("kv_seconds", 0.0), moved.get("kv_bytes", 0.0)
    speed = f", {size / seconds / 1e9:.3f} GB/s while transferring" if seconds else ""
    print(f"moved since the launch: {size / 1e6:.1f} MB in {moved.get('kv_transfers', 0):.0f} transfers{speed}; "
          f"{moved.get('kv_failed', 0):.0f} failed")  # fmt: skip
    return bool(found) and all(pair.transports and not any(read.emulated for read in pair.reads) for pair in found)


def main() -> int:
    args = parse_args()
    try:
        return 0 if (live(args) if args.live else from_logs(args.logs)) else 1
    except (ValueError, ServerError, ConnectionError) as error:
        print(f"which_transport.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "which_transport.py"))

#!/usr/bin/env python
"""Check whether every node of the cluster is fit to be measured: versions, hardware, network, environment, room and leftovers.

    python debug/doctor.py                      every node of the Ray cluster, at once
    python debug/doctor.py --local              this machine alone; needs no cluster
    python debug/doctor.py --quick --json -     what takes a second or two, as JSON

Exit code 1 if something fails, 2 for bad input. Nothing is changed.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.box import SIMPLE_HEAD  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402

from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser, port, seconds  # noqa: E402
from pdbench.configs import load_serve  # noqa: E402
from pdbench.doctor.examination import LIMIT_S, Examination, examine  # noqa: E402
from pdbench.doctor.findings import Finding  # noqa: E402
from pdbench.doctor.versions import RequirementsError  # noqa: E402
from pdbench.files import write_atomically  # noqa: E402
from pdbench.nodes import cluster  # noqa: E402
from pdbench.serve.serving_path import ServingPath, ports  # noqa: E402

COLOURS = {"ok": "green", "n/a": "dim", "warn": "yellow", "fail": "red"}
WIDTH_IN_A_FILE = 160


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="doctor.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", action="store_true", help="this machine alone, without a cluster")
    parser.add_argument("--quick", action="store_true", help="leave out pins, and what takes seconds: NIXL's backends")
    parser.add_argument("--brief", action="store_true", help="warnings and failures alone, in a line each")
    parser.add_argument("--requirements", type=Path, metavar="FILE",
                        help="pinned versions (default: requirements.txt, or requirements-cpu.txt without a GPU)")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write facts and findings as JSON; - prints them instead of the table")
    parser.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or the one that runs here")
    parser.add_argument("--host", default="127.0.0.1", help="address that deployments bind (default: %(default)s)")
    parser.add_argument("--port", type=port, default=8000, help="their HTTP port (default: %(default)s)")
    parser.add_argument("--timeout", type=seconds, default=LIMIT_S, metavar="S",
                        help="seconds for a node to answer (default: %(default)g)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.timeout >= 3600:
        parser.error("argument --timeout: it must be below 3600 seconds")
    if args.local and args.address:
        parser.error("--local checks this machine alone: it cannot be combined with --address")
    if args.json not in (None, "-") and not Path(args.json).absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {Path(args.json).parent}")
    return args


def show(examination: Examination, console: Console) -> None:
    """Print a row for each finding, and what to do about those that are not well."""
    everywhere = set(examination.nodes)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "what", "nodes", "seen", "reason and fix"):
        table.add_column(column, overflow="fold")
    for finding in examination.findings:
        nodes = "all" if set(finding.nodes) == everywhere and len(everywhere) > 1 else "\n".join(finding.nodes)
        status = f"[{COLOURS[finding.status]}]{finding.status}[/]"
        table.add_row(status, escape(finding.name), nodes, escape(finding.seen), _why(finding))
    console.print(table)


def summary(examination: Examination) -> str:
    counts = ", ".join(f"{len(examination.of(status))} {status}" for status in COLOURS if examination.of(status))
    nodes = len(examination.nodes)
    return f"doctor: {nodes} {'node' if nodes == 1 else 'nodes'}: {counts}"


def _why(finding: Finding) -> str:
    fix = f"[bold]fix:[/bold] {escape(finding.fix)}" if finding.fix else ""
    return "\n".join(line for line in (escape(finding.reason), fix) if line)


def main() -> int:
    args = parse_args()
    try:
        ray = None if args.local else cluster.connect(args.address)
        needed = ports(ServingPath(env=load_serve().env), args.host, args.port)
        found = examine(ray, quick=args.quick, requirements=args.requirements, ports=needed, limit_s=args.timeout)
    except ConnectionError as error:
        print(f"doctor.py: error: {error}; --local checks this machine alone", file=sys.stderr)
        return 2
    except RequirementsError as error:
        print(f"doctor.py: error: {error}", file=sys.stderr)
        return 2
    if args.json == "-":
        print(found.model_dump_json(indent=2))
    elif args.brief:
        for finding in [*found.of("fail"), *found.of("warn")]:
            print(f"doctor: {finding.status}: {finding.line}")
        print(summary(found))
    else:
        console = Console(highlight=False)
        show(found, console if console.is_terminal else Console(highlight=False, width=WIDTH_IN_A_FILE))
        print(summary(found))
    if args.json not in (None, "-"):
        write_atomically(Path(args.json), found.model_dump_json(indent=2))
    return 1 if found.status == "fail" else 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "doctor.py"))

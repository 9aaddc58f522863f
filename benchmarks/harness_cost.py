#!/usr/bin/env python3
"""Compare the time that an arm takes beside its measurement, here and the plain way: same arms, levels and requests.

    python benchmarks/harness_cost.py
    python benchmarks/harness_cost.py --arms 2xtp1 --levels 1 8

The plain way is what benchmark scripts commonly do: launch, sleep 30 s, one process of `vllm bench serve` for each level
with 5 s of sleep after it, stop, and 10 s of sleep before the next arm. It checks nothing and warms nothing up; here every arm
passes its gates. Both ways run on one local cluster of this machine, arm by arm in turn, with `launch_gptoss.py` for both.
"""

import argparse
import json
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.client import options  # noqa: E402
from benchmarks.cluster import STACK, URL, cluster, run  # noqa: E402
from pdbench import interrupts  # noqa: E402
from pdbench.cli import ENGINES_LOADED, Parser, positive  # noqa: E402
from pdbench.workload import Level  # noqa: E402

MODES = {"2xtp1": "collocated", "p1xtp1-d1xtp1": "pd-pack"}
SLEEPS = {"ready": 30, "level": 5, "stop": 10}
KINDS = ("loading engines", "measuring", "checking", "the rest")
# Its table needs as much, also in a file.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> None:
    parser = Parser(prog="harness_cost.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=MODES, default=list(MODES), metavar="LAYOUT")
    parser.add_argument("--levels", nargs="+", type=positive, default=[1, 2, 4, 8], metavar="N", help="requests in flight")
    parser.add_argument("--isl", type=positive, default=2000)
    parser.add_argument("--osl", type=positive, default=32)
    args = parser.parse_args()
    spent = {}
    with cluster(workers=1), tempfile.TemporaryDirectory() as folder:
        for layout in args.arms:
            for way in (plain, ours):
                console.print(f"{time.strftime('%H:%M:%S')} {layout}, {'the plain way' if way is plain else 'here'}")
                spent[layout, way] = way(layout, args, Path(folder))
    show(spent)


def plain(layout: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    begun, measuring = time.monotonic(), 0.0
    try:
        loading = launched(layout)
        time.sleep(SLEEPS["ready"])
        for level in args.levels:
            requests = Level("concurrency", float(level)).num_prompts(False)
            saved = folder / "plain.json"
            words = options(URL, level, requests, args.isl, args.osl, saved)
            run(str(Path(sys.executable).with_name("vllm")), "bench", "serve", *words)
            measuring += json.loads(saved.read_text())["duration"]
            time.sleep(SLEEPS["level"])
    finally:
        run("launch_gptoss.py", "--stop")
    time.sleep(SLEEPS["stop"])
    return spent_of(time.monotonic() - begun, loading, measuring, 0.0)


def ours(layout: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    begun = time.monotonic()
    try:
        loading = launched(layout)
        checking = time.monotonic()
        run("-m", "pdbench.gates", "--save", str(folder / f"{layout}.json"))
        checking = time.monotonic() - checking
        levels = ",".join(map(str, args.levels))
        workload = ["--isl", str(args.isl), "--osl", str(args.osl), "-c", levels]
        run("./run_bm.sh", "-e", layout, *workload, "--results-dir", str(folder))
    finally:
        run("launch_gptoss.py", "--stop")
    results = folder.glob(f"*_{layout}/conc*.json")
    measuring = sum(json.loads(path.read_text())["duration"] for path in results)
    return spent_of(time.monotonic() - begun, loading, measuring, checking)


def launched(layout: str) -> float:
    """Return seconds that the engines took to load."""
    said = run("launch_gptoss.py", *STACK, "--layout", layout, "--mode", MODES[layout])
    urllib.request.urlopen(f"{URL}/v1/models", timeout=30).close()
    return float(re.search(ENGINES_LOADED.format(r"([\d.]+)"), said)[1])


def spent_of(total: float, loading: float, measuring: float, checking: float) -> dict[str, float]:
    rest = total - loading - measuring - checking
    return dict(zip(KINDS, (loading, measuring, checking, rest), strict=True)) | {"all": total}


def show(spent: dict) -> None:
    table = Table(title="seconds")
    for column in ("arm", "way", *KINDS, "all", "measuring or loading"):
        table.add_column(column, justify="left" if column in ("arm", "way") else "right")
    for (layout, way), seconds in spent.items():
        share = (seconds["loading engines"] + seconds["measuring"]) / seconds["all"]
        cells = (f"{seconds[kind]:.0f}" for kind in (*KINDS, "all"))
        table.add_row(layout, "plain" if way is plain else "here", *cells, f"{share:.0%}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "harness_cost.py"))

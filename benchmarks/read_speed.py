#!/usr/bin/env python3
"""Measure time, CPU time and peak memory to load, decide and draw many result folders: 6 levels and 3 repeats each.

    python benchmarks/read_speed.py
    python benchmarks/read_speed.py --folders 100 --details

Folders are made in a temporary directory; each count runs in a process of its own. With --details the files hold
per-request lists, as run_bm.sh writes them: these are passed over, for nothing here asks for them.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pdbench import interrupts  # noqa: E402

ISL, OSL = 5000, 250
CONCURRENCIES, REPEATS = (4, 8, 16, 32, 48, 64), 3
DRAWN = 12  # arms in the figure: more cannot be distinguished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, nargs="+", default=[10, 100, 1000], help="default: %(default)s")
    parser.add_argument("--details", action="store_true", help="files with per-request lists")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure)
    for count in args.folders:
        with tempfile.TemporaryDirectory() as root:
            size = sum(make_folder(Path(root), number, args.details) for number in range(count))
            print(f"{count} folders, {size / 2**20:,.0f} MiB:", end=" ", flush=True)
            subprocess.run([sys.executable, __file__, "--measure", root], check=True)


def measure(root: Path) -> None:
    """Print what the steps took, and of that on the CPU, which a busy machine does not lengthen; imports are not counted."""
    from pdbench.analysis import decision
    from pdbench.analysis.sla import parse
    from pdbench.output import figures
    from pdbench.read.results import read_results

    steps = {"start": (time.perf_counter(), time.process_time())}
    folders = sorted(root.iterdir())
    table = read_results(folders, details=False)
    assert len(table) == len(folders) * len(CONCURRENCIES) * REPEATS and table["arm"].nunique() == len(folders)
    steps["load"] = time.perf_counter(), time.process_time()
    bands = decision.bands(table, "median_tpot_ms", "input_throughput_per_node")
    answers = decision.decide(table, parse("tpot=10,ttft=1000"))
    assert len(answers) == len(folders) and answers["holds"].any() and bands["throughput_low"].is_monotonic_increasing
    steps["decide"] = time.perf_counter(), time.process_time()
    figures.draw(table[table["arm"].isin(answers["arm"][:DRAWN])], figures.View())
    steps["draw"] = time.perf_counter(), time.process_time()
    taken = [f"{name} {b[0] - a[0]:.1f} s (CPU {b[1] - a[1]:.1f} s)" for (_, a), (name, b) in pairwise(steps.items())]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{', '.join(taken)}; peak {peak:,.0f} MiB")


def make_folder(root: Path, number: int, details: bool) -> int:
    """Make a folder whose curves are its own; returns its bytes."""
    rng = random.Random(number)
    layout = rng.choice(["4xtp2", "2xtp4", "p1xtp2-d1xtp2", "p2xtp2-d1xtp2", "p1xtp2-d3xtp2"])
    folder = root / f"gptoss_itl{ISL}_otl{OSL}_mixed_n{number}_{layout}"
    folder.mkdir()
    speed = rng.uniform(0.7, 1.3)
    for concurrency in CONCURRENCIES:
        for repeat in range(1, REPEATS + 1):
            name = f"conc{concurrency}.json" if repeat == 1 else f"conc{concurrency}_rep{repeat}.json"
            (folder / name).write_text(json.dumps(level(concurrency, speed * rng.gauss(1, 0.02), details, rng)))
    return sum(path.stat().st_size for path in folder.iterdir())


def level(concurrency: int, speed: float, details: bool, rng: random.Random) -> dict[str, object]:
    """Return what the client writes, keys in its order."""
    requests, tpot, ttft = 5 * concurrency, (5 + concurrency / 8) / speed, (100 + 6 * concurrency) / speed
    duration = 5 * (ttft + OSL * tpot) / 1e3
    content = {"date": "20251021-000022", "num_prompts": requests, "request_rate": "inf", "max_concurrency": concurrency}
    content |= {"duration": duration, "completed": requests, "failed": 0}
    content |= {"total_input_tokens": requests * ISL, "total_output_tokens": requests * OSL}
    content |= {"output_throughput": requests * OSL / duration, "total_token_throughput": requests * (ISL + OSL) / duration}
    if details:
        gaps = [[rng.uniform(0.5, 1.5) * tpot / 1e3 for _ in range(OSL - 1)] for _ in range(requests)]
        content |= {"input_lens": [ISL] * requests, "output_lens": [OSL] * requests, "ttfts": [ttft / 1e3] * requests}
        content |= {"itls": gaps, "start_times": [0.1 * i for i in range(requests)]}
        content |= {"generated_texts": ["word " * OSL] * requests, "errors": [""] * requests}
    for metric, median in (("ttft", ttft), ("tpot", tpot), ("itl", tpot)):
        for statistic, factor in (("mean", 1.1), ("median", 1.0), ("std", 0.2), ("p99", 3.0)):
            content[f"{statistic}_{metric}_ms"] = median * factor
    return content


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "read_speed.py"))

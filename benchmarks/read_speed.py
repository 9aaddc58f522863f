#!/usr/bin/env python3
"""Measure what a user waits for: wall and CPU time of whole commands on many result folders of 6 levels each.

    python benchmarks/read_speed.py
    python benchmarks/read_speed.py --folders 100 --repeats 3 --details

Folders are made in a temporary directory, and each command runs in a process of its own, as if typed: imports, audit and
printing are in it. With --details the files hold per-request lists, as run_bm.sh writes them: most commands pass them over.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pdbench import interrupts  # noqa: E402

ISL, OSL = 5000, 250
CONCURRENCIES = (4, 8, 16, 32, 48, 64)
LAYOUTS = ("8xtp1", "4xtp2", "2xtp4", "1xtp8", "p1xtp2-d1xtp2", "p2xtp2-d1xtp2", "p1xtp2-d3xtp2", "p1xtp4-d1xtp4")
# What is typed, FOLDERS and OUT apart, and the seconds that it may take with a thousand folders on a machine with nothing else
# to do.
COMMANDS = {
    "decision": ("viz.py --show-decision --exps FOLDERS", 5),
    "SLA": ("viz.py --sla tpot=10,ttft=1000 --exps FOLDERS", 5),
    "table": ("viz.py --show-tables --exps FOLDERS", 5),
    "audit": ("viz.py --audit --exps FOLDERS", 5),
    "JSON": ("viz.py --sla tpot=10,ttft=1000 --json OUT/a.json --exps FOLDERS", 10),
    "claims": ("check_claims.py configs/claims/study.yaml --results RESULTS", 10),
    "figure": ("viz.py --plot-path OUT/a.png --exps FOLDERS", 15),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, nargs="+", default=[10, 100, 1000], help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="of each level (default: %(default)s)")
    parser.add_argument("--details", action="store_true", help="files with per-request lists")
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=list(COMMANDS), help="commands (default: all)")
    args = parser.parse_args()
    for count in args.folders:
        with tempfile.TemporaryDirectory() as root:
            results = Path(root) / "results"
            results.mkdir()
            size = sum(make_folder(results, number, args.repeats, args.details) for number in range(count))
            print(f"{count} folders, {size / 2**20:,.0f} MiB")
            for name in args.only:
                command, allowed = COMMANDS[name]
                wall, cpu, peak = waited(command, results, Path(root))
                late = "" if count != 1000 or wall <= allowed else f", more than {allowed} s"
                print(f"  {name}: {wall:.1f} s (CPU {cpu:.1f} s), peak {peak:,.0f} MiB{late}", flush=True)


def waited(command: str, results: Path, out: Path) -> tuple[float, float, float]:
    """Run a command; return its wall time and CPU time (s) and peak memory (MiB)."""
    typed = [sys.executable]
    for word in command.replace("OUT", str(out)).replace("RESULTS", str(results)).split():
        typed += map(str, sorted(results.iterdir())) if word == "FOLDERS" else [word]
    begin = time.perf_counter()
    process = subprocess.Popen(typed, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{command}: exit code {code}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def make_folder(root: Path, number: int, repeats: int, details: bool) -> int:
    """Make a folder whose curves are its own; returns its bytes."""
    rng = random.Random(number)
    folder = root / f"gptoss_itl{ISL}_otl{OSL}_mixed_n{number}_{rng.choice(LAYOUTS)}"
    folder.mkdir()
    speed = rng.uniform(0.7, 1.3)
    for concurrency in CONCURRENCIES:
        for repeat in range(1, repeats + 1):
            name = f"conc{concurrency}.json" if repeat == 1 else f"conc{concurrency}_rep{repeat}.json"
            (folder / name).write_text(json.dumps(level(concurrency, speed * rng.gauss(1, 0.02), details)))
    return sum(path.stat().st_size for path in folder.iterdir())


def level(concurrency: int, speed: float, details: bool) -> dict[str, object]:
    """Return what the client writes, keys in its order."""
    requests, tpot, ttft = 5 * concurrency, (5 + concurrency / 8) / speed, (100 + 6 * concurrency) / speed
    duration = 5 * (ttft + OSL * tpot) / 1e3
    content = {"date": "20251021-000022", "num_prompts": requests, "request_rate": "inf", "max_concurrency": concurrency}
    content |= {"duration": duration, "completed": requests, "failed": 0}
    content |= {"total_input_tokens": requests * ISL, "total_output_tokens": requests * OSL}
    content |= {"request_throughput": requests / duration}
    content |= {"output_throughput": requests * OSL / duration, "total_token_throughput": requests * (ISL + OSL) / duration}
    if details:
        gaps, each = [[tpot / 1e3] * (OSL - 1)] * requests, (ttft + OSL * tpot) / 1e3
        content |= {"input_lens": [ISL] * requests, "output_lens": [OSL] * requests, "ttfts": [ttft / 1e3] * requests}
        content |= {"itls": gaps, "start_times": [each * (i // concurrency) for i in range(requests)]}
        content |= {"generated_texts": ["word " * OSL] * requests, "errors": [""] * requests}
    mean, p99 = (1.0, 1.0) if details else (0.97, 3.0)
    for metric, median in (("ttft", ttft), ("tpot", tpot), ("itl", tpot)):
        for statistic, factor in (("mean", mean), ("median", 1.0), ("std", 0.2), ("p99", p99)):
            content[f"{statistic}_{metric}_ms"] = median * factor
    return content


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "read_speed.py"))

#!/usr/bin/env python3
"""Count how often `viz.py --show-sharing` is right where it is known which replica served which request.

    python benchmarks/sharing.py                                  # all of two H200s here, some 15 s
    python benchmarks/sharing.py --exps bm_results/*_h200x2_120b_* --replicas 3

Levels of arms with one decoding replica are put together as if they had run at once, each on a replica of its own: every
combination of a folder's levels. Then each of these levels alone, which is one replica's.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pdbench import interrupts  # noqa: E402
from pdbench.analysis.sharing import in_flight, of_level, share_in_time  # noqa: E402
from pdbench.cli import Parser  # noqa: E402
from pdbench.read.level_file import ResultError  # noqa: E402
from pdbench.read.requests import Requests  # noqa: E402
from pdbench.read.results import read_study  # noqa: E402

OFF = 0.02  # a share that is farther from the true one is wrong
LATER = 0.0123  # s, by which each part begins after the one before: no two begin in step
CONSOLE = Console(stderr=True)  # of progress


def put_together(parts: Sequence[Requests]) -> tuple[Requests, np.ndarray]:
    """Return as one level the requests that all parts sent until the first of them had sent its last, and the part of each."""
    until = min(part.start.max() - part.start.min() for part in parts)
    kept = [np.flatnonzero(part.start - part.start.min() <= until) for part in parts]
    start, ttft, isl, osl = (
        np.concatenate([getattr(part, name)[rows] for part, rows in zip(parts, kept, strict=True)])
        for name in ("start", "ttft", "isl", "osl")
    )
    part_of = np.repeat(np.arange(len(parts)), [len(rows) for rows in kept])
    first = np.array([part.start.min() - LATER * number for number, part in enumerate(parts)])
    gaps = [part.itl[row] for part, rows in zip(parts, kept, strict=True) for row in rows]
    return Requests(start - first[part_of], ttft, gaps, isl, osl), part_of


def true_share(whole: Requests, part_of: np.ndarray, is_pd: bool) -> float:
    """Return the busiest part's share of the requests in flight, over the same time as `of_level`."""
    begin, last = whole.start + whole.ttft * is_pd, max(whole.start.max(), whole.end.min())
    there, lasting = in_flight(begin, whole.end, part_of, last)
    return share_in_time(there.max(axis=1), there, lasting)


def single_replicas(folders: Sequence[Path]) -> Iterator[tuple[list[Requests], bool]]:
    """Yield the levels of each folder whose arm has one decoding replica, and whether it is PD; others are left out."""
    study = read_study(folders)
    for folder in study.folders.values():
        layout = folder.arm.layout
        levels = [file.requests for file in folder.levels.values() if file.requests and file.requests.decodes]
        if layout.decode.num == 1 and levels:
            yield levels, layout.is_pd


def main(argv: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="benchmarks/sharing.py", description=__doc__, formatter_class=raw)
    parser.add_argument("--exps", nargs="+", type=Path, metavar="FOLDER", help="result folders (default: those of H200s here)")
    parser.add_argument("--replicas", type=int, choices=(2, 3), default=2, help="levels put together (default: %(default)s)")
    args = parser.parse_args(argv)
    folders = args.exps or sorted(path.parent for path in (ROOT / "bm_results").glob("*_h200x2_*/manifest.json"))
    try:
        arms = list(single_replicas(folders))
    except ResultError as error:
        parser.error(str(error))
    if not arms:
        parser.error("no folder has an arm with one decoding replica and per-request details")
    alone = [(level, is_pd) for levels, is_pd in arms for level in levels]
    split = sum(bool(np.isnan(of_level(level, 1, is_pd).least)) for level, is_pd in alone)
    print(f"levels of one replica: {len(alone)}, not clear: {split}")
    errors, widths, unclear = [], [], 0
    cases = [(parts, is_pd) for levels, is_pd in arms for parts in combinations(levels, args.replicas)]
    for parts, is_pd in track(cases, "combinations", console=CONSOLE):
        whole, part_of = put_together(parts)
        share = of_level(whole, args.replicas, is_pd)
        if np.isnan(share.least):
            unclear += 1
            continue
        true = true_share(whole, part_of, is_pd)
        errors.append(max(share.least - true, true - share.greatest, 0.0))
        widths.append(share.greatest - share.least)
    wrong = sum(error > OFF for error in errors)
    print(f"put together by {args.replicas}: {len(cases)}, not clear: {unclear}", end=", ")
    print(f"true share outside by more than {OFF:.0%}: {wrong}, at most by {max(errors, default=0):.1%}")
    if widths:
        same = np.mean(np.array(widths) < OFF)
        print(f"greatest less least share: {np.mean(widths):.1%} in the mean, below {OFF:.0%} for {same:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "sharing.py"))

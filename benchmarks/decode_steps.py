#!/usr/bin/env python3
"""Find how long a decode step takes by how many requests run in it: vLLM pads it to the next size that has a CUDA graph.

    python benchmarks/decode_steps.py bm_results/*_h200x2_120b_pack_* bm_results/*_decode-only_h200x1_120b_*

Of arms with one decoding replica, from when each token came; others are left out. With PD a step is a decode step; a
collocated one may have a prompt in it, which the median hides only where few have.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser  # noqa: E402
from pdbench.planner.costs import Engine, padded  # noqa: E402
from pdbench.planner.runs import graphs_of  # noqa: E402
from pdbench.read.level_file import ResultError  # noqa: E402
from pdbench.read.requests import Requests  # noqa: E402
from pdbench.read.results import Folder, read_study  # noqa: E402

FEWEST = 100  # steps, for a median of those with so many requests


def steps_of(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Return of each step of each request how many requests ran in it, and how long it took (s)."""
    first, end = np.sort(requests.start + requests.ttft), np.sort(requests.end)
    gaps = np.concatenate(list(requests.itl))
    middles = np.concatenate([at for at, _, _ in requests.pieces()]) - gaps / 2
    return np.searchsorted(first, middles, "right") - np.searchsorted(end, middles, "left"), gaps


def by_number(folder: Folder) -> dict[int, np.ndarray]:
    """Return by how many requests ran how long each step took (ms), once for each of its requests."""
    levels = [steps_of(file.requests) for file in folder.levels.values() if file.requests and (file.requests.osl > 1).all()]
    if not levels:
        return {}
    running, took = (np.concatenate(of) for of in zip(*levels, strict=True))
    found = {int(number): 1e3 * took[running == number] for number in np.unique(running)}
    return {number: of for number, of in found.items() if len(of) >= FEWEST}


def print_table(name: str, found: dict[int, np.ndarray], graphs: tuple[int, ...]) -> None:
    """Print a row for each size of a CUDA graph; without graphs for each number of requests."""
    table = Table(box=None, header_style="")
    for column in ("requests", "computed as", "steps", "median, ms", "of each number, ms"):
        table.add_column(column, justify="right")
    engine = Engine(graphs=graphs)
    for size in sorted({padded(engine, number) for number in found}):
        rows = {number: of for number, of in found.items() if padded(engine, number) == size}
        steps, medians = np.concatenate(list(rows.values())), [np.median(of) for of in rows.values()]
        numbers = f"{min(rows)} to {max(rows)}" if len(rows) > 1 else str(min(rows))
        spread = f"{min(medians):.2f} to {max(medians):.2f}"
        table.add_row(numbers, str(size), f"{len(steps):,}", f"{np.median(steps):.2f}", spread)
    print(name)
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="benchmarks/decode_steps.py", description=__doc__, formatter_class=raw)
    parser.add_argument("exps", nargs="+", type=Path, metavar="FOLDER", help="result folders with per-request details")
    args = parser.parse_args(argv)
    try:
        study = read_study(args.exps)
    except ResultError as error:
        parser.error(str(error))
    found = {name: by_number(of) for name, of in study.folders.items() if of.arm.layout.decode.num == 1}
    if not any(found.values()):
        parser.error("no folder has an arm with one decoding replica and per-request details")
    for name, numbers in found.items():
        manifest = study.folders[name].manifest
        if numbers:
            print_table(Path(name).name, numbers, graphs_of(manifest.deployment if manifest else None))
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "benchmarks/decode_steps.py"))

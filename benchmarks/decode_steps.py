#!/usr/bin/env python3
"""Find how long a decode step takes by how many requests run in it: vLLM pads it to the next size that has a CUDA graph.

    python benchmarks/decode_steps.py bm_results/*_h200x2_120b_pack_* bm_results/*_h200x1_graphs_*

From when each token came, where one replica decodes. If it is collocated, while no request waits for its first token.
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
from pdbench.planner.costs import padded  # noqa: E402
from pdbench.planner.runs import graphs_of  # noqa: E402
from pdbench.read.level_file import ResultError  # noqa: E402
from pdbench.read.requests import Requests  # noqa: E402
from pdbench.read.results import Folder, read_study  # noqa: E402

FEWEST = 20  # steps, for a median of those with so many requests


def tokens_of(requests: Requests, prompts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return of each token after the first how many requests ran in its step, and how long that took (s).

    Args:
        prompts: whether the replica computes prompts too: only tokens during which none was due.
    """
    first, end = np.sort(requests.start + requests.ttft), np.sort(requests.end)
    gaps = np.concatenate(list(requests.itl))
    came = np.concatenate([at for at, _, _ in requests.pieces()])
    running = np.searchsorted(first, came - gaps / 2, "right") - np.searchsorted(end, came - gaps / 2, "left")
    due = np.searchsorted(np.sort(requests.start), came, "left") - np.searchsorted(first, came - gaps, "right")
    alone = due == 0 if prompts else np.full(len(gaps), True)
    return running[alone], gaps[alone]


def by_number(folder: Folder) -> dict[int, np.ndarray]:
    """Return by how many requests ran how long their steps took (ms), once for each token.

    Raises:
        ValueError: its tokens do not say that; one line.
    """
    layout, deployment = folder.arm.layout, folder.manifest.deployment if folder.manifest else None
    if layout.decode.num > 1:
        raise ValueError(f"has {layout.decode.num} replicas that decode")
    if deployment and deployment.controller:
        raise ValueError("has a controller, which moves roles")
    prompts = not layout.is_pd and not folder.arm.decode_bench
    levels = [tokens_of(file.requests, prompts) for file in folder.levels.values() if file.requests and file.requests.decodes]
    if not levels:
        raise ValueError("has no per-request details of answers")
    running, took = (np.concatenate(of) for of in zip(*levels, strict=True))
    found = {int(number): 1e3 * took[running == number] for number in np.unique(running)}
    if not (enough := {number: of for number, of in found.items() if len(of) >= FEWEST * number}):
        raise ValueError(f"has fewer than {FEWEST} steps of any number of requests")
    return enough


def print_table(name: str, found: dict[int, np.ndarray], graphs: Sequence[int]) -> None:
    """Print a row for each size of a CUDA graph; without graphs for each number of requests."""
    table = Table(box=None, header_style="")
    for column in ("requests", "computed as", "steps", "median, ms", "of each number, ms"):
        table.add_column(column, justify="right")
    for size in sorted({padded(graphs, number) for number in found}):
        rows = {number: of for number, of in found.items() if padded(graphs, number) == size}
        medians = [np.median(of) for of in rows.values()]
        steps = sum(len(of) / number for number, of in rows.items())
        numbers = f"{min(rows)} to {max(rows)}" if len(rows) > 1 else str(min(rows))
        middle = f"{np.median(np.concatenate(list(rows.values()))):.2f}"
        table.add_row(numbers, str(size), f"{steps:,.0f}", middle, f"{min(medians):.2f} to {max(medians):.2f}")
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
    left_out = []
    for path, folder in study.folders.items():
        try:
            found, graphs = by_number(folder), graphs_of(folder.manifest.deployment if folder.manifest else None)
        except ValueError as error:
            left_out.append(f"{Path(path).name} {error}")
            continue
        print_table(Path(path).name, found, graphs)
    if len(left_out) == len(study.folders):
        parser.error(left_out[0])
    for line in left_out:
        print(f"decode_steps.py: left out: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "decode_steps.py"))

"""Print tables in a terminal."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import fill

import pandas as pd

from pdbench.analysis.audit import Finding
from pdbench.analysis.decision import WORKLOAD, workload_title
from pdbench.analysis.repeats import MARGIN, MIN_REPEATS
from pdbench.output.grid import show
from pdbench.output.number_text import number, with_interval_text
from pdbench.output.throughput_text import how_counted
from pdbench.read.level_file import TOKENS
from pdbench.read.results import node_words, unit_words

KINDS = {"concurrency": "conc.", "request-rate": "rate", "shift": "load"}
INTERVALS = {
    "median_ttft_ms": "TTFT median\nms", "median_tpot_ms": "TPOT median\nms", "p99_itl_ms": "ITL p99\nms",
    "request_throughput": "requests/s",
}  # fmt: skip


def print_measurements(table: pd.DataFrame, chunk_size: int, normalized: bool) -> None:
    """Print every measurement, one table for each kind of load.

    Args:
        table: of `read_results`.
        chunk_size: that `table` was read with.
        normalized: throughput per node.
    """
    for kind, rows in table.groupby("kind"):
        show(*measurement_rows(rows, kind, chunk_size, normalized))
    where = f"per node of {node_words(table)}" if normalized else "of the layout"
    print(f"ms over the requests of a level; from medians: first {chunk_size} = TTFT +", end=" ")
    print(f"{chunk_size - 1} x TPOT, tokens/s/user = 1000 / TPOT")
    print(f"input, output and total tokens/s {where}{how_counted(table, normalized)}")


def measurement_rows(table: pd.DataFrame, kind: str, chunk_size: int, normalized: bool) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of `print_measurements`; `kind` is that of the levels."""
    columns = {"gpus": unit_words(table).split()[-1], "level": KINDS[kind], "repeat": "rep.", "completed": "done"}
    columns |= {"median_ttft_ms": "TTFT\nmedian", "p99_ttft_ms": "TTFT\np99"}
    columns |= {"median_tpot_ms": "TPOT\nmedian", "p99_tpot_ms": "TPOT\np99", "p99_itl_ms": "ITL\np99"}
    columns |= {"chunk_latency_ms": f"first\n{chunk_size}", "interactivity": "tokens/s\n/user"}
    suffix, per = ("_per_node", "node") if normalized else ("", "layout")
    columns |= {f"{tokens}_throughput{suffix}": f"{tokens}/s\n/{per}" for tokens in TOKENS}
    columns |= {"goodput": "goodput\nreq./s"} if "goodput" in table else {}
    cells = [table["arm"], *(map(number, table[name]) for name in columns)]
    return ["arm", *columns.values()], [list(row) for row in zip(*cells, strict=True)]


def print_intervals(intervals: pd.DataFrame) -> None:
    """Print estimates with their 95% confidence intervals; `intervals` is of `level_intervals`."""
    for kind, rows in intervals.groupby("kind"):
        names = [name for name in INTERVALS if name in set(rows["statistic"])]
        lines = []
        for (arm, level), of_level in rows.groupby(["arm", "level"], sort=False):
            first, by_name = of_level.iloc[0], of_level.set_index("statistic").reindex(names)
            ends = ("(", ")") if first["waves"] else ("[", "]")
            cells = (f"{number(r.estimate)} {ends[0]}{number(r.low)}, {number(r.high)}{ends[1]}" for r in by_name.itertuples())
            waves = [number(first["waves"] or math.nan), number(round(first["effective"], 1))]
            lines.append([arm, number(level), number(first["repeats"]), *waves, *cells])
        show(["arm", KINDS[kind], "rep.", "waves", "eff.\nreq.", *(INTERVALS[name] for name in names)], lines)
    print(f"mean over repeats [Student's 95% interval, from {MIN_REPEATS} repeats on]")
    print("one run (how well it determines its own numbers, by waves of requests); another launch may lie outside")
    print("eff. req.: so many independent requests would determine the mean TTFT and TPOT as well")


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what the audit found, by kind; `findings` is of `audit`."""
    for kind, of_kind in groupby(findings, key=lambda finding: finding.kind):
        several = list(of_kind)
        print(f"{kind}: {several[0].why}", f"  to do: {several[0].fix}", sep="\n")
        for finding in several:
            print(wrapped("  - ", finding.where), wrapped("    ", finding.seen), sep="\n")
        print()
    folders = {folder for finding in findings for folder in finding.folders}
    print(f"findings: {len(findings)}, on {len(folders)} folders")


def wrapped(indent: str, text: str) -> str:
    """Wrap to lines of at most 118 characters, the later ones indented by 4 more than none; names are not cut."""
    return fill(text, 118, initial_indent=indent, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def print_overheads(overheads: pd.DataFrame) -> None:
    """Print what Ray Serve adds; `overheads` is of `overhead.overheads`."""
    for title, headers, lines in overhead_grids(overheads):
        print(f"\n{title}")
        show(headers, lines)
    print(*overhead_words(overheads), sep="\n")


def overhead_grids(overheads: pd.DataFrame) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, headings and rows of `print_overheads`, by workload."""
    headers = ["behind Ray Serve", "control", "", "rep.", "TTFT, ms\nbare", "added", "TPOT, ms\nbare", "added"]
    headers += ["requests/s\nbare", "Ray / bare"]
    for known, rows in overheads.groupby(WORKLOAD, sort=False):
        lines = []
        for row in rows.itertuples():
            line = [row.arm, row.control, number(row.level), number(row.repeats)]
            for column, name, sign in (("median_ttft_ms", "added_ttft_ms", "+"), ("median_tpot_ms", "added_tpot_ms", "+"),
                                       ("request_throughput", "throughput_ratio", "")):  # fmt: skip
                at, low, high, noise = (getattr(row, name + end) for end in ("", "_from", "_to", "_noise"))
                line += [number(getattr(row, f"{column}_bare")), with_interval_text(at, low, high, sign) + " noise" * noise]
            lines.append(line)
        yield workload_title(*known), [*headers[:2], KINDS[rows["kind"].iloc[0]], *headers[3:]], lines


def overhead_words(overheads: pd.DataFrame) -> Iterator[str]:
    """Explain how to read `print_overheads`."""
    yield "means of the repeats' medians: added = behind Ray Serve less bare, the same engines under plain vllm serve"
    if (overheads["repeats"] < MIN_REPEATS).any():
        yield f"no interval with fewer than {MIN_REPEATS} repeats of a level in both arms: a small difference may be noise"
    if (overheads["repeats"] >= MIN_REPEATS).any():
        kinds = {"Student's, within blocks": overheads["blocks"] > 0, "Welch's, over the repeats of both arms":
                 (overheads["blocks"] == 0) & (overheads["repeats"] >= MIN_REPEATS)}  # fmt: skip
        which = " or, where three blocks do not have both, ".join(words for words, of in kinds.items() if of.any())
        yield f"[95% interval: {which}]; one that contains 0, or a ratio of 1, is noise"


def print_blocks(ratios: pd.DataFrame) -> None:
    """Print each arm against the collocated one, within blocks; `ratios` is of `blocks.paired`."""
    names = {"request_throughput": "requests/s"} | {
        name: words for name, words in INTERVALS.items() if name != "request_throughput"
    }
    headers = [words.removesuffix("\nms") for words in names.values()]
    for (*known, base), rows in ratios.groupby([*WORKLOAD, "base"], sort=False):
        lines = []
        for row in rows.itertuples():
            ends = ((getattr(row, name + end) for end in ("", "_from", "_to", "_noise", "_alike")) for name in names)
            cells = (
                with_interval_text(at, low, high, "") + (" alike" if alike else " noise" * noise)
                for at, low, high, noise, alike in ends
            )
            lines.append([row.arm, number(row.level), number(row.blocks), *cells])
        print(f"\n{workload_title(*known)}: over {base}, in the same block")
        show(["arm", KINDS[rows["kind"].iloc[0]], "blocks", *headers], lines)
    print("ratios, below 1: less than the collocated arm; the geometric mean over blocks [Student's 95% interval]")
    print(
        f"alike: shown to differ by at most {MARGIN:.0%}, by two one-sided tests; noise: a difference is not shown, nor is that"
    )
    if (ratios["blocks"] < MIN_REPEATS).any():
        print(f"no interval with fewer than {MIN_REPEATS} blocks: a small difference may be noise")

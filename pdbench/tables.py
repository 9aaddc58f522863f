"""Tables in a terminal."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from textwrap import fill

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from pdbench.audit import Finding
from pdbench.results import TOKENS, node_words

KINDS = {"concurrency": "conc.", "request-rate": "rate"}
INTERVALS = {
    "median_ttft_ms": "TTFT median\nms", "median_tpot_ms": "TPOT median\nms", "p99_itl_ms": "ITL p99\nms",
    "request_throughput": "requests/s",
}  # fmt: skip


def print_measurements(table: pd.DataFrame, chunk_size: int, normalized: bool) -> None:
    """Every measurement, one table for each kind of load.

    Args:
        table: of `read_results`.
        chunk_size: that `table` was read with.
        normalized: throughput per node.
    """
    columns = {"gpus": node_words(table).split()[-1], "level": "", "repeat": "rep.", "completed": "done"}
    columns |= {"median_ttft_ms": "TTFT\nmedian", "p99_ttft_ms": "TTFT\np99"}
    columns |= {"median_tpot_ms": "TPOT\nmedian", "p99_tpot_ms": "TPOT\np99", "p99_itl_ms": "ITL\np99"}
    columns |= {"chunk_latency_ms": f"first\n{chunk_size}", "interactivity": "tokens/s\n/user"}
    suffix, per = ("_per_node", "node") if normalized else ("", "layout")
    columns |= {f"{tokens}_throughput{suffix}": f"{tokens}/s\n/{per}" for tokens in TOKENS}
    columns |= {"goodput": "goodput\nreq./s"} if "goodput" in table else {}
    for kind, rows in table.groupby("kind"):
        columns["level"] = KINDS[kind]
        show(["arm", *columns.values()], ([row["arm"], *(number(row[name]) for name in columns)] for _, row in rows.iterrows()))
    where = f"per node of {node_words(table)}" if normalized else "of the layout"
    print(f"ms over the requests of a level; from medians: first {chunk_size} = TTFT +", end=" ")
    print(f"{chunk_size - 1} x TPOT, tokens/s/user = 1000 / TPOT")
    print(f"input, output and total tokens/s {where}{how_counted(table, normalized)}")


def print_intervals(intervals: pd.DataFrame) -> None:
    """Estimates with their 95% confidence intervals; `intervals` is of `level_intervals`."""
    for kind, rows in intervals.groupby("kind"):
        names = [name for name in INTERVALS if name in set(rows["statistic"])]
        lines = []
        for (arm, level, repeats), of_level in rows.groupby(["arm", "level", "repeats"], sort=False):
            by_name = of_level.set_index("statistic").reindex(names)
            cells = (f"{number(r.estimate)} [{number(r.low)}, {number(r.high)}]" for r in by_name.itertuples())
            lines.append([arm, number(level), number(repeats), *cells])
        show(["arm", KINDS[kind], "rep.", *(INTERVALS[name] for name in names)], lines)
    print("estimate [95% interval]: bootstrap over repeats, then requests; of one repeat it holds no drift from run to run")


def print_findings(findings: Sequence[Finding]) -> None:
    """What the audit found, by kind; `findings` is of `audit`."""
    for kind, of_kind in groupby(findings, key=lambda finding: finding.kind):
        several = list(of_kind)
        print(f"{kind}: {several[0].why}", f"  to do: {several[0].mend}", sep="\n")
        for finding in several:
            print(wrapped("  - ", finding.where), wrapped("    ", finding.seen), sep="\n")
        print()
    folders = {folder for finding in findings for folder in finding.folders}
    print(f"findings: {len(findings)}, on {len(folders)} folders")


def wrapped(indent: str, text: str) -> str:
    """Lines of at most 118 characters, the later ones indented by 4 more than none; names are not cut."""
    return fill(text, 118, initial_indent=indent, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def show(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as it is: a number cut off to fit a narrow terminal or a pipe would be a wrong number."""
    first, *others = headers
    columns = (Column(name, justify="right", no_wrap=True) for name in others)
    grid = Table(Column(first, no_wrap=True), *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for line in lines:
        grid.add_row(*map(Text, line))
    console = Console()
    console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), grid).maximum)
    console.print(grid)


def how_counted(table: pd.DataFrame, normalized: bool) -> str:
    """How throughput comes about, with the GPUs that it is divided by."""
    sizes = " or ".join(map(str, sorted(table["gpus"].unique())))
    if not normalized:
        return f" = tokens / duration, not divided by its size ({sizes})"
    return f" = tokens / duration x {node_words(table)} / those of the layout ({sizes})"


def number(value: float) -> str:
    """Four digits or so; a dash where there is no such value."""
    if math.isnan(value):
        return "-"
    decimals = 0 if value == int(value) or value >= 1000 else 1 if value >= 100 else 2
    return f"{value:,.{decimals}f}"

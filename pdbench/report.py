"""One self-contained HTML file: the decision, crossovers, an interactive trade-off chart, tables and provenance.

The page is pdbench/templates/report.html, filled in by Jinja2, which escapes all that comes from folders.
plotly.js (from plotly's Python package) is in it, compressed; the page's own policy forbids the browser to
load or send anything, and to run any script but these two.
"""

import base64
import gzip
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pdbench import chart, figures
from pdbench.frontier import LATENCIES, crossovers, curves
from pdbench.layout import Layout
from pdbench.provenance import commands, facts, manifests
from pdbench.results import node_words
from pdbench.tables import how_counted, measurement_columns, number

TEMPLATES = files("pdbench") / "templates"


@dataclass(frozen=True)
class Grid:
    """A table that sorts: each row has a cell, text or number, for each header."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str | float]]


@dataclass(frozen=True)
class Answer:
    """What stands first: lines are (arm, what is said of it)."""

    lead: str
    lines: Sequence[tuple[str, str]]
    note: str


def render(table: pd.DataFrame, view: figures.View, findings: Sequence = ()) -> str:
    """The page.

    Args:
        table: of `results.read_results`.
        view: latency, tokens and scale that the page opens with; the chart's can be changed there.
        findings: of `audit.audit`.

    Raises:
        ResultError: concurrency and request-rate levels are mixed, or no arm has the latency or throughput of `view`.
    """
    kind = figures.one_kind(table)
    figures.with_axes(table, view)  # refuses what no arm has
    looks = {arm: chart.looks(style) for arm, style in figures.arm_styles(table).items()}
    metrics = chart.metrics(table, kind, view)
    found = manifests(table)
    script, plotly = _read("report.js"), (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return _template().render(
        title=figures.title(table) or "Benchmark results",
        summary=summary(table, kind),
        decision=bands(table, view),
        crossovers=[crossover_grid(table, view, latency) for latency in LATENCIES.values() if table[latency].notna().any()],
        arms=looks,
        metrics=metrics,
        opening={"x": chart.latency(view), "y": chart.throughput(view), "log": view.log_latency},
        repeated=bool((table["repeat"] > 1).any()),
        findings=findings,
        measurements=measurements(table, kind, view),
        method=method(table, view),
        unknown=[arm for arm, manifest in found.items() if manifest is None],
        provenance=provenance({arm: facts(manifest) for arm, manifest in found.items() if manifest}),
        commands={arm: commands(manifest) for arm, manifest in found.items() if manifest},
        style=Markup(_read("report.css")),
        script=Markup(script),
        hashes=Markup(f"{_hash(script)} {_hash(plotly)}"),
        plotly=base64.b64encode(gzip.compress(plotly.encode(), mtime=0)).decode(),
        data=chart.data(table, looks, metrics, view),
    )


def summary(table: pd.DataFrame, kind: str) -> str:
    """What was measured, in a line."""
    levels = ", ".join(f"{level:g}" for level in sorted(table["level"].unique()))
    repeats = int(table.groupby(["arm", "level"])["repeat"].nunique().max())
    often = "once" if repeats == 1 else f"up to {repeats} times"
    nodes = f"nodes of {node_words(table)}"
    return f"{table['arm'].nunique()} arms on {nodes}, {kind.replace('-', ' ')} {levels}, each measured {often}"


def bands(table: pd.DataFrame, view: figures.View) -> Answer:
    """Without a target, the answer is which arm is best from which latency on."""
    latency, tokens = chart.latency(view, interactive=False), chart.throughput(view)
    lines = []
    for row in _crossovers(table, latency, tokens).itertuples():
        where = f"from {number(row.low)} ms on" if math.isinf(row.high) else f"{number(row.low)} to {number(row.high)} ms"
        attained = f"{number(row.throughput_low)} to {number(row.throughput_high)} tokens/s"
        over = [f"{_over(*margins)} over {other}" for other, *margins in _others(row)]
        lines.append((row.best, f"{where}: {'; '.join([attained, *over])}"))
    words = figures.throughput_label(table, view)
    return Answer(
        f"No target was given. Best by {_latency_words(view, latency)}, in {words[0].lower()}{words[1:]}:", lines,
        "With --sla, for example --sla tpot=10,ttft=500, the answer for that target stands here.",
    )  # fmt: skip


def crossover_grid(table: pd.DataFrame, view: figures.View, latency: str) -> Grid:
    """Which arm is best in which band of one latency."""
    rows = [
        (row.low, row.high, row.best, row.throughput_low, row.throughput_high,
         _over(row.collocated_margin_low, row.collocated_margin_high) if row.collocated != row.best else "", row.collocated,
         _over(row.next_margin_low, row.next_margin_high), row.next_best)
        for row in _crossovers(table, latency, chart.throughput(view)).itertuples()
    ]  # fmt: skip
    headers = ["from\nms", "to\nms", "best", "tokens/s\nfrom", "tokens/s\nto", "over\ncollocated", "best\ncollocated"]
    return Grid(f"By {_latency_words(view, latency)}", [*headers, "over\nnext best", "next best"], rows)


def measurements(table: pd.DataFrame, kind: str, view: figures.View) -> Grid:
    """Every measurement."""
    columns = measurement_columns(table, kind, view.chunk_size, view.normalized)
    rows = [(row["arm"], *(row[name] for name in columns)) for _, row in table.iterrows()]
    return Grid("Every measurement, latencies in ms", ["arm", *columns.values()], rows)


def method(table: pd.DataFrame, view: figures.View) -> list[str]:
    """How the numbers come about."""
    counted = f"Throughput{how_counted(table, view.normalized)}."
    chunk = f"Latency of the first {view.chunk_size} tokens = TTFT + {view.chunk_size - 1} x TPOT"
    return [
        "TTFT: time to the first token. TPOT: time per output token after the first. ITL: the time between two tokens. "
        "Statistics are over the requests of a level; repeats of a level are reduced to their median.",
        f"{counted} {chunk}, interactivity = 1000 / TPOT, from medians.",
        "A level counts only if every request completed with the tokens asked for.",
        "What an arm attains at a latency is its highest throughput at that latency or less, on straight lines between its "
        "levels: it may be loaded less than it could be. Beyond its last level it attains its maximum, below its lowest "
        "latency nothing. An arm is best where it attains most.",
        "In the chart a faded point is dominated: another point of the arms shown is at least as good in both metrics and "
        "better in one.",
    ]


def provenance(known: dict[str, dict[str, str]]) -> list[Grid]:
    """What all arms share, and what differs between them."""
    names = list(dict.fromkeys(name for of_arm in known.values() for name in of_arm))
    values = {name: [of_arm.get(name, "") for of_arm in known.values()] for name in names}
    shared = [(name, of_name[0]) for name, of_name in values.items() if len(set(of_name)) == 1]
    differing = {name: of_name for name, of_name in values.items() if len(set(of_name)) > 1}
    grids = [Grid("The same for all arms with a manifest", ["what", "value"], shared)] if shared else []
    if differing:
        rows = [(arm, *of_arm) for arm, *of_arm in zip(known, *differing.values(), strict=True)]
        grids.append(Grid("What differs", ["arm", *differing], rows))
    return grids


def _crossovers(table: pd.DataFrame, latency: str, throughput: str) -> pd.DataFrame:
    layouts = table.drop_duplicates("arm").set_index("arm")["layout"].map(Layout.parse)
    return crossovers(curves(table, latency, throughput), {arm for arm, layout in layouts.items() if not layout.is_pd})


def _others(row) -> list[tuple[str, float, float]]:
    """The best collocated arm and the next best one, and the margins over them: those that there are, and once."""
    found = [(f"the best collocated, {row.collocated}", row.collocated_margin_low, row.collocated_margin_high)]
    found = found if row.collocated not in ("", row.best) else []
    if row.next_best not in ("", row.collocated) or row.best == row.collocated:
        found.append((row.next_best or "any other", row.next_margin_low, row.next_margin_high))
    return [margins for margins in found if not math.isnan(margins[1])]


def _over(low: float, high: float) -> str:
    """A margin that varies within a band; where the other attains nothing it has no end."""
    if math.isnan(low) or math.isinf(low):
        return "" if math.isnan(low) else "alone, no level as fast"
    few, most = f"{low:.0%}", f"{high:.0%}"
    return f"{few} and more" if math.isinf(high) else few if few == most else f"{few} to {most}"


def _latency_words(view: figures.View, column: str) -> str:
    words = {"median_tpot_ms": "median TPOT", "median_ttft_ms": "median TTFT", "median_itl_ms": "median inter-token latency"}
    return words.get(column, f"latency of the first {view.chunk_size} tokens")


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A source of the page's Content-Security-Policy (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _template():
    environment = Environment(loader=PackageLoader("pdbench"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["number"] = lambda value: "∞" if math.isinf(value) else number(value)
    environment.filters["javascript"] = lambda value: {"nan": "NaN", "inf": "Infinity"}.get(str(value), str(value))
    return environment.get_template("report.html")

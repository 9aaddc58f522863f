"""Write one self-contained HTML file: the decision, crossovers, an interactive trade-off chart, tables and provenance.

The page is pdbench/output/templates/report.html, filled in by Jinja2, which escapes all that comes from folders.
plotly.js (from plotly's Python package) is in it, compressed; the page's own policy forbids the browser to
load or send anything, and to run any script but these two.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from itertools import groupby
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pdbench.analysis import decision
from pdbench.analysis.audit import Finding
from pdbench.analysis.overhead import overheads
from pdbench.analysis.pieces import not_judged
from pdbench.cli import visible
from pdbench.manifest import Manifest
from pdbench.output import chart, decision_text, figures, tables
from pdbench.output.figures.view import LATENCIES
from pdbench.output.options import MOST_ARMS
from pdbench.output.predicted import coverage_words, prediction_rows
from pdbench.output.provenance import commands, facts, manifests
from pdbench.output.throughput_text import how_counted
from pdbench.read.level_file import ResultError
from pdbench.read.results import Study, controls, node_words

# As report.js sorts: 1,234 or +5.2% or "5.2 to 6.1", and no 2xtp4.
NUMBER = re.compile(r"[-+]?[\d,.]+(?=$|[\s%])")
SENDS_TO = "https://cloud.plotly.com/newchart"
TEMPLATES = files("pdbench.output") / "templates"


@dataclass(frozen=True)
class Grid:
    """A table that sorts: each row has a cell for each header."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False

    @cached_property
    def classes(self) -> list[str]:
        """How each column is set: words that may break, or, with a number in some row, to the right."""
        if self.prose:
            return ["prose"] * len(self.headers)
        return ["number" if any(NUMBER.match(row[i]) for row in self.rows) else "" for i in range(len(self.headers))]


@dataclass(frozen=True)
class Decision:
    """The answer for one workload: in words where there is a target, and in a table."""

    workload: str
    target: str
    best: str
    words: Sequence[str]
    grid: Grid
    notes: Sequence[str]


def render(
    study: Study, view: figures.View, price: float | None = None, findings: Sequence[Finding] = (),
    left_out: Mapping[str, Sequence[str]] | None = None, most_arms: int = MOST_ARMS,
) -> str:  # fmt: skip
    """Render the page.

    Args:
        view: the target, without which the bands of latency are the decision, and latency, tokens and scale that the
            page opens with; the chart's can be changed there.
        price: of an hour of one GPU.
        findings: of `audit.audit`.
        left_out: folders that decisions are not about, with the kinds of findings; of `audit.refuted`.
        most_arms: that the chart opens with, those nearest to the frontier; it has a box for each of the others, too.

    Raises:
        ResultError: concurrency and request-rate levels are mixed, or no arm has the latency or throughput of `view`.
    """
    table, judged = study.table, study.without(left_out or {}).table
    kind = figures.one_kind(table)
    figures.with_axes(table, view)  # refuses what no arm has
    looks = {arm: chart.looks(style) for arm, style in figures.arm_styles(table).items()}
    metrics, found = chart.metrics(table, kind, view), manifests(study)
    folders = dict(zip(table["folder"], table["arm"], strict=True))
    script, (plotly, packed) = _read("report.js"), _plotly()
    return _template().render(
        title=figures.title(table) or "Benchmark results",
        summary=summary(table, kind),
        decisions=[decide(title, rows, view, price) for title, rows in decision.workloads(judged)],
        left_out={folders[name]: kinds for name, kinds in (left_out or {}).items()},
        bare=controls(judged),
        crossovers=crossovers(judged, view, [mode for mode in LATENCIES if view.sla or mode != view.latency_mode], price),
        overhead=overhead(judged),
        predicted=predictions(view),
        bands_read=" ".join(decision_text.BANDS_READ),
        arms=looks,
        hidden=figures.left_out(table, replace(view, figure="tradeoff"), most_arms),
        metrics=metrics,
        opening={"x": chart.latency(view), "y": chart.throughput(view), "log": view.log_latency},
        repeated=bool((table["repeat"] > 1).any()),
        folders=folders,
        findings={kind: list(alike) for kind, alike in groupby(findings, key=lambda finding: finding.kind)},
        measurements=Grid("Latencies in ms", *tables.measurement_rows(table, kind, view.chunk_size, view.normalized)),
        method=method(table, view),
        unknown=[arm for arm, manifest in found.items() if manifest is None],
        provenance=origins(folders, found),
        commands={arm: commands(manifest) for arm, manifest in found.items() if manifest},
        style=Markup(_read("report.css")),
        script=Markup(script),
        hashes=Markup(f"{_hash(script)} {plotly}"),
        plotly=packed,
        data=chart.data(table, looks, metrics, view.sla, [folders[name] for name in left_out or ()]),
    )


def origins(folders: Mapping[str, str], found: Mapping[str, Manifest | None]) -> list[Grid]:
    """Return which folder an arm is from, and what ran there; `folders` has arms by folder, `found` is of `manifests`."""
    return [
        Grid("Folders", ["arm", "folder"], [(arm, folder) for folder, arm in folders.items()], prose=True),
        *provenance({arm: facts(manifest) for arm, manifest in found.items() if manifest}),
    ]


def summary(table: pd.DataFrame, kind: str) -> str:
    """Return what was measured, in a line."""
    levels = ", ".join(f"{level:g}" for level in sorted(table["level"].unique()))
    repeats = int(table.groupby(["arm", "level"])["repeat"].nunique().max())
    often = "once" if repeats == 1 else f"up to {repeats} times"
    nodes = f"nodes of {node_words(table)}"
    return f"{table['arm'].nunique()} arms on {nodes}, {kind.replace('-', ' ')} {levels}, each measured {often}"


def decide(title: str, table: pd.DataFrame, view: figures.View, price: float | None) -> Decision:
    """Return the head of the page; `table` is of one workload."""
    columns = [bound.column for bound in view.sla] or [LATENCIES[view.latency_mode]]
    out = [line.strip() for line in decision_text.saturated_words(decision.overloaded(table, columns))]
    out += decision_text.piece_words(not_judged(table, view.sla))
    out += decision_text.few_words(table, view.sla)
    uncertainty, counted = [*out, *decision_text.uncertainty_words(table)], _counted(view)
    if not view.sla:
        return Decision(title, "", "", [], band_grid(table, view, view.latency_mode, price), uncertainty)
    answers = decision.decide(table, view.sla, chart.throughput(view))
    best = answers["arm"].iloc[0] if answers["holds"].iloc[0] else ""
    words = [sentence(line.strip()) for line in decision_text.answer_words(answers, view.sla, counted)]
    rows = decision_text.decision_rows(answers, view.sla, counted, table["kind"].iloc[0], price)
    return Decision(title, ", ".join(map(str, view.sla)), best, words, Grid("Every arm", *rows), uncertainty)


def band_grid(table: pd.DataFrame, view: figures.View, mode: str, price: float | None) -> Grid:
    """Return which arm is best in which band of a latency; no rows where no arm has it."""
    words = f"first {view.chunk_size}" if mode == "chunk" else {"token": "median TPOT", "first_token": "median TTFT"}[mode]
    bands = decision.bands(table, LATENCIES[mode], chart.throughput(view))
    rows = decision_text.band_rows(bands, words, _counted(view), view.interactivity, price)
    late = len(decision.overloaded(table, [LATENCIES[mode]]))
    without = f", without {late} saturated level{'s' * (late > 1)}" * bool(late)
    return Grid(f"Best by {words}{' tokens' if mode == 'chunk' else ''}{without}", *rows)


def crossovers(table: pd.DataFrame, view: figures.View, modes: Sequence[str], price: float | None) -> dict[str, list[Grid]]:
    """Return the bands of several latencies, by workload."""
    return {title: [band_grid(rows, view, mode, price) for mode in modes] for title, rows in decision.workloads(table)}


def overhead(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Return what Ray Serve adds, where it can be computed: grids, and how to read them."""
    try:
        found = overheads(table)
    except ResultError:
        return {}
    grids = [Grid(title, headers, lines) for title, headers, lines in tables.overhead_grids(found)]
    return {"grids": grids, "words": list(tables.overhead_words(found))}


def predictions(view: figures.View) -> dict[str, Any]:
    """Return what a planner's model predicts of these runs, where one was given: a grid, and how to read it."""
    if view.predicted is None:
        return {}
    return {"grid": Grid("Latencies in ms", *prediction_rows(view.predicted)), "words": coverage_words(view.predicted)}


def method(table: pd.DataFrame, view: figures.View) -> list[str]:
    """Return how the numbers are computed."""
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
        "better in one. What the audit refutes takes no part in that, nor do control arms.",
    ]


def provenance(known: dict[str, dict[str, str]]) -> list[Grid]:
    """Return what all arms share, and what differs between them."""
    names = list(dict.fromkeys(name for of_arm in known.values() for name in of_arm))
    values = {name: [of_arm.get(name, "") for of_arm in known.values()] for name in names}
    shared = [(name, of_name[0]) for name, of_name in values.items() if len(set(of_name)) == 1]
    differing = {name: of_name for name, of_name in values.items() if len(set(of_name)) > 1}
    grids = [Grid("The same for all arms with a manifest", ["what", "value"], shared, prose=True)] if shared else []
    if differing:
        rows = [(arm, *of_arm) for arm, *of_arm in zip(known, *differing.values(), strict=True)]
        grids.append(Grid("What differs", ["arm", *differing], rows, prose=True))
    return grids


def _counted(view: figures.View) -> str:
    return f"{view.throughput}/s\n/{'node' if view.normalized else 'layout'}"


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _plotly() -> tuple[str, str]:
    """plotly.js without the address that it sends charts to: its hash, and itself as gzip in base64."""
    script = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8").replace(SENDS_TO, "")
    return _hash(script), base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _hash(script: str) -> str:
    """A source of the page's Content-Security-Policy (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("pdbench.output"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["sentence"] = sentence
    return environment.get_template("report.html")


def sentence(text: str) -> str:
    """Begin a text with a capital; the others stay, which Jinja's own filter lowers."""
    return text[:1].upper() + text[1:]

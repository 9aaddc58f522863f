"""Prepare the data of the report's interactive chart: what templates/report.js hands to plotly.js."""

import html
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd
from markupsafe import Markup
from matplotlib.colors import to_hex, to_rgb
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from pdbench.analysis.frontier import rests_on_ttft
from pdbench.analysis.pieces import coarser
from pdbench.analysis.sla import STATISTICS, Bound
from pdbench.output import figures
from pdbench.output.figures.view import LATENCIES
from pdbench.output.number_text import number
from pdbench.read.level_file import METRICS, TOKENS
from pdbench.read.results import contenders, saturated

WORDS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "inter-token latency"}
LEVELS = {"concurrency": "Concurrency (requests in flight)", "request-rate": "Request rate (requests/s)"}
# matplotlib's names, which figures.py uses -> plotly's.
SYMBOLS = {
    "o": "circle", "s": "square", "D": "diamond", "P": "cross", "^": "triangle-up", "v": "triangle-down",
    ">": "triangle-right", "<": "triangle-left", "p": "pentagon", "h": "hexagon", "X": "x",
    "*": "star", "d": "diamond-tall", "H": "hexagon2", "8": "octagon",
}  # fmt: skip
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
DASHES = {"-": (), "--": (4, 2), ":": (1, 2), "-.": (6, 2, 1, 2)}
LINE_WIDTH = 1.25  # pixels for a point; matplotlib's dashes count in line widths
# Beside a point; where it lies says the two chosen.
HOVER = {
    "level", "level_per_gpu", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "p99_itl_ms", "goodput",
    *(f"{counted}_throughput{per}" for counted in (*TOKENS, "request") for per in ("", "_per_node")),
}  # fmt: skip
DARK_PAGE = "#16181c"
READABLE = 3  # contrast of graphics: WCAG 2.2, success criterion 1.4.11


@dataclass(frozen=True)
class Looks:
    """How an arm is drawn on a light and on a dark page."""

    color: str
    dark: str
    width: float  # pixels
    dash: str  # as in SVG, in pixels; "" is a whole line
    symbol: str
    filled: bool
    outline: str  # of the marker, as an SVG path within a unit circle


def looks(style: figures.Style) -> Looks:
    """Return plotly's words for a style of the figures: the same colour, marker and line."""
    dashes = DASHES[style.line] if isinstance(style.line, str) else style.line[1]
    width = round(LINE_WIDTH * style.width, 2)
    dash = ",".join(f"{width * length:g}px" for length in dashes)
    symbol = SYMBOLS[style.marker] + ("" if style.filled else "-open")
    return Looks(to_hex(style.color), _on_dark(style.color), width, dash, symbol, style.filled, _outline(style.marker))


def latency(view: figures.View, interactive: bool | None = None) -> str:
    """Return the metric of the view's x; `interactive=False` for the latency that it rests on."""
    on = view.interactivity if interactive is None else interactive
    return f"{view.latency_mode}_interactivity" if on else LATENCIES[view.latency_mode]


def throughput(view: figures.View) -> str:
    """Return the column of the view's y."""
    return f"{view.throughput}_throughput" + ("_per_node" if view.normalized else "")


def metrics(table: pd.DataFrame, kind: str, view: figures.View) -> dict[str, dict[str, str]]:
    """Return what either axis can show: group -> metric -> label, without what no arm has."""
    interactive = [replace(view, latency_mode=mode, interactivity=True) for mode in LATENCIES]
    suffix = "_per_node" * view.normalized
    per = figures.throughput_label(table, view).partition("tokens/s")[2]
    groups = {
        "Latency": {f"{s}_{m}_ms": f"{s.capitalize()} {WORDS[m]} (ms)" for m in METRICS for s in STATISTICS}
        | {LATENCIES["chunk"]: figures.latency_label(replace(view, latency_mode="chunk", interactivity=False))},
        "Interactivity": {latency(other): figures.latency_label(other) for other in interactive},
        "Throughput": {throughput(other): figures.throughput_label(table, other) for other in _by_tokens(view)}
        | {f"request_throughput{suffix}": f"Requests/s{per}", "goodput": "Requests/s of the layout within the target"},
        "Load": {"level": LEVELS[kind], "level_per_gpu": f"{LEVELS[kind]} per GPU"},
    }
    known = with_metrics(table)
    measured = {name for name in known if known[name].notna().any()}
    groups = {group: {name: label for name, label in names.items() if name in measured} for group, names in groups.items()}
    return {group: names for group, names in groups.items() if names}


def data(
    table: pd.DataFrame, arms: Mapping[str, Looks], groups: dict[str, dict[str, str]], bounds: Sequence[Bound],
    refuted: Collection[str] = (),
) -> Markup:  # fmt: skip
    """Return as JSON how each arm is drawn and, by level, the median, least and most of each metric over repeats.

    Args:
        refuted: arms that take no part in what is dominated, as controls do not.
    """
    labels = {metric: label for names in groups.values() for metric, label in names.items()}
    levels = with_metrics(table).groupby(["arm", "level"])
    repeats = levels["repeat"].nunique()
    frames = {"middle": levels[list(labels)].median()}
    if (repeats > 1).any():
        frames |= {"low": levels[list(labels)].min(), "high": levels[list(labels)].max()}
    curves, ours = [], set(contenders(table)["arm"]) - set(refuted)
    coarse = coarser(table)
    late = saturated(levels[["served_share", "cap_reached"]].median())
    for arm, look in arms.items():
        of_arm = {name: frame.loc[arm] for name, frame in frames.items()}
        rows = zip(of_arm["middle"].to_dict("records"), repeats[arm], strict=True)
        hover = [_hover(arm, labels, values, count, coarse.get(arm, "")) for values, count in rows]
        known = asdict(look) | {"name": arm, "control": arm not in ours, "hover": hover, "late": late.loc[arm].tolist()}
        curves.append(known | {name: _lists(frame) for name, frame in of_arm.items()})
    better = {metric: {"Latency": -1, "Load": 0}.get(group, 1) for group, names in groups.items() for metric in names}
    content = {"arms": curves, "labels": labels, "better": better, "bounds": {bound.column: bound.limit for bound in bounds}}
    content["queued"] = [metric for metric in labels if rests_on_ttft(metric)]
    return Markup(json.dumps(content, allow_nan=False).replace("<", "\\u003c"))  # so that no name ends the script


def with_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with what only the chart shows: level per GPU, interactivity of each latency."""
    rates = {f"{mode}_interactivity": 1000 / table[column] for mode, column in LATENCIES.items()}
    return table.assign(level_per_gpu=table["level"] / table["gpus"], **rates)


def _by_tokens(view: figures.View) -> list[figures.View]:
    return [replace(view, throughput=tokens) for tokens in TOKENS]


def _hover(arm: str, labels: dict[str, str], values: dict[str, float], repeats: int, coarse: str) -> str:
    """Return the label of a point: plotly reads a little HTML. `coarse` is of `pieces.coarser`."""
    known = {metric: value for metric, value in values.items() if metric in HOVER and not math.isnan(value)}
    lines = [f"{html.escape(labels[metric])}: {number(value)}" for metric, value in known.items()]
    lines += [f"{coarse}: its inter-token latency is between pieces"] * bool(coarse)
    lines.append(f"{repeats} repeats, medians" if repeats > 1 else "1 measurement")
    return "<br>".join([f"<b>{html.escape(arm)}</b>", *lines])


def _lists(frame: pd.DataFrame) -> dict[str, list[float | None]]:
    """Columns of six digits; null where there is no value."""
    return {name: [None if math.isnan(value) else float(f"{value:.6g}") for value in frame[name]] for name in frame}


def _outline(marker: str) -> str:
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    steps = ((LETTERS[code], at if code != Path.CLOSEPOLY else []) for at, code in path.iter_segments())
    return "".join(letter + " ".join(f"{value:.3f}" for value in at) for letter, at in steps)


def _on_dark(color: str) -> str:
    """Black and greys turned over; other colours with as much white as it takes to be readable."""
    red, green, blue = to_rgb(color)
    if red == green == blue:
        return to_hex((1 - red,) * 3)
    mixes = ([part + white / 20 * (1 - part) for part in (red, green, blue)] for white in range(21))
    return to_hex(next(mix for mix in mixes if contrast(to_hex(mix), DARK_PAGE) >= READABLE))


def contrast(one: str, other: str) -> float:
    """Compute the contrast ratio of two colours, 1 to 21 (WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""
    dim, bright = sorted(map(_luminance, (one, other)))
    return (bright + 0.05) / (dim + 0.05)


def _luminance(color: str) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

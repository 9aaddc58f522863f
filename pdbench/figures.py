"""The study's figure, drawn from the tidy table of `results.read_results`.

Colour says the P:D ratio, the marker the TP sizes; collocated arms are dashed in black and greys; arms
of the same layout share colour and marker and differ in their line. So a layout of the study looks the
same in every figure, whatever stands beside it. With repeats the line goes through their median and
each repeat is a faint dot.
"""

import math
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from pdbench.layout import Layout
from pdbench.results import CHUNK_SIZE, ResultError, node_words

# Okabe-Ito and Tol hues, told apart by colour-blind readers: warm is heavy on prefill, cool on decode.
RATIO_COLORS = {
    Fraction(4, 1): "#882255",
    Fraction(3, 1): "#D55E00",
    Fraction(2, 1): "#E69F00",
    Fraction(1, 1): "#009E73",
    Fraction(2, 3): "#CC79A7",
    Fraction(1, 2): "#56B4E9",
    Fraction(1, 3): "#0072B2",
    Fraction(1, 4): "#332288",
}
OTHER_RATIOS = ("#999933", "#AA4499", "#661100", "#6699CC")
COLLOCATED_COLORS = {1: "#8A8A8A", 2: "#646464", 4: "#383838", 8: "#000000"}
# By (prefill TP, decode TP); a collocated arm's TP counts as both.
MARKERS = {
    (1, 1): "o", (2, 2): "s", (4, 4): "D", (8, 8): "P", (1, 2): "^", (1, 4): "v", (2, 4): ">",
    (2, 1): "<", (4, 1): "p", (4, 2): "h",
}  # fmt: skip
OTHER_MARKER = "X"
PD_LINES = ("-", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
COLLOCATED_LINES = ((0, (5, 2)), (0, (2, 1.5)), (0, (5, 2, 1.5, 2)), (0, (9, 4)))
LABEL_POINTS = 7
NEAR = 9  # points from a marker to the middle of its label; farther away a thin line leads there
NO_TTFT = "no time to first token:\nprompts' KV caches are filled, not computed"
NO_TPOT = "no time per output token:\nevery request has one output token"


@dataclass(frozen=True)
class View:
    """What the figure shows: the axes of its trade-off panel and the scales."""

    latency_mode: str = "token"
    chunk_size: int = CHUNK_SIZE
    interactivity: bool = False
    normalized: bool = True
    throughput: str = "input"
    log_latency: bool = False
    log_levels: bool = False
    itl: bool = False


@dataclass(frozen=True)
class Style:
    """How one arm is drawn."""

    color: str
    marker: str
    line: str | tuple[float, tuple[float, ...]]
    filled: bool


def draw(table: pd.DataFrame, view: View) -> Figure:
    """TPOT and TTFT against the level, throughput against latency; `view.itl` adds p99 inter-token latency.

    Raises:
        ResultError: concurrency and request-rate levels are mixed, or no arm has the chosen latency.
    """
    kind, styles = one_kind(table), arm_styles(table)
    data = with_axes(table, view)
    figure = Figure(figsize=(13.5, 10.5) if view.itl else (16, 6.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    FigureCanvasAgg(figure)
    panels = _panels(figure, view.itl)
    _level_panel(panels["tpot"], data, "median_tpot_ms", "Median TPOT (ms)", styles, kind, view)
    _level_panel(panels["ttft"], data, "median_ttft_ms", "Median TTFT (ms)", styles, kind, view)
    if view.itl:
        _level_panel(panels["itl"], data, "p99_itl_ms", "p99 inter-token latency (ms)", styles, kind, view)
    _tradeoff_panel(panels["tradeoff"], data, styles, view)
    figure.suptitle(title(table), fontsize=13)
    _legend(figure, styles, kind, repeated=bool((table["repeat"] > 1).any()))
    # Labels are placed in pixels, so the panels have to stand where they will stay.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _annotate(panels["tradeoff"], data, styles)
    return figure


def with_axes(table: pd.DataFrame, view: View) -> pd.DataFrame:
    """The table with the trade-off panel's `x`, latency (ms) or interactivity (1/s), and `y`, tokens/s."""
    column = {"token": "median_tpot_ms", "first_token": "median_ttft_ms", "chunk": "chunk_latency_ms"}
    latency = table[column[view.latency_mode]]
    if latency.isna().all():
        raise ResultError(
            f"--latency-mode {view.latency_mode} needs a TPOT, and requests with one output token have none: "
            "use --latency-mode first_token"
        )
    throughput = table[f"{view.throughput}_throughput" + ("_per_node" if view.normalized else "")]
    if throughput.isna().all():
        raise ResultError(f"decode alone has no {view.throughput} throughput: use --throughput-metric output")
    return table.assign(x=1000 / latency if view.interactivity else latency, y=throughput)


def latency_label(view: View) -> str:
    """What the trade-off panel's x is, with its unit and the statistic it rests on."""
    chunk = f"TTFT + {view.chunk_size - 1} x TPOT"
    if view.interactivity:
        rate = {
            "token": "1000 / median TPOT (tokens/s/user)",
            "first_token": "1000 / median TTFT (first tokens/s/user)",
            "chunk": f"1000 / ({chunk}), medians (chunks/s/user)",
        }
        return f"Interactivity: {rate[view.latency_mode]}"
    return {
        "token": "Median TPOT (ms)",
        "first_token": "Median TTFT (ms)",
        "chunk": f"Latency of the first {view.chunk_size} tokens: {chunk}, medians (ms)",
    }[view.latency_mode]


def throughput_label(table: pd.DataFrame, view: View) -> str:
    """Which tokens are counted, over what: `Input tokens/s per node of 8 GPUs`."""
    words = f"{view.throughput.capitalize()} tokens/s"
    return f"{words} per node of {node_words(table)}" if view.normalized else f"{words} of the whole layout"


def title(table: pd.DataFrame) -> str:
    """The workload, where the arms share one; otherwise each arm's label says its own."""
    words = []
    for column, form in (("model", "{}"), ("isl", "ISL {}"), ("osl", "OSL {}"), ("phase", "{}")):
        values = table[column].unique()
        if len(values) == 1:
            words.append(form.format(values[0]))
    return " · ".join(words)


def one_kind(table: pd.DataFrame) -> str:
    """The kind of load that all rows share.

    Raises:
        ResultError: some were measured at a concurrency and some at a request rate.
    """
    first = table.drop_duplicates("kind").set_index("kind")["folder"]
    if len(first) > 1:
        where = " and ".join(f"{kind} levels ({folder})" for kind, folder in first.items())
        raise ResultError(f"{where} cannot share one figure: plot them apart")
    return first.index[0]


def arm_styles(table: pd.DataFrame) -> dict[str, Style]:
    """A style for each arm, in the order of the legend: collocated by TP, then PD from many P to many D."""
    arms = table.drop_duplicates("arm")[["arm", "layout", "placement"]]
    layouts = {arm: Layout.parse(layout) for arm, layout in zip(arms["arm"], arms["layout"], strict=True)}
    spread = dict(zip(arms["arm"], arms["placement"] == "spread", strict=True))
    unnamed = sorted({_ratio(layout) for layout in layouts.values() if layout.is_pd} - RATIO_COLORS.keys())
    colors = RATIO_COLORS | {ratio: OTHER_RATIOS[i % len(OTHER_RATIOS)] for i, ratio in enumerate(unnamed)}
    styles: dict[str, Style] = {}
    for arm in sorted(layouts, key=lambda name: _legend_order(layouts[name])):
        layout = layouts[arm]
        color = colors[_ratio(layout)] if layout.is_pd else COLLOCATED_COLORS.get(layout.decode.tp, "#B8B8B8")
        marker = MARKERS.get(((layout.prefill or layout.decode).tp, layout.decode.tp), OTHER_MARKER)
        lines = PD_LINES if layout.is_pd else COLLOCATED_LINES
        looks = [Style(color, marker, line, filled=not spread[arm]) for line in lines]
        styles[arm] = next((look for look in looks if look not in styles.values()), looks[-1])
    return styles


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write the figure (format by the name's ending), whole or not at all.

    Raises:
        ResultError: the ending is no format that matplotlib writes, or the folder cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file, matplotlib.rc_context({"pdf.fonttype": 42}):
            figure.savefig(file, format=path.suffix[1:], dpi=dpi)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, (OSError, ValueError)):
            raise ResultError(f"{path}: {getattr(error, 'strerror', error)}") from error
        raise


def _ratio(layout: Layout) -> Fraction:
    return Fraction(layout.prefill.num, layout.decode.num)


def _legend_order(layout: Layout) -> tuple:
    if not layout.is_pd:
        return (0, layout.decode.tp, layout.decode.num)
    return (1, -_ratio(layout), layout.prefill.tp, layout.decode.tp, layout.decode.num)


def _panels(figure: Figure, itl: bool) -> dict[str, Axes]:
    if itl:
        panels = figure.subplot_mosaic([["tpot", "ttft"], ["itl", "tradeoff"]], height_ratios=[1, 1.3])
    else:
        panels = figure.subplot_mosaic([["tpot", "ttft", "tradeoff"]], width_ratios=[1, 1, 1.7])
    for name, axes in panels.items():
        axes.set_label(name)
        axes.grid(color="#E4E4E4", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return panels


def _lines(axes: Axes, data: pd.DataFrame, x: str, y: str, styles: dict[str, Style]) -> None:
    """One line for each arm, through the median of each level's repeats."""
    for arm, style in styles.items():
        rows = data[data["arm"] == arm].dropna(subset=[x, y])
        # Grouping keeps "level" out of the columns; asked for as x, it is the index again.
        curve = rows.groupby("level", as_index=False)[list({x, y} - {"level"})].median()
        axes.plot(
            curve[x], curve[y], label=arm, color=style.color, linestyle=style.line, marker=style.marker,
            markersize=5.5, linewidth=1.6, markerfacecolor=style.color if style.filled else "white",
        )  # fmt: skip
        if (rows["repeat"] > 1).any():
            dot = {"linestyle": "", "marker": ".", "markersize": 5, "alpha": 0.45, "zorder": 1.8}
            axes.plot(rows[x], rows[y], color=style.color, **dot)


def _level_panel(
    axes: Axes, data: pd.DataFrame, column: str, label: str, styles: dict[str, Style], kind: str, view: View
) -> None:
    _lines(axes, data, "level", column, styles)
    load = {"concurrency": "Concurrency (requests in flight)", "request-rate": "Request rate (requests/s)"}
    axes.set_xlabel(load[kind])
    axes.set_ylabel(label)
    if data[column].isna().all():
        why = NO_TTFT if column == "median_ttft_ms" else NO_TPOT
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="#555555")
        axes.set_yticks([])
    elif view.log_latency:
        _log_ticks(axes, "y")
    else:
        _from_zero(axes, "y")
    _level_ticks(axes, sorted(data["level"].unique()), view.log_levels)


def _tradeoff_panel(axes: Axes, data: pd.DataFrame, styles: dict[str, Style], view: View) -> None:
    _lines(axes, data, "x", "y", styles)
    axes.set_xlabel(latency_label(view))
    axes.set_ylabel(throughput_label(data, view))
    axes.margins(0.06)
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    _from_zero(axes, "y")
    if view.log_latency:
        _log_ticks(axes, "x")


def _plain(value: float, _position: int | None = None) -> str:
    return f"{value:,.10g}"


def _from_zero(axes: Axes, which: str) -> None:
    getattr(axes, f"set_{which}lim")(**{{"x": "left", "y": "bottom"}[which]: 0})
    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(_plain))


def _log_ticks(axes: Axes, which: str) -> None:
    """A log scale with plain numbers, and enough of them where the data span less than a decade."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low < 10 else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())


def _level_ticks(axes: Axes, levels: list[float], log: bool) -> None:
    """Ticks at the levels measured, less those that would run into their neighbour."""
    if log:
        axes.set_xscale("log", base=2)
    else:
        _from_zero(axes, "x")
    at = np.log2(levels) if log else np.array(levels)
    room = 0.045 * (at[-1] - (at[0] if log else 0))
    kept = [levels[-1]]
    for level, place in zip(reversed(levels[:-1]), reversed(at[:-1]), strict=True):
        if (np.log2(kept[-1]) if log else kept[-1]) - place >= room:
            kept.append(level)
    axes.xaxis.set_major_locator(FixedLocator(sorted(kept)))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, styles: dict[str, Style], kind: str, repeated: bool) -> None:
    """One legend for all panels, in as many columns as its longest name leaves room for."""
    handles = [
        Line2D([], [], label=arm, color=style.color, linestyle=style.line, marker=style.marker,
               linewidth=1.6, markerfacecolor=style.color if style.filled else "white")
        for arm, style in styles.items()
    ]  # fmt: skip
    collocated = {style.line in COLLOCATED_LINES for style in styles.values()}
    key = ["dashed: collocated"] * (True in collocated) + ["colour: P:D ratio"] * (False in collocated)
    key += ["marker: TP sizes"]
    key += ["hollow: P and D on two nodes"] * any(not style.filled for style in styles.values())
    key += [{"concurrency": "number: requests in flight", "request-rate": "number: requests/s"}[kind]]
    key += ["line: median of repeats"] * repeated
    inches = 0.85 + 0.075 * max(map(len, styles))
    columns = max(1, min(len(styles), math.floor(figure.get_figwidth() / inches)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
        handlelength=3.4, title="     ".join(key), title_fontsize=8.5,
    )  # fmt: skip


def _annotate(axes: Axes, data: pd.DataFrame, styles: dict[str, Style]) -> None:
    """Write each point's level beside it, where it hides neither a point nor another label.

    Where a crowd leaves no room near a point, its label is left out: the table has every number.
    """
    points = data.groupby(["arm", "level"], sort=False, as_index=False)[["x", "y"]].median().dropna()
    pixels = axes.transData.transform(points[["x", "y"]].to_numpy())
    half = 4.5 * axes.figure.dpi / 72
    taken = [np.concatenate([at - half, at + half]) for at in pixels]
    curves = _along_curves(axes)
    leaders = []
    points = points.assign(px=pixels[:, 0].round(), py=pixels[:, 1].round())
    # Two arms at one place (identical results) share one label.
    points = points.drop_duplicates(["px", "py", "level"])
    for point in points.itertuples():
        text, at = _plain(point.level), np.array([point.px, point.py])
        offset = _free_place(axes, text, at, taken, curves)
        if offset is None:
            continue
        shade = tuple(0.72 * part for part in to_rgb(styles[point.arm].color))
        axes.annotate(
            text, (point.x, point.y), xytext=offset, textcoords="offset points", ha="center", va="center",
            fontsize=LABEL_POINTS, color=shade, gid=f"{point.arm}/{text}",
        )  # fmt: skip
        if math.hypot(*offset) > NEAR + 1:
            ends = [at, at + 0.7 * np.array(offset) * axes.figure.dpi / 72]
            leaders.append(axes.transData.inverted().transform(ends))
    axes.add_collection(LineCollection(leaders, colors="#777777", linewidths=0.6, zorder=1.5), autolim=False)


def _along_curves(axes: Axes) -> np.ndarray:
    """Points all along the drawn curves, in pixels."""
    samples = [np.empty((0, 2))]
    for line in axes.get_lines():
        pixels = axes.transData.transform(line.get_xydata())
        for start, end in zip(pixels[:-1], pixels[1:], strict=True):
            samples.append(start + np.linspace(0, 1, 40)[:, None] * (end - start))
    return np.concatenate(samples)


def _free_place(
    axes: Axes, text: str, at: np.ndarray, taken: list[np.ndarray], curves: np.ndarray
) -> tuple[float, float] | None:
    """Offset (points) of the best free place for `text`, near and on few curves; marks it as taken."""
    points = axes.figure.dpi / 72
    renderer, font = axes.figure.canvas.get_renderer(), FontProperties(size=LABEL_POINTS)
    width, _, _ = renderer.get_text_width_height_descent(text, font, False)
    _, height, _ = renderer.get_text_width_height_descent("lp", font, False)  # a line's, as matplotlib has it
    reach, boxes = np.array([width / 2 + 1, height / 2 + 1]), np.array(taken)
    best = None
    for radius in (NEAR, 13, 18, 24, 31):
        for angle in np.radians(range(90, 450, 30)):
            offset = radius * math.cos(angle), radius * math.sin(angle)
            low, high = at + np.array(offset) * points - reach, at + np.array(offset) * points + reach
            inside = (axes.bbox.min <= low).all() and (high <= axes.bbox.max).all()
            if not inside or ((boxes[:, :2] < high) & (low < boxes[:, 2:])).all(axis=1).any():
                continue
            cost = ((curves >= low) & (curves <= high)).all(axis=1).sum() + 0.3 * radius
            if best is None or cost < best[0]:
                best = cost, offset, np.concatenate([low, high])
    if best is None:
        return None
    taken.append(best[2])
    return best[1]

"""Draw latency against load and throughput against latency: the study's three panels, and the trade-off alone, large.

With repeats a line goes through their medians and a bar goes from the least to the most of them. The trade-off
shows what the best arm attains at each latency (`frontier.py`) as a grey band; points that another point beats in
both latency and throughput are pale. Crosses are a planner's predictions. A ring is around a level of a request
rate that was not served. Where all is of one level there is no curve to draw: latencies have a row for each arm.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation

from pdbench.analysis.frontier import curves, frontier, pareto
from pdbench.output.figures.labels import ARM, OVERLOADED, RANGE, annotate
from pdbench.output.figures.panels import from_zero, level_axis, level_ticks, log_ticks, new_figure, plain, prepare, settle
from pdbench.output.figures.styles import Style, arm_styles, faded, legend, line_handles, piece_key, style_key
from pdbench.output.figures.view import (
    View,
    heading,
    latency_label,
    level_words,
    one_kind,
    one_workload,
    throughput_label,
    with_axes,
)
from pdbench.planner.model import NOMINAL
from pdbench.read.level_file import ResultError
from pdbench.read.results import Study, saturated

PREDICTED = "predicted"  # gid
NO_TTFT = "no time to first token:\nprompts' KV caches are filled, not computed"
NO_TPOT = "no time per output token:\nevery request has one output token"
RING = {
    "linestyle": "", "marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgecolor": "#B00020", "zorder": 2.2,
    "clip_on": False,  # at the end of an axis half of it would be left
}  # fmt: skip
LEVEL_PANELS = {
    "tpot": ("median_tpot_ms", "Median TPOT (ms)"),
    "ttft": ("median_ttft_ms", "Median TTFT (ms)"),
}
ITL_PANELS = {
    "p99": ("p99_itl_ms", "p99 inter-token latency (ms)"), "max": ("max_itl_ms", "Longest inter-token latency (ms)"),
}  # fmt: skip


def draw(table: pd.DataFrame, view: View, study: Study | None = None) -> Figure:
    """Draw TPOT and TTFT against the level, throughput against latency; `view.itl` adds p99 or the longest ITL.

    Raises:
        ResultError: concurrency and request-rate levels are mixed, no arm has the chosen latency, or an arm lacks what
            `view.itl` is made of.
    """
    if view.itl:
        lacking = table.loc[table["median_itl_ms"].notna() & table[ITL_PANELS[view.itl][0]].isna(), "arm"].unique()
        if lacking.size:
            raise ResultError(f"{', '.join(lacking)}: no {view.itl} of inter-token latency without per-request details")
    figure = new_figure((13.5, 10.5) if view.itl else (16, 6.8))
    if view.itl:
        panels = figure.subplot_mosaic([["tpot", "ttft"], ["itl", "tradeoff"]], height_ratios=[1, 1.3])
    else:
        panels = figure.subplot_mosaic([["tpot", "ttft", "tradeoff"]], width_ratios=[1, 1, 1.7])
    return _filled(figure, panels, table, view, study)


def draw_tradeoff(table: pd.DataFrame, view: View, study: Study | None = None) -> Figure:
    """Draw throughput against latency alone, large; raises as `draw`."""
    figure = new_figure((11.5, 9))
    return _filled(figure, {"tradeoff": figure.subplots()}, table, view, study)


def _filled(figure: Figure, panels: dict[str, Axes], table: pd.DataFrame, view: View, study: Study | None) -> Figure:
    kind, styles, data = one_kind(table), arm_styles(table), _with_load(with_axes(table, view), view)
    one_level = [level_words(kind, level) for level in data["level"].unique()] if data["level"].nunique() == 1 else []
    shown = LEVEL_PANELS | ({"itl": ITL_PANELS[view.itl]} if view.itl else {})
    for name, axes in panels.items():
        prepare(axes, name)
        if name in shown and one_level:
            _arm_panel(axes, data, *shown[name], styles, view, named=name != "ttft")
        elif name in shown:
            _level_panel(axes, data, *shown[name], styles, kind, view)
    _tradeoff_panel(panels["tradeoff"], data, styles, view)
    if view.predicted is not None:
        _add_predictions(panels, _with_load(with_axes(view.predicted, view), view), styles, one_level=bool(one_level))
    figure.suptitle(heading(table, study, *one_level), fontsize=12)
    handles = line_handles({view.named(arm): style for arm, style in styles.items()})
    legend(figure, handles, style_key(table, styles) + _key(data, kind, view))
    settle(figure)
    annotate(panels["tradeoff"], _points(data, view), styles, _load_words(data, kind))
    return figure


def _with_load(table: pd.DataFrame, view: View) -> pd.DataFrame:
    """The table with `load`, what its levels are drawn at: those of arms with more GPUs are spread over all of them."""
    return table.assign(load=table["level"] / (table["gpus"] if view.per_gpu else 1))


def _unit(data: pd.DataFrame) -> str:
    return "core" if set(data["accelerator"]) == {"CPU"} else "GPU"


def _key(data: pd.DataFrame, kind: str, view: View) -> list[str]:
    key = [{"concurrency": f"number: concurrency per {_unit(data)}", "request-rate": "number: requests/s asked for"}[kind]]
    key += ["grey band: Pareto frontier", "pale: dominated"] * one_workload(data)
    capped = ", or waited in the client" * bool(data["cap_reached"].notna().any())
    key += [f"ring: overloaded, requests came faster than they were served{capped}"] * bool(saturated(data).any())
    key += view.refuted_key(data, ", in no frontier")
    key += piece_key(data) if view.itl else []
    key += [f"cross: predicted, with its nominal {NOMINAL:.0%} interval over the load"] * (view.predicted is not None)
    return key + ["line: median of repeats, bar: least to most of them"] * bool((data["repeat"] > 1).any())


def _add_predictions(panels: dict[str, Axes], rows: pd.DataFrame, styles: dict[str, Style], one_level: bool) -> None:
    """A cross for each level that was predicted; over the load beside the measured ones, with a bar from end to end of its
    interval, which the axis need not hold."""
    over = {} if one_level else {name: column for name, (column, _) in LEVEL_PANELS.items() if name in panels}
    for number, (arm, of) in enumerate(rows.groupby("arm", sort=False)):
        if (style := styles.get(arm)) is None:
            continue
        look = {"color": style.color, "marker": "x", "markersize": 6, "label": "_predicted", "gid": PREDICTED}
        for name, column in over.items():
            axes = panels[name]
            beside = axes.transData + ScaledTranslation(-(5 + 3 * number) / 72, 0, axes.figure.dpi_scale_trans)
            axes.plot(of["load"], of[column], linestyle="", transform=beside, **look)
            axes.vlines(of["load"], of[f"{column}_low"], of[f"{column}_high"], style.color, linewidth=0.8, transform=beside)
            axes.set_ylim(top=max(axes.get_ylim()[1], 1.05 * of[column].max()))
        panels["tradeoff"].plot(of["x"], of["y"], linestyle="-", linewidth=0.8, zorder=1.9, **look)


def _points(data: pd.DataFrame, view: View) -> pd.DataFrame:
    """Each arm's levels as the trade-off draws them: medians of repeats, and whether none beats them.

    What `view` does not compare beats none, and is beaten by none.
    """
    columns = ["latency", "x", "y", "gpus"]
    points = data.groupby(["arm", "level"], sort=False, as_index=False)[columns].median().dropna()
    compared = pd.MultiIndex.from_frame(view.compared(data)[["arm", "level"]])
    ours = points[pd.MultiIndex.from_frame(points[["arm", "level"]]).isin(compared)]
    dominated = points.index.isin(ours.index[~pareto(ours, "latency", "y")])
    return points.assign(efficient=~dominated | (not one_workload(data)))


def _load_words(data: pd.DataFrame, kind: str) -> dict[tuple[str, float], str]:
    """By arm and level, the number beside its point: concurrency per GPU of the layout, or the request rate."""
    known = data.drop_duplicates(["arm", "level"])
    per = known["gpus"] if kind == "concurrency" else 1
    return {(arm, level): f"{load:.3g}" for arm, level, load in zip(known["arm"], known["level"], known["level"] / per)}


def _lines(axes: Axes, data: pd.DataFrame, x: str, y: str, styles: dict[str, Style]) -> None:
    """One line for each arm in order of load, through the median of each level's repeats, with their range."""
    for arm, style in styles.items():
        rows = data[data["arm"] == arm].dropna(subset=[x, y])
        levels = rows.assign(at=rows[x], up=rows[y]).groupby("level")[["at", "up"]]
        middle = levels.median()
        axes.plot(
            middle["at"], middle["up"], label=arm, gid=ARM, color=style.color, linestyle=style.line, marker=style.marker,
            markersize=style.size, linewidth=style.width, markerfacecolor=style.color if style.filled else "white",
        )  # fmt: skip
        late = middle[saturated(rows.groupby("level")[["served_share", "cap_reached"]].median())]
        if len(late):
            axes.plot(late["at"], late["up"], label="_overloaded", gid=OVERLOADED, **RING)
        if (rows["repeat"] > 1).any():
            xerr, yerr = np.stack([middle - levels.min(), levels.max() - middle]).T.swapaxes(1, 2)
            thin = {"fmt": "none", "ecolor": style.color, "elinewidth": 0.9, "capsize": 2}
            drawn = axes.errorbar(middle["at"], middle["up"], yerr, xerr if x != "load" else None, **thin)
            for bar in drawn.lines[2]:
                bar.set_gid(RANGE)


def _arm_panel(
    axes: Axes, data: pd.DataFrame, column: str, label: str, styles: dict[str, Style], view: View, named: bool
) -> None:
    """A row for each arm, through the median of its repeats, with their range."""
    rows = {arm: float(row) for row, arm in enumerate(styles)}
    _lines(axes, data.assign(row=data["arm"].map(rows)), column, "row", styles)
    axes.set_xlabel(label)
    axes.set_yticks(list(rows.values()), [view.named(arm) if named else "" for arm in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if data[column].isna().all():
        _say_why_empty(axes, column)
    elif view.log_latency:
        log_ticks(axes, "x")
    else:
        from_zero(axes, "x")


def _say_why_empty(axes: Axes, column: str) -> None:
    why = NO_TTFT if column == "median_ttft_ms" else NO_TPOT
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="#555555")
    axes.set_xticks([])


def _level_panel(
    axes: Axes, data: pd.DataFrame, column: str, label: str, styles: dict[str, Style], kind: str, view: View
) -> None:
    _lines(axes, data, "load", column, styles)
    level_axis(axes, kind, f" per {_unit(data)}" * view.per_gpu)
    axes.set_ylabel(label)
    if data[column].isna().all():
        _say_why_empty(axes, column)
        axes.set_yticks([])
        return
    if view.log_latency:
        log_ticks(axes, "y")
    else:
        from_zero(axes, "y")
    level_ticks(axes, sorted(data["load"].unique()), view.log_levels)


def _tradeoff_panel(axes: Axes, data: pd.DataFrame, styles: dict[str, Style], view: View) -> None:
    if one_workload(data):
        _frontier_band(axes, data, view)
    _lines(axes, data, "x", "y", styles)
    _fade(axes, _points(data, view), styles)
    axes.set_xlabel(latency_label(view))
    axes.set_ylabel(throughput_label(data, view))
    axes.margins(0.06)
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    from_zero(axes, "y")
    if view.log_latency:
        log_ticks(axes, "x")


def _frontier_band(axes: Axes, data: pd.DataFrame, view: View) -> None:
    found = curves(view.compared(data), "latency", "y")
    if not found:
        return
    best = frontier(found)
    # Straight in latency is bent in interactivity.
    share = np.linspace(0, 1, 20)
    corners = np.arange(len(best.latency) - 1)[:, None]
    at = np.append(corners + share, len(best.latency) - 1)
    latency, throughput = (np.interp(at, np.arange(len(best.latency)), each) for each in (best.latency, best.throughput))
    axes.plot(
        1000 / latency if view.interactivity else latency, throughput, label="Pareto frontier", color="#DADADA",
        linewidth=9, solid_capstyle="round", solid_joinstyle="round", zorder=1.2,
    )  # fmt: skip


def _fade(axes: Axes, points: pd.DataFrame, styles: dict[str, Style]) -> None:
    """Paler markers over those of dominated points."""
    for arm, of_arm in points[~points["efficient"]].groupby("arm", sort=False):
        style, pale = styles[arm], faded(styles[arm].color)
        axes.plot(
            of_arm["x"], of_arm["y"], label="_dominated", linestyle="", marker=style.marker, markersize=style.size,
            color=style.color if style.filled else pale, markerfacecolor=pale if style.filled else "white", zorder=2.1,
        )  # fmt: skip

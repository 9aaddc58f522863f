"""Draw what Ray Serve adds to TTFT and TPOT and takes from throughput, beside control arms without it."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from pdbench.analysis.overhead import overheads
from pdbench.output.figures.panels import new_figure, plain, prepare
from pdbench.output.figures.styles import arm_styles, legend
from pdbench.output.figures.view import View, heading, level_words, one_kind, one_workload
from pdbench.read.level_file import ResultError
from pdbench.read.results import Study

# Of `overheads`: what is drawn, its words, and the value at which Ray Serve costs nothing.
PANELS = {
    "added_ttft_ms": ("Added to median TTFT (ms)", 0),
    "added_tpot_ms": ("Added to median TPOT (ms)", 0),
    "throughput_ratio": ("Requests/s, share of the control's", 1),
}
MOST_ROWS = 40


def draw(table: pd.DataFrame, view: View, study: Study | None = None) -> Figure:
    """Draw a row for each arm behind Ray Serve and level: difference to its control, with its 95% interval.

    Raises:
        ResultError: there is no pair of arm and control; workloads are mixed; there are more rows than fit.
    """
    kind = one_kind(table)
    if not one_workload(table):
        raise ResultError("--figure overhead compares arms of one model and one workload")
    styles = arm_styles(table)
    found = overheads(table).sort_values("arm", key=lambda arms: arms.map(list(styles).index), kind="stable", ignore_index=True)
    if len(found) > MOST_ROWS:
        raise ResultError(f"--figure overhead has room for {MOST_ROWS} arms and levels, not {len(found)}: give fewer folders")
    levels = found["level"].unique()
    figure = new_figure((13.5, 2.2 + 0.34 * len(found)))
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (name, (label, nothing)) in zip(panels, PANELS.items(), strict=True):
        prepare(axes, name, grid="x")
        axes.axvline(nothing, color="#555555", linewidth=1, zorder=1)
        for row in found.itertuples():
            _draw_row(axes, row, name, styles[row.arm].color)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
    panels[0].set_yticks(found.index, [row.arm + f" · {row.level:g}" * (len(levels) > 1) for row in found.itertuples()])
    panels[0].set_ylim(len(found) - 0.5, -0.5)
    at = level_words(kind, levels[0]) if len(levels) == 1 else f"at each {kind.replace('-', ' ')}"
    figure.suptitle(heading(table, study, at), fontsize=12)
    legend(figure, _handles(found), ["Ray Serve against the same engines under plain vllm serve", "line: no difference"])
    return figure


def _draw_row(axes: Axes, row: tuple, name: str, color: str) -> None:
    at, low, high, noise = (getattr(row, name + end) for end in ("", "_from", "_to", "_noise"))
    if not math.isnan(low):
        axes.plot([low, high], [row.Index] * 2, color=color, linewidth=2, solid_capstyle="butt", label=f"{row.Index} interval")
    axes.plot([at], [row.Index], marker="o", markersize=7, color=color, markerfacecolor="white" if noise else color,
              linestyle="", label=f"{row.Index}")  # fmt: skip


def _handles(found: pd.DataFrame) -> list[Line2D]:
    """What the marks mean, as far as they are there."""
    point = {"color": "black", "marker": "o"}
    handles = [Line2D([], [], linestyle="", label="difference of the repeats' means", **point)]
    if found["added_ttft_ms_from"].notna().any():
        handles += [Line2D([], [], label="its 95% interval (Welch)", linewidth=2, **point)]
    else:
        handles[0].set_label("difference; no interval with fewer than 3 repeats")
    if found[[f"{name}_noise" for name in PANELS]].to_numpy().any():
        handles += [Line2D([], [], label="hollow: may be noise", linewidth=2, markerfacecolor="white", **point)]
    return handles

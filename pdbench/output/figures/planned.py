"""Draw what the planner predicted against what was measured, with the intervals of the predictions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pdbench.output.figures.panels import log_ticks, new_figure, prepare, settle
from pdbench.planner.model import NOMINAL
from pdbench.planner.predicting import Checked

_PANELS = {"request_throughput": "Requests/s", "mean_tpot_ms": "Mean TPOT (ms)", "mean_ttft_ms": "Mean TTFT (ms)"}
_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB", "#000000")
_MARKERS = "osD^vPX<>*"


def against_measured(checked: Sequence[Checked]) -> Figure:
    """Draw a panel for throughput, TPOT and TTFT: a point for each level of each run, on the diagonal where it was met."""
    figure = new_figure((13, 5.2))
    panels = figure.subplots(1, len(_PANELS))
    for axes, (column, label) in zip(panels, _PANELS.items(), strict=True):
        _panel(axes, column, label, checked)
    figure.suptitle(f"Predicted against measured, runs that were not used; bars: nominal {NOMINAL:.0%} intervals")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    settle(figure)
    return figure


def _panel(axes: Axes, column: str, label: str, checked: Sequence[Checked]) -> None:
    prepare(axes, label)
    ends: list[float] = []
    for number, one in enumerate(checked):
        index = list(one.predicted[0].values).index(column)
        measured = one.run.measured[:, index]
        predicted = np.array([p.values[column] for p in one.predicted])
        low, high = np.array([p.intervals[column] for p in one.predicted]).T
        ends += [np.nanmin(measured), np.nanmax(measured), low.min(), high.max()]
        axes.errorbar(
            measured, predicted, yerr=(predicted - low, high - predicted), linestyle="none", elinewidth=0.8, markersize=5,
            marker=_MARKERS[number % len(_MARKERS)], color=_COLOURS[number % len(_COLOURS)], label=str(one.run.layout),
        )  # fmt: skip
    span = (min(ends) / 1.05, max(ends) * 1.05)
    axes.plot(span, span, color="#555555", linewidth=0.9, zorder=1)
    axes.set(xlim=span, ylim=span, xlabel=f"measured: {label}", ylabel=f"predicted: {label}")
    for which in "xy":
        log_ticks(axes, which)

"""Draw the planner's predictions, with their intervals: against what was measured, and of the layouts worth measuring."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pdbench.analysis.sla import Bound
from pdbench.output.figures.panels import from_zero, log_ticks, new_figure, prepare, settle
from pdbench.planner.model import NOMINAL
from pdbench.planner.predicting import Checked, Prediction
from pdbench.planner.recommending import Choice, excess, limits_of

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


def finalists(sweeps: Sequence[tuple[Choice, Sequence[Prediction]]], bounds: Sequence[Bound]) -> Figure:
    """Draw throughput per GPU against TPOT for the layouts worth measuring, each with a band from end to end of its intervals.

    Args:
        sweeps: each layout at rising loads.
        bounds: the target: of TPOT they are lines, and loads that exceed any have hollow marks.
    """
    limits, figure = limits_of(bounds), new_figure((9, 6))
    axes = figure.subplots()
    prepare(axes, "finalists")
    column = next((name for name in limits if "_tpot_" in name), "median_tpot_ms")
    for number, (choice, sweep) in enumerate(sweeps):
        colour, gpus = _COLOURS[number % len(_COLOURS)], choice.layout.gpus
        at = [one.values[column] for one in sweep]
        low, high = np.array([one.intervals["request_throughput"] for one in sweep]).T / gpus
        axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
        up = [one.values["request_throughput"] / gpus for one in sweep]
        axes.plot(at, up, color=colour, label=f"{choice.prediction.name}: {choice.prediction.level} in flight")
        filled = [colour if excess(one.values, limits) <= 1 else "white" for one in sweep]
        axes.scatter(at, up, c=filled, edgecolors=colour, marker=_MARKERS[number % len(_MARKERS)], zorder=3)
    for name, limit in limits.items():
        if name == column:
            axes.axvline(limit, color="#B00020", linewidth=0.9)
    axes.set(xlabel=f"{column.removesuffix('_ms').replace('_tpot', ' TPOT').capitalize().replace('tpot', 'TPOT')} (ms)")
    axes.set_ylabel("Requests/s per GPU")
    from_zero(axes, "y")
    target = ", ".join(map(str, bounds))
    figure.suptitle(f"Predicted, by rising load, for {target}\nhollow: beyond it; bands: nominal {NOMINAL:.0%} intervals")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
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
            marker=_MARKERS[number % len(_MARKERS)], color=_COLOURS[number % len(_COLOURS)], label=one.run.arm,
        )  # fmt: skip
    span = (min(ends) / 1.05, max(ends) * 1.05)
    axes.plot(span, span, color="#555555", linewidth=0.9, zorder=1)
    axes.set(xlim=span, ylim=span, xlabel=f"measured: {label}", ylabel=f"predicted: {label}")
    for which in "xy":
        log_ticks(axes, which)

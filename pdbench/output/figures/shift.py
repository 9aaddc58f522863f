"""Draw load that shifts over time: requests sent, the P:D ratio, each request's TTFT and TPOT, the share within the SLA."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pdbench.analysis.shift import Run, runs_of, shares
from pdbench.analysis.sla import per_request
from pdbench.output.figures.level import chosen_level
from pdbench.output.figures.panels import log_ticks, new_figure, prepare
from pdbench.output.figures.styles import arm_styles, faded, legend
from pdbench.output.figures.view import View, heading, level_words, one_kind
from pdbench.read.level_file import ResultError
from pdbench.read.results import Study

MOST_ARMS = 6
NARROWEST = 8.8  # inches, which the heading needs
BINS = 24  # of the share within the SLA
LATENCIES = {"ttft": "TTFT (ms)", "tpot": "TPOT (ms)"}
SHADE, LATE, BOUND = "#F1F1F1", "#D55E00", "#555555"
NEEDS_SLA = "--figure shift needs --sla with bounds of each request, such as --sla ttft=1000,tpot=12"


def draw(table: pd.DataFrame, view: View, study: Study) -> Figure:
    """Draw a column for each arm at one load; every second phase is shaded.

    Dots are the requests of the first repeat, at the time when they were sent; the share within the SLA is of all repeats.

    Raises:
        ResultError: there is no bound; the load of an arm does not shift, or is another one; there are more arms than fit.
    """
    sla = per_request(view.sla)
    if not sla:
        raise ResultError(NEEDS_SLA)
    kind, styles, load = one_kind(table), arm_styles(table), chosen_level(table, view)
    if len(styles) > MOST_ARMS:
        raise ResultError(f"--figure shift has room for {MOST_ARMS} arms, not {len(styles)}: give fewer folders")
    runs = runs_of(study, table, load, sla)
    end = max(run.duration for run in runs)
    figure = new_figure((max(NARROWEST, 2.4 + 3.2 * len(styles)), 10.5))
    panels = figure.subplots(5, len(styles), sharex=True, sharey="row", height_ratios=[1, 1, 2, 2, 1.4], squeeze=False)
    for column, (arm, style) in zip(panels.T, styles.items(), strict=True):
        mine = [run for run in runs if run.arm == arm]
        sent, ratio, *latencies, share = column
        for axes, name in zip(column, ("sent", "ratio", *LATENCIES, "share"), strict=True):
            prepare(axes, f"{name} {arm}")
            _shade(axes, mine[0], end)
        sent.set_title(arm, fontsize=10)
        _draw_sent(sent, mine[0])
        _draw_ratio(ratio, mine[0], style.color)
        for axes, metric in zip(latencies, LATENCIES, strict=True):
            _draw_latency(axes, mine[0], metric, sla.get(metric), style.color)
        _draw_share(share, mine, end / BINS, style.color)
        share.set_xlabel("Time since the level began (s)")
    for axes, label in zip(panels[:, 0], ("Requests/s\nsent", "Engines that\nprefill", *LATENCIES.values(), "Within\nthe SLA"),
                           strict=True):  # fmt: skip
        axes.set_ylabel(label)
    panels[0, 0].set_xlim(0, end)
    panels[0, 0].set_ylim(bottom=0)
    panels[1, 0].set_ylim(
        0, 0.5 + max([1, *(run.prefill or 0 for run in runs), *(t.prefill for run in runs for t in run.ticks)])
    )
    for axes in panels[2:4, 0]:
        log_ticks(axes, "y")
    bounds = ", ".join(f"{metric.upper()} <= {limit:g} ms" for metric, limit in sla.items())
    figure.suptitle(f"{heading(table, study, level_words(kind, load))}\nSLA of each request: {bounds}", fontsize=12)
    legend(figure, _handles(runs), ["requests by the time when they were sent", "share: of all repeats; thin: of each"])
    return figure


def _shade(axes: Axes, run: Run, end: float) -> None:
    for begin, until in list(zip(run.begins, [*run.begins[1:], end], strict=True))[1::2]:
        axes.axvspan(begin, until, color=SHADE, linewidth=0, zorder=0)


def _draw_sent(axes: Axes, run: Run) -> None:
    """Requests per second of each phase."""
    ends = [*run.begins[1:], max(float(run.start.max()), run.begins[-1] + 1e-9)]
    lengths = np.diff([*run.begins, ends[-1]])
    rates = np.bincount(run.phase, minlength=len(run.begins)) / np.maximum(lengths, 1e-9)
    axes.stairs(rates, [*run.begins, ends[-1]], color="black", linewidth=1.4, label="sent")


def _draw_ratio(axes: Axes, run: Run, color: str) -> None:
    """Engines that prefill: of a controller by its ticks, of a fixed ratio a line."""
    if run.ticks:
        at, prefill = zip(*((tick.at, tick.prefill) for tick in run.ticks), strict=True)
        axes.step([*at, run.duration], [*prefill, prefill[-1]], where="post", color=color, linewidth=1.8, label="controlled")
    elif run.prefill is not None:
        axes.plot([0, run.duration], [run.prefill] * 2, color=color, linewidth=1.8, linestyle="--", label="fixed")
    else:
        words = "collocated" if not run.controlled else "no ticks were kept"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=BOUND)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))


def _draw_latency(axes: Axes, run: Run, metric: str, bound: float | None, color: str) -> None:
    values = getattr(run, metric)
    late = values > (math.inf if bound is None else bound)
    for which, shade, name in ((~late, color, "in time"), (late, LATE, "late")):
        axes.plot(run.start[which], values[which], linestyle="", marker=".", markersize=4, color=shade, label=name)
    if bound is not None:
        axes.axhline(bound, color=BOUND, linewidth=1, linestyle=":", label="bound")


def _draw_share(axes: Axes, runs: Sequence[Run], width: float, color: str) -> None:
    for run in runs if len(runs) > 1 else ():
        axes.plot(*shares([run], width), color=faded(color), linewidth=0.8, label=f"repeat {run.repeat}")
    axes.plot(*shares(runs, width), color=color, linewidth=1.8, marker=".", label="share")
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _handles(runs: Sequence[Run]) -> list[Line2D | Patch]:
    """What the marks mean."""
    dot = {"linestyle": "", "marker": ".", "markersize": 8}
    found: list[Line2D | Patch] = [Line2D([], [], color=LATE, label="a request beyond its bound", **dot)]
    found += [Line2D([], [], color=BOUND, linestyle=":", label="bound"), Patch(color=SHADE, label="every second phase")]
    found += [Line2D([], [], color="black", label="a controller's ratio")] * any(run.ticks for run in runs)
    return found + [Line2D([], [], color="black", linestyle="--", label="a fixed one")] * any(run.prefill for run in runs)

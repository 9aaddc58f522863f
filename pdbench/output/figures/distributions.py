"""Draw how TTFT and the times between tokens are distributed over a level's requests: the tail that a median hides."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pdbench.output.figures.level import chosen_level, requests_at
from pdbench.output.figures.panels import from_zero, log_ticks, new_figure, plain, prepare
from pdbench.output.figures.styles import arm_styles, legend, line_handles, piece_key, style_key
from pdbench.output.figures.view import View, heading, level_words, one_kind
from pdbench.read.results import Study

PANELS = {"ttft": ("Time to first token (ms)", "Requests"), "itl": ("Time between tokens (ms)", "Times between tokens")}
# A level may hold a hundred thousand times between tokens: these shares of them make the same picture, down to the slowest.
SHARES = np.unique(np.concatenate([np.linspace(0, 1, 500), np.logspace(-7, 0, 500)]))
MARKED = {0.5: "median", 0.01: "p99"}


def draw(table: pd.DataFrame, view: View, study: Study) -> Figure:
    """Draw, of every arm at one level, which share of requests took a time or longer, on a log scale; repeats together.

    So the slowest 1% take as much room as those between them and the slowest 10%.

    Raises:
        ResultError: an arm lacks the level or per-request details; requests have one output token.
    """
    kind, styles, level = one_kind(table), arm_styles(table), chosen_level(table, view)
    requests = requests_at(table, level, study)
    figure = new_figure((13.5, 6.2))
    for axes, (metric, (label, unit)) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        prepare(axes, metric)
        for arm, style in styles.items():
            values = np.concatenate([each.values(metric) for each in requests[arm]])
            if values.size:
                axes.plot(*survivors(values), label=arm, color=style.color, linestyle=style.line, drawstyle="steps-pre",
                          linewidth=style.width, marker=style.marker, markevery=0.12, markersize=style.size,
                          markerfacecolor=style.color if style.filled else "white")  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel(f"{unit} that took so long or longer")
        _share_axis(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
        log_ticks(axes, "x") if view.log_latency else from_zero(axes, "x")
    figure.suptitle(heading(table, study, level_words(kind, level)), fontsize=12)
    handles = line_handles({view.named(arm): style for arm, style in styles.items()})
    legend(figure, handles, style_key(table, styles) + piece_key(table) + view.refuted_key(table))
    return figure


def survivors(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return times, ascending, and of each the share of values that are as large or larger: from 1 down to the largest's."""
    count = len(values)
    ranks = np.unique((count - np.ceil(count * SHARES)).clip(0, count - 1).astype(int))
    return np.sort(values)[ranks], (count - ranks) / count


def _share_axis(axes: Axes) -> None:
    """A log scale of shares, with a word at those that have a name."""
    axes.set_yscale("log")
    axes.set_ylim(top=1.15)
    axes.yaxis.set_major_locator(LogLocator(subs=(1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    for share, name in MARKED.items():
        if axes.get_ylim()[0] <= share:
            axes.axhline(share, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1, label=f"_{name}")
            axes.text(1.005, share, name, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555555")

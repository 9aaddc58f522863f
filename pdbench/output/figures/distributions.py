"""Draw how TTFT and the times between tokens are distributed over a level's requests: what a median hides."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from pdbench.output.figures.level import chosen_level, requests_at
from pdbench.output.figures.panels import from_zero, log_ticks, new_figure, plain, prepare
from pdbench.output.figures.styles import arm_styles, legend, line_handles, style_key
from pdbench.output.figures.view import View, level_words, one_kind, title
from pdbench.read.results import Study

PANELS = {"ttft": ("Time to first token (ms)", "Requests"), "itl": ("Time between tokens (ms)", "Times between tokens")}
# A level may hold a hundred thousand times between tokens: every 0.1% of them makes the same picture.
SHARES = np.linspace(0, 1, 1001)


def draw(table: pd.DataFrame, view: View, study: Study) -> Figure:
    """Draw empirical distribution functions of TTFT and inter-token times of every arm at one level, repeats together.

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
                at = np.quantile(values, SHARES, method="inverted_cdf")
                axes.plot(at, SHARES, label=arm, color=style.color, linestyle=style.line, drawstyle="steps-post",
                          marker=style.marker, markevery=(100, 200), markersize=5,
                          markerfacecolor=style.color if style.filled else "white")  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel(f"{unit} at most so long")
        axes.set_ylim(0, 1.01)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
        log_ticks(axes, "x") if view.log_latency else from_zero(axes, "x")
    figure.suptitle(f"{title(table)} · {level_words(kind, level)}", fontsize=13)
    legend(figure, line_handles(styles), style_key(table, styles))
    return figure

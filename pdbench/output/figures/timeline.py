"""Draw every request of one level over time: how long it waited for its first token, how long it decoded."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pdbench.output.figures.level import chosen_level, requests_at
from pdbench.output.figures.panels import new_figure, plain, prepare
from pdbench.output.figures.styles import arm_styles, faded, legend
from pdbench.output.figures.view import View, heading, level_words, one_kind
from pdbench.read.level_file import ResultError
from pdbench.read.requests import Requests
from pdbench.read.results import Study

MOST_ARMS = 4
ROWS_POINTS = 270  # height of the panel of bars


def draw(table: pd.DataFrame, view: View, study: Study) -> Figure:
    """Draw a column for each arm: requests in flight, and a bar for each request in the order in which they were sent.

    The bar is pale from the request's start to its first token (queue, prefill and, with PD, transfer) and full while it
    decodes. With repeats it is the first one.

    Raises:
        ResultError: an arm lacks the level or per-request details; there are more arms than fit.
    """
    kind, styles, level = one_kind(table), arm_styles(table), chosen_level(table, view)
    if len(styles) > MOST_ARMS:
        raise ResultError(f"--figure timeline has room for {MOST_ARMS} arms, not {len(styles)}: give fewer folders")
    requests = {arm: repeats[0] for arm, repeats in requests_at(table, level, study).items()}
    figure = new_figure((4.2 + 3.6 * len(styles), 7))
    rows = figure.subplots(2, len(styles), sharex=True, sharey="row", height_ratios=[1, 3], squeeze=False)
    for (flight, bars), (arm, style) in zip(rows.T, styles.items(), strict=True):
        prepare(flight, f"flight {arm}")
        prepare(bars, f"bars {arm}", grid="x")
        flight.set_title(view.named(arm), fontsize=10)
        bars.set_xlabel("Time since the first request (s)")
        _draw_flight(flight, requests[arm], style.color)
        _draw_bars(bars, requests[arm], style.color)
    rows[0, 0].set_ylabel("Requests in flight")
    rows[1, 0].set_ylabel("Request, in order of start")
    rows[1, 0].set_ylim(max(len(each.start) for each in requests.values()) + 1, 0)
    rows[0, 0].set_xlim(0, 1.01 * max(float((each.end - each.start.min()).max()) for each in requests.values()))
    figure.suptitle(heading(table, study, level_words(kind, level)), fontsize=12)
    wait = Patch(color=faded("black"), label="pale: until the first token (queue, prefill, KV transfer)")
    legend(figure, [wait, Patch(color="black", label="full: decode")], view.refuted_key(table))
    return figure


def _draw_flight(axes: Axes, requests: Requests, color: str) -> None:
    times, number = requests.in_flight()
    axes.step(times, number, where="post", color=color, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, steps=[1, 2, 4, 5, 10]))


def _draw_bars(axes: Axes, requests: Requests, color: str) -> None:
    order = np.argsort(requests.start, kind="stable")
    start = (requests.start - requests.start.min())[order]
    first, end = start + requests.ttft[order], start + (requests.end - requests.start)[order]
    row = np.arange(1, len(order) + 1)
    thick = min(6, 0.8 * ROWS_POINTS / len(order))
    for begin, until, shade, name in ((start, first, faded(color), "wait"), (first, end, color, "decode")):
        ends = np.array([[begin, row], [until, row]]).transpose(2, 0, 1)
        axes.add_collection(LineCollection(ends, colors=[shade], linewidths=thick, capstyle="butt", label=name))
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))

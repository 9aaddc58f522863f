"""Draw the study's figures from the tidy table of `results.read_results`.

    classic    TPOT and TTFT against the load, throughput against latency; p99 inter-token latency on request
    tradeoff   throughput against latency alone, large
    heatmap    the best throughput under an SLA, by P:D ratio and TP sizes
    network    throughput of one PD layout by placement and transport, with the speed of its KV transfers
    latencies  the distributions of TTFT and inter-token times at one level
    timeline   every request of one level: when it waited for its first token, when it decoded
    targets    for which pairs of latency targets which arm has the most throughput: when PD pays
    lengths    for which ISL:OSL an arm pays: its ratios to the collocated one within blocks
    overhead   what Ray Serve adds to TTFT and TPOT, and takes from throughput, with intervals
    shift      load that shifts over time: the P:D ratio, every request's TTFT and TPOT, the share within the SLA

In all of them colour is the P:D ratio and the line the TP sizes; collocated arms are dashed black (`styles.py`).
"""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from pdbench.output.figures import classic, distributions, heatmap, lengths, network, overhead, shift, targets, timeline
from pdbench.output.figures.ceiling import left_out
from pdbench.output.figures.files import save
from pdbench.output.figures.level import chosen_level
from pdbench.output.figures.styles import Style, arm_styles
from pdbench.output.figures.view import View, latency_label, one_kind, throughput_label, title, with_axes
from pdbench.read.results import Study, read_study

__all__ = ["Style", "View", "arm_styles", "chosen_level", "draw", "latency_label", "left_out", "one_kind", "save",
           "throughput_label", "title", "with_axes"]  # fmt: skip

FIGURES: dict[str, Callable[..., Figure]] = {
    "classic": classic.draw,
    "tradeoff": classic.draw_tradeoff,
    "targets": targets.draw,
    "heatmap": heatmap.draw,
    "lengths": lengths.draw,
    "network": network.draw,
    "latencies": distributions.draw,
    "timeline": timeline.draw,
    "overhead": overhead.draw,
    "shift": shift.draw,
}
# Drawn from more than the table: requests of a level, or gates of the manifests.
OF_FOLDERS = ("network", "latencies", "timeline", "shift")


def draw(table: pd.DataFrame, view: View, study: Study | None = None) -> Figure:
    """Draw the figure that `view.figure` names.

    Args:
        table: of `results.read_results`.
        study: which has the table, or more arms; where it is not given, folders are read again for a figure of details.

    Raises:
        ResultError: the results do not hold what the figure shows; says what is needed.
    """
    if study is None and view.figure in OF_FOLDERS:
        study = read_study(table["folder"].unique())
    return FIGURES[view.figure](table, view, study)

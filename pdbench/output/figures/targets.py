"""Draw when PD pays: for every pair of latency targets the arm with the most throughput, and its lead over the other kind."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy import ndimage

from pdbench.analysis.targets import Targets, targets
from pdbench.output.figures.panels import HATCHED, log_ticks, new_figure, prepare
from pdbench.output.figures.styles import legend
from pdbench.output.figures.view import View, heading, throughput_column, throughput_label
from pdbench.read.results import Study

COLORS = "PuOr"  # diverging, and made for colour-blind readers: https://colorbrewer2.org
FULL, ENDS = math.log(1.6), math.log(2)  # a lead of 60% or more has a colour that is not yet black
FINE = 240  # limits of a side
ALONE = "//"
LEAST_NAMED = 0.006  # of the picture: a smaller region has no name
MARGIN = 8  # pixels between a name and a side


def draw(table: pd.DataFrame, view: View, study: Study | None = None) -> Figure:
    """Draw the plane of two limits, from the least that any arm keeps to the most that any has.

    Colour is how far the best arm is ahead of the best of the other kind, collocated or PD; hatched where that keeps not
    both. Lines are between arms, whose names are where there is room.

    Raises:
        ResultError: no arm can be judged, or the arms did not do the same work.
    """
    found = targets(table, view.targets, throughput_column(table, view), FINE)
    figure = new_figure((11.5, 8.6))
    axes = figure.subplots()
    prepare(axes, "targets")
    scale = ScalarMappable(Normalize(-ENDS, ENDS), COLORS)
    _fill(axes, found, scale)
    _name(axes, found)
    for which, bound in zip("xy", view.targets, strict=True):
        getattr(axes, f"set_{which}scale")("log")
        log_ticks(axes, which)
        words = bound.words if bound.words.startswith("p9") else bound.words[0].upper() + bound.words[1:]
        getattr(axes, f"set_{which}label")(f"{words} at most (ms)")
    counted = throughput_label(table, view)
    figure.suptitle(f"{heading(table, study)}\nMost {counted[0].lower()}{counted[1:]} within both", fontsize=12)
    kinds = [("collocated", -1)] * bool(found.collocated.any()) + [("PD", 1)] * bool((~found.collocated).any())
    handles = [Patch(color=scale.to_rgba(sign * math.log1p(share)), label=f"{kind} is ahead by {share:.0%}")
               for kind, sign in kinds for share in (0.1, 0.3, 0.6)]  # fmt: skip
    alone = Patch(facecolor="#999999", edgecolor="white", hatch=ALONE, linewidth=0, label="no other that was measured")
    handles += [alone] * bool(np.isinf(found.lead).any())
    handles += [Patch(label="no arm keeps both", **HATCHED)] * bool((found.best < 0).any())
    legend(figure, handles, [f"ahead: of {found.rival}"])
    figure.draw_without_rendering()
    _keep_inside(axes)
    return figure


def _fill(axes: Axes, found: Targets, scale: ScalarMappable) -> None:
    """Colour each pair of limits by the lead, and draw lines between arms, a thick one between the two kinds."""
    best, lead = found.best, np.minimum(np.log1p(found.lead), FULL)
    is_pd = ~found.collocated[best] & (best >= 0)
    shown = np.ma.masked_where(best < 0, np.where(is_pd, lead, -lead))
    axes.pcolormesh(found.x, found.y, shown, cmap=scale.cmap, norm=scale.norm, shading="nearest", rasterized=True, gid="lead")
    for region, hatch, ink in ((best < 0, HATCHED["hatch"], HATCHED["edgecolor"]), (np.isinf(found.lead), ALONE, "white")):
        if region.any():
            drawn = axes.contourf(found.x, found.y, region, [0.5, 1.5], colors="none", hatches=[hatch])
            drawn.set(edgecolor=ink, linewidth=0)
    lines = [(best == number, 0.7) for number in np.unique(best)] + [(is_pd, 2.2)]
    for region, width in lines:
        if 0 < region.mean() < 1:
            axes.contour(found.x, found.y, region, [0.5], colors="black", linewidths=width)


def _name(axes: Axes, found: Targets) -> None:
    """Write each arm's name where its largest region is widest."""
    for number, arm in enumerate(found.arms):
        regions, count = ndimage.label(found.best == number)
        if not count:
            continue
        largest = regions == 1 + np.argmax(ndimage.sum_labels(regions > 0, regions, range(1, count + 1)))
        if largest.mean() < LEAST_NAMED:
            continue
        inside = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        axes.text(found.x[column], found.y[row], arm, ha="center", va="center", fontsize=9.5, gid=arm,
                  path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip


def _keep_inside(axes: Axes) -> None:
    """Shift names that cross a side of the picture, once it is laid out."""
    box, to_data = axes.get_window_extent().padded(-MARGIN), axes.transData.inverted()
    for text in axes.texts:
        drawn = text.get_window_extent()
        x, y = axes.transData.transform(text.get_position())
        text.set_x(to_data.transform((x + max(0, box.x0 - drawn.x0) - max(0, drawn.x1 - box.x1), y))[0])

"""Place numbers beside points where they hide neither a point nor each other."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke

from pdbench.output.figures.styles import Style

LABEL_POINTS = 7
NEAR = 9  # points from a marker to the middle of its label; farther away a thin line leads there
# A leader must not lie flat before a number: it would read as a minus.
OFFSETS = np.array(
    [
        (radius * math.cos(angle), radius * math.sin(angle))
        for radius in (NEAR, 13, 18, 24, 31, 39)
        for angle in np.radians(range(90, 450, 30))
        if radius == NEAR or abs(math.sin(angle)) > 0.1
    ]
)
LEADER_GAP = 2  # pixels
ARM, RANGE, OVERLOADED = "arm", "range", "overloaded"  # gids; labels keep off the curves and bars
HALO = [withStroke(linewidth=1.5, foreground="white")]


def annotate(axes: Axes, points: pd.DataFrame, styles: dict[str, Style], words: dict[tuple[str, float], str]) -> None:
    """Write each point's load beside it, where it hides neither a point nor another label.

    Where a crowd leaves no room near a point, its label is left out: the table has every number.

    Args:
        points: columns arm, level, x, y.
        words: what to write, by arm and level.
    """
    pixels = axes.transData.transform(points[["x", "y"]].to_numpy())
    half = 4.5 * axes.figure.dpi / 72
    taken = [np.concatenate([at - half, at + half]) for at in pixels]
    curves = _along_curves(axes)
    leaders = []
    points = points.assign(px=pixels[:, 0].round(), py=pixels[:, 1].round())
    # Two arms at one place (identical results) share one label.
    points = points.drop_duplicates(["px", "py", "level"])
    for point in points.itertuples():
        text, at = words[point.arm, point.level], np.array([point.px, point.py])
        reach = _reach(axes, text)
        offset = _free_place(axes, reach, at, taken, curves)
        if offset is None:
            continue
        shade = tuple(0.72 * part for part in to_rgb(styles[point.arm].color))
        axes.annotate(
            text, (point.x, point.y), xytext=offset, textcoords="offset points", ha="center", va="center",
            fontsize=LABEL_POINTS, color=shade, path_effects=HALO, gid=f"{point.arm}/{point.level:g}",
        )  # fmt: skip
        if math.hypot(*offset) > NEAR + 1:
            leaders.append(axes.transData.inverted().transform(_leader(axes, at, offset, reach)))
    axes.add_collection(LineCollection(leaders, colors="#777777", linewidths=0.6, zorder=1.5), autolim=False)


def _leader(axes: Axes, at: np.ndarray, offset: tuple[float, float], reach: np.ndarray) -> list[np.ndarray]:
    """A line (pixels) from a point to the edge of its label."""
    way = np.array(offset) * axes.figure.dpi / 72
    inside = np.divide(reach + LEADER_GAP, np.abs(way), out=np.ones(2), where=np.abs(way) > 1e-6).min()
    return [at, at + (1 - inside) * way]


def _along_curves(axes: Axes) -> np.ndarray:
    """Points all along the drawn curves and the ranges of repeats, in pixels."""
    drawn = [line.get_xydata() for line in axes.get_lines() if line.get_gid() == ARM]
    drawn += [bar for bars in axes.collections if bars.get_gid() == RANGE for bar in bars.get_segments()]
    samples = [np.empty((0, 2))]
    for points in drawn:
        pixels = axes.transData.transform(points)
        for start, end in zip(pixels[:-1], pixels[1:], strict=True):
            samples.append(start + np.linspace(0, 1, 40)[:, None] * (end - start))
    return np.concatenate(samples)


def _reach(axes: Axes, text: str) -> np.ndarray:
    """Half the width and height (pixels) that a label takes."""
    renderer, font = axes.figure.canvas.get_renderer(), FontProperties(size=LABEL_POINTS)
    width, _, _ = renderer.get_text_width_height_descent(text, font, False)
    _, height, _ = renderer.get_text_width_height_descent("lp", font, False)  # a line's, as matplotlib has it
    return np.array([width / 2 + 1, height / 2 + 1])


def _free_place(
    axes: Axes, reach: np.ndarray, at: np.ndarray, taken: list[np.ndarray], curves: np.ndarray
) -> tuple[float, float] | None:
    """Offset (points) of the best free place for a label of this reach, near and on few curves; marks it as taken."""
    middle = at + OFFSETS * axes.figure.dpi / 72
    low, high, boxes = middle - reach, middle + reach, np.array(taken)
    inside = ((axes.bbox.min <= low) & (high <= axes.bbox.max)).all(axis=1)
    covered = ((boxes[:, :2] < high[:, None]) & (low[:, None] < boxes[:, 2:])).all(axis=2).any(axis=1)
    around = curves[(np.abs(curves - at) <= np.abs(middle - at).max() + reach).all(axis=1)]
    crossed = ((around >= low[:, None]) & (around <= high[:, None])).all(axis=2).sum(axis=1)
    cost = np.where(inside & ~covered, crossed + 0.3 * np.hypot(*OFFSETS.T), np.inf)
    best = int(cost.argmin())
    if np.isinf(cost[best]):
        return None
    taken.append(np.concatenate([low[best], high[best]]))
    return tuple(OFFSETS[best])

"""Choose how an arm looks in every figure: colour is the P:D ratio, the line the TP sizes, collocated is dashed black.

A collocated arm's line is the thicker, and its dashes the longer, the more TP it has: that can be seen in black and white.

So a layout of the study looks the same in every figure, whatever else is in it. Arms that would look alike, such
as one layout over two transports, take different markers. A control arm has the line of its layout in grey.
"""

import math
import textwrap
from dataclasses import dataclass, field
from fractions import Fraction

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pdbench.analysis.pieces import coarser
from pdbench.layout import Layout

# Okabe-Ito and Tol hues, distinct for colour-blind readers: warm is heavy on prefill, cool on decode.
RATIO_COLORS = {
    Fraction(4, 1): "#882255",
    Fraction(3, 1): "#D55E00",
    Fraction(2, 1): "#E69F00",
    Fraction(3, 2): "#999933",
    Fraction(1, 1): "#009E73",
    Fraction(2, 3): "#CC79A7",
    Fraction(1, 2): "#56B4E9",
    Fraction(1, 3): "#0072B2",
    Fraction(1, 4): "#332288",
}
OTHER_RATIOS = ("#AA4499", "#661100", "#6699CC", "#44AA99", "#117733")
COLLOCATED_COLOR = "#000000"
CONTROL_COLOR = "#8C8C8C"
COLLOCATED_LINE = (0, (5, 2))
# By (prefill TP, decode TP): dots and strokes, none of them evenly dashed.
TP_LINES = {
    (1, 1): (0, (1, 1)), (2, 2): "-", (4, 4): (0, (10, 1.5, 1, 1.5)), (8, 8): (0, (10, 1.5, 1, 1.5, 1, 1.5, 1, 1.5)),
    (1, 2): (0, (3, 1.2, 1, 1.2)), (1, 4): (0, (3, 1.2, 1, 1.2, 1, 1.2)), (2, 4): (0, (10, 1.5, 1, 1.5, 1, 1.5)),
    (2, 1): (0, (1, 2.5)), (4, 1): (0, (3, 1, 3, 1, 1, 1)), (4, 2): (0, (6, 1, 3, 1)),
}  # fmt: skip
OTHER_LINE = (0, (14, 1.5, 3, 1.5))
# By the same; a collocated arm's TP counts as both.
MARKERS = {
    (1, 1): "o", (2, 2): "s", (4, 4): "D", (8, 8): "P", (1, 2): "^", (1, 4): "v", (2, 4): ">",
    (2, 1): "<", (4, 1): "p", (4, 2): "h",
}  # fmt: skip
OTHER_MARKERS = ("X", "*", "d", "H", "8")
# Those of other sizes come last: fifteen runs of one layout still look different.
LAST_MARKERS = tuple(MARKERS.values())
KEY_POINTS = 8.5
# Rows of a legend that a figure has room for, and inches by which it grows for each more.
LEGEND_ROWS, LEGEND_ROW = 8, 0.19


@dataclass(frozen=True)
class Style:
    """How one arm is drawn."""

    color: str
    marker: str
    line: str | tuple[float, tuple[float, ...]]
    filled: bool
    width: float = field(default=1.6, compare=False)

    @property
    def size(self) -> float:
        """The marker's, which must show on the line."""
        return 3.9 + self.width


def arm_styles(table: pd.DataFrame) -> dict[str, Style]:
    """Choose a style for each arm, in the order of the legend: collocated by TP, PD from many P to many D, controls."""
    arms = table.drop_duplicates("arm")[["arm", "layout", "placement", "serving"]]
    layouts = {arm: Layout.parse(layout) for arm, layout in zip(arms["arm"], arms["layout"], strict=True)}
    spread = dict(zip(arms["arm"], arms["placement"] == "spread", strict=True))
    control = dict(zip(arms["arm"], arms["serving"] == "bare", strict=True))
    styles: dict[str, Style] = {}
    for arm in sorted(layouts, key=lambda name: (control[name], *_legend_order(layouts[name]), spread[name], name)):
        layout = layouts[arm]
        sizes = ((layout.prefill or layout.decode).tp, layout.decode.tp)
        color = _ratio_color(pd_ratio(layout)) if layout.is_pd else COLLOCATED_COLOR
        color = CONTROL_COLOR if control[arm] else color
        line = TP_LINES.get(sizes, OTHER_LINE) if layout.is_pd else COLLOCATED_LINE
        markers = [MARKERS[sizes]] if sizes in MARKERS else []
        width = Style.width if layout.is_pd else 0.9 + 0.9 * math.log2(layout.decode.tp)
        markers += [*OTHER_MARKERS, *LAST_MARKERS]
        looks = [Style(color, marker, line, not spread[arm], width) for marker in markers]
        styles[arm] = next((look for look in looks if look not in styles.values()), looks[-1])
    return styles


def pd_ratio(layout: Layout) -> Fraction:
    """Return prefill over decode replicas."""
    return Fraction(layout.prefill.num, layout.decode.num)


def faded(color: str) -> tuple[float, float, float]:
    """Return the colour, paler: of what is dominated, or waits."""
    return tuple(0.4 * part + 0.6 for part in to_rgb(color))


def legend(figure: Figure, handles: list[Artist], key: list[str]) -> None:
    """Draw one legend for all panels, in as many columns as its longest name leaves room for, under what the marks mean."""
    inches = 1.0 + 0.075 * max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), math.floor(figure.get_figwidth() / inches)))
    more = max(0, math.ceil(len(handles) / columns) - LEGEND_ROWS)
    figure.set_figheight(figure.get_figheight() + more * LEGEND_ROW)  # else nothing is left for the panels
    drawn = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
        handlelength=5.2, title=_wrapped(key, figure.get_figwidth()), title_fontsize=KEY_POINTS,
    )  # fmt: skip
    drawn.get_title().set_multialignment("center")


def line_handles(styles: dict[str, Style], markers: bool = True) -> list[Line2D]:
    """Return the arms as the legend shows them."""
    return [
        Line2D([], [], label=arm, color=style.color, linestyle=style.line, linewidth=style.width, markersize=style.size,
               marker=style.marker if markers else None, markerfacecolor=style.color if style.filled else "white")
        for arm, style in styles.items()
    ]  # fmt: skip


def style_key(table: pd.DataFrame, styles: dict[str, Style]) -> list[str]:
    """Return what colour, line and marker mean, as far as these arms have it."""
    ours = table[table["serving"] != "bare"]
    collocated = {not Layout.parse(layout).is_pd for layout in ours["layout"].unique()}
    key = ["dashed black: collocated, the thicker the more TP"] * (True in collocated)
    key += ["colour: P:D ratio", "line: TP of P and D"] * (False in collocated)
    key += ["grey: bare, without Ray Serve"] * (len(ours) < len(table))
    return key + ["hollow: P and D on two nodes"] * any(not style.filled for style in styles.values())


def piece_key(table: pd.DataFrame) -> list[str]:
    """Return which arms' times between tokens are between pieces of several, coarser than those of another."""
    return [f"{arm}: {seen}, so no time between tokens" for arm, seen in coarser(table).items()]


def _wrapped(key: list[str], inches: float) -> str:
    """The parts of the key in lines of this width, none of them broken."""
    unbroken = ["\xa0".join(part.split()) for part in key]
    return textwrap.fill("     ".join(unbroken), width=math.floor(inches / 0.06), break_on_hyphens=False)


def _ratio_color(ratio: Fraction) -> str:
    return RATIO_COLORS.get(ratio, OTHER_RATIOS[(ratio.numerator + 2 * ratio.denominator) % len(OTHER_RATIOS)])


def _legend_order(layout: Layout) -> tuple:
    if not layout.is_pd:
        return (0, layout.decode.tp, layout.decode.num)
    return (1, -pd_ratio(layout), layout.prefill.tp, layout.decode.tp, layout.decode.num)

"""Draw for which lengths an arm pays: its ratios to the collocated one, by ISL:OSL and level."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from pdbench.analysis.blocks import paired
from pdbench.output.figures.panels import HATCHED, cell_grid, ink_on, level_axis, new_figure, prepare
from pdbench.output.figures.styles import legend
from pdbench.output.figures.view import View, heading, one_kind
from pdbench.read.level_file import ResultError
from pdbench.read.results import Study

# Of `paired`: what is drawn, its words, and whether more of it is better.
PANELS = {
    "request_throughput": ("Requests/s", True),
    "median_ttft_ms": ("Median TTFT", False),
    "median_tpot_ms": ("Median TPOT", False),
    "p99_itl_ms": ("p99 inter-token latency", False),
}
COLORS = "PuOr"  # diverging, and made for colour-blind readers: https://colorbrewer2.org
FULL = math.log(4)  # a ratio of 4 or 1/4 has the full colour
CELL = (1.2, 0.8)  # inches


def draw(table: pd.DataFrame, view: View, study: Study | None = None) -> Figure:
    """Draw a cell for each ISL:OSL (most prompt tokens for each output token on top) and level, and a panel for each measure.

    A number is the ratio of the arm to the collocated one, the geometric mean over blocks, with its interval where there are
    three or more.

    Raises:
        ResultError: no block has a collocated arm and another; there are several pairs of arms; loads are of several kinds.
    """
    kind, found = one_kind(table), paired(table)
    arm, base = _one_pair(found)
    found["lengths"] = [f"{row.isl}:{row.osl}" for row in found.itertuples()]
    rows = list(dict.fromkeys(found.assign(mix=found["isl"] / found["osl"]).sort_values("mix", ascending=False)["lengths"]))
    levels = sorted(found["level"].unique())
    figure = new_figure((CELL[0] * len(levels) * len(PANELS) + 1.8, CELL[1] * len(rows) + 2.3))
    scale = ScalarMappable(Normalize(-FULL, FULL), COLORS)
    for axes, (name, (label, more)) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        prepare(axes, name)
        axes.set_title(label, fontsize=11)
        for cell in found.itertuples():
            _draw_cell(axes, cell, name, (levels.index(cell.level), rows.index(cell.lengths)), 1 if more else -1, scale)
        cell_grid(axes, [f"{level:g}" for level in levels], rows)
        level_axis(axes, kind)
    figure.axes[0].set_ylabel("ISL:OSL (tokens)")
    figure.suptitle(heading(table, study, f"{arm} over {base}"), fontsize=12)
    handles = [Patch(color=scale.to_rgba(side * FULL), label=f"{which} is better") for side, which in ((1, arm), (-1, base))]
    handles += [Patch(label="no ratio", **HATCHED)] * bool(found[list(PANELS)].isna().any(axis=None))
    known = found["blocks"].min() >= 3
    interval = "its 95% interval; bold: without 1" if known else "no interval with fewer than 3 blocks"
    legend(figure, handles, ["mean ratio over blocks", interval])
    return figure


def _one_pair(found: pd.DataFrame) -> tuple[str, str]:
    """The names of the arm and of what it is compared with, the same for all lengths and without them."""
    pairs = {(row.model, *(_without_lengths(name, row) for name in (row.arm, row.base))) for row in found.itertuples()}
    if len(pairs) > 1:
        arms = ", ".join(sorted({arm for _, arm, _ in pairs}))
        raise ResultError(f"--figure lengths compares one arm with one collocated arm, of one model; here are {arms}")
    ((_, arm, base),) = pairs
    return arm, base


def _without_lengths(name: str, row: tuple) -> str:
    return " ".join(word for word in name.split() if word != f"{row.isl}:{row.osl}")


def _draw_cell(axes: Axes, cell: tuple, name: str, at: tuple[int, int], sign: int, scale: ScalarMappable) -> None:
    ratio, low, high, noise = (getattr(cell, name + end) for end in ("", "_from", "_to", "_noise"))
    where = {"xy": (at[0] + 0.02, at[1] + 0.02), "width": 0.96, "height": 0.96, "gid": f"{cell.lengths} {cell.level:g}"}
    if math.isnan(ratio):
        axes.add_patch(Rectangle(**where, **HATCHED))
        return
    shade = scale.to_rgba(sign * math.log(ratio))
    axes.add_patch(Rectangle(**where, facecolor=shade, linewidth=0))
    has_interval = not math.isnan(low)
    weight = "bold" if has_interval and not noise else "normal"
    center = {"ha": "center", "va": "center", "color": ink_on(shade)}
    axes.text(at[0] + 0.5, at[1] + (0.36 if has_interval else 0.5), f"{ratio:.2f}", fontsize=12, weight=weight, **center)
    if has_interval:
        axes.text(at[0] + 0.5, at[1] + 0.74, f"{low:.2f} to {high:.2f}", fontsize=8, **center)

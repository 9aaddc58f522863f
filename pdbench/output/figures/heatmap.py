"""Draw the best throughput that keeps an SLA, by P:D ratio and TP sizes; collocated layouts have a column of their own."""

import math
import textwrap
from fractions import Fraction

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from pdbench.analysis.decision import decide
from pdbench.layout import Layout
from pdbench.output.figures.panels import HATCHED, cell_grid, ink_on, new_figure
from pdbench.output.figures.styles import legend, pd_ratio
from pdbench.output.figures.view import View, heading, one_kind, one_workload, throughput_column, throughput_label
from pdbench.read.level_file import ResultError
from pdbench.read.results import CONTROLLED, Study, contenders

COLORS = "cividis"  # made for colour-blind readers: https://doi.org/10.1371/journal.pone.0199239
CELL = (1.55, 1.0)  # inches
FRAME = {"edgecolor": "#D55E00", "linewidth": 2.5}
NAME_WIDTH = 15


def draw(table: pd.DataFrame, view: View, study: Study | None = None) -> Figure:
    """Draw a cell for each P:D ratio and pair of TP sizes, with the best arm there, interpolated between its levels.

    Percent are over the best collocated arm. The best cell of all has a frame; in a hatched one no arm keeps the SLA.

    Raises:
        ResultError: there is no SLA, or no arm keeps it; the arms did not do the same work.
    """
    answers = _answers(table, view)
    is_pd = answers["column"] != "collocated"
    sides = [side for side in (answers[~is_pd], answers[is_pd]) if len(side)]
    columns = [list(dict.fromkeys(side.sort_values("order")["column"])) for side in sides]
    rows = [list(dict.fromkeys(side.sort_values("rank")["row"])) for side in sides]
    wide, high = sum(map(len, columns)), max(map(len, rows))
    figure = new_figure((CELL[0] * wide + 2.6, CELL[1] * high + 2.4))
    panels = figure.subplots(1, len(sides), width_ratios=[len(names) for names in columns], squeeze=False)[0]
    scale = ScalarMappable(Normalize(answers["throughput"].min(), answers["throughput"].max()), COLORS)
    for axes, side, across, down in zip(panels, sides, columns, rows, strict=True):
        cell_grid(axes, across, down, high)
        axes.xaxis.tick_top()
        for cell in side.itertuples():
            _draw_cell(axes, cell, across.index(cell.column), down.index(cell.row), scale)
    panels[-1].set_ylabel("P:D ratio" if is_pd.any() else "")
    bounds = ", ".join(str(bound).replace(" ", "\xa0") for bound in view.sla)  # none of them broken over lines
    words = f"{throughput_label(table, view)} at {bounds}"
    figure.suptitle(f"{heading(table, study)}\n{textwrap.fill(words, math.floor(10 * figure.get_figwidth()))}", fontsize=11)
    handles = [Patch(label="the best of all", facecolor="white", **FRAME)]
    handles += [Patch(label="does not keep the bounds", **HATCHED)] * bool((~answers["holds"]).any())
    legend(figure, handles, ["percent: over the best collocated"] * bool(answers["over"].notna().any()))
    return figure


def _answers(table: pd.DataFrame, view: View) -> pd.DataFrame:
    """The best arm of each cell, with its place (column, row, and their order) and its share over collocated."""
    if not view.sla:
        raise ResultError("--figure heatmap needs --sla, such as --sla tpot=10,ttft=500")
    if one_kind(table) and not one_workload(table):
        raise ResultError("--figure heatmap compares arms of one model and one workload")
    fixed = contenders(table)[lambda of: ~of["placement"].str.startswith(CONTROLLED)]  # its layout is the one of a moment
    if fixed.empty:
        raise ResultError("--figure heatmap is of fixed ratios, and a controller moved those of every arm")
    answers = decide(fixed, view.sla, throughput_column(table, view))
    if not answers["holds"].any():
        raise ResultError(f"no arm keeps {', '.join(map(str, view.sla))}: {answers['arm'][0]}: {answers['reason'][0]}")
    places = pd.DataFrame([_place(Layout.parse(layout)) for layout in answers["layout"]])
    answers = pd.concat([answers, places], axis=1)
    base = answers.loc[answers["column"] == "collocated", "throughput"].max()
    answers["over"] = (answers["throughput"] / base - 1).where(answers["column"] != "collocated")
    answers["best"] = answers.index == 0  # the best come first
    return answers.drop_duplicates(["column", "row"])


def _place(layout: Layout) -> dict[str, object]:
    tp = layout.decode.tp
    if not layout.is_pd:
        return {"column": "collocated", "row": f"TP{tp}", "order": (0, 0), "rank": Fraction(tp)}
    ratio, sizes = pd_ratio(layout), (layout.prefill.tp, tp)
    row = f"{ratio.numerator}:{ratio.denominator}"
    return {"column": f"P TP{sizes[0]}\nD TP{sizes[1]}", "row": row, "order": sizes, "rank": -ratio}


def _draw_cell(axes: Axes, cell: object, column: int, row: int, scale: ScalarMappable) -> None:
    where = {"xy": (column + 0.02, row + 0.02), "width": 0.96, "height": 0.96, "gid": cell.arm}
    if not cell.holds:
        axes.add_patch(Rectangle(**where, **HATCHED))
        return
    shade = scale.to_rgba(cell.throughput)
    axes.add_patch(Rectangle(**where, facecolor=shade, **(FRAME if cell.best else {"linewidth": 0})))
    ink = ink_on(shade)
    text = f"{cell.throughput:,.0f}" + ("" if np.isnan(cell.over) else f"\n{100 * cell.over:+.0f}%")
    axes.text(column + 0.5, row + 0.36, text, ha="center", va="center", color=ink, fontsize=12)
    name = "\n".join(textwrap.wrap(cell.arm, NAME_WIDTH, break_on_hyphens=False))
    axes.text(column + 0.5, row + 0.78, name, ha="center", va="center", color=ink, fontsize=8)

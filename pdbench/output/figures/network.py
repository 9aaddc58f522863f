"""Draw what placement and transport do to one PD layout: throughput at each load, with the speed of its KV transfers."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pdbench.layout import Layout
from pdbench.output.figures.panels import from_zero, level_axis, new_figure, plain, prepare
from pdbench.output.figures.styles import COLLOCATED_COLOR, Style, arm_styles, legend
from pdbench.output.figures.view import View, heading, one_kind, throughput_column, throughput_label
from pdbench.read.level_file import ResultError
from pdbench.read.results import Study
from pdbench.workload import Level

HATCHES = ("", "///", "xxx", "...")
MOST_FLAT = 18  # bars that leave room for numbers written flat


def draw(table: pd.DataFrame, view: View, study: Study) -> Figure:
    """Draw bars of throughput by level, one for each arm of the PD layout, and dashed ones for collocated arms.

    With repeats a bar is their median, with a line from the least to the most. Above it is what its KV transfers
    reached in GB/s (bytes / time of the transfers, the median of repeats), where a manifest records it.

    Raises:
        ResultError: there is not one PD layout; concurrency and request-rate levels are mixed.
    """
    kind, styles = one_kind(table), arm_styles(table)
    _check_layouts(table)
    figure = new_figure((12, 6.5))
    axes = figure.subplots()
    prepare(axes, "network", grid="y")
    data = table.assign(y=table[throughput_column(table, view)])
    levels = sorted(data["level"].unique())
    looks = _looks(styles)
    speeds = kv_speeds(data, study)
    _draw_bars(axes, data, levels, looks, speeds)
    level_axis(axes, kind)
    axes.set_ylabel(throughput_label(table, view))
    axes.set_xticks(range(len(levels)), map(plain, levels))
    axes.margins(y=0.12)
    from_zero(axes, "y")
    figure.suptitle(heading(table, study), fontsize=12)
    key = ["dashed black: collocated"] * any(style.color == COLLOCATED_COLOR for style in styles.values())
    key += ["hollow: P and D on two nodes"] * any(not style.filled for style in styles.values())
    key += ["number: GB/s of the KV transfers, those of warm-up and checks included"] * bool(speeds)
    key += ["median of repeats, line: least to most of them"] * bool((table["repeat"] > 1).any())
    legend(figure, [Patch(label=view.named(arm), **look) for arm, look in looks.items()], key + view.refuted_key(table))
    return figure


def kv_speeds(table: pd.DataFrame, study: Study) -> dict[tuple[str, float], float]:
    """Return GB/s of the KV transfers by arm and level, the median of repeats, from the gates in the manifests."""
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for folder, of_folder in table.groupby("folder", sort=False):
        manifest = study.folders[folder].manifest
        records = {record.level: record for record in manifest.levels} if manifest else {}
        for row in of_folder.itertuples():
            record = records.get(Level(row.kind, row.level, row.repeat).stem)
            gates = record.gates if record else []
            found[row.arm, row.level] += [g.value for g in gates if g.name == "kv-transfer" and g.value is not None]
    return {where: float(np.median(values)) for where, values in found.items() if values}


def _check_layouts(table: pd.DataFrame) -> None:
    found = sorted({layout for layout in table["layout"].unique() if Layout.parse(layout).is_pd})
    if len(found) != 1:
        raise ResultError(f"--figure network compares arms of one PD layout, not of {', '.join(found) or 'none'}")


def _looks(styles: dict[str, Style]) -> dict[str, dict[str, object]]:
    """How the bars of each arm are drawn: those of one colour and filling differ in their hatch."""
    hatches: dict[tuple[str, bool], Iterator[str]] = defaultdict(lambda: cycle(HATCHES))
    looks = {}
    for arm, style in styles.items():
        solid = style.filled and style.color != COLLOCATED_COLOR
        face, edge = (style.color, "white") if solid else ("white", style.color)
        line = "--" if style.color == COLLOCATED_COLOR else "-"
        hatch = next(hatches[style.color, style.filled])
        looks[arm] = {"facecolor": face, "edgecolor": edge, "linestyle": line, "linewidth": 1.2, "hatch": hatch}
    return looks


def _draw_bars(
    axes: Axes, data: pd.DataFrame, levels: list[float], looks: dict[str, dict[str, object]],
    speeds: dict[tuple[str, float], float],
) -> None:  # fmt: skip
    width, crowded = 0.8 / len(looks), len(looks) * len(levels) > MOST_FLAT
    for number, (arm, look) in enumerate(looks.items()):
        of_arm = data[data["arm"] == arm].groupby("level")["y"].agg(["median", "min", "max"]).dropna()
        at = np.array([levels.index(level) for level in of_arm.index]) + (number + 0.5) * width - 0.4
        axes.bar(at, of_arm["median"], 0.92 * width, label=arm, **look)
        if (of_arm["max"] > of_arm["min"]).any():
            axes.vlines(at, of_arm["min"], of_arm["max"], color="#333333", linewidth=1)
        for x, (level, top) in zip(at, of_arm["max"].items(), strict=True):
            if (arm, level) in speeds:
                axes.annotate(
                    f"{speeds[arm, level]:.2g}", (x, top), (0, 3), textcoords="offset points", ha="center", fontsize=8,
                    rotation=90 * crowded, gid=f"{arm}/{level:g}",
                )  # fmt: skip

"""Choose which arms a figure shows where there are more than a reader can tell apart."""

import pandas as pd

from pdbench.analysis.decision import WORKLOAD, collocated, judged
from pdbench.analysis.frontier import curves, frontier
from pdbench.output.figures.view import LATENCIES, View, with_axes
from pdbench.output.options import LIMITED


def left_out(table: pd.DataFrame, view: View, most: int) -> list[str]:
    """Return the arms that are too many for this figure: all but those nearest to the frontier and the best collocated.

    Raises:
        ResultError: no arm has the latency or throughput of `view`.
    """
    # The others have a cell for each layout, or refuse what they have no room for.
    if view.figure not in LIMITED or table["arm"].nunique() <= most:
        return []
    data = with_axes(table, view)
    near = pd.concat([_nearness(rows, view) for _, rows in data.groupby(WORKLOAD, sort=False)])
    ranked = list(near.reindex(data["arm"].unique()).sort_values(ascending=False, kind="stable").index)
    base = next((arm for arm in ranked if arm in collocated(table)), ranked[0])
    kept = {base, *[arm for arm in ranked if arm != base][: most - 1]}
    return [arm for arm in ranked if arm not in kept]


def _nearness(data: pd.DataFrame, view: View) -> pd.Series:
    """By arm of one workload, the highest share of what the best arm attains at the same latency; 1 on the frontier."""
    points = judged(data, [LATENCIES[view.latency_mode]]).groupby(["arm", "level"])[["latency", "y"]].median().dropna()
    found = curves(view.compared(data), "latency", "y")
    if not found:
        return pd.Series(dtype=float)
    return (points["y"] / frontier(found).throughput_at(points["latency"])).groupby("arm").max()

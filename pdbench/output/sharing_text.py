"""Print how evenly requests are shared out among an arm's replicas."""

import math

import pandas as pd

from pdbench.analysis.decision import WORKLOAD, workload_title
from pdbench.output.grid import show
from pdbench.output.number_text import number
from pdbench.output.tables import KINDS


def print_shares(found: pd.DataFrame) -> None:
    """Print a table for each workload, and what it means; `found` is of `sharing.shares`."""
    for known, rows in found.groupby(WORKLOAD, sort=False):
        print(f"\n{workload_title(*known)}")
        headers = [
            "arm",
            KINDS[rows["kind"].iloc[0]],
            "rep.",
            "replicas",
            "even\n%",
            "busiest\n%",
            "most\nat once",
            "requests/s",
        ]
        show(headers, [_row(row) for _, row in rows.iterrows()])
    print("busiest: the busiest replica's share of the requests in flight (with PD: of those that decode), mean over time,")
    print("by whose tokens came together; least to greatest where replicas decode in step, so that they look like one")
    if found["greatest"].isna().any():
        print("-: more groups of requests at once than replicas, so the times of tokens do not show which are one replica's")


def _row(row: pd.Series) -> list[str]:
    cells = [number(row[name]) for name in ("level", "repeat", "replicas")]
    even, busiest = f"{100 * row['even']:.0f}", _range(100 * row["least"], 100 * row["greatest"])
    return [row["arm"], *cells, even, busiest, number(row["most"]), number(row["request_throughput"])]


def _range(low: float, high: float) -> str:
    if math.isnan(low):
        return "-"
    least, greatest = f"{low:.0f}", f"{high:.0f}"
    return least if least == greatest else f"{least} to {greatest}"

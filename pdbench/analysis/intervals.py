"""Compute confidence intervals of every level, over its repeats."""

import numpy as np
import pandas as pd

from pdbench.analysis import repeats

STATISTICS = ("median_ttft_ms", "median_tpot_ms", "p99_itl_ms", "request_throughput")


def level_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm, level and statistic: arm, kind, level, repeats, statistic, estimate, low, high.

    The estimate is the mean over repeats, in ms or 1/s; low and high are Student's 95% interval of it, NaN with fewer than
    three. A single run has none: its requests wait for each other, and what changes from run to run is not in it.

    Args:
        table: of `read_results`.
    """
    rows = []
    for (arm, kind, level), measured in table.groupby(["arm", "kind", "level"], sort=False):
        known = {"arm": arm, "kind": kind, "level": level, "repeats": len(measured)}
        for name in STATISTICS:
            values = measured[name].to_numpy()
            if np.isnan(values).any():
                continue  # a single output token
            low, high = repeats.of_mean(values)
            rows.append(known | {"statistic": name, "estimate": float(np.mean(values)), "low": low, "high": high})
    return pd.DataFrame(rows)

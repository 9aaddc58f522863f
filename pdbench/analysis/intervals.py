"""Compute 95% intervals of every level: over its repeats, or of a single run over its waves."""

import math

import numpy as np
import pandas as pd

from pdbench.analysis import repeats, waves
from pdbench.read.results import Study
from pdbench.workload import Level

STATISTICS = ("median_ttft_ms", "median_tpot_ms", "p99_itl_ms", "request_throughput")


def level_intervals(study: Study) -> pd.DataFrame:
    """Return one row per arm, level and statistic: arm, kind, level, repeats, waves, effective, statistic, estimate, low, high.

    The estimate is the mean over repeats, in ms or 1/s; low and high are Student's 95% interval of it, NaN with two. Of a
    single run they are of the statistic in that run alone, over its waves (see `waves.Waves`, also for `effective`); then, too,
    NaN with fewer than three, or without per-request details. `waves` is 0 where they were not used.
    """
    rows = []
    for (arm, kind, level), measured in study.table.groupby(["arm", "kind", "level"], sort=False):
        known = {"arm": arm, "kind": kind, "level": level, "repeats": len(measured)}
        seen = _waves(study, measured.iloc[0]) if len(measured) == 1 else None
        known |= {"waves": seen.count if seen else 0, "effective": seen.effective if seen else math.nan}
        for name in STATISTICS:
            values = measured[name].to_numpy()
            if np.isnan(values).any():
                continue  # a single output token
            low, high = repeats.of_mean(values, within=repeats.POSITIVE)
            if seen:
                low, high = values[0] / seen.factor[name], values[0] * seen.factor[name]
            rows.append(known | {"statistic": name, "estimate": float(np.mean(values)), "low": low, "high": high})
    return pd.DataFrame(rows)


def _waves(study: Study, row: pd.Series) -> waves.Waves | None:
    """The waves of the run that a row of the table is of; None without per-request details."""
    folder = study.folders[row["folder"]]
    requests = folder.levels[Level(row["kind"], row["level"], row["repeat"])].requests
    size = row["level"] if row["kind"] == "concurrency" else row["in_flight"]
    return waves.of_run(requests, size) if requests and not folder.arm.decode_bench else None

"""Compute confidence intervals of every level, over its requests and repeats."""

from collections import defaultdict

import numpy as np
import pandas as pd

from pdbench.read.level_file import ResultError
from pdbench.read.requests import interval, interval_of_means
from pdbench.read.results import Study

# Metric and percentile of each interval.
STATISTICS = {"median_ttft_ms": ("ttft", 50), "median_tpot_ms": ("tpot", 50), "p99_itl_ms": ("itl", 99)}


def level_intervals(study: Study) -> pd.DataFrame:
    """Return one row per arm, level and statistic: arm, kind, level, repeats, statistic, estimate, low, high.

    Latencies (ms) are pooled over the requests of all repeats; request_throughput (1/s) is the mean over
    repeats, with an interval from three repeats on. Method: `requests.interval`.

    Raises:
        ResultError: a folder cannot be read or holds no per-request details.
    """
    rows = []
    for folder, of_arm in study.table.groupby("folder", sort=False):
        by_level = defaultdict(list)
        for level, file in study.folders[folder].levels.items():
            if file.requests is None:
                raise ResultError(f"{folder}: {level.filename} holds no per-request details: run_bm.sh saves them")
            by_level[level.kind, level.value].append(file.requests)
        for (kind, value), measured in of_arm.groupby(["kind", "level"]):
            repeats = by_level[kind, value]
            known = {"arm": measured["arm"].iloc[0], "kind": kind, "level": value, "repeats": len(repeats)}
            for name, (metric, p) in STATISTICS.items():
                if np.isnan(measured[name]).any():
                    continue  # a single output token
                pooled = np.concatenate([r.values(metric) for r in repeats])
                low, high = interval(repeats, metric, lambda values, p=p: np.percentile(values, p))
                rows.append(known | {"statistic": name, "estimate": np.percentile(pooled, p), "low": low, "high": high})
            rates = (measured["completed"] / measured["duration"]).to_list()
            low, high = interval_of_means(rates)
            rows.append(known | {"statistic": "request_throughput", "estimate": np.mean(rates), "low": low, "high": high})
    return pd.DataFrame(rows)

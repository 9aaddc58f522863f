"""Compute how well a single run determines its own statistics, from whole waves: as many requests in a row as are in flight.

Requests of one wave wait for each other, so they are no sample; of waves, means over batches that do not overlap are one
(A. Law, Simulation Modeling and Analysis, section 9.5.3). What another launch would change is not in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pdbench.analysis.repeats import MIN_REPEATS, half_width
from pdbench.read.requests import Requests


@dataclass(frozen=True)
class Waves:
    """Of one run of a level.

    Attributes:
        count: of waves.
        factor: by statistic that by which its 95% interval reaches above and below it; NaN where a wave has a 0.
        effective: how many independent requests would determine the means of TTFT and TPOT as well, the fewer of both.
    """

    count: int
    factor: dict[str, float]
    effective: float


def of_run(requests: Requests, in_flight: float) -> Waves | None:
    """Return what the waves of one run show; None where there are fewer than three.

    Args:
        in_flight: requests at once: of a wave, in the order in which they were sent.
    """
    total = len(requests.start)
    count = total // max(1, round(in_flight))
    if count < MIN_REPEATS:
        return None
    waves = np.array_split(np.argsort(requests.start, kind="stable"), count)
    factor, effective = {}, float(total)
    for metric, values in (("ttft", requests.ttft), ("tpot", requests.tpot)):
        if np.isnan(values).any():
            continue  # a single output token
        factor[f"median_{metric}_ms"] = _factor([np.median(values[wave]) for wave in waves])
        effective = min(effective, _effective(values, np.array([values[wave].mean() for wave in waves])))
    if "median_tpot_ms" in factor:
        factor["p99_itl_ms"] = _factor([np.percentile(requests.values("itl", wave), 99) for wave in waves])
    sizes, ends = np.array([len(wave) for wave in waves]), np.sort(requests.end)
    lasting = np.diff(ends[sizes.cumsum() - 1], prepend=requests.start.min())
    factor["request_throughput"] = _factor(lasting / sizes)
    return Waves(count, factor, effective)


def _factor(values: Sequence[float] | np.ndarray) -> float:
    """Of logarithms: the first wave, whose prompts all come at once, has many times the TTFT of the others."""
    return math.exp(half_width(np.log(values))) if min(values) > 0 else math.nan


def _effective(values: np.ndarray, means: np.ndarray) -> float:
    """Return how many independent values would have a mean of the variance that the means of waves show, at most all."""
    of_mean = float(np.var(means, ddof=1)) / len(means)
    return min(float(len(values)), float(np.var(values, ddof=1)) / of_mean) if of_mean else float(len(values))

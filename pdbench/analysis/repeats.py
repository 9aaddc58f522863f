"""Compute 95% intervals over repeats. A repeat is one value: requests of one repeat wait for each other, so they are no sample.

Student's t, of logarithms where ratios are asked for: with three repeats a bootstrap covers 75 to 90%
(benchmarks/coverage.py). Where the best of several arms is compared with others, intervals are simultaneous
(Tukey-Kramer; Kramer, Biometrics 12 (1956) 307): of many equal arms one leads by chance. Repeats of blocks are compared
within these, also where not every arm is in every block (intra-block analysis; Yates, Annals of Eugenics 10 (1940) 317).
"""

import math
import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
EQUIVALENT = 0.9  # two one-sided tests at 5% each
MARGIN = 0.05  # by which arms that are alike may differ
MIN_REPEATS = 3
NONE = (math.nan, math.nan)

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
POSITIVE: Interval = (0.0, math.inf)


def of_mean(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE, within: Interval = ANY) -> Interval:
    """Return Student's interval of the mean of values, shape (n,); NaN where n is below three.

    Args:
        within: what the quantity can be, such as (0, 1) for a share: the interval ends there.
    """
    if len(values) < MIN_REPEATS:
        return NONE
    half = half_width(values, confidence)
    low, high = np.clip(np.mean(values) + np.array([-half, half]), *within)
    return float(low), float(high)


def half_width(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> float:
    """Return half of Student's interval of the mean of two values or more, shape (n,)."""
    return _student(len(values) - 1, confidence) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def of_difference(ours: np.ndarray, theirs: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Return Welch's interval of the difference of two means, shapes (n,) and (m,); NaN where one has fewer than three."""
    if min(len(ours), len(theirs)) < MIN_REPEATS:
        return NONE
    if not np.ptp(ours) and not np.ptp(theirs):
        return (float(ours[0] - theirs[0]),) * 2
    from scipy import stats

    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # repeats of one arm that are all equal
        low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(confidence)
    return float(low), float(high)


def of_ratio(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Return the interval of the ratio of two geometric means; as `of_difference`, and NaN where a value is not above 0."""
    low, high = of_difference(_log(ours), _log(theirs))
    return math.exp(low), math.exp(high)


def alike(logs: np.ndarray, others: np.ndarray | None = None, margin: float = MARGIN) -> bool:
    """Return whether two arms are shown to differ by at most `margin`: two one-sided tests at 5% each (Schuirmann, 1987).

    That a difference is not seen shows nothing; this does. The smaller is at least 1 - margin of the larger.

    Args:
        logs: the logarithms of their ratios within blocks, or those of the repeats of one, shape (n,).
        others: then those of the other, shape (m,).
    """
    low, high = of_mean(logs, EQUIVALENT) if others is None else of_difference(logs, others, EQUIVALENT)
    return -low <= -math.log(1 - margin) and high <= -math.log(1 - margin)


def of_geometric_mean(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the interval of a geometric mean; as `of_mean`, and NaN where a value is not above 0."""
    low, high = of_mean(_log(values))
    return math.exp(low), math.exp(high)


def of_ratios(
    values: Mapping[str, np.ndarray], over: Collection[str] | None = None,
    blocks: Mapping[str, Sequence[Hashable]] | None = None, confidence: float = CONFIDENCE,
) -> dict[tuple[str, str], Interval]:  # fmt: skip
    """Return simultaneous intervals of all ratios of two arms' geometric means: in 95% of studies all of them are right.

    Args:
        values: by arm its repeats, shape (n,). Arms with fewer than three, or a value that is not above 0, are left out.
        over: the arms whose ratios over all others are returned; they are simultaneous over all pairs all the same.
        blocks: by arm the block of each repeat, () of what was measured outside blocks. Where they link all arms
            (`linked`), ratios are those within blocks; else repeats are taken as independent.
        confidence: of all ratios together.
    """
    logs = {arm: _log(repeats) for arm, repeats in values.items() if len(repeats) >= MIN_REPEATS}
    logs = {arm: repeats for arm, repeats in logs.items() if np.isfinite(repeats).all()}
    if len(logs) < 2:
        return {}
    of_arms = [blocks[arm] for arm in logs] if blocks else []
    if not of_arms or not linked(of_arms):
        of_arms = [[0] * len(repeats) for repeats in logs.values()]
    means, variances, freedom = _least_squares(list(logs.values()), of_arms)
    halves = _studentized_range(len(logs), freedom, confidence) * np.sqrt(variances / 2)
    chosen = [(i, arm) for i, arm in enumerate(logs) if over is None or arm in over]
    return {
        (a, b): (math.exp(means[i] - means[j] - halves[i, j]), math.exp(means[i] - means[j] + halves[i, j]))
        for i, a in chosen
        for j, b in enumerate(logs)
        if i != j
    }


def linked(blocks: Sequence[Collection[Hashable]]) -> bool:
    """Return whether arms can be compared within blocks: they, or others between them, share some; and enough to judge by.

    Args:
        blocks: of each arm's repeats; an arm without blocks is linked to none.
    """
    first, *rest = map(set, blocks)
    while near := [of for of in rest if of & first]:
        first, rest = first.union(*near), [of for of in rest if of not in near]
    return not rest and _freedom(blocks, len(first)) >= MIN_REPEATS - 1


def _freedom(repeats: Sequence[Collection[object]], blocks: int) -> int:
    """What is left of all repeats when each arm and each block has a mean."""
    return sum(map(len, repeats)) - len(repeats) - blocks + 1


def _least_squares(values: list[np.ndarray], blocks: list[Sequence[Hashable]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Fit a term for each of n arms and for each block.

    Returns:
        the arms' terms, shape (n,); the estimated variances of their differences, (n, n); the degrees of freedom.
    """
    names = {block: at for at, block in enumerate(dict.fromkeys(block for of_arm in blocks for block in of_arm))}
    arm, block = np.arange(len(values)).repeat([*map(len, values)]), np.array([names[one] for of in blocks for one in of])
    all_values, sizes = np.concatenate(values), np.bincount(block)

    def within(observed: np.ndarray) -> np.ndarray:
        return observed - (np.bincount(block, observed) / sizes)[block]

    counts = np.zeros((len(values), len(names)))
    np.add.at(counts, (arm, block), 1)
    information = np.diag(counts.sum(axis=1)) - counts / sizes @ counts.T
    inverse = np.linalg.inv(information + 1 / len(values))  # its rows add up to 0: the level of all terms is free
    means = inverse @ np.bincount(arm, within(all_values))
    freedom = _freedom(values, len(names))
    pooled = float(np.sum(within(all_values - means[arm]) ** 2)) / freedom
    own = np.diag(inverse)
    return means, pooled * np.clip(own[:, None] + own - 2 * inverse, 0, None), freedom


# SciPy is imported where it is needed only: that takes a second, and without repeats there is no interval.
@lru_cache
def _student(freedom: int, confidence: float) -> float:
    """The end of Student's t on both sides of which the rest of the confidence is."""
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, freedom))


@lru_cache
def _studentized_range(arms: int, freedom: int, confidence: float) -> float:
    """That percentile of it; not by scipy.stats.tukey_hsd, which integrates a p-value for each pair: a minute for 100 arms."""
    from scipy import stats

    return float(stats.studentized_range.ppf(confidence, arms, freedom))


def _log(values: ArrayLike) -> np.ndarray:
    known = np.asarray(values, dtype=float)
    return np.log(np.where(known > 0, known, math.nan))

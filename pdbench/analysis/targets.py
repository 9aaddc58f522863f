"""Find for every pair of latency targets which arm has the most throughput within both, and by how much: when PD pays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pdbench.analysis.decision import WORKLOAD, collocated, highest, judged, unjudged
from pdbench.analysis.samples import samples
from pdbench.analysis.sla import Bound
from pdbench.read.level_file import ResultError
from pdbench.read.results import CONTROLLED, contenders

LEAST = 0.01  # ms, the least limit: a median ITL of 0, of answers in pieces, has no logarithm


@dataclass(frozen=True)
class Targets:
    """What each arm has within both limits; shapes (y, x) and, by arm, (arms, y, x).

    Attributes:
        x, y: limits of the first latency and of the second, ms, ascending.
        arms: collocated ones first, which win where one of PD has as much.
        collocated: of each arm whether it is.
        throughput: at the best load within both limits; 0 where there is none.
        out: why an arm is not judged, by arm.
    """

    x: np.ndarray
    y: np.ndarray
    arms: list[str]
    collocated: np.ndarray
    throughput: np.ndarray
    out: dict[str, str]

    @property
    def best(self) -> np.ndarray:
        """The number of the arm with the most throughput; -1 where none keeps both."""
        return np.where(self.throughput.max(axis=0) > 0, self.throughput.argmax(axis=0), -1)

    @property
    def is_of_one_kind(self) -> bool:
        """Whether all arms are collocated, or all are PD."""
        return len(set(self.collocated.tolist())) == 1

    @property
    def rival(self) -> str:
        """Whom the best arm is ahead of, in words: of the other kind, collocated or PD, where there are arms of both."""
        return "the next best arm" if self.is_of_one_kind else "the best arm of the other kind"

    @property
    def lead(self) -> np.ndarray:
        """By which share the best arm exceeds its `rival`: 0.1 is 10%; inf where no rival keeps both, NaN where no arm does."""
        if self.is_of_one_kind:
            nobody = np.zeros((1, *self.throughput.shape[1:]))
            second, most = np.sort(np.concatenate([nobody, self.throughput]), axis=0)[-2:]
        else:
            kinds = [self.throughput[self.collocated == kind].max(axis=0) for kind in (True, False)]
            second, most = np.minimum(*kinds), np.maximum(*kinds)
        with np.errstate(divide="ignore", invalid="ignore"):
            return most / second - 1


def targets(table: pd.DataFrame, latencies: Sequence[Bound], throughput: str, count: int, rounded: bool = False) -> Targets:
    """Judge every arm within every pair of limits, as `decision.decide` does for one.

    Args:
        table: of `read_results`; repeats are reduced to their median. Control arms, and those whose ratio a controller moved,
            take no part.
        latencies: two, whose limits are of no account.
        throughput: the column that is to be high.
        count: of the limits of each, at equal ratios from the least of any level to the most.
        rounded: up to two digits, the least one left out, for print.

    Raises:
        ResultError: the arms did not do the same work, or none can be judged.
    """
    if len(table[WORKLOAD].drop_duplicates()) > 1:
        raise ResultError("--figure targets compares arms of one model, one workload and one kind of load")
    table = contenders(table)[lambda of: ~of["placement"].str.startswith(CONTROLLED)]  # its layout is the one of a moment
    columns, jumps = [bound.column for bound in latencies], np.array([bound.jumps for bound in latencies])
    served = judged(table, columns)
    out = _not_judged(table, served, latencies)
    served = served[~served["arm"].isin(out)].dropna(subset=columns)
    if served.empty:
        raise ResultError(f"no arm can be judged: {'; '.join(dict.fromkeys(out.values()))}")
    x, y = (_limits(served, column, count, rounded) for column in columns)
    measured, base = samples(served, [throughput, *columns]), collocated(served)
    arms = sorted(measured, key=lambda arm: (arm not in base, arm))
    limits = np.stack(np.meshgrid(x, y), axis=-1)[..., None, :]
    found = []
    for arm in arms:
        levels = np.array([np.median(rows, axis=0) for rows in measured[arm].levels])
        rates, values = (np.broadcast_to(of, (*limits.shape[:2], *of.shape)) for of in (levels[:, 0], levels[:, 1:]))
        found.append(highest(rates, values, limits, jumps).throughput)
    return Targets(x, y, arms, np.array([arm in base for arm in arms]), np.array(found), out)


def _not_judged(table: pd.DataFrame, served: pd.DataFrame, latencies: Sequence[Bound]) -> dict[str, str]:
    """Why arms cannot be: by arm, in words."""
    out = unjudged(table, served, latencies)
    for bound in latencies:
        known = served[bound.column].notna().groupby(served["arm"]).any()
        details = ", which needs per-request details" * (bound.statistic in ("p90", "p95", "max"))
        out |= {arm: f"no {bound.words}{details}" for arm in known.index[~known] if arm not in out}
    return out


def _limits(table: pd.DataFrame, column: str, count: int, rounded: bool) -> np.ndarray:
    values = table.groupby(["arm", "level"])[column].median().clip(lower=LEAST)
    low, high = values.min(), values.max()
    if high < 1.02 * low:  # all alike: as much again on both sides, for a picture
        low, high = low / 1.1, high * 1.1
    found = np.geomspace(low, high, count)
    found[-1] = max(found[-1], high)  # which rounding would leave out
    if not rounded:
        return found
    digits = 10.0 ** (np.floor(np.log10(found[1:])) - 1)
    return np.unique(np.round(np.ceil(np.round(found[1:] / digits, 9)) * digits, 9))

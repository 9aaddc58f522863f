"""Find for every pair of latency targets which arm has the most throughput within both, and by how much: when PD pays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pdbench.analysis.decision import WORKLOAD, collocated, highest, judged
from pdbench.analysis.pieces import not_judged
from pdbench.analysis.samples import samples
from pdbench.analysis.sla import Bound
from pdbench.read.level_file import ResultError
from pdbench.read.results import CONTROLLED, contenders


@dataclass(frozen=True)
class Targets:
    """What each arm has within both limits; shapes (y, x) and, by arm, (arms, y, x).

    Attributes:
        x, y: limits of the first latency and of the second, ms, ascending.
        arms: collocated ones first, which win where one of PD has as much.
        collocated: of each arm whether it is.
        throughput: at the best load within both limits; 0 where there is none.
    """

    x: np.ndarray
    y: np.ndarray
    arms: list[str]
    collocated: np.ndarray
    throughput: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The number of the arm with the most throughput; -1 where none keeps both."""
        return np.where(self.throughput.max(axis=0) > 0, self.throughput.argmax(axis=0), -1)

    @property
    def lead(self) -> np.ndarray:
        """By which share the best arm exceeds the best of the other kind, collocated or PD: 0.1 is 10%; inf where no arm of
        that kind keeps both, NaN where none does."""
        kinds = [self.throughput[self.collocated == kind].max(axis=0, initial=0) for kind in (True, False)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.maximum(*kinds) / np.minimum(*kinds) - 1


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
        ResultError: the arms did not do the same work, or none has such a latency.
    """
    if len(table[WORKLOAD].drop_duplicates()) > 1:
        raise ResultError("--figure targets compares arms of one model and one workload")
    table = contenders(table)[lambda of: ~of["placement"].str.startswith(CONTROLLED)]  # its layout is the one of a moment
    columns, jumps = [bound.column for bound in latencies], np.array([bound.jumps for bound in latencies])
    served = judged(table, columns)
    served = served[~served["arm"].isin(not_judged(served, latencies))].dropna(subset=columns)
    x, y = (_limits(served, bound, count, rounded) for bound in latencies)
    measured, base = samples(served, [throughput, *columns]), collocated(served)
    arms = sorted(measured, key=lambda arm: (arm not in base, arm))
    limits = np.stack(np.meshgrid(x, y), axis=-1)[..., None, :]
    found = []
    for arm in arms:
        levels = np.array([np.median(rows, axis=0) for rows in measured[arm].levels])
        rates, values = (np.broadcast_to(of, (*limits.shape[:2], *of.shape)) for of in (levels[:, 0], levels[:, 1:]))
        found.append(highest(rates, values, limits, jumps).throughput)
    return Targets(x, y, arms, np.array([arm in base for arm in arms]), np.array(found))


def _limits(table: pd.DataFrame, bound: Bound, count: int, rounded: bool) -> np.ndarray:
    values = table.groupby(["arm", "level"])[bound.column].median()
    if values.empty:
        raise ResultError(f"no arm has both latencies of --targets; {bound.words} may need per-request details")
    found = np.geomspace(values.min(), values.max(), count)
    if not rounded:
        return np.unique(found)
    digits = 10.0 ** (np.floor(np.log10(found[1:])) - 1)
    return np.unique(np.round(np.ceil(np.round(found[1:] / digits, 9)) * digits, 9))

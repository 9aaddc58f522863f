"""Compute what each arm attains at a latency, which arm attains most, and where the best arm changes.

An arm's levels, in order of load, form a polyline of latency and throughput. What it *attains* at a latency x is
the highest throughput of all points of that polyline with latency <= x: a deployment may be loaded less than it
could be. So it is never less at a looser target, also where the polyline folds back (more load, lower latency),
and beyond its last level an arm attains its maximum. All is computed from the corners of these piecewise linear
curves, exactly; there is no grid.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import pandas as pd

# Words of the command line -> columns of the tidy table.
LATENCIES = {"tpot": "median_tpot_ms", "ttft": "median_ttft_ms", "itl": "median_itl_ms", "chunk": "chunk_latency_ms"}
# Of a column, or of a metric of the report's chart, that TTFT is a part of.
WITH_TTFT = ("ttft", "first_token", "chunk", "e2e")
# A band narrower than this share of its latency is a rounding error at a point where three curves meet.
NARROWEST = 1e-9


def rests_on_ttft(column: str) -> bool:
    """Return whether a latency contains the time to the first token, and so a queue in front of it."""
    return any(part in column for part in WITH_TTFT)


@dataclass(frozen=True)
class Curve:
    """What an arm attains, as corners between which it is linear; shapes (n,), n >= 1.

    Both arrays ascend, and no two corners are equal: the same latency twice is a jump (the curve folded back), the
    same throughput twice a plateau. At a jump the upper corner is attained.
    """

    arm: str
    latency: np.ndarray
    throughput: np.ndarray

    def throughput_at(self, latency: float) -> float:
        """Return the throughput at this latency (ms); NaN below the lowest one measured, the maximum beyond the last corner."""
        return np.interp(latency, self.latency, self.throughput, left=np.nan)

    def latency_at(self, throughput: float) -> float:
        """Return the lowest latency (ms) that attains it; NaN above the maximum, the lowest one measured below the minimum."""
        # np.interp takes the last of equal abscissas; reversed, that is a plateau's first corner.
        return -np.interp(-throughput, -self.throughput[::-1], -self.latency[::-1], left=np.nan)


@dataclass(frozen=True)
class _Run:
    """A stretch of latency within which one curve is the highest and no curve has a corner."""

    low: float
    bottom: float
    high: float
    top: float
    owner: Curve


def curves(
    table: pd.DataFrame, latency: str = "median_tpot_ms", throughput: str = "input_throughput_per_node"
) -> dict[str, Curve]:
    """Return what each arm attains, by arm, in order of first appearance.

    Args:
        table: of `results.read_results`, of one kind of load; repeats of a level are reduced to their median.
        latency, throughput: columns of it; rows with NaN in one of them, and arms with such rows only, are left out.
    """
    known = table.dropna(subset=[latency, throughput])
    levels = known.groupby(["arm", "level"])[[latency, throughput]].median()  # sorted by both
    values, at = levels.to_numpy(), levels.groupby(level="arm").indices
    return {arm: attainable(arm, *values[at[arm]].T) for arm in known["arm"].unique()}


def attainable(arm: str, latency: Sequence[float], throughput: Sequence[float]) -> Curve:
    """Return the curve of the polyline through these points, in this order: the highest of what its segments attain."""
    points = list(zip(latency, throughput, strict=True))
    if all(x0 < x1 and y0 < y1 for (x0, y0), (x1, y1) in pairwise(points)):  # it never folds back: most do not
        return _joined(arm, points)
    segments = [_segment(arm, *sorted(ends)) for ends in pairwise(points)] or [_segment(arm, points[0], points[0])]
    return _curve(arm, _runs(segments, _knots(segments)))


def frontier(found: dict[str, Curve]) -> Curve:
    """Return what the best arm attains at each latency, over all arms; raises ValueError without any."""
    ordered = [found[arm] for arm in sorted(found)]
    return _curve("frontier", _runs(ordered, _knots(ordered)))


def pareto(points: pd.DataFrame, latency: str, throughput: str) -> pd.Series:
    """Return whether a row is on the Pareto frontier: no other has latency <= and throughput >=, one of them strictly.

    Rows that are equal in both do not dominate each other; a row with NaN is on no frontier.
    """
    top = points.groupby(latency)[throughput].max().astype(float)
    lower = top.cummax().shift(fill_value=-np.inf)  # the highest throughput at any lower latency
    return points[throughput] == points[latency].map(top.where(top > lower))


def crossovers(found: dict[str, Curve], baseline: set[str]) -> pd.DataFrame:
    """Find which arm is best in which band of latency; one row per band, latency ascending.

    Args:
        found: of `curves`.
        baseline: the collocated arms among them.

    Returns:
        low, high (ms; the last band has no end: inf), middle (half-way, in the last band to its arm's last corner),
        best (arm; of equal ones a collocated, then the first by name), throughput_low, throughput_high (tokens/s at both
        ends); next_best (the second in the middle, "" if no other attains anything there), next_margin (by which share
        best exceeds it there: 0.1 is 10%), next_margin_low, next_margin_high (the least and the most by which best
        exceeds the second, whichever it is, within the band); collocated, collocated_margin, collocated_margin_low,
        collocated_margin_high, the same over the best arm of `baseline` (0 where that is the best arm). inf: the other
        attains nothing; NaN: there is no other.
    """
    ordered = sorted(found.values(), key=lambda curve: (curve.arm not in baseline, curve.arm))
    knots = _knots(ordered)
    rows = []
    for low, high, runs in _bands(_runs(ordered, knots)):
        best, within = runs[0].owner, np.unique([low, *knots[(knots > low) & (knots < high)], high])
        others = [curve for curve in ordered if curve is not best]
        collocated = [curve for curve in ordered if curve.arm in baseline]
        middle = (low + max(low, min(high, best.latency[-1]))) / 2
        row = {"low": low, "high": high, "middle": middle, "best": best.arm}
        row |= {"throughput_low": runs[0].bottom, "throughput_high": runs[-1].top}
        row |= _margins("next_best", "next_margin", best, others, within, middle)
        rows.append(row | _margins("collocated", "collocated_margin", best, collocated, within, middle))
    table = pd.DataFrame(rows)
    table.loc[table.index[-1:], "high"] = np.inf
    return table


def _segment(arm: str, low: tuple[float, float], high: tuple[float, float]) -> Curve:
    """What a segment of a polyline attains, from its end of lower latency on."""
    if low[0] == high[0] or high[1] <= low[1]:  # upright, or more latency for less
        corners = [(low[0], max(low[1], high[1]) if low[0] == high[0] else low[1])]
    else:
        corners = [low, high]
    return Curve(arm, *np.array(corners, dtype=float).T)


def _curve(arm: str, runs: Sequence[_Run]) -> Curve:
    """The corners of runs, without the plateau that has no end and those that only another curve has."""
    return _joined(arm, [corner for run in runs for corner in ((run.low, run.bottom), (run.high, run.top))])


def _joined(arm: str, corners: Sequence[tuple[float, float]]) -> Curve:
    kept: list[tuple[float, float]] = []
    for corner in corners:
        if kept and all(math.isclose(*pair, rel_tol=NARROWEST) for pair in zip(kept[-1], corner, strict=True)):
            continue
        if len(kept) > 1 and _straight(kept[-2], kept[-1], corner):
            kept.pop()
        kept.append(corner)
    if len(kept) > 1 and kept[-2][1] == kept[-1][1]:
        kept.pop()
    return Curve(arm, *np.array(kept, dtype=float).T)


def _straight(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Whether three corners lie on one line that is no jump."""
    (x0, y0), (x1, y1), (x2, y2) = first, middle, last
    return x0 < x1 < x2 and abs(y0 + (y2 - y0) * (x1 - x0) / (x2 - x0) - y1) <= NARROWEST * y1


def _knots(found: Sequence[Curve]) -> np.ndarray:
    """Latencies at which a curve has a corner, ascending, and one a little beyond, up to which all are flat."""
    corners = np.unique(np.concatenate([curve.latency for curve in found]))
    return np.append(corners, corners[-1] * (1 + 1e-6))


def _limits(curve: Curve, knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Throughput just after and just before each knot; 0 where nothing is attained."""
    after = np.interp(knots, curve.latency, curve.throughput, left=0)
    before = -np.interp(-knots, -curve.latency[::-1], -curve.throughput[::-1])
    return after, np.where(knots > curve.latency[0], before, 0)


def _runs(found: Sequence[Curve], knots: np.ndarray) -> list[_Run]:
    """The highest curve between the first and the last knot, piece by piece; of equal ones the first."""
    limits = [_limits(curve, knots) for curve in found]
    after, before = (np.array(values) for values in zip(*limits, strict=True))
    return [
        _Run(low + share * (high - low), left[i] + share * (right[i] - left[i]) if share else left[i],
             low + until * (high - low) if until < 1 else high,
             left[i] + until * (right[i] - left[i]) if until < 1 else right[i], found[i])
        for (low, high), left, right in zip(pairwise(knots), after.T[:-1], before.T[1:], strict=True)
        for share, until, i in _highest(left, right)
    ]  # fmt: skip


def _highest(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[float, float, int]]:
    """Which of many lines over [0, 1], with values `left` at 0 and `right` at 1, is the highest: (from, to, line)."""
    first = np.flatnonzero(left == left.max())  # of equal ones that which rises most, then the first
    at, line = 0.0, int(first[right[first].argmax()])
    while at < 1:
        rising = np.flatnonzero(right > right[line])
        ahead = left[line] - left[rising]
        meet = np.maximum(at, ahead / (ahead + right[rising] - right[line]))
        first = np.lexsort((-right[rising], meet))[:1]
        until = float(meet[first][0]) if len(first) else 1.0
        if until > at:
            yield at, until, line
        at, line = until, int(rising[first][0]) if len(first) else line


def _bands(runs: Sequence[_Run]) -> Iterator[tuple[float, float, list[_Run]]]:
    """Neighbouring runs of one owner, and the latencies between which they lie; one too narrow to show is the next band's."""
    wide = [run for run in runs if run.high - run.low > NARROWEST * run.high]
    begin = runs[0].low
    for _, group in groupby(wide, key=lambda run: run.owner.arm):
        of_band = list(group)
        yield begin, of_band[-1].high, of_band
        begin = of_band[-1].high


def _margins(
    name: str, margin: str, best: Curve, others: Sequence[Curve], knots: np.ndarray, middle: float
) -> dict[str, str | float]:
    """The highest of the others in the middle, by how much `best` exceeds it there, and the highest, at least and at most."""
    if not others:
        return {name: "", margin: np.nan, f"{margin}_low": np.nan, f"{margin}_high": np.nan}
    runs = _runs(others, knots)
    at, until = (np.array([getattr(run, end) for run in runs]) for end in ("low", "high"))
    second = max(others, key=lambda curve: np.nan_to_num(curve.throughput_at(middle)))
    ours = np.concatenate([[best.throughput_at(middle)], _limits(best, at)[0], _limits(best, until)[1]])
    theirs = np.array([np.nan_to_num(second.throughput_at(middle)), *(run.bottom for run in runs), *(run.top for run in runs)])
    margins = np.divide(ours, theirs, out=np.full(len(ours), np.inf), where=theirs > 0) - 1
    margins = margins.clip(min=0)  # a rounding error below, where two curves meet
    found = {margin: margins[0], f"{margin}_low": margins.min(), f"{margin}_high": margins.max()}
    return {name: second.arm if theirs[0] else ""} | found

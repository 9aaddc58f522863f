"""Apply the rules by which claims are checked: what is compared, and when a comparison is as claimed."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd

from pdbench.analysis import repeats
from pdbench.analysis.blocks import shared
from pdbench.analysis.frontier import Curve, attainable, crossovers

# At this number of latencies, evenly spaced over what all arms (best_of: the first) were measured at.
LATENCIES = 5
RATE = "request_throughput_per_node"
# At most this share of the other's.
FAR_BELOW = 0.5

RULES = {
    "order_by": "in this order, best first: none is worse than the next beyond the tolerance, and the first is better than the"
    " last beyond it",
    "dominated_by": "at every level of the arms, the other arm attains their throughput, less the tolerance, at their latency",
    "best_by_regime": "over most of each range of throughput, the arm named attains it at the lowest latency; and it reaches"
    " the requests/s named, within the tolerance",
    "best_of": f"at {LATENCIES} latencies, evenly spaced over those of the arm, no other attains more beyond the tolerance",
    "about_equal": "wherever both are compared, they differ by at most the tolerance; of levels with three repeats or more"
    " two one-sided tests must show it",
    "far_below": f"at each level that both have, it is at most {FAR_BELOW:.0%} of the other's",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One comparison.

    Attributes:
        at: where it was made: a level, a latency or a range of throughput.
        true: whether it is as claimed.
        values: by arm, what was compared; of a range, the share of it in which the arm is best.
        shares: whether the values are such shares.
        exact: whether it is as claimed without the tolerance, too.
    """

    at: str
    true: bool
    values: dict[str, float]
    shares: bool = False
    exact: bool = True


def judge(claim, arms: dict[str, pd.DataFrame], exact: bool = True) -> list[Point]:
    """Make all comparisons that a claim asks for and the arms at hand allow.

    Args:
        claim: of `claims.Claim`.
        arms: rows of the tidy table by arm, as the claim names them; arms without results are absent.
        exact: whether `Point.exact` is asked for; else it is true.
    """
    asked = (claim.metric, *[claim.latency] * claim.by_latency)  # with one output token there is no TPOT
    columns = tuple(dict.fromkeys((claim.metric, claim.latency, RATE)))
    known = {arm: _levels(_Same(rows), asked, columns) for arm, rows in arms.items()}
    known = {arm: levels for arm, levels in known.items() if len(levels)}
    if claim.rule == "about_equal":  # that is a claim about the tolerance, and about repeats
        return _about_equal(claim, known, arms)
    rule = globals()[f"_{claim.rule}"]
    points = rule(claim, known)
    if not exact:
        return points
    without = rule(claim.model_copy(update={"tolerance": 0.0}), known)
    return [replace(point, exact=bool(other.true)) for point, other in zip(points, without, strict=True)]


class _Same:
    """A frame as a key of a cache: equal to itself only."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    def __hash__(self) -> int:
        return id(self.frame)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.frame is other.frame


# Of many runs of an arm each is judged in its place, beside the same runs of the others.
@lru_cache(maxsize=10_000)
def _levels(rows: _Same, asked: tuple[str, ...], columns: tuple[str, ...]) -> pd.DataFrame:
    """Levels at which what is asked is known, ascending, each the median of its repeats."""
    values = rows.frame[["level", *columns]].to_numpy(dtype=float)
    values = values[~np.isnan(values[:, [1 + columns.index(name) for name in asked]]).any(axis=1)]
    values = values[values[:, 0].argsort()].T
    known = pd.DataFrame(dict(zip(columns, values[1:])), pd.Index(values[0], name="level"))
    return known if (np.diff(values[0]) > 0).all() else known.groupby("level").median()


@lru_cache(maxsize=10_000)
def _curve(levels: _Same, latency: str, metric: str) -> Curve:
    return attainable("", *levels.frame[[latency, metric]].to_numpy().T)


def _order_by(claim, arms: dict[str, pd.DataFrame]) -> list[Point]:
    ordered = [arm for arm in claim.arms if arm in arms]
    if len(ordered) < 2:
        return []
    lower = claim.at != "latencies" and claim.metric.endswith("_ms")
    return [
        Point(at, _in_order([-v if lower else v for v in values.values()], claim.tolerance), values)
        for at, values in _compared(claim, arms, ordered)
    ]  # fmt: skip


def _in_order(values: list[float], tolerance: float) -> bool:
    """Whether values, higher is better, descend but for the tolerance, and the first is above the last beyond it."""

    def worse(a: float, b: float) -> bool:
        return b - a > tolerance * max(abs(a), abs(b))

    return not any(worse(a, b) for a, b in pairwise(values)) and worse(values[-1], values[0])


def _dominated_by(claim, arms: dict[str, pd.DataFrame]) -> list[Point]:
    if claim.than not in arms:
        return []
    other = _curves(claim, arms, [claim.than])[claim.than]
    points = []
    for arm in claim.arms:
        for level, row in arms[arm].iterrows() if arm in arms else ():
            ours, theirs = row[claim.metric], other.throughput_at(row[claim.latency])
            if ours >= claim.above:
                true = theirs >= (1 - claim.tolerance) * ours  # NaN: the other was never as fast
                points.append(Point(f"{level:g}, {row[claim.latency]:.2f} ms", true, {arm: ours, claim.than: theirs}))
    return points


def _best_of(claim, arms: dict[str, pd.DataFrame]) -> list[Point]:
    best, points = claim.arms[0], []
    if best not in arms or len(arms) < 2:
        return []
    found = _curves(claim, arms, list(arms))
    for latency in np.linspace(*found[best].latency[[0, -1]], LATENCIES):
        values = {arm: float(curve.throughput_at(latency)) for arm, curve in found.items()}
        ours = values.pop(best)
        others = sorted((value, arm) for arm, value in values.items() if value > 0)  # NaN: not attained
        values = {best: ours} | {arm: value for value, arm in others[-1:]}
        points.append(Point(f"{latency:.2f} ms", ours >= (1 - claim.tolerance) * max(values.values()), values))
    return points


def _about_equal(claim, arms: dict[str, pd.DataFrame], rows: dict[str, pd.DataFrame]) -> list[Point]:
    if not set(claim.arms) <= set(arms):
        return []
    return [
        Point(at, _alike(claim, at, rows, a, b), {first: a, second: b})
        for at, values in _compared(claim, arms, claim.arms)
        for (first, a), (second, b) in [values.items()]
    ]  # fmt: skip


def _alike(claim, at: str, rows: dict[str, pd.DataFrame], a: float, b: float) -> bool:
    """Whether two arms are alike, by the repeats among their rows; `a` and `b` are their medians there."""
    known = [rows[arm].dropna(subset=[claim.metric]) for arm in claim.arms]
    first, second = (of[of["level"].map("{:g}".format) == at] for of in known)
    if claim.at == "latencies" or min(len(first), len(second)) < repeats.MIN_REPEATS:
        return abs(a - b) <= claim.tolerance * max(a, b)
    within = shared(first, second)
    logs = [np.log(of[claim.metric].to_numpy()) for of in within or (first, second)]
    if within:
        return repeats.alike(logs[0] - logs[1], margin=claim.tolerance)
    return repeats.alike(*logs, margin=claim.tolerance)


def _far_below(claim, arms: dict[str, pd.DataFrame]) -> list[Point]:
    return [
        Point(at, values[arm] <= FAR_BELOW * values[claim.than], values)
        for arm in claim.arms if {arm, claim.than} <= set(arms)
        for at, values in _compared(claim, arms, [arm, claim.than])
    ]  # fmt: skip


def _best_by_regime(claim, arms: dict[str, pd.DataFrame]) -> list[Point]:
    named = [arm for arm in claim.named if arm in arms]
    if len(named) < 2:
        return []
    owned = _owned(crossovers(_curves(claim, arms, named), set()))
    bottom, top = owned[0][0], owned[-1][1]
    starts = _starts(claim, owned)
    points = []
    for regime, start, end in zip(claim.regimes, starts, [*starts[1:], top], strict=True):
        if regime.best not in arms:
            continue
        low, high = max(start, bottom), min(end, top)
        shares = {}
        for begin, until, arm in owned:
            if (width := min(until, high) - max(begin, low)) > 0:
                shares[arm] = shares.get(arm, 0.0) + width / (high - low)
        at = f"{low:,.0f} to {high:,.0f} tokens/s" if low < high else f"from {low:,.0f} tokens/s on, which none attains"
        points.append(Point(at, shares.get(regime.best, 0.0) > 0.5, shares, shares=True))
        if regime.reaches:
            rate = float(arms[regime.best][RATE].max())
            true = abs(rate - regime.reaches) <= claim.tolerance * regime.reaches
            points.append(Point(f"most requests/s, {regime.reaches:g} claimed", true, {regime.best: rate}))
    return points


def _owned(bands: pd.DataFrame) -> list[tuple[float, float, str]]:
    """Which arm attains each throughput at the lowest latency: (from, to, arm), ascending."""
    tops = [bands["throughput_low"].iloc[0], *bands["throughput_high"]]
    return [(low, high, arm) for low, high, arm in zip(tops, tops[1:], bands["best"])]


def _starts(claim, owned: list[tuple[float, float, str]]) -> list[float]:
    """Where each regime begins: as claimed, or where its arm is first the best; never before the one before."""
    starts = [owned[0][0]]
    for regime in claim.regimes[1:]:
        first = next((low for low, _, arm in owned if arm == regime.best and low > starts[-1]), owned[-1][1])
        starts.append(regime.since or first)
    return starts


def _compared(claim, arms: dict[str, pd.DataFrame], names: list[str]) -> list[tuple[str, dict[str, float]]]:
    """The claim's metric of some arms where they are compared: at levels that all have, or at equal latencies."""
    if claim.at == "latencies":
        found = _curves(claim, arms, names)
        low, high = max(c.latency[0] for c in found.values()), min(c.latency[-1] for c in found.values())
        at = np.linspace(low, high, LATENCIES) if low <= high else []
        return [(f"{x:.2f} ms", {arm: float(found[arm].throughput_at(x)) for arm in names}) for x in at]
    measured = {arm: arms[arm][claim.metric].to_dict() for arm in names}
    shared = sorted(set.intersection(*map(set, measured.values())))
    third = math.ceil(len(shared) / 3)
    part = {"levels": shared, "low levels": shared[:third], "high levels": shared[len(shared) - third :]}[claim.at]
    return [(f"{level:g}", {arm: measured[arm][level] for arm in names}) for level in part]


def _curves(claim, arms: dict[str, pd.DataFrame], names: list[str]) -> dict[str, Curve]:
    return {arm: replace(_curve(_Same(arms[arm]), claim.latency, claim.metric), arm=arm) for arm in names}

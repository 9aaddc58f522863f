"""Parse what a service promises: upper bounds of latency statistics, as typed: `tpot=10,p99_ttft=800`."""

import math
from dataclasses import dataclass

METRICS = ("ttft", "tpot", "itl", "e2e", "chunk")
STATISTICS = ("median", "mean", "p90", "p95", "p99", "max")


@dataclass(frozen=True)
class Bound:
    """An upper bound, in ms, of one statistic of one latency; prints as `p99 TTFT <= 800 ms`."""

    statistic: str
    metric: str
    limit: float

    def __str__(self) -> str:
        return f"{self.words} <= {self.limit:g} ms"

    @property
    def words(self) -> str:
        name = "first chunk" if self.metric == "chunk" else self.metric.upper()
        return f"{self.statistic} {name}"

    @property
    def column(self) -> str:
        """Of the tidy table."""
        return "chunk_latency_ms" if self.metric == "chunk" else f"{self.statistic}_{self.metric}_ms"

    @property
    def jumps(self) -> bool:
        """Whether it bounds a tail of ITL, which leaps where that share of the tokens begins to wait for a prefill."""
        return self.metric == "itl" and self.statistic not in ("median", "mean")


def parse(text: str) -> tuple[Bound, ...]:
    """Read comma-separated `METRIC=MS` or `STATISTIC_METRIC=MS`; the statistic is the median unless it is said.

    The latency of the first chunk is derived from medians, so it has no other statistic.

    Raises:
        ValueError: it cannot be read, or bounds something twice; the message says what is allowed.
    """
    bounds = []
    for part in text.split(","):
        name, _, limit = part.partition("=")
        statistic, _, metric = name.strip().rpartition("_")
        bounds.append(Bound(statistic or "median", metric, _positive(limit)))
    known = all(b.metric in METRICS and b.statistic in STATISTICS and not math.isnan(b.limit) for b in bounds)
    chunks = {b.statistic for b in bounds if b.metric == "chunk"}
    if not known or chunks - {"median"} or len({b.column for b in bounds}) < len(bounds):
        raise ValueError(
            f"{text!r} is not like tpot=10,p99_ttft=500 (ms): each of ttft, tpot, itl or e2e once for each of "
            f"{', '.join(STATISTICS)} (median unless said), or chunk"
        )
    return tuple(bounds)


def per_request(bounds: tuple[Bound, ...]) -> dict[str, float]:
    """Return bounds in ms by `ttft`, `tpot` and `e2e` that each request is held to for goodput: of several the loosest."""
    found: dict[str, float] = {}
    for bound in bounds:
        if bound.metric in ("ttft", "tpot", "e2e"):
            found[bound.metric] = max(bound.limit, found.get(bound.metric, 0.0))
    return found


def _positive(text: str) -> float:
    """A number above 0 that is finite; otherwise NaN."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if 0 < number < math.inf else math.nan

"""Analyse the requests of a level, one by one: what the client's summary of them cannot say.

`vllm bench serve --save-detailed` keeps, for each request, when it started, its TTFT and every time
between tokens. Older results, such as the public study's, have none of it: then what follows is NaN.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 95, 99)
METRICS = ("ttft", "tpot", "itl")


@dataclass(frozen=True)
class Requests:
    """Times of a level's requests, in seconds.

    Attributes:
        start: when each was sent, on the client's clock; shape (n,).
        ttft: time to its first token; shape (n,).
        itl: times between the pieces of each answer, n arrays. A piece is a token, but on a busy machine two
            tokens may come in one: then an array has fewer than OSL - 1 entries.
        isl, osl: prompt and output tokens of each; shape (n,).
    """

    start: np.ndarray
    ttft: np.ndarray
    itl: Sequence[np.ndarray]
    isl: np.ndarray
    osl: np.ndarray

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Requests | None":
        """Read a level's file; None without details."""
        keys = ("start_times", "ttfts", "input_lens", "output_lens")
        if "itls" not in content or any(key not in content for key in keys):
            return None
        start, ttft, isl, osl = (np.array(content[key], dtype=float) for key in keys)
        return cls(start, ttft, [np.array(gaps, dtype=float) for gaps in content["itls"]], isl, osl)

    @property
    def tpot(self) -> np.ndarray:
        """Mean time per output token after the first of each request; NaN for a single token."""
        after_first = np.where(self.osl > 1, self.osl - 1, math.nan)
        return np.array([gaps.sum() for gaps in self.itl]) / after_first

    @property
    def end(self) -> np.ndarray:
        return self.start + self.ttft + np.array([gaps.sum() for gaps in self.itl])

    @property
    def e2e(self) -> np.ndarray:
        """Time from each request's start to its last token."""
        return self.end - self.start

    @property
    def decodes(self) -> bool:
        """Whether every answer has a token after its first."""
        return bool((self.osl > 1).all())

    @property
    def tokens_per_piece(self) -> float:
        """Mean of all pieces after the first; NaN where requests have a single token."""
        pieces = sum(map(len, self.itl))
        return float((self.osl - 1).sum() / pieces) if pieces else math.nan

    @property
    def ttft_share(self) -> float:
        """Least share of a request's time that its TTFT is; NaN where requests have a single token."""
        return float((self.ttft / (self.end - self.start)).min()) if self.decodes else math.nan

    def in_flight(self) -> tuple[np.ndarray, np.ndarray]:
        """Return when the number of requests in flight changes (s since the first start), and that number from then on."""
        times = np.concatenate([self.start, self.end]) - self.start.min()
        steps = np.repeat([1, -1], len(self.start))
        order = np.lexsort((steps, times))  # who ends makes room for who starts at the same time
        return times[order], steps[order].cumsum()

    def share_of_time(self, at_least: float) -> float:
        """Return the share of the time from the first start to the last end with this number of requests in flight or more."""
        times, number = self.in_flight()
        lasting = np.diff(times)
        return float(lasting[number[:-1] >= at_least].sum() / lasting.sum())

    def values(self, metric: str, rows: Sequence[int] | None = None) -> np.ndarray:
        """Return all `ttft`, `tpot`, `itl` or `e2e` of the requests, or of `rows` of them, in ms."""
        rows = range(len(self.start)) if rows is None else rows
        if metric == "itl":
            return 1e3 * np.concatenate([self.itl[i] for i in rows])
        return 1e3 * getattr(self, metric)[list(rows)]

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Yield of each request when its pieces after the first came, the gaps before them, and tokens per piece."""
        for first, gaps, osl in zip(self.start + self.ttft, self.itl, self.osl, strict=True):
            yield first + gaps.cumsum(), gaps, (osl - 1) / len(gaps) if len(gaps) else 0.0


def percentiles(requests: Requests | None) -> dict[str, float]:
    """Return `p90_ttft_ms` and so on, linearly interpolated over requests (TTFT, TPOT) or tokens (ITL), and `max_ttft_ms`."""
    found = {}
    for metric in METRICS:
        values = requests.values(metric) if requests else np.array([])
        for p in PERCENTILES[1:-1]:  # the client's own summary has the median and p99
            found[f"p{p}_{metric}_ms"] = float(np.percentile(values, p)) if values.size else math.nan
        found[f"max_{metric}_ms"] = float(values.max()) if values.size else math.nan
    return found


def end_to_end(requests: Requests) -> dict[str, float]:
    """Return `median_e2e_ms` and so on: each request's time from its start to its last token."""
    values = requests.values("e2e")
    named = {f"{'median' if p == 50 else f'p{p}'}_e2e_ms": float(np.percentile(values, p)) for p in PERCENTILES}
    return {"mean_e2e_ms": float(values.mean())} | named | {"max_e2e_ms": float(values.max())}


def decode_steps(requests: Requests) -> dict[str, float]:
    """Return latencies (ms) and output throughput (1/s) of pure decode: while every request of the level decodes.

    That is from the last first token to the first end, so that no admission is in it: with vLLM's
    DecodeBenchConnector, filling a prompt's KV cache stalls those who decode already (vllm issue #56473).

    Raises:
        ValueError: there is no such time.
    """
    first = requests.start + requests.ttft
    begin, end = float(first.max()), float(requests.end.min())
    steps, tpots, tokens = [], [], 0.0
    for came, gaps, each in requests.pieces():
        whole = 1e3 * gaps[(came - gaps >= begin) & (came <= end)]
        if not whole.size:
            raise ValueError("at no time do all requests decode: ask for more output tokens")
        steps.append(whole)
        tpots.append(whole.mean() / each)
        tokens += each * np.count_nonzero((came > begin) & (came <= end))
    found = {"output_throughput": float(tokens / (end - begin))}
    for metric, values in (("itl", np.concatenate(steps)), ("tpot", np.array(tpots))):
        found |= {f"{name}_{metric}_ms": float(getattr(values, name)()) for name in ("mean", "std", "max")}
        found |= {f"{'median' if p == 50 else f'p{p}'}_{metric}_ms": float(np.percentile(values, p)) for p in PERCENTILES}
    return found


def goodput(requests: Requests | None, duration: float, sla: dict[str, float]) -> float:
    """Return requests per second that kept to `sla`, over the whole level; NaN without details.

    Args:
        duration: of the level, in s.
        sla: upper bounds in ms by `ttft`, `tpot` and `e2e` (vLLM's goodput: https://docs.vllm.ai/en/latest/cli/bench/serve.html).
    """
    if requests is None:
        return math.nan
    kept = np.ones(len(requests.start), dtype=bool)
    for metric, bound in sla.items():
        kept &= ~(requests.values(metric) > bound)  # a single token has no TPOT to be late with
    return float(np.count_nonzero(kept) / duration)

"""Check what every level must obey: one that breaks a law of queues or of arithmetic says nothing.

Little's law (J. Little, Operations Research 9 (1961) 383): requests in flight, in the mean over a level, are requests/s times
their mean time from start to end. The client measures both within the level, so no level can hold more than it was asked to.
"""

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pdbench.read.requests import METRICS, Requests
from pdbench.read.trace import Sent
from pdbench.workload import SHIFT, Level

# Of the concurrency that was asked for. Honest levels, ours and published, hold 88 to 100%, less at their beginning and end.
LEAST_IN_FLIGHT = 0.5
ROUNDING = 1.01
# A request rate of so many times what was served limits nothing; the public study's client was given 1e9.
UNLIMITED = 2
# Faster than any engine by a factor of three: the answer came in one piece, or its times are not in ms.
LEAST_TPOT_MS = 0.1
# An answer of this many tokens came in one go where nearly all of its time is TTFT and the rest follows faster than engines
# decode: of a long prompt's answer TTFT may be as much, but its tokens take their time.
MANY_TOKENS, AT_ONCE, AT_ONCE_TPOT_MS = 16, 0.98, 1.0
# Relative; the client's own clock makes up to 1e-6, rounding to microseconds a little more.
DETAILS_TOLERANCE = 2e-3
# Of a level's duration, and s: in which no request is under way. Honest levels, the client's own: at most 0.3%.
IDLE, IDLE_S = 0.2, 2.0
# Of the rate that was asked for, when the last request's time is allowed for.
SERVED = 0.95
# Of the client's cap, from which on it held requests back: the mean over a level is lower than what most of it held.
CAP_REACHED = 0.9
# Of the mean wait that a queue at the server would have; where requests waited less, the queue was in the client.
QUEUED_AT_SERVER = 0.5
# By which a request may be sent after the time that its trace says, in s: the client's, or the load was another one.
LATE_S = 1.0


def check(
    content: dict[str, Any], level: Level, osl: int, requests: Requests | None, sent: Sequence[Sent] = ()
) -> None:  # fmt: skip
    """Check a level's summary, and its details where there are some.

    Args:
        content: of the client's file, its numbers known to be finite.
        level: as the file's name says.
        osl: output tokens of each request; where load shifts, of the longest.
        requests: its details.
        sent: where load shifts, each request by its trace.

    Raises:
        ValueError: one line, with both sides of what does not fit.
    """
    _check_order(content, osl)
    if osl > 1 and content["median_tpot_ms"] < LEAST_TPOT_MS:
        raise ValueError(
            f"median TPOT is {content['median_tpot_ms']:.2g} ms, less than {LEAST_TPOT_MS:g}: answers came in one piece"
            " (a proxy that buffers?), or times are not in ms"
        )
    if level.kind == SHIFT:
        _check_trace(requests, sent)
    elif level.kind == "concurrency":
        _check_concurrency(content, level.value, osl)
    else:
        _check_rate(content, osl)
    if requests:
        _check_details(content, osl, requests, sent[0].at if sent else 0.0)


def end_to_end(content: dict[str, Any], osl: int) -> float:
    """Return the mean time of a request, in s: TTFT + TPOT for each further token."""
    return 1e-3 * (content["mean_ttft_ms"] + (content["mean_tpot_ms"] * (osl - 1) if osl > 1 else 0.0))


def in_flight(content: dict[str, Any], osl: int) -> float:
    """Return how many requests were in flight, in the mean over a level, by Little's law."""
    return content["completed"] / content["duration"] * end_to_end(content, osl)


def served_share(content: dict[str, Any], rate: float, osl: int) -> float:
    """Return the time that a level of this rate (1/s) needs without a queue, over the time that it took.

    Below SERVED requests came faster than they were served: then latencies are those of a queue that grows as long as the
    level lasts, and depend on its length.
    """
    return (content["completed"] / rate + end_to_end(content, osl)) / content["duration"]


def cap_reached(content: dict[str, Any], rate: float, osl: int) -> float:
    """Return the client's cap of requests in flight (max_concurrency), if it held back a level of this rate (1/s); else NaN.

    It did where so many were in flight; and where requests came faster than they were served, but are not seen to have waited:
    sent at this rate and served one after another, they would have waited for half of the level's excess, in the mean.
    """
    if (cap := content.get("max_concurrency")) is None:
        return math.nan
    wait = (content["duration"] - content["completed"] / rate) / 2
    unseen = served_share(content, rate, osl) < SERVED and end_to_end(content, osl) < QUEUED_AT_SERVER * wait
    return float(cap) if unseen or in_flight(content, osl) >= CAP_REACHED * cap else math.nan


def in_one_go(ttft_share: float, tpot_ms: float, osl: int) -> bool:
    """Return whether answers came at their end, through something that buffers: then TTFT is that of the whole.

    Args:
        ttft_share: of `Requests.ttft_share`; NaN without details.
        tpot_ms: the median of TPOT.
    """
    return osl >= MANY_TOKENS and ttft_share >= AT_ONCE and tpot_ms < AT_ONCE_TPOT_MS


def _check_order(content: dict[str, Any], osl: int) -> None:
    """Percentiles of one metric ascend, to its longest."""
    for metric in METRICS if osl > 1 else ("ttft",):
        names = [f"{statistic}_{metric}_ms" for statistic in ("median", "p90", "p95", "p99", "max")]
        known = [(name, content[name]) for name in names if name in content]
        for (low, a), (high, b) in zip(known, known[1:], strict=False):
            if a > b * ROUNDING:
                raise ValueError(f"{low} is {a:g}, above {high}, which is {b:g}")


def _check_concurrency(content: dict[str, Any], asked: float, osl: int) -> None:
    rate = content.get("request_rate", "inf")
    if isinstance(rate, bool | list | dict) or isinstance(rate, str) and rate != "inf":
        raise ValueError(f"request_rate must be a number or inf, not {reprlib.repr(rate)}")
    if isinstance(rate, int | float) and rate < UNLIMITED * content["completed"] / content["duration"]:
        raise ValueError(f"request_rate is {rate:g}, so that may be the load, not {asked:g} in flight, as the file's name says")
    if content["completed"] < asked:
        raise ValueError(f"{content['completed']} requests cannot keep {asked:g} in flight")
    if not LEAST_IN_FLIGHT * asked <= (held := in_flight(content, osl)) <= ROUNDING * asked:
        raise ValueError(
            f"{held:.2g} requests were in flight (requests/s x mean end-to-end time), but the file's name says {asked:g}:"
            " another load, or times that are not in ms"
        )


def _check_rate(content: dict[str, Any], osl: int) -> None:
    if content.get("ramp_up_strategy"):
        raise ValueError(
            f"the rate rose during the level (ramp_up_strategy {content['ramp_up_strategy']}): its name says one rate"
        )
    if (cap := content.get("max_concurrency")) is None:
        return
    if isinstance(cap, bool) or not isinstance(cap, int | float) or not 0 < cap < math.inf:
        raise ValueError(f"max_concurrency must be a number above 0 or null, not {reprlib.repr(cap)}")
    if (held := in_flight(content, osl)) > ROUNDING * cap:
        raise ValueError(
            f"{held:.3g} requests were in flight (requests/s x mean end-to-end time), but max_concurrency allowed {cap:g}"
        )


def _check_trace(requests: Requests | None, sent: Sequence[Sent]) -> None:
    """Requests must have been sent when their trace says."""
    if requests is None:
        raise ValueError("where load shifts each request counts: measure with --save-detailed")
    behind = requests.start - np.array([one.at for one in sent])
    if (late := float(np.ptp(behind))) > LATE_S:
        raise ValueError(f"a request was sent {late:.2g} s later than its trace says: the client did not keep up with the load")


def _check_details(content: dict[str, Any], osl: int, requests: Requests, first: float) -> None:
    """The summary must be that of the requests, of which the first is sent so late (s), and they must fit into the duration."""
    if osl > 1 and (silent := sum(not len(gaps) for gaps in requests.itl)):
        raise ValueError(f"{silent} requests have no time between tokens, but {osl} output tokens")
    for metric in METRICS if osl > 1 else ("ttft",):
        values = requests.values(metric)
        for name, seen in (("mean", values.mean()), ("median", np.median(values)), ("p99", np.percentile(values, 99))):
            if not math.isclose(stated := content[f"{name}_{metric}_ms"], seen, rel_tol=DETAILS_TOLERANCE, abs_tol=2e-3):
                raise ValueError(f"{name}_{metric}_ms is {stated:g}, but by the requests' own times it is {seen:g}")
    if (took := float(requests.end.max() - requests.start.min())) > ROUNDING * content["duration"]:
        raise ValueError(f"duration is {content['duration']:g} s, but from the first start to the last end it is {took:g}")
    if (idle := content["duration"] - first - took) > max(IDLE * content["duration"], IDLE_S):
        raise ValueError(f"duration is {content['duration']:g} s, of which no request was under way in {idle:g}")

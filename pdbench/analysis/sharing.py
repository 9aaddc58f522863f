"""Show how evenly requests are shared out among an arm's replicas, by nothing but when their tokens came.

A step of an engine gives each request that it decodes one token, so tokens of one replica's requests come together, and
those of two replicas' by chance. No server is asked, so this works for any engine and router whose results hold
per-request details. docs/method.md says how well.
"""

import heapq
import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from pdbench.analysis.decision import WORKLOAD
from pdbench.read.level_file import ResultError
from pdbench.read.requests import Requests
from pdbench.read.results import CONTROLLED, Arm, Study
from pdbench.workload import SHIFT, Level

# Two tokens come together that are no farther apart than this share of a step: by chance, a third of them.
TOGETHER = 1 / 6
# Of two requests, more tokens come together than this share where they are one replica's. On GPUs there were two peaks, near
# 0.35 and between 0.7 and 1.
ONE_REPLICA = 0.6
# Share of a level's time in which there may be more groups than replicas, which cannot be.
UNCLEAR = 0.05


def shares(study: Study) -> pd.DataFrame:
    """Return one row for each arm with several replicas that decode, level and repeat.

    Returns:
        `decision.WORKLOAD`, arm, level, repeat, replicas, request_throughput (1/s) and what a `Share` has.

    Raises:
        ResultError: there is no such arm, or a level holds no per-request details.
    """
    rows = []
    for row in study.table.itertuples():
        folder = study.folders[row.folder]
        if not is_shared(folder.arm):
            continue
        layout, requests = folder.arm.layout, folder.levels[Level(row.kind, row.level, row.repeat)].requests
        if requests is None:
            raise ResultError(f"{row.folder}: level {row.level:g} holds no per-request details: run_bm.sh saves them")
        known = {name: getattr(row, name) for name in (*WORKLOAD, "arm", "level", "repeat", "request_throughput")}
        share = of_level(requests, layout.decode.num, layout.is_pd)
        rows.append(known | {"replicas": layout.decode.num} | share._asdict())
    if not rows:
        raise ResultError("no arm has several replicas that decode: there is nothing to share out")
    return pd.DataFrame(rows)


def is_shared(arm: Arm) -> bool:
    """Return whether several replicas decode an arm's requests, and none but these: a controller may have moved the roles."""
    return arm.layout.decode.num > 1 and arm.run.phase != SHIFT and not arm.placement.startswith(CONTROLLED)


class Share(NamedTuple):
    """Says which share of a level's requests in flight the busiest replica had, in the mean over time.

    Attributes:
        even: what it would have if requests were shared out evenly; more than 1 / replicas, as requests are whole.
        least, greatest: what it can have had; they differ where replicas decode in step, so that their requests look like one
            replica's.
        most: requests that it had at once.
    """

    even: float
    least: float
    greatest: float
    most: float


def of_level(requests: Requests, replicas: int, is_pd: bool = False) -> Share:
    """Return the busiest replica's share, until the last request is sent and the first has ended.

    With PD a request is at its decode replica from its first token on. Of more groups at once than replicas all but `even` is
    NaN.
    """
    begin, last = requests.start + requests.ttft * is_pd, max(requests.start.max(), requests.end.min())
    there, lasting = in_flight(begin, requests.end, groups(requests), last)
    evenly = np.ceil(there.sum(axis=1) / replicas)
    least = np.array([_least_busiest(row[row > 0], replicas) for row in there])
    # Where there are more groups than replicas some are one replica's: it has no fewer than evenly.
    busiest = [evenly, np.maximum(least, evenly), np.maximum(there.max(axis=1), evenly)]
    even, least, greatest = (share_in_time(of, there, lasting) for of in busiest)
    if lasting[(there > 0).sum(axis=1) > replicas].sum() > UNCLEAR * lasting.sum():
        return Share(even, math.nan, math.nan, math.nan)
    return Share(even, least, greatest, float(busiest[-1].max()))


def in_flight(begin: np.ndarray, end: np.ndarray, group: np.ndarray, last: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how many requests of each group are in flight, and for how long, until `last`; without times when there is none.

    Args:
        begin, end: of each request, s; shape (n,).
        group: of each, from 0.

    Returns:
        A row for each time that one comes or ends, a column for each group; and s, by row.
    """
    times = np.concatenate([begin, end])
    steps = np.zeros((len(times), group.max() + 1))
    steps[np.arange(len(times)), np.tile(group, 2)] = np.repeat([1, -1], len(group))
    order = np.argsort(times, kind="stable")
    lasting = np.diff(np.minimum(times[order], last), append=last)
    there = steps[order].cumsum(axis=0)
    counts = (lasting > 0) & (there.sum(axis=1) > 0)
    return there[counts], lasting[counts]


def share_in_time(some: np.ndarray, there: np.ndarray, lasting: np.ndarray) -> float:
    """Return the share that so many by row, of all that are `there`, have in the mean over time."""
    return float((some * lasting).sum() / (there.sum(axis=1) * lasting).sum())


def _least_busiest(sizes: np.ndarray, replicas: int) -> float:
    """The least that the busiest replica can have, where each of these groups is one replica's or that of several in step."""
    parts = np.ones(len(sizes))
    for _ in range(replicas - len(sizes)):
        parts[np.argmax(sizes / parts)] += 1
    return float(np.ceil(sizes / parts).max())


def groups(requests: Requests) -> np.ndarray:
    """Return a number for each request, the same for those that one replica decoded at once or one after the other; shape (n,).

    Where a replica had nothing to do in between, its requests before and after that are two groups.
    """
    near, both = _together(requests)
    return _clusters(near - ONE_REPLICA * both)


def _together(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair, how many tokens of both came while the other decoded, and how many of these together; shapes (n, n)."""
    firsts = requests.start + requests.ttft
    came = [np.append(first, after) for first, (after, _, _) in zip(firsts, requests.pieces(), strict=True)]
    n = len(came)
    owner, times = np.repeat(np.arange(n), [len(each) for each in came]), np.concatenate(came)
    order = np.argsort(times, kind="stable")
    owner, times = owner[order], times[order]
    near, both = np.zeros((n, n)), np.zeros((n, n))
    for one, tokens in enumerate(came):
        if len(tokens) < 2:
            continue
        begin, end = np.searchsorted(times, tokens[[0, -1]])
        at, whose = times[begin:end], owner[begin:end]
        after = np.searchsorted(tokens, at).clip(1, len(tokens) - 1)
        distance = np.minimum(np.abs(at - tokens[after - 1]), np.abs(tokens[after] - at))
        is_near = distance <= TOGETHER * np.median(np.diff(tokens))
        near[one] += np.bincount(whose, is_near, n)
        both[one] += np.bincount(whose, minlength=n)
    return near + near.T, both + both.T


def _clusters(weights: np.ndarray) -> np.ndarray:
    """Join the two clusters with the greatest sum of weights between them, while there is one above 0.

    That is greedy additive edge contraction (Keuper et al., Efficient decomposition of image and mesh graphs, ICCV 2015).

    Args:
        weights: symmetric, shape (n, n): above 0 where two belong together, below where they do not.
    """
    n = len(weights)
    weights, label, alive = weights.copy(), np.arange(n), np.ones(n, dtype=bool)
    np.fill_diagonal(weights, 0)
    one, other = np.nonzero(np.triu(weights) > 0)
    heap = list(zip((-weights[one, other]).tolist(), one.tolist(), other.tolist(), strict=True))
    heapq.heapify(heap)
    while heap:
        weight, i, j = heapq.heappop(heap)
        if not (alive[i] and alive[j]) or -weight != weights[i, j]:
            continue  # joined with others since
        label[label == j], alive[j] = i, False
        weights[i] += weights[j]
        weights[:, i] = weights[i]
        weights[i, i] = 0
        for k in np.flatnonzero(alive & (weights[i] > 0)).tolist():
            heapq.heappush(heap, (-weights[i, k], i, k))
    return np.unique(label, return_inverse=True)[1]

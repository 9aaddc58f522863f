"""Hold what a simulated sweep is made of: engines with their block pools, and what came of a level's requests."""

from collections import OrderedDict, deque
from collections.abc import Callable
from math import nan
from typing import NamedTuple

import numpy as np

PARTS = ("front end", "prefill queue", "prefill", "transfer", "stall", "decode")
# What a fit simulates of a level, as the tidy table calls it.
FITTED = (
    "request_throughput",
    "mean_tpot_ms",
    "mean_ttft_ms",
    "median_tpot_ms",
    "median_ttft_ms",
    "p99_tpot_ms",
    "p99_ttft_ms",
)
WAITS = ("max_itl_ms", "p99_itl_ms")  # from token to token, of all requests of a level
COLUMNS = (*FITTED, *WAITS)  # what is predicted of it
_WHOLE = 1e-6  # of a token: progress is a sum of fractions, and the token that they make up is there


class Prompts:
    """The prompts that a replica's block pool holds, the least recently used one goes first."""

    __slots__ = ("room", "held", "stored")

    def __init__(self, room: float) -> None:
        self.room, self.held, self.stored = room, OrderedDict[int, None](), 0.0

    def touch(self, prompt: int) -> bool:
        """Return whether it is held; it is from now on."""
        if prompt in self.held:
            self.held.move_to_end(prompt)
            return True
        self.held[prompt] = None
        if len(self.held) > self.room:
            self.held.popitem(last=False)
        return False

    @property
    def cycled(self) -> bool:
        """Whether every block has been used once, so that new blocks lie scattered."""
        return self.stored >= self.room


class Step(NamedTuple):
    """A step of prefill: tokens of prompts, which of these begin and end in it, and what `Costs.prefill_step` calls parts."""

    tokens: int
    begun: list[int]
    ended: list[int]
    parts: int


NO_STEP = Step(0, [], [], 0)


class Replica:
    """One engine: prompts that wait, and requests that it decodes, in the order in which they will end."""

    __slots__ = (
        "steps",
        "progress",
        "now",
        "stall",
        "stalled",
        "running",
        "expected",
        "waiting",
        "scheduled",
        "busy",
        "load",
        "pulled",
        "posted",
        "pool",
    )

    def __init__(self, steps: list[float], pool: Prompts) -> None:
        self.steps, self.pool = steps, pool
        self.empty()

    def empty(self) -> None:
        """Forget all but the block pool: between levels nothing is under way."""
        self.progress = self.now = self.stall = self.stalled = self.pulled = 0.0
        self.running: deque[tuple[float, int]] = deque()
        self.waiting: deque[list[int]] = deque()
        self.scheduled = NO_STEP
        self.load = self.posted = 0
        self.busy = self.expected = False

    def advance(self, now: float) -> None:
        """Let the running requests decode until `now`; progress is in tokens, which stops in a stall."""
        passed, self.now = now - self.now, now
        if self.stall > 0.0:
            still = passed if passed < self.stall else self.stall  # min() takes longer, where fits spend much time
            self.stall -= still
            self.stalled += still
            passed -= still
        if passed > 0.0 and self.running:
            self.progress += passed / self.steps[len(self.running)]

    def schedule(self, budget: int, to_compute: "Callable[[Replica, int], int]") -> None:
        """Have the next step of prefill take as many tokens of those that wait as its budget has.

        Args:
            to_compute: tokens of a prompt that no step has begun, here.
        """
        waiting = self.waiting
        if not waiting:
            self.scheduled = NO_STEP
            return
        begun: list[int] = []
        ended: list[int] = []
        left, goes_on = budget, waiting[0][1] >= 0
        while waiting and left:
            entry = waiting[0]
            if entry[1] < 0:
                entry[1] = to_compute(self, entry[0])
                begun.append(entry[0])
            if entry[1] > left:
                entry[1] -= left
                left = 0
                break
            left -= entry[1]
            ended.append(entry[0])
            waiting.popleft()
        self.scheduled = Step(budget - left, begun, ended, len(ended) + goes_on)


class Watched(Replica):
    """One whose waits from token to token are noted, which takes too long for a fit.

    All running requests get their tokens at once, where progress passes a whole number.

    Attributes:
        gaps: waits that ended: seconds, of how many tokens, and how many pulls were posted meanwhile.
        given: tokens that each of those who run had so far.
        waited: for the next one, so far, s.
    """

    __slots__ = ("gaps", "given", "waited")

    def empty(self) -> None:
        """Forget all but the block pool."""
        super().empty()
        self.gaps: list[tuple[float, int, int]] = []
        self.given, self.waited = 0, 0.0

    def advance(self, now: float) -> None:
        """Let the running requests decode until `now`, and note how long each token of theirs took."""
        running, passed = len(self.running), now - self.now
        super().advance(now)
        if not running:
            self.waited, self.posted = 0.0, 0
            return
        self.waited += passed
        if tokens := int(self.progress - self.given + _WHOLE):
            self.given += tokens
            step = self.steps[running]
            since = (self.progress - self.given) * step
            # Stalls come before progress, so the first of these tokens waited for them all.
            self.gaps.append((self.waited - since - (tokens - 1) * step, running, self.posted))
            if tokens > 1:
                self.gaps.append((step, running * (tokens - 1), 0))
            self.waited, self.posted = since, 0


class Level:
    """What came of one level: when each request was sent, arrived, was begun, prefilled, pulled and answered; its stalls.

    All in seconds from its begin; `handover` is the time from a prefill replica to a decode replica, 0 if collocated, and
    `gaps` are those of its replicas where they were watched, a row for each.
    """

    def __init__(self, requests: int, handover: float) -> None:
        self.handover, self.gaps = handover, np.empty((0, 3))
        self.sent, self.arrived, self.begun, self.prefilled, self.pulled, self.first, self.ended, self.stalled = (
            [0.0] * requests for _ in range(8)
        )

    def figures(self, osl: int) -> list[float]:
        """Return `FITTED`: requests/s and ms."""
        first, ended = np.array(self.first), np.array(self.ended)
        ttft, tpot = 1e3 * (first - self.sent), 1e3 * (ended - first) / max(1, osl - 1)
        (middle_tpot, middle_ttft), (late_tpot, late_ttft) = np.percentile((tpot, ttft), (50, 99), axis=1)
        return [len(first) / ended.max(), tpot.mean(), ttft.mean(), middle_tpot, middle_ttft, late_tpot, late_ttft]

    def waits(self, hold: float) -> list[float]:
        """Return `WAITS`, ms, where each pull that was posted makes a wait `hold` s longer; NaN where nothing was watched."""
        if not len(self.gaps):
            return [nan, nan]
        gaps, tokens, posted = self.gaps.T
        lasted = 1e3 * (gaps + hold * posted)
        order = lasted.argsort()
        late = np.searchsorted(tokens[order].cumsum(), 0.99 * tokens.sum())
        return [lasted[order[-1]], lasted[order[late]]]

    def parts(self) -> list[float]:
        """Return where a request's time goes in the mean, s, as `PARTS` names them."""
        sent, arrived, begun, prefilled, pulled, ended, stalled = (
            np.array(of)
            for of in (self.sent, self.arrived, self.begun, self.prefilled, self.pulled, self.ended, self.stalled)
        )  # fmt: skip
        shares = (
            arrived - sent + self.handover, begun - arrived, prefilled - begun, pulled - prefilled - self.handover, stalled,
            ended - pulled - stalled,
        )  # fmt: skip
        return [float(np.mean(of)) for of in shares]

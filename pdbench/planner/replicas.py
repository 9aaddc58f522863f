"""Hold what a simulated sweep is made of: engines with their block pools, and what came of a level's requests."""

from collections import OrderedDict, deque

import numpy as np

PARTS = ("front end", "prefill queue", "prefill", "transfer", "stall", "decode")
# What is predicted of a level, as the tidy table calls it.
COLUMNS = (
    "request_throughput",
    "mean_tpot_ms",
    "mean_ttft_ms",
    "median_tpot_ms",
    "median_ttft_ms",
    "p99_tpot_ms",
    "p99_ttft_ms",
)


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
        "busy",
        "load",
        "pulled",
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
        self.load = 0
        self.busy = self.expected = False

    def advance(self, now: float) -> None:
        """Let the running requests decode until `now`; progress is in tokens, which stops in a stall."""
        passed, self.now = now - self.now, now
        if self.stall > 0.0:
            still = min(passed, self.stall)
            self.stall -= still
            self.stalled += still
            passed -= still
        if passed > 0.0 and self.running:
            self.progress += passed / self.steps[len(self.running)]


class Level:
    """What came of one level: when each request was sent, arrived, was begun, prefilled, pulled and answered; its stalls.

    All in seconds from its begin; `handover` is the time from a prefill replica to a decode replica, 0 if collocated.
    """

    def __init__(self, requests: int, handover: float) -> None:
        self.handover = handover
        self.sent, self.arrived, self.begun, self.prefilled, self.pulled, self.first, self.ended, self.stalled = (
            [0.0] * requests for _ in range(8)
        )

    def figures(self, osl: int) -> list[float]:
        """Return `COLUMNS`: requests/s and ms."""
        first, ended = np.array(self.first), np.array(self.ended)
        ttft, tpot = 1e3 * (first - self.sent), 1e3 * (ended - first) / max(1, osl - 1)
        middle_tpot, late_tpot = np.percentile(tpot, (50, 99))
        middle_ttft, late_ttft = np.percentile(ttft, (50, 99))
        return [len(first) / ended.max(), tpot.mean(), ttft.mean(), middle_tpot, middle_ttft, late_tpot, late_ttft]

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

"""Choose replicas as Ray Serve does: each of its routers by what it remembers, which the others make wrong meanwhile.

So requests are shared out less evenly than by true numbers, the more routers there are. Source: Ray 2.60,
`PowerOfTwoChoicesRequestRouter` and `ReplicaQueueLengthCache`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

REMEMBERED_S = 10.0  # RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S
# From a request until its replica's answer says how many it has. Of 0, 0.05, 0.15 and 0.3 s it meets the runs on H200s best; it
# was not measured by itself.
ACCEPTED_S = 0.15
# Where routers ask each time: from the choice of a replica until its answers count that request. Of 0, 0.003, 0.01, 0.02, 0.05
# and 0.15 s it meets the runs on H200s best; it was not measured by itself.
ASKED_S = 0.02


class Loaded(Protocol):
    """A replica: how many requests it has."""

    load: int


class Router:
    """Takes the less loaded of two replicas drawn at random, by what it remembers; what it does not remember it asks.

    It remembers how many requests a replica had by its last answer, with those of its own that were sent and ended since. An
    answer takes a while: requests that come at once go to one replica, from all routers that remember it as the emptier.
    """

    __slots__ = ("draw", "remembers", "known")

    def __init__(self, draw: Callable[[], float], remembers: bool) -> None:
        """Make one that remembers, or that asks each time."""
        self.draw, self.remembers = draw, remembers
        self.known: dict[int, tuple[int, float]] = {}

    def choose(self, now: float, replicas: Sequence[Loaded]) -> int:
        """Return which replica gets a request."""
        n = len(replicas)
        if n == 1:
            return 0
        one, other = int(self.draw() * n), int(self.draw() * (n - 1))
        other += other >= one
        if not self.remembers:
            # Below 0 is one whose last request has ended before it was counted.
            return one if replicas[one].load <= max(0, replicas[other].load) else other
        known = [where for where in (one, other) if self._knows(now, where)]
        for where in (one, other):
            if where not in known:
                self.known[where] = (replicas[where].load, now)  # asked, while one that is known is taken
        chosen = min(known or (one, other), key=lambda where: self.known[where][0])
        self.known[chosen] = (self.known[chosen][0] + 1, now)
        return chosen

    def answered(self, now: float, where: int, load: int) -> None:
        """Take note of a replica's answer that it has accepted a request, and how many it has."""
        self.known[where] = (load, now)

    def ended(self, now: float, where: int) -> None:
        """Take note that a request of its own has ended there."""
        if self.known and self._knows(now, where):
            self.known[where] = (max(0, self.known[where][0] - 1), now)

    def _knows(self, now: float, where: int) -> bool:
        return where in self.known and now - self.known[where][1] <= REMEMBERED_S


class Ingress:
    """Ray Serve's ingress replicas, behind HAProxy, which gives a request to the one that has the fewest.

    Attributes:
        chosen: how many requests have gone through each so far; those of equal load take turns.
    """

    __slots__ = ("routers", "open", "chosen")

    def __init__(self, replicas: int, draw: Callable[[], float]) -> None:
        """Make this many; none means that true loads are known."""
        self.routers = [Router(draw, remembers=bool(replicas)) for _ in range(max(1, replicas))]
        self.open, self.chosen = [0] * len(self.routers), [0] * len(self.routers)

    def take(self) -> int:
        """Return which of them gets the next request."""
        number = min(zip(self.open, self.chosen, range(len(self.open))))[2] if len(self.open) > 1 else 0
        self.open[number] += 1
        self.chosen[number] += 1
        return number

    def ended(self, now: float, number: int, where: int) -> None:
        """Take note that a request has ended, which went through one of them to a replica."""
        self.open[number] -= 1
        self.routers[number].ended(now, where)

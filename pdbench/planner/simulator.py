"""Simulate a sweep of one layout: a closed loop of requests, from event to event, without an engine's single steps.

Decode engines are shared processors: all running requests get a token per step, whose time depends on how many run. Each
request waits for a prefill replica, is prefilled in chunks, is handed over, pulled and decoded; collocated engines do both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random

import numpy as np

from pdbench.layout import Layout, Pool
from pdbench.planner.costs import Costs, Engine, Parameters, costs_of
from pdbench.planner.replicas import NO_STEP, Level, Prompts, Replica, Watched
from pdbench.planner.routing import ACCEPTED_S, ASKED_S, Ingress, Router

CACHED = 16  # tokens to compute of a prompt that the prefix cache holds: the last block


@dataclass(frozen=True)
class Workload:
    """What is asked of a layout.

    Attributes:
        as_published: one seed for all levels and no warm-up: half of a level's prompts were sent by the one before.
        ingress: Ray Serve's ingress replicas, by whose memory replicas are chosen; 0: by true loads.
        asked: whether loads are asked for each time instead: requests that come at once do not see one another.
    """

    isl: int
    osl: int
    as_published: bool = False
    ingress: int = 0
    asked: bool = False


class Sweep:
    """A layout under load, level after level; what its block pools hold stays from one level to the next.

    Args:
        costs: with steps for the most requests that will be in flight.
        seed: of the order of prompts and of routing.
        watched: whether waits from token to token are noted.
    """

    def __init__(
        self, layout: Layout, costs: Costs, engine: Engine, workload: Workload, seed: int, watched: bool = False
    ) -> None:  # fmt: skip
        self.costs, self.workload, self.budget, self.ahead = costs, workload, engine.budget, engine.ahead
        self.collocated = layout.prefill is None
        self.decodes_too = self.collocated and workload.osl > 1  # a single token comes with its prompt
        # Each its own numbers, so that a change of one cost changes no other draw.
        self.order, self.draw, self.delay = Random(seed), Random(f"route {seed}").random, Random(f"delay {seed}").random
        self.watched = watched
        self.prefillers = self._replicas(engine, layout.prefill or layout.decode)
        self.decoders = self._replicas(engine, layout.decode) if layout.prefill else self.prefillers
        # With ingress replicas, as in Ray 2.60: these choose who decodes, and that one who prefills for it.
        self.is_decoder_first = bool(layout.prefill and (workload.ingress or workload.asked))
        # When each prefill and decode replica know each other; the first pair meets in the smoke test.
        self.met: dict[tuple[int, int], float] = {}

    def _replicas(self, engine: Engine, pool: Pool) -> Sequence[Replica]:
        tokens = engine.kv_tokens.get(pool.tp, inf) * (engine.collocated_kv if self.collocated else 1.0)
        kind = Watched if self.watched else Replica
        return [kind(self.costs.steps, Prompts(tokens / self.workload.isl)) for _ in range(pool.num)]

    def run(self, in_flight: int, requests: int) -> Level:
        """Return one level of the sweep."""
        self.level = Level(requests, 0.0 if self.collocated else self.costs.handover)
        self.events: list[tuple[float, int, Callable[..., None], object, int]] = []
        self.count = count()
        self.todo = list(range(requests))
        self.order.shuffle(self.todo)
        # Of each request: its ingress, prefill and decode replica.
        self.by, self.through, self.to = [0] * requests, [0] * requests, [0] * requests
        self.ingress = Ingress(self.workload.ingress, self.draw)
        self.of_decoders = [Router(self.draw, remembers=not self.workload.asked) for _ in self.decoders]
        for replica in {*self.prefillers, *self.decoders}:
            replica.empty()
        for _ in range(min(in_flight, requests)):
            self._send(0.0)
        events = self.events
        while events:
            now, _, handle, what, where = heappop(events)
            handle(now, what, where)
        self.met = dict.fromkeys(self.met, 0.0)
        if gaps := [gap for replica in self.decoders if isinstance(replica, Watched) for gap in replica.gaps]:
            self.level.gaps = np.array(gaps)
        return self.level

    def _at(self, when: float, handle: Callable[..., None], what: object, where: int) -> None:
        heappush(self.events, (when, next(self.count), handle, what, where))

    def _send(self, now: float) -> None:
        if self.todo:
            request = self.todo.pop()
            self.level.sent[request] = now
            self._at(now + 2 * self.costs.request * self.delay(), self._arrive, request, 0)

    def _arrive(self, now: float, request: int, _: int) -> None:
        number = self.by[request] = self.ingress.take()
        router = self.ingress.routers[number]
        if self.is_decoder_first:
            to = self.to[request] = self._choose(now, router, self.decoders)
            self._count(now, self.decoders[to])
            router = self.of_decoders[to]
        where = self.through[request] = self._choose(now, router, self.prefillers)
        replica = self.prefillers[where]
        self.level.arrived[request] = now
        self._count(now, replica)
        replica.waiting.append([request, -1])
        if not replica.busy:
            replica.busy = True
            # Of the step that is under way half is left, in the mean. Without steps ahead not even that fits the public study.
            if self.ahead and (running := self._running(replica)):
                self._at(now + 0.5 * self.costs.steps[running], self._schedule, None, where)
            else:
                self._schedule(now, None, where)

    def _choose(self, now: float, router: Router, replicas: Sequence[Replica]) -> int:
        """Have a router choose a replica, whose answer it gets later."""
        where = router.choose(now, replicas)
        if router.remembers and len(replicas) > 1:
            self._at(now + ACCEPTED_S, self._answered, (router, replicas[where]), where)
        return where

    def _count(self, now: float, replica: Replica) -> None:
        """Count a request at a replica; `ASKED_S` later where routers ask each time, since asking and sending take a while."""
        if self.workload.asked:
            self._at(now + ASKED_S, self._counted, replica, 0)
        else:
            replica.load += 1

    def _counted(self, _: float, replica: Replica, __: int) -> None:
        replica.load += 1

    def _answered(self, now: float, of: tuple[Router, Replica], where: int) -> None:
        router, replica = of
        router.answered(now, where, replica.load)

    def _running(self, replica: Replica) -> int:
        """How many requests run where prompts are computed; one that asks for a single token has it with its prompt."""
        return len(replica.running) if self.decodes_too else 0

    def _schedule(self, now: float, _: None, where: int) -> None:
        """Have those that wait be in the next step; where steps are scheduled ahead and requests run, one has been before."""
        replica = self.prefillers[where]
        self._plan(replica)
        if self.ahead and (running := self._running(replica)):
            self._at(now + self.costs.steps[running], self._prefill, None, where)
        else:
            self._prefill(now, None, where)

    def _plan(self, replica: Replica) -> None:
        replica.schedule(max(1, self.budget - self._running(replica)), self._to_compute)

    def _prefill(self, now: float, _: None, where: int) -> None:
        """Begin the step of prefill that was scheduled."""
        replica = self.prefillers[where]
        step, running = replica.scheduled, self._running(replica)
        replica.scheduled = NO_STEP
        if self.ahead:
            self._plan(replica)
        for request in step.begun:
            self.level.begun[request] = now
        takes = self.costs.prefill_step(step.tokens, step.parts, running)
        if running:
            # This step gives the running requests a token, too: only what it takes longer than a step of theirs is lost.
            replica.advance(now)
            replica.stall += takes - self.costs.steps[running]
        self._at(now + takes, self._prefilled, step.ended, where)

    def _to_compute(self, replica: Replica, prompt: int) -> int:
        if self.workload.as_published and replica.pool.touch(prompt):
            return CACHED
        replica.pool.stored += 1
        return self.workload.isl

    def _prefilled(self, now: float, done: list[int], where: int) -> None:
        replica = self.prefillers[where]
        for request in done:
            self.level.prefilled[request] = now
            if self.collocated:
                self.level.pulled[request] = now
                self.level.stalled[request] = -self._stalled(now, where)
                self._join(now, request, where)
            else:
                replica.load -= 1
                self.of_decoders[self.to[request]].ended(now, where)
                self._at(now + self.costs.handover, self._pull, request, where)
        replica.busy = bool(replica.scheduled.tokens or replica.waiting)
        if replica.scheduled.tokens:
            self._prefill(now, None, where)
        elif replica.waiting:
            self._schedule(now, None, where)

    def _stalled(self, now: float, where: int) -> float:
        self.decoders[where].advance(now)
        return self.decoders[where].stalled

    def _pull(self, now: float, request: int, source: int) -> None:
        """Have a decode replica, chosen now or before, fetch the prompt's KV cache unless it has it, one after another."""
        if not self.is_decoder_first:
            to = self.to[request] = self.ingress.routers[self.by[request]].choose(now, self.decoders)
            self.decoders[to].load += 1
        where = self.to[request]
        replica, costs, added = self.decoders[where], self.costs, self.workload.osl / self.workload.isl
        ready = self._known(now, source, where)
        if self.workload.as_published and replica.pool.touch(request):
            replica.pool.stored += added
            self._at(ready, self._pulled, request, where)
            return
        slow = costs.unequal or replica.pool.cycled or self.prefillers[source].pool.cycled
        replica.pool.stored += 1 + added
        replica.advance(now)
        replica.stall += costs.stall + (costs.stall_slow if slow else 0.0)
        replica.posted += 1
        replica.pulled = max(ready, replica.pulled) + costs.pull + (costs.pull_slow if slow else 0.0)
        self._at(replica.pulled, self._pulled, request, where)

    def _known(self, now: float, source: int, where: int) -> float:
        """When these two replicas can exchange anything: later than now only at their first contact."""
        if not self.workload.as_published:
            return now
        when = self.met.setdefault((source, where), now + self.costs.contact if self.met else now)
        return when if when > now else now

    def _pulled(self, now: float, request: int, where: int) -> None:
        """Wait until a step can take the request, and for it, which computes the first token.

        It is in flight and does not run yet, so that `steps` has one for it, too.
        """
        replica, steps = self.decoders[where], self.costs.steps
        self.level.pulled[request] = now
        replica.advance(now)
        self.level.stalled[request] = -replica.stalled
        running = len(replica.running)
        self._at(
            now + steps[running + 1] + self.costs.joining * steps[running] + replica.stall, self._join, request, where
        )  # fmt: skip

    def _join(self, now: float, request: int, where: int) -> None:
        """Give a request its first token; from now on it takes part in every step."""
        replica = self.decoders[where]
        replica.advance(now)
        self.level.first[request] = now
        replica.running.append((replica.progress + self.workload.osl - 1, request))
        self._expect(where)

    def _expect(self, where: int) -> None:
        """Look again when the next request would end, as things are now; all that can come between only delays it."""
        replica = self.decoders[where]
        if replica.running and not replica.expected:
            replica.expected = True
            left = replica.running[0][0] - replica.progress
            when = replica.now + replica.stall + (left if left > 0.0 else 0.0) * replica.steps[len(replica.running)]
            self._at(when, self._end, 0, where)

    def _end(self, now: float, _: int, where: int) -> None:
        replica = self.decoders[where]
        replica.expected = False
        replica.advance(now)
        running = replica.running
        while running and running[0][0] - replica.progress < 1e-6:
            request = running.popleft()[1]
            replica.load -= 1
            self.ingress.ended(now, self.by[request], where)
            self.level.ended[request] = now
            self.level.stalled[request] += replica.stalled
            self._send(now)
        self._expect(where)


def simulate(
    layout: Layout, of: Parameters, engine: Engine, workload: Workload, levels: Sequence[tuple[int, int]],
    seeds: Sequence[int], watched: bool = True,
) -> np.ndarray:  # fmt: skip
    """Return what is predicted of a sweep, the mean over `seeds`.

    Args:
        levels: (requests in flight, requests) of each, in the order measured.
        watched: whether waits from token to token are, too.

    Returns:
        A row per level, columns `COLUMNS`, or `FITTED` where nothing is watched.
    """
    most = max(in_flight for in_flight, _ in levels)
    costs = costs_of(layout, of, engine, workload.isl, workload.osl, most)
    found = []
    for seed in seeds:
        sweep = Sweep(layout, costs, engine, workload, seed, watched)
        ran = [sweep.run(*level) for level in levels]
        found.append([[*one.figures(workload.osl), *(one.waits(costs.hold) if watched else ())] for one in ran])
    return np.mean(found, axis=0)

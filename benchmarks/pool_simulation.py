"""Simulate a pool of engines that change roles: requests arrive, are prefilled by one engine and decoded by another.

Event by event, time in seconds. What an engine is: it prefills one request after another at a fixed rate; a decode step takes
alpha + beta x batch, and each request in the batch gets a token of it; while it prefills, its decodes wait. What is left out:
KV transfers, the KV cache's size, how step times depend on context lengths, the serving path.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pdbench.ratio.policy import SUMS, Bounds, Decision, Policy, Report, Role


@dataclass(frozen=True)
class Phase:
    """Poisson arrivals for a time; lengths of prompts and answers are uniform within a fifth of their means (tokens)."""

    seconds: float
    per_second: float
    isl: int
    osl: int


@dataclass(frozen=True)
class Scenario:
    """Engines, what they can do, what is promised, and the load: `phases`, `cycles` times."""

    name: str
    engines: int
    prefill_rate: float
    alpha_s: float
    beta_s: float
    bounds: Bounds
    phases: tuple[Phase, ...]
    cycles: int
    most_decoding: int = 256

    @property
    def seconds(self) -> float:
        return self.cycles * sum(phase.seconds for phase in self.phases)

    def starts(self) -> Iterator[tuple[float, Phase]]:
        """Yield when each phase starts."""
        start = 0.0
        for phase in self.phases * self.cycles:
            yield start, phase
            start += phase.seconds


@dataclass(frozen=True)
class World:
    """What the policy meets.

    Args:
        delay_s: From a decision until requests are routed by it.
        away_s: Time for which an engine that changes its role is away; 0: it changes by routing alone.
        lost: Share of reports that do not arrive.
        lengths_known: Whether an engine knows how long an answer will be; if not, it expects the mean of the last hundred.
    """

    delay_s: float = 0.6
    away_s: float = 0.0
    lost: float = 0.0
    lengths_known: bool = True


@dataclass(eq=False)
class Request:
    arrived: float
    isl: int
    osl: int
    expected: float = 0.0
    first: float = math.nan
    ended: float = math.nan

    def keeps(self, bounds: Bounds) -> bool:
        """Return whether both bounds were kept."""
        tpot = (self.ended - self.first) / (self.osl - 1)
        return self.first - self.arrived <= bounds.ttft_ms / 1e3 and tpot <= bounds.tpot_ms / 1e3


@dataclass(eq=False)
class Engine:
    """One engine: a queue of prefills, and requests to decode, in the batch, waiting for a place in it or being prefilled."""

    name: str
    role: Role
    scenario: Scenario
    queue: deque[tuple[Request, "Engine"]] = field(default_factory=deque)
    done: float = 0.0  # prompt tokens of the queue's first
    batch: list[tuple[float, int, Request]] = field(default_factory=list)  # heap: ends at which `progress`, number, request
    waits: deque[Request] = field(default_factory=deque)
    coming: dict[int, Request] = field(default_factory=dict)
    progress: float = 0.0  # tokens that a request in the batch since the start would have
    time: float = 0.0
    back: float = 0.0
    plan: int = 0
    entered: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))

    @property
    def step_s(self) -> float:
        return self.scenario.alpha_s + self.scenario.beta_s * len(self.batch)

    def advance(self, now: float) -> None:
        """Work until `now`; nothing ends before it."""
        seconds = now - max(self.time, self.back)
        self.time = now
        if seconds <= 0:
            return
        self.sums["decode_busy_s"] += seconds * bool(self.batch)
        self.sums["decode_batch_s"] += seconds * len(self.batch)
        if self.queue:
            self.done += seconds * self.scenario.prefill_rate
            self.sums["prefilled"] += seconds * self.scenario.prefill_rate
            self.sums["prefill_busy_s"] += seconds
        elif self.batch:
            self.progress += seconds / self.step_s
            self.sums["decoded"] += len(self.batch) * seconds / self.step_s

    def next_end(self) -> float:
        """Return when its next prefill or decode ends."""
        start = max(self.time, self.back)
        if self.queue:
            return start + max(0.0, self.queue[0][0].isl - self.done) / self.scenario.prefill_rate
        return start + max(0.0, self.batch[0][0] - self.progress) * self.step_s if self.batch else math.inf

    def enter(self) -> None:
        """Take waiting requests into the batch: they have their first token."""
        while self.waits and len(self.batch) < self.scenario.most_decoding:
            request = self.waits.popleft()
            self.entered += 1
            request.first = self.time
            heapq.heappush(self.batch, (self.progress + request.osl - 1, self.entered, request))

    def report(self) -> Report:
        """Return what it would say of itself now."""
        waiting = sum(request.isl for request, _ in self.queue) - self.done
        apart = sum(request.expected for request in (*self.coming.values(), *self.waits))
        got = ((request, request.osl - (end - self.progress)) for end, _, request in self.batch)
        to_come = apart + sum(max(1.0, request.expected - tokens) for request, tokens in got)
        return Report(self.name, self.role, self.time, **self.sums, waiting=max(0.0, waiting), to_come=to_come)


class Pool:
    """A run: the scenario's requests of a seed, with the roles of a policy or of a plan."""

    def __init__(self, scenario: Scenario, seed: int, world: World | None = None) -> None:
        self.scenario, self.world, self.rng = scenario, world or World(), random.Random(seed)
        self.requests = list(arrivals(scenario, random.Random(seed)))
        self.engines = [Engine(f"engine-{number}", "decode", scenario) for number in range(scenario.engines)]
        self.ended: deque[Request] = deque(maxlen=100)
        self.left, self.flips, self.now = len(self.requests), 0, 0.0
        self.ticks: list[tuple[float, list[Report], Decision]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def follow_plan(self, plan: tuple[int, ...]) -> "Pool":
        """Run with the number of prefill engines that the plan has for each phase of a cycle, from its very start on."""
        for index, (start, _) in enumerate(self.scenario.starts()):
            number = plan[index % len(plan)]
            self._at(start, lambda number=number: self._set_number(number))
        return self._run()

    def follow_policy(self, policy: Policy, prefill: int) -> "Pool":
        """Run with a policy that starts from a number of prefill engines."""
        self._set_number(prefill)
        self.flips = 0
        self._at(policy.settings.tick_s, lambda: self._tick(policy))
        return self._run()

    @property
    def attainment(self) -> float:
        """Share of the requests that kept both bounds."""
        return sum(request.keeps(self.scenario.bounds) for request in self.requests) / len(self.requests)

    def _run(self) -> "Pool":
        for request in self.requests:
            self._at(request.arrived, lambda request=request: self._arrive(request))
        while self.left:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        return self

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, happen))

    def _pick(self, role: Role, work: Callable[[Engine], float]) -> Engine:
        """Return the engine of a role with the least work, or the one of all where none of that role is there."""
        here = [engine for engine in self.engines if engine.back <= self.now] or self.engines
        return min([engine for engine in here if engine.role == role] or here, key=work)

    def _decoder(self) -> Engine:
        return self._pick("decode", lambda engine: len(engine.batch) + len(engine.waits) + len(engine.coming))

    def _arrive(self, request: Request) -> None:
        """Give a request to the engine that will decode it and to one that prefills it, as Ray Serve's PD does."""
        known = self.world.lengths_known or not self.ended
        request.expected = request.osl if known else sum(each.osl for each in self.ended) / len(self.ended)
        decoder = self._decoder()
        decoder.coming[id(request)] = request
        decoder.sums["prompt_asked"] += request.isl
        decoder.sums["output_asked"] += request.expected
        self._prefill(request, decoder)

    def _prefill(self, request: Request, decoder: Engine) -> None:
        engine = self._pick("prefill", lambda engine: len(engine.queue))
        engine.advance(self.now)
        engine.queue.append((request, decoder))
        self._plan(engine)

    def _plan(self, engine: Engine) -> None:
        """Note when the engine's next work ends, in place of what was noted before."""
        engine.plan += 1
        plan, end = engine.plan, engine.next_end()
        if end < math.inf:
            self._at(end, lambda: self._end(engine, plan))

    def _end(self, engine: Engine, plan: int) -> None:
        """End a prefill, or decodes; unless the plan has changed."""
        if engine.plan != plan:
            return
        prefilled = bool(engine.queue)
        engine.advance(self.now)
        if prefilled:
            request, decoder = engine.queue.popleft()
            engine.done = 0.0
            del decoder.coming[id(request)]
            self._decode(request, decoder)
        else:
            while engine.batch and engine.batch[0][0] <= engine.progress + 1e-6:
                _, _, request = heapq.heappop(engine.batch)
                request.ended = self.now
                self.ended.append(request)
                self.left -= 1
            engine.enter()
        self._plan(engine)

    def _decode(self, request: Request, decoder: Engine) -> None:
        decoder = self._decoder() if decoder.back > self.now else decoder
        decoder.advance(self.now)
        decoder.waits.append(request)
        decoder.enter()
        self._plan(decoder)

    def _tick(self, policy: Policy) -> None:
        for engine in self.engines:
            engine.advance(self.now)
        reports = [engine.report() for engine in self.engines if self.rng.random() >= self.world.lost]
        decision = policy.decide(self.now, reports)
        self.ticks.append((self.now, reports, decision))
        self._at(self.now + self.world.delay_s, lambda: self._set_roles(decision.roles))
        self._at(self.now + policy.settings.tick_s, lambda: self._tick(policy))

    def _set_number(self, prefill: int) -> None:
        """Change the roles of those that have least to do in their present one."""
        reports = {engine.name: engine.report() for engine in self.engines}
        order = sorted(self.engines, key=lambda engine: (engine.role != "prefill", reports[engine.name].to_come))
        names = [engine.name for engine in order]
        self._set_roles({name: "prefill" if number < prefill else "decode" for number, name in enumerate(names)})

    def _set_roles(self, roles: dict[str, Role]) -> None:
        for engine in self.engines:
            if engine.role != roles.get(engine.name, engine.role):
                engine.role = roles[engine.name]
                self.flips += 1
                if self.world.away_s and self.now:
                    self._restart(engine)

    def _restart(self, engine: Engine) -> None:
        """Take an engine away; its requests go on elsewhere at once, which is kinder than a real restart."""
        engine.advance(self.now)
        engine.back = self.now + self.world.away_s
        queue, batch, waits = list(engine.queue), list(engine.batch), list(engine.waits)
        engine.queue.clear(), engine.batch.clear(), engine.waits.clear()
        engine.done = 0.0
        for request, decoder in queue:
            self._prefill(request, decoder)
        for request in waits:
            self._decode(request, engine)
        for end, _, request in batch:
            other = self._decoder()
            other.advance(self.now)
            other.entered += 1
            heapq.heappush(other.batch, (other.progress + end - engine.progress, other.entered, request))
            self._plan(other)
        self._plan(engine)


def arrivals(scenario: Scenario, rng: random.Random) -> Iterator[Request]:
    """Yield the requests of a scenario, the same for every arm that uses the same seed."""
    for start, phase in scenario.starts():
        time = start + rng.expovariate(phase.per_second)
        while time < start + phase.seconds:
            isl, osl = (max(2, round(length * rng.uniform(0.8, 1.2))) for length in (phase.isl, phase.osl))
            yield Request(time, isl, osl)
            time += rng.expovariate(phase.per_second)

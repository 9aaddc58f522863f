"""Decide how many engines of a pool prefill and how many decode: plain arithmetic on the engines' own reports.

Nothing here reads a clock or reaches an engine: the caller collects reports every tick, asks `Policy.decide`, hands roles out.
The formula and its reasons: docs/ratio.md. What it is worth in simulation: benchmarks/ratio_policy.py.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Literal

Role = Literal["prefill", "decode"]
ROLES: tuple[Role, Role] = ("prefill", "decode")


@dataclass(frozen=True)
class _Numbers:
    """A record whose fields are numbers from 0 on, apart from texts."""

    def __post_init__(self) -> None:
        for name, value in ((each.name, getattr(self, each.name)) for each in fields(self) if each.type is float):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}: must be a finite number from 0 on")


@dataclass(frozen=True)
class Bounds(_Numbers):
    """What the service promises to each request: time to the first token, and time per output token after it, both in ms."""

    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True)
class Settings(_Numbers):
    """How the policy decides; docs/ratio.md gives the reason of each default.

    Args:
        tick_s: Time between two decisions.
        reaction_s: From a decision until the engine takes work in its new role.
        window_s: Arrivals of this time are the arriving work.
        gain: Share by which the cost must fall for a move.
        cooldown_s: Least time between two moves.
        calm: No move while the busier stage would need at most this share of the horizon.
        silence_s: An engine that has not reported for longer does not count until it does; its role stays.
        memory_s: Engine-seconds of work after which what was measured weighs 1/e.
        enough_s: Engine-seconds of work from which on what was measured replaces the three priors below.
        prefill_rate: Prompt tokens of an engine per busy second of prefill.
        step_alpha_s: Time of a decode step, apart from what each request adds.
        step_beta_s: What each request in the batch adds to it.
        most_decoding: Requests that an engine decodes at once, at most (vLLM's max_num_seqs).
    """

    tick_s: float = 1.0
    reaction_s: float = 0.6
    window_s: float = 5.0
    gain: float = 0.15
    cooldown_s: float = 3.0
    calm: float = 0.5
    silence_s: float = 10.0
    memory_s: float = 60.0
    enough_s: float = 2.0
    prefill_rate: float = 20_000.0
    step_alpha_s: float = 0.006
    step_beta_s: float = 0.0002
    most_decoding: float = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window_s", "memory_s", "prefill_rate", "step_alpha_s", "step_beta_s", "most_decoding"):
            if not getattr(self, name):
                raise ValueError(f"{name} is 0: must be above 0")


@dataclass(frozen=True)
class Report(_Numbers):
    """What one engine says of itself: sums since its start, so that a lost report loses nothing, and present values.

    Args:
        engine: Its name.
        role: What it takes now; work that it was given before a change of roles may be of the other kind.
        time_s: When it was made, by a clock of the engine's own that a restart does not set back.
        prompt_asked: Sum of the prompt tokens of the requests that came to it, also where others prefill them.
        output_asked: Sum of their output tokens; where a request does not say, what is expected of it.
        prefilled: Sum of prompt tokens that it has prefilled.
        prefill_busy_s: Sum of the time in which it had a prefill to do.
        decoded: Sum of output tokens that it has generated, apart from each answer's first.
        decode_busy_s: Sum of the time in which it had a request to decode, from the request's first token on.
        decode_batch_s: Sum over requests of their time of decode: two that are decoded together for 1 s add 2 s.
        waiting: Prompt tokens given to it and not prefilled yet.
        to_come: Output tokens still to come of the requests that it decodes or will decode.
    """

    engine: str
    role: Role
    time_s: float
    prompt_asked: float
    output_asked: float
    prefilled: float
    prefill_busy_s: float
    decoded: float
    decode_busy_s: float
    decode_batch_s: float
    waiting: float
    to_come: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}: must be one of {', '.join(ROLES)}")

    def follows(self, earlier: "Report") -> bool:
        """Return whether no sum is below that of an earlier report; else the engine has started again."""
        return all(getattr(self, name) >= getattr(earlier, name) for name in SUMS)


SUMS = tuple(each.name for each in fields(Report) if each.name not in ("engine", "role", "time_s", "waiting", "to_come"))


@dataclass(frozen=True)
class Decision:
    """How many of the engines that report prefill, all engines' roles, costs (s) by number of prefill engines, and why.

    Handing the roles out again changes nothing, so the next tick repairs a lost message.
    """

    prefill: int
    roles: dict[str, Role]
    costs: dict[int, float]
    reason: str


@dataclass
class _Engine:
    """What is known of one: its role by the table, when it last reported (s, caller's clock), its reports of the window."""

    role: Role
    seen: float
    reports: deque[Report] = field(default_factory=deque)

    @property
    def last(self) -> Report:
        return self.reports[-1]

    def keep(self, report: Report, window_s: float) -> None:
        """Add a report, and drop those that are not needed to look back over the window."""
        self.reports.append(report)
        while len(self.reports) > 2 and report.time_s - self.reports[1].time_s >= window_s:
            self.reports.popleft()

    def per_second(self, name: str) -> float:
        """Return by how much a sum grew per second of the window; 0 with one report."""
        first, last = self.reports[0], self.last
        return (getattr(last, name) - getattr(first, name)) / (last.time_s - first.time_s) if last is not first else 0.0


class Speeds:
    """What one engine can do, measured while it works; the priors of the settings until enough was seen.

    Both are moving averages that forget exponentially with the work that they have seen, so idle time forgets nothing.
    """

    def __init__(self, bounds: Bounds, settings: Settings) -> None:
        self.bounds, self.settings = bounds, settings
        self._tokens = self._busy = 0.0
        self._steps = [0.0] * 5  # see `learn`

    def learn(self, before: Report, after: Report) -> None:
        """Learn from what an engine did between two reports."""
        busy, tokens = after.prefill_busy_s - before.prefill_busy_s, after.prefilled - before.prefilled
        kept = math.exp(-busy / self.settings.memory_s)
        self._busy, self._tokens = kept * self._busy + busy, kept * self._tokens + tokens
        # A prefill holds the decode steps of the same engine up; else each step gives a token to every request of the batch.
        seconds, tokens = after.decode_busy_s - before.decode_busy_s, after.decoded - before.decoded
        batch_s = after.decode_batch_s - before.decode_batch_s
        if busy or not (seconds and tokens and batch_s):
            return
        batch, step, kept = batch_s / seconds, batch_s / tokens, math.exp(-seconds / self.settings.memory_s)
        new = (1.0, batch, step, batch * batch, batch * step)
        # Each step counts as one: a second in which the engine stalls is few of them.
        self._steps = [kept * old + seconds / step * value for old, value in zip(self._steps, new)]

    def prefill(self) -> float:
        """Return the prompt tokens that an engine prefills per second."""
        seen = self._busy >= self.settings.enough_s and self._tokens > 0
        return self._tokens / self._busy if seen else self.settings.prefill_rate

    def decode(self) -> float:
        """Return the output tokens that an engine generates per second with the largest batch that keeps the bound of TPOT."""
        alpha, beta = self.step()
        batch = min(max((self.bounds.tpot_ms / 1e3 - alpha) / beta, 1.0), self.settings.most_decoding)
        return batch / (alpha + beta * batch)

    def step(self) -> tuple[float, float]:
        """Return alpha and beta of a decode step's time, alpha + beta x batch, in s.

        Batches that differ by a fifth give a line of their own; of others the priors' line takes the height.
        """
        alpha, beta = self.settings.step_alpha_s, self.settings.step_beta_s
        if self._steps[2] < self.settings.enough_s:  # seconds: steps times their length
            return alpha, beta
        batch, step, square, product = (total / self._steps[0] for total in self._steps[1:])
        variance = square - batch * batch
        if variance > (batch / 5) ** 2:
            slope = (product - batch * step) / variance
            if 0 < slope < step / batch:
                return step - slope * batch, slope
        scale = step / (alpha + beta * batch)
        return scale * alpha, scale * beta


class Policy:
    """Chooses the ratio at which the busier stage would need the least time for the work that is known to come."""

    def __init__(self, bounds: Bounds, settings: Settings | None = None) -> None:
        self.bounds, self.settings = bounds, settings or Settings()
        self.speeds = Speeds(self.bounds, self.settings)
        self.horizon_s = max(bounds.ttft_ms / 1e3, self.settings.reaction_s) + self.settings.tick_s
        self._engines: dict[str, _Engine] = {}
        self._now = self._moved = -math.inf

    def decide(self, now: float, reports: Iterable[Report]) -> Decision:
        """Take the reports of a tick and say who does what from now on; an engine that is not among them keeps its last one.

        Args:
            now: Seconds by the caller's clock, which may have any origin.

        Raises:
            ValueError: A clock goes back, or an engine reports twice; the policy is as it was before the call.
        """
        reports = list(reports)
        self._refuse(now, reports)
        self._now = now
        for report in reports:
            self._take(report)
        heard = [each for each in self._engines.values() if now - each.seen <= self.settings.silence_s]
        present = sum(each.role == "prefill" for each in heard)
        costs = self._costs(heard)
        wanted, reason = self._choose(present, costs)
        if wanted != present:
            self._moved = now
            _move(heard, wanted - present)
        return Decision(wanted, {name: each.role for name, each in sorted(self._engines.items())}, costs, reason)

    def _refuse(self, now: float, reports: list[Report]) -> None:
        """Raise ValueError before anything is changed."""
        if not (math.isfinite(now) and now >= self._now):
            raise ValueError(f"now is {now}, after {self._now}: must be finite and never go back")
        if len({report.engine for report in reports}) < len(reports):
            raise ValueError("engine: two reports of one engine in a tick")
        for report in reports:
            known = self._engines.get(report.engine)
            if known and report.time_s < known.last.time_s:
                raise ValueError(f"time_s of {report.engine} goes back from {known.last.time_s} to {report.time_s}")

    def _take(self, report: Report) -> None:
        engine = self._engines.setdefault(report.engine, _Engine(report.role, self._now))
        if engine.reports and report.time_s == engine.last.time_s:
            return  # seen before
        engine.seen = self._now
        if engine.reports and report.follows(engine.last):
            self.speeds.learn(engine.last, report)
        else:
            engine.reports.clear()
        engine.keep(report, self.settings.window_s)

    def _costs(self, engines: list[_Engine]) -> dict[int, float]:
        """Return by number of prefill engines the seconds that the busier stage needs for what waits and what will arrive."""
        prompt = sum(each.last.waiting + self.horizon_s * each.per_second("prompt_asked") for each in engines)
        output = sum(each.last.to_come + self.horizon_s * each.per_second("output_asked") for each in engines)
        prefill, decode = prompt / self.speeds.prefill(), output / self.speeds.decode()
        return {number: max(prefill / number, decode / (len(engines) - number)) for number in range(1, len(engines))}

    def _choose(self, present: int, costs: dict[int, float]) -> tuple[int, str]:
        """Return the number of prefill engines to have, and why."""
        if not costs:
            return present, "fewer than two engines report: nothing to share out"
        best = min(costs, key=lambda number: costs[number])
        if present not in costs:
            return best, f"{present} -> {best} prefill: a stage had no engine"
        change = f"{costs[present]:.2f} s -> {costs[best]:.2f} s"
        if best == present:
            return present, f"{present} prefill is best: {costs[present]:.2f} s"
        if costs[present] <= self.settings.calm * self.horizon_s:
            return present, f"{present} prefill stays, load is light: {change} with {best}"
        if costs[best] >= (1 - self.settings.gain) * costs[present]:
            return present, f"{present} prefill stays, too little to gain: {change} with {best}"
        if self._now - self._moved < self.settings.cooldown_s:
            return present, f"{present} prefill stays, last move {self._now - self._moved:.1f} s ago: {change} with {best}"
        return best, f"{present} -> {best} prefill: {change}"


def _move(engines: list[_Engine], more: int) -> None:
    """Give `more` engines the role of prefill, or with a negative number of decode: those with least to do in their own."""
    (source, target), left = (ROLES[::-1], "to_come") if more > 0 else (ROLES, "waiting")
    movable = [each for each in engines if each.role == source]
    for each in sorted(movable, key=lambda each: (getattr(each.last, left), each.last.engine))[: abs(more)]:
        each.role = target

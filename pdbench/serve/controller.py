"""Move the roles of a pool with its load: every tick the engines' reports go to the policy, and its table to the engines.

It runs beside what describes a deployment, on the head, off the requests' way. If it dies or is stopped, the last table stays.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import Field

from pdbench.manifest import Strict, now

# Names, not modules: this travels to the head by value.
from pdbench.ratio.policy import Bounds as Promised
from pdbench.ratio.policy import Policy, Settings
from pdbench.ratio.policy import Report as EngineReport
from pdbench.serve.pool import PREFILL, Report

KEPT = 20_000  # ticks: five hours of one a second


class Bounds(Strict):
    """What the service promises to each request, in ms, and how often the policy decides, in s."""

    ttft_ms: float = Field(gt=0, allow_inf_nan=False)
    tpot_ms: float = Field(gt=0, allow_inf_nan=False)
    tick_s: float = Field(default=1.0, ge=0.1, le=60, allow_inf_nan=False)


class Tick(Strict):
    """What one tick saw and did.

    Attributes:
        time: when it began, and `unix` the same as Unix time.
        reports: of every engine that answered.
        prefill: how many engines prefill from now on; None where nothing was decided.
        changed: by engine its new role.
        reason: of the policy, or what went wrong.
        took_s: from asking for reports until the table was handed out.
    """

    time: str
    unix: float
    reports: list[Report]
    prefill: int | None
    changed: dict[str, str]
    reason: str
    took_s: float


class Controller:
    """The loop.

    Args:
        reports: asks every engine for its report.
        set_roles: has the engines named prefill, and the others decode; returns what each reports then.
    """

    def __init__(
        self, bounds: Bounds, reports: Callable[[], Awaitable[list[Report]]],
        set_roles: Callable[[list[str]], Awaitable[list[Report]]],
    ) -> None:  # fmt: skip
        self.bounds, self._reports, self._set_roles = bounds, reports, set_roles
        promised = Promised(ttft_ms=bounds.ttft_ms, tpot_ms=bounds.tpot_ms)
        self._policy = Policy(promised, Settings(tick_s=bounds.tick_s))
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.ticks: deque[Tick] = deque(maxlen=KEPT)

    @property
    def runs(self) -> bool:
        """Whether it decides."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to tick, in the event loop that runs."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End after the tick that is under way: what it hands out is handed out before anybody else does."""
        self._ended.set()
        if self._task:
            await self._task

    async def _run(self) -> None:
        while not self._ended.is_set():
            begun = time.monotonic()
            self.ticks.append(await self.tick())
            with contextlib.suppress(TimeoutError):  # time for the next one
                await asyncio.wait_for(self._ended.wait(), max(0.0, self.bounds.tick_s - (time.monotonic() - begun)))

    async def tick(self) -> Tick:
        """Ask, decide, and hand the table out if it differs from what engines do; whatever fails is in the tick's reason."""
        begun, seen = time.monotonic(), {"time": now(), "unix": time.time()}
        found: list[Report] = []
        prefill, changed = None, {}
        try:
            found = await self._reports()
            decision = self._policy.decide(time.monotonic(), [_of_engine(one) for one in found])
            prefill, reason = decision.prefill, decision.reason
            changed = {
                one.replica_id: decision.roles[one.replica_id] for one in found if decision.roles[one.replica_id] != one.role
            }
            if changed:
                await self._set_roles(sorted(name for name, role in decision.roles.items() if role == PREFILL))
        except Exception as error:  # a tick that fails must not end the loop: the next one asks again
            reason = f"{type(error).__name__}: {error}"
        return Tick(**seen, reports=found, prefill=prefill, changed=changed, reason=reason, took_s=time.monotonic() - begun)

    def account(self, since: float = 0.0) -> dict[str, Any]:
        """Return what `GET /pdbench/control` answers: bounds, whether it runs, and the ticks since a Unix time."""
        ticks = [tick.model_dump() for tick in self.ticks if tick.unix >= since]
        return {"bounds": self.bounds.model_dump(), "runs": self.runs, "ticks": ticks}


def _of_engine(report: Report) -> EngineReport:
    return EngineReport(engine=report.replica_id, role=report.role, **report.tokens)  # type: ignore[arg-type]

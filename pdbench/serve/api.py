"""Ask a running deployment about itself: the client half of `/pdbench/*`, with typed answers. describe.py is the other half."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp

from pdbench.layout import Layout
from pdbench.manifest import Deployment, Gate, Strict
from pdbench.serve.client import get, post, session
from pdbench.serve.compilations import Compilations
from pdbench.serve.controller import Bounds, Tick
from pdbench.serve.pool import Report

TIMEOUT_S = 60  # the slowest answers read the logs of all nodes


class Ready(Strict):
    """Which replicas answered a request.

    Attributes:
        counts: engine replicas by deployment name.
        answered: ids of those that answered; None where this Ray cannot address a replica.
        requests: that these were where answers come from.
    """

    counts: dict[str, int]
    answered: dict[str, list[str]] | None
    requests: int


class Deployed:
    """A deployment that describes itself. Every method raises ServerError if it does not answer."""

    def __init__(self, opened: aiohttp.ClientSession):
        self._opened = opened

    async def deployment(self) -> Deployment:
        """Return the description, with the replicas as they are now."""
        return Deployment.model_validate(await get(self._opened, "/pdbench/deployment"))

    async def counters(self) -> dict[str, dict[str, float]]:
        """Return counters since the launch, over the living replicas of each role: {role: {name: value}}."""
        return await get(self._opened, "/pdbench/counters")

    async def compilations(self) -> Compilations:
        """Return what the engines have compiled since their launch."""
        return Compilations.model_validate(await get(self._opened, "/pdbench/compilations"))

    async def transports(self) -> list[str]:
        """Return the UCX transports that have carried KV reads since the launch, and how, in UCX's words."""
        return await get(self._opened, "/pdbench/transports")

    async def haproxy(self) -> list[dict[str, Any]]:
        """Return HAProxy's servers; empty without HAProxy."""
        return await get(self._opened, "/pdbench/haproxy")

    async def ready(self) -> Ready:
        """Have every replica answer a request."""
        return Ready.model_validate(await post(self._opened, "/pdbench/ready", {}))

    async def roles(self) -> list[Report]:
        """Return what each replica of a pool reports."""
        return [Report(**one) for one in await get(self._opened, "/pdbench/roles")]

    async def set_roles(self, layout: Layout) -> list[Report]:
        """Have as many replicas of a pool prefill, and decode, as `layout` has; returns what each reports then."""
        body = {"to": str(layout)}
        return [Report(**one) for one in await post(self._opened, "/pdbench/roles", body)]

    async def control(self, bounds: Bounds | None) -> list[Report]:
        """Have a controller move the roles of a pool so that requests keep `bounds`, or none; returns what replicas report."""
        body = {"to": bounds.model_dump() if bounds else None}
        return [Report(**one) for one in await post(self._opened, "/pdbench/control", body)]

    async def ticks(self, since: float = 0.0) -> list[Tick]:
        """Return what the last controller saw and did since a Unix time; empty where there was none."""
        found = await get(self._opened, f"/pdbench/control?since={since}")
        return [Tick.model_validate(tick) for tick in found["ticks"]] if found else []

    async def seeds(self) -> set[int]:
        """Return the seeds of all prompts that the engines may have in their prefix caches."""
        return set(await get(self._opened, "/pdbench/seeds"))

    async def add_seeds(self, seeds: Iterable[int]) -> None:
        """Add seeds of prompts that will be sent."""
        await post(self._opened, "/pdbench/seeds", list(seeds))

    async def add_gate(self, gate: Gate) -> None:
        """Add a gate to the description."""
        await post(self._opened, "/pdbench/gates", gate.model_dump())


@contextlib.asynccontextmanager
async def deployed(base_url: str, timeout_s: float | None = TIMEOUT_S) -> AsyncIterator[Deployed]:
    """Open a session with the deployment at `base_url`.

    Args:
        timeout_s: for all requests of the session; None waits without limit.
    """
    async with session(base_url, total_s=timeout_s) as opened:
        yield Deployed(opened)


async def record_gate(base_url: str, gate: Gate) -> None:
    """Add a gate to the description of the deployment at `base_url`."""
    async with deployed(base_url) as running:
        await running.add_gate(gate)

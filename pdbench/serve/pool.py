"""Keep a pool of equal engines (mode pd-pool), of which a table says who prefills and who decodes.

vLLM's NixlConnector decides per request whether an engine computes a prompt for another one, so the ratio changes by routing
alone: nothing restarts, and work that was handed out ends where it is. Public pieces of Ray only: a server class and a request
router that reads what replicas report (pool_router.py), and a broadcast.
"""

import asyncio
from typing import Any

from pdbench.layout import Layout
from pdbench.manifest import Strict

REPORTS_S = 0.5  # how often routers learn of a replica's role and load
ROUTING = "own requests, then reports"  # what routers go by (pool_router.py); levels by another way are another arm's
MEET_TRIES = 20
PREFILL, DECODE = "prefill", "decode"


class Report(Strict):
    """What a replica of a pool does.

    Attributes:
        role: prefill or decode; empty where no table has named it yet, which takes either work.
        running, ended: requests by work (prefill, decode); those that ended since its start.
        tokens: of `pool_work.Work.report`.
    """

    replica_id: str
    role: str
    running: dict[str, int]
    ended: dict[str, int]
    tokens: dict[str, float] = {}


async def ask_all(deployment: str, app: str, method: str, *args: Any, timeout_s: float = 60.0) -> list[Any]:
    """Call a method of every replica of a pool; returns what they returned. One that has just died returns nothing.

    Raises:
        TimeoutError: one did not in time.
    """
    import ray
    from ray import serve

    response = serve.get_deployment_handle(deployment, app).broadcast(method, *args)
    found = await asyncio.wait_for(response.results_async(return_exceptions=True), timeout_s)
    dead = (ray.exceptions.RayActorError, serve.exceptions.RayServeException)
    for error in (one for one in found if isinstance(one, BaseException) and not isinstance(one, dead)):
        raise error
    return [one for one in found if not isinstance(one, BaseException)]


async def set_roles(deployment: str, app: str, prefill: list[str]) -> list[Report]:
    """Have the named replicas prefill, and the others decode; returns what each reports then."""
    return [Report(**one) for one in await ask_all(deployment, app, "set_roles", prefill)]


async def reports(deployment: str, app: str, timeout_s: float = 60.0) -> list[Report]:
    """Return what each replica reports."""
    return [Report(**one) for one in await ask_all(deployment, app, "report", timeout_s=timeout_s)]


async def answer(deployment: str, app: str, fields: dict[str, Any]) -> dict[str, list[str]]:
    """Have every replica complete a request in its role; returns their ids by role.

    Args:
        fields: of the request; must ask for a stream.

    Raises:
        RuntimeError: one answered with an error.
    """
    found: dict[str, list[str]] = {}
    for replica_id, role, said in await ask_all(deployment, app, "answer", fields):
        if "[DONE]" not in said:
            raise RuntimeError(f"replica {replica_id} of {deployment}: {said[-500:]}")
        found.setdefault(role, []).append(replica_id)
    return {role: sorted(ids) for role, ids in sorted(found.items(), reverse=True)}


async def meet(deployment: str, app: str, fields: dict[str, Any]) -> None:
    """Have every two replicas shake hands, both ways: a KV cache is read from each by every other one.

    Raises:
        RuntimeError: requests did not go to the one replica that prefills.
    """
    ids = sorted(report.replica_id for report in await reports(deployment, app))
    for one in ids:
        before = {r.replica_id: r for r in await set_roles(deployment, app, [one])}
        for _ in range(MEET_TRIES):  # routers learn of roles a moment later
            await answer(deployment, app, fields)
            after = {r.replica_id: r for r in await reports(deployment, app)}
            if after[one].ended[PREFILL] - before[one].ended[PREFILL] >= len(ids) - 1:
                break
            before = after
            await asyncio.sleep(REPORTS_S)
        else:
            raise RuntimeError(f"requests of {deployment} do not follow its table of roles: {after}")


def pool_of(replicas: list[dict[str, Any]]) -> str | None:
    """Return the deployment that is a pool, of `serve_app.replicas`; None where there is none."""
    return next((replica["deployment"] for replica in replicas if replica["role"] == "pool"), None)


def assign(found: list[Report], layout: Layout) -> list[str]:
    """Choose which replicas prefill under a layout: those that do already, then those with the fewest requests to decode.

    Args:
        found: of every replica.

    Returns:
        Their ids, sorted.

    Raises:
        ValueError: the pool has another number of engines than the layout.
    """
    prefill = layout.prefill.num if layout.prefill else 0
    if not prefill or prefill + layout.decode.num != len(found):
        raise ValueError(f"the pool has {len(found)} engines, which is not {layout}")
    order = sorted(found, key=lambda r: (r.role != PREFILL, r.running[DECODE], -r.running[PREFILL], r.replica_id))
    return sorted(report.replica_id for report in order[:prefill])

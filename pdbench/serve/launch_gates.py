"""Check a deployment that has just come up, before its launch returns: gates that its description keeps."""

import asyncio
import time
from types import ModuleType
from typing import Any

from pdbench.manifest import Gate, now
from pdbench.nodes import cluster
from pdbench.serve import serving_path
from pdbench.serve.api import deployed
from pdbench.serve.engine_ports import Engine, listening, ports_gate
from pdbench.serve.kinds import Kind
from pdbench.serve.plan import LaunchError, Plan
from pdbench.serve.serve_app import APP


def check(ray: ModuleType, kind: Kind, plan: Plan, deadline: float) -> list[Gate]:
    """Return the gates of a launch.

    Args:
        deadline: `time.monotonic()` at which to give up.

    Raises:
        LaunchError: one failed.
        TimeoutError: some replica answered nothing in time.
    """
    gates = [answered(kind, plan, deadline)]
    if plan.serving_path.has_haproxy:
        gates.append(asyncio.run(reached(plan, deadline)))
    engines = [replica for replica in kind.replicas() if replica["role"] != "ingress"]
    gates.append(own_ports(ray, engines))
    if plan.core_per_rank:
        gates.append(pin_ranks(ray, plan, engines))
    return gates


def answered(kind: Kind, plan: Plan, deadline: float) -> Gate:
    """Return gate `readiness`.

    Raises:
        TimeoutError: not all replicas have answered in time.
    """

    async def ask() -> Gate:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await kind.readiness(plan)

    try:
        return asyncio.run(ask())
    except TimeoutError:
        raise TimeoutError(f"not all {plan.replicas} replicas answered a request in time") from None


async def reached(plan: Plan, deadline: float) -> Gate:
    """Return gate `haproxy`: it hands requests to every replica that takes them.

    Raises:
        LaunchError: it does not in time.
    """
    takes = next(config["deployment_config"] for role, config in plan.llm_configs.items() if role != "prefill")
    pool = plan.ingress or takes
    while True:
        async with deployed(plan.base_url) as running:
            gate = serving_path.haproxy_gate(await running.haproxy(), APP, pool["num_replicas"])
        if gate.passed:
            return gate
        if time.monotonic() > deadline:
            raise LaunchError(f"HAProxy does not reach all replicas: {gate.seen}, expected {gate.expected}")
        await asyncio.sleep(0.5)


def own_ports(ray: ModuleType, engines: list[dict[str, Any]]) -> Gate:
    """Return gate `ports`: each engine listens at ports of its own.

    Raises:
        LaunchError: two of a node share one.
    """
    replicas = [{name: engine[name] for name in ("replica_id", "node_id", "pid")} for engine in engines]
    of_nodes = cluster.on_every_node(ray, listening, replicas).values()
    gate = ports_gate([Engine(**engine) for of_node in of_nodes for engine in of_node])
    if not gate.passed:
        raise LaunchError(f"{gate.seen}: expected {gate.expected}; {gate.advice}")
    return gate


def pin_ranks(ray: ModuleType, plan: Plan, engines: list[dict[str, Any]]) -> Gate:
    """Give each engine rank a core of its own.

    Raises:
        LaunchError: not all ranks were found; where some share a core, arms do not compare.
    """
    replicas, first = [], 0
    for engine in engines:
        replicas.append({"node_id": engine["node_id"], "pid": engine["pid"], "first": first})
        role = "decode" if engine["role"] == "pool" else engine["role"]  # all of a pool are alike
        first += plan.llm_configs[role]["engine_kwargs"]["tensor_parallel_size"]
    pinned = sum(cluster.on_every_node(ray, cluster.pin_ranks, replicas).values())
    if pinned != first:
        raise LaunchError(f"{pinned} of {first} engine ranks were found and pinned to a core: arms would not compare")
    return Gate(name="core-per-rank", passed=True, seen=f"{pinned} ranks pinned to a core",
                expected=f"{first} ranks", time=now())  # fmt: skip

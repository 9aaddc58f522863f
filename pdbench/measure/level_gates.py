"""Check around each level what the engines and the client did while it was measured.

A level counts only if all pass. Counters are vLLM's own, over all replicas of a role.
"""

import asyncio
import math
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from pdbench.layout import POOL
from pdbench.manifest import Deployment, Gate, Strict, now
from pdbench.measure import gates, role_gates
from pdbench.measure.bench_client import Used
from pdbench.measure.gates import transports_named
from pdbench.measure.tokens import read_tokens
from pdbench.model.kv_cache import KVCache
from pdbench.network.transport import transport_gate
from pdbench.network.ucx import loud
from pdbench.serve import compilations, readiness
from pdbench.serve.api import deployed
from pdbench.serve.controller import Tick
from pdbench.serve.counters import finished, grown, summed
from pdbench.serve.pool import DECODE, PREFILL, Report

# Two of a level's random prompts may begin at the same token by chance; what shows beyond this was seen before.
MAX_HIT_RATE = 0.02
# The client's event loop runs on one core; near all of it, requests wait for the client.
MAX_CLIENT_SHARE = 0.9
# Of the prompts whose tokens the collocated arm has saved, this many are compared after each level.
LEVEL_PROMPTS = 4
READY_TIMEOUT_S = 120
ANY_ROLE = "any role"  # of counters, where a controller moves roles


class Snapshot(Strict):
    """The engines at one moment: counters by role, the process of each replica, and what those of a pool report.

    `at` is its Unix time; `ticks` are those of a pool's controller since the snapshot before.
    """

    counters: dict[str, dict[str, float]]
    replicas: dict[str, int]
    since: list[int] = Field(default=[], description="prompt tokens of each request that checks and warm-up have sent since")
    compiled: compilations.Compilations = Field(default=compilations.Compilations(), description="when the level began")

    pool: list[Report] = []
    at: float = 0.0
    ticks: list[Tick] = []

    @property
    def requests(self) -> float:
        """Requests that engines have finished where answers come from: collocated or decode."""
        return sum(one.ended[DECODE] for one in self.pool) if ANY_ROLE in self.counters else finished(self.counters)


class Asked(Strict):
    """What was asked of the engines between two snapshots, and what their answers must keep to."""

    requests: int = Field(description="of the level")
    isl: int
    lengths: list[int] = Field(default=[], description="prompt tokens of each request, where they differ")
    transport: list[str] | None = None
    max_hit_rate: float = MAX_HIT_RATE
    cold: bool = Field(default=False, description="without warm-up, on purpose")


def snapshot(base_url: str) -> Snapshot:
    """Ask the deployment what its engines have done so far.

    Raises:
        ServerError: it does not answer.
    """
    return asyncio.run(_snapshot(base_url))


async def _after_level(base_url: str, before: Snapshot, requests: int) -> Snapshot:
    """A snapshot as soon as it shows `requests` more than `before`, or when it should have."""
    deadline = time.monotonic() + gates.COUNTERS_TIMEOUT_S
    while True:
        found = await _snapshot(base_url, before.at)
        if found.requests - before.requests >= requests or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.5)


async def _snapshot(base_url: str, since: float = math.inf) -> Snapshot:
    at = time.time()
    async with deployed(base_url) as running:
        counters, found = await running.counters(), await running.deployment()
        compiled = await running.compilations()
        pool = await running.roles() if found.mode == POOL else []
        ticks = await running.ticks(since) if found.controller and since < math.inf else []
    if found.controller:  # engines take what they have counted along into another role
        counters = {ANY_ROLE: summed(counters, PREFILL, DECODE)} | {k: v for k, v in counters.items() if k == "ingress"}
    replicas = {r.replica_id: r.pid for r in found.replicas}
    return Snapshot(counters=counters, replicas=replicas, compiled=compiled, pool=pool, at=at, ticks=ticks)


async def compilations_now(base_url: str) -> compilations.Compilations:
    """Ask what the engines have compiled since their launch."""
    async with deployed(base_url) as running:
        return await running.compilations()


def judge(before: Snapshot, after: Snapshot, deployment: Deployment, asked: Asked, carried: list[str] | None) -> list[Gate]:
    """Return the gates of the engines for one level.

    Args:
        carried: what UCX named; None without a KV transfer over UCX.
    """
    counted = grown(before.counters, after.counters)
    found = [
        _same_replicas(before, after), _all_finished(after.requests - before.requests, asked, before.since),
        _prefix_cache(counted, deployment, asked), _no_debug_logging(deployment),
        compilations.gate(before.compiled, after.compiled, asked.cold, _monitored_ranks(deployment)),
    ]  # fmt: skip
    if "ingress" in counted:
        found.append(_no_fallback(counted["ingress"]["fallback_requests"]))
    if "decode" in counted or ANY_ROLE in counted:
        found.append(_kv_transfer(counted, deployment, asked, before.since))
    if deployment.mode == POOL:
        found.append(role_gates.moved(after.ticks) if deployment.controller else role_gates.fixed(before.pool, after.pool))
    if carried is not None and deployment.transport:
        found.append(transport_gate(carried, deployment.transport["ucx_tls"], asked.transport))
    return found


def _monitored_ranks(deployment: Deployment) -> int:
    """How many ranks were launched to report what they compile; 0 where their vLLM does not."""
    engines = [(config, config.get("engine_kwargs", {})) for config in deployment.llm_configs.values()]
    return sum(config["deployment_config"]["num_replicas"] * engine["tensor_parallel_size"]
               for config, engine in engines if engine.get("jit_monitor_verbose"))  # fmt: skip


def _same_replicas(before: Snapshot, after: Snapshot) -> Gate:
    new = sorted(set(after.replicas.items()) - set(before.replicas.items()))
    gone = sorted(set(before.replicas.items()) - set(after.replicas.items()))
    seen = "; ".join(f"{what} {', '.join(name for name, _ in some)}" for what, some in (("new", new), ("gone", gone)) if some)
    return Gate(
        name="same-replicas", passed=not (new or gone), seen=seen or f"{len(after.replicas)} replicas, as before", time=now(),
        expected="no replica restarted", advice="find the reason in the log of the lost replica, then measure the level again",
    )  # fmt: skip


def _all_finished(finished: float, asked: Asked, checks: list[int]) -> Gate:
    needed = asked.requests + len(checks)
    late = "requests that an interrupted sweep aborted may end only now: run the same command again; if none was, "
    return Gate(
        name="requests", passed=finished == needed, seen=f"{finished:.0f} requests finished", time=now(),
        expected=f"{needed}, warm-up and checks included",
        advice=f"{late if finished > needed else ''}make sure nothing else sends requests to it",
    )  # fmt: skip


def _prefix_cache(grown: dict[str, dict[str, float]], deployment: Deployment, asked: Asked) -> Gate:
    """Hits where prompts are computed: decode replicas take them from the transfer. Of engines that change, hits of all."""
    name = next(role for role in ("prefill", ANY_ROLE, "collocated") if role in grown or role == "collocated")
    role, off = grown.get(name, {}), deployment.prefix_caching_off
    queries, hits = role.get("prefix_cache_queries", 0), role.get("prefix_cache_hits", 0)
    rate = hits / queries if queries else 0.0
    return Gate(
        name="prefix-cache", passed=(queries > 0 or off) and rate <= asked.max_hit_rate, time=now(), value=rate,
        seen=f"{rate:.1%} of {queries:.0f} prompt tokens were cached", expected=f"at most {asked.max_hit_rate:.1%}",
        advice="prompts were seen before: choose another --seed, launch again, or allow it with --max-hit-rate",
    )  # fmt: skip


def _no_debug_logging(deployment: Deployment) -> Gate:
    given = [config.get("runtime_env", {}).get("env_vars", {}) for config in deployment.llm_configs.values()]
    given += [machine.environment for machine in deployment.machines]
    found = sorted({f"{name}={value}" for environment in given for name, value in loud(environment).items()})
    return Gate(
        name="no-debug-logging", passed=not found, seen=", ".join(found) or "none", expected="none", time=now(),
        advice="launch without --verbose, and unset it on the nodes: debug logging costs throughput",
    )  # fmt: skip


def _no_fallback(requests: float) -> Gate:
    """Whether HAProxy kept to the way that is measured."""
    return Gate(
        name="serving-path", passed=requests <= 0, seen=f"{max(requests, 0):.0f} requests went through the fallback proxy",
        expected="none", time=now(), advice="HAProxy marked replicas as down on busy cores: measure the level again",
    )  # fmt: skip


def _kv_transfer(grown: dict[str, dict[str, float]], deployment: Deployment, asked: Asked, checks: list[int]) -> Gate:
    """Transfers, one for each request and rank, and bytes that NIXL moved against what the prompts' KV cache must weigh.

    A prompt that decode has cached saves bytes, but no transfer: its last block is read all the same. Bytes may lack what hits
    may save: counters do not say how much of their hits decode replicas had by themselves.
    """
    requests, each = asked.requests + len(checks), gates.transfers_each(deployment)
    total = {k: sum(role.get(k, 0) for role in grown.values())
             for k in ("kv_bytes", "kv_transfers", "kv_seconds", "kv_failed", "kv_expired")}  # fmt: skip
    speed = total["kv_bytes"] / total["kv_seconds"] / 1e9 if total["kv_seconds"] else 0.0
    unsaved = 1 - asked.max_hit_rate
    expected = f"at least {'one transfer' if each == 1 else f'{each} transfers'} for each of {requests} requests"
    passed = total["kv_transfers"] >= each * requests and total["kv_bytes"] > 0
    if deployment.kv_cache:
        least, most = _kv_bounds(deployment, (asked.lengths or [asked.isl] * asked.requests) + checks)
        least *= unsaved
        expected += f", {least / 2**20:.1f} to {most / 2**20:.1f} MiB"
        passed = passed and least <= total["kv_bytes"] <= most
    return Gate(
        name="kv-transfer", passed=passed and not total["kv_failed"] and not total["kv_expired"], time=now(), value=speed,
        seen=f"{total['kv_transfers']:.0f} transfers, {total['kv_bytes'] / 2**20:.1f} MiB in {total['kv_seconds']:.2f} s "
             f"({speed:.2f} GB/s), {total['kv_failed']:.0f} failed, {total['kv_expired']:.0f} expired",
        expected=f"{expected}, none failed or expired",
        advice=gates.transfer_advice(total["kv_expired"]),
    )  # fmt: skip


def _kv_bounds(deployment: Deployment, prompts: list[int]) -> tuple[float, float]:
    """Return the least and most bytes of prompts of these lengths."""
    engine = deployment.llm_configs["decode"]["engine_kwargs"]
    cache, tp = KVCache.model_validate(deployment.kv_cache).under(engine), engine["tensor_parallel_size"]
    copies = max(1.0, tp / cache.heads)  # more ranks than heads: heads are stored more than once
    least, most = (copies * sum(of_all) for of_all in zip(*map(cache.bounds, prompts), strict=True))
    return least, most


def client_gate(used: Used) -> Gate:
    """Check whether the bench client had time to spare; its wait for a core is recorded beside it."""
    share, waited = used.cpu / used.wall, used.waited / used.wall
    return Gate(
        name="client", passed=share < MAX_CLIENT_SHARE, value=share, time=now(),
        seen=f"the bench client used {share:.0%} of a core and waited {waited:.0%} of the time for one",
        expected=f"below {MAX_CLIENT_SHARE:.0%}", advice="run the client on another machine, or measure lower levels",
    )  # fmt: skip


def check(
    base_url: str, before: Snapshot, deployment: Deployment, asked: Asked, used: Used
) -> tuple[list[Gate], Snapshot]:  # fmt: skip
    """Judge the level that ended just now; returns its gates and the snapshot after it, which is the next level's before."""

    async def ask() -> tuple[Snapshot, Any]:
        after = await _after_level(base_url, before, asked.requests + len(before.since))
        ucx = deployment.transport and deployment.transport["backend"] == "UCX"
        return after, await transports_named(base_url) if ucx else None

    after, carried = asyncio.run(ask())
    return [*judge(before, after, deployment, asked, carried), client_gate(used)], after


def between(base_url: str, deployment: Deployment, tokens: Path | None) -> tuple[list[Gate], list[int]]:
    """Check after one level and before the next that every replica answers, and that PD still agrees with collocated.

    Args:
        tokens: what `gates --save` wrote of the collocated arm; None without one.

    Returns:
        The gates, and the prompt tokens of each request that was sent: the next level's snapshot must know of them.

    Raises:
        ServerError: a replica answered with an error, or not in time.
    """

    async def ask() -> tuple[list[Gate], list[int]]:
        gate, sent = await _every_replica_answers(base_url, deployment)
        if tokens is None:
            return [gate], sent
        saved = read_tokens(tokens, deployment).some(LEVEL_PROMPTS)
        return [gate, await gates.equal_tokens(base_url, deployment, saved)], sent + saved.lengths

    return asyncio.run(ask())


async def _every_replica_answers(base_url: str, deployment: Deployment) -> tuple[Gate, list[int]]:
    """Gate `readiness`, and the prompt tokens of the requests that engines have finished for it."""
    async with deployed(base_url, READY_TIMEOUT_S) as running:
        ready = await running.ready()
    if ready.answered is None:
        replicas = sum(ready.counts.values())
        requests = await readiness.ask_router(base_url, deployment.model_id, replicas)
        return readiness.router_gate(requests, replicas), [readiness.PROMPT_TOKENS] * requests
    return readiness.gate(ready.answered, ready.counts), [readiness.PROMPT_TOKENS] * ready.requests

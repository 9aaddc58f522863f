"""Start, show and stop one deployment on a connected cluster."""

import asyncio
import json
import logging
import re
import resource
import shlex
import sys
import time
from pathlib import Path

from pdbench import client
from pdbench.cli import ENGINES_LOADED
from pdbench.configs import ROOT, ModelConfig
from pdbench.layout import CONTROLS
from pdbench.manifest import Gate, now
from pdbench.model.model_folder import ModelError, check_weights, ensure_model, verified_checksum
from pdbench.nodes import cluster, stack
from pdbench.nodes.limits import soft_and_hard
from pdbench.serve import counters, describe, loading, readiness, servers, serving, serving_path
from pdbench.serve.api import deployed, record_gate
from pdbench.serve.bare import ControlPlan
from pdbench.serve.engine_ports import Engine, listening, ports_gate
from pdbench.serve.serving import APP, LaunchError, Plan
from pdbench.serve.serving_path import ServingPath

# `RuntimeError: ...` at a line's start or after a prefix.
ENGINE_ERROR = r"(?:^|\s)((?:[\w.]+\.)?\w*(?:Error|Exception): .+)"


def start(ray, plan: Plan, model: ModelConfig, deadline: float) -> None:
    """Deploy `plan` and return when every replica has answered a real request.

    Args:
        deadline: `time.monotonic()` at which to give up.

    Raises:
        LaunchError: it did not come up; what had started is stopped then.
        TimeoutError: some replica answered nothing in time.
    """
    started = time.time()
    checksum = prepare_weights(model)
    say(f"layout {plan.layout}, {plan.mode}, on {plan.placement}")
    base_url = f"http://{plan.http['host']}:{plan.http['port']}"
    try:
        cluster.on_every_node(ray, counters.prepare, counters.folder(plan.http["port"]))
        begun = time.monotonic()
        if isinstance(plan, ControlPlan):
            plan = servers.start(ray, plan, deadline)
        record = describe_launch(ray, plan) | {"model_checksum": checksum, "kv_cache": model.kv.model_dump()}
        extra = [(describe.NAME, describe.ROUTE, describe.application(record, started))]
        quiet_loggers()
        serving.deploy(plan, extra, deadline, say)
        if isinstance(plan, ControlPlan):
            servers.wait_until_up(ray, plan, deadline, say)
        say(ENGINES_LOADED.format(f"{(took := time.monotonic() - begun):.1f}"))
        found = cluster.on_every_node(ray, cluster.engine_lines, loading.LINES, started).values()
        if stages := loading.stage_seconds(line for lines in cluster.each_file_once(found) for line in lines):
            say(loading.summary(stages, took))
        checks = [answered(plan, base_url, deadline)]
        if plan.path and plan.path.has_haproxy:
            checks.append(asyncio.run(reached(plan, base_url, deadline)))
        checks.append(own_ports(ray, plan))
        if plan.core_per_rank:
            checks.append(pin_ranks(ray, plan))
    except BaseException as error:
        fail(ray, error, started)
        cluster.on_every_node(ray, counters.remove, counters.folder(plan.http["port"]))
        if isinstance(error, ray.exceptions.RayError):
            raise LaunchError(str(error).strip().splitlines()[-1]) from None
        raise
    for gate in checks:
        asyncio.run(record_gate(base_url, gate))
    at = f"{base_url}, requests to {plan.serving_url}" if isinstance(plan, ControlPlan) else base_url
    say(f"ready after {time.time() - started:.0f} s at {at}: every replica has answered a request")


def prepare_weights(model: ModelConfig) -> str | None:
    """Make the model, or check the folder that holds it; returns its checksum, None where it has none or comes from a hub.

    Raises:
        ModelError: there is no room for it, or a folder that is given is no whole model.
    """
    folder = Path(model.source)
    if model.made:
        say(f"model {model.model_id}: making it in {model.source}, or checking what is there")
        return ensure_model(folder, model.made)
    if not folder.is_dir():
        if folder.is_absolute() or model.source.startswith("."):
            raise ModelError(f"model_source {model.source}: no such folder")
        return None
    check_weights(folder)
    return verified_checksum(folder)


def fewer_connections(ray, path: ServingPath | None, given: dict[str, str]) -> tuple[str, str] | None:
    """Return the setting of Ray Serve with which HAProxy starts on the head, where it would not with the default one.

    Args:
        given: settings that the user named.

    Raises:
        ValueError: the user's own number does not fit there.
    """
    if not path or not path.has_haproxy:
        return None
    limit = cluster.on_head(ray, soft_and_hard, resource.RLIMIT_NOFILE)[1]
    name = serving_path.CONNECTIONS
    fitted = serving_path.fit_connections(path, name in given, limit)
    if fitted == path:
        return None
    say(f"HAProxy takes {fitted.connections} connections at once instead of {path.connections}: the head's hard limit of open "
        f"files is {limit}")  # fmt: skip
    return name, str(fitted.connections)


def answered(plan: Plan, base_url: str, deadline: float) -> Gate:
    """Return gate `readiness`: every replica has answered, or, with an older Ray, many requests at once were."""
    replicas = sum(config["deployment_config"]["num_replicas"] for config in plan.llm_configs.values())

    async def ask() -> Gate:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            if isinstance(plan, ControlPlan):
                async with deployed(base_url, timeout_s=None) as running:
                    ready = await running.ready()
                await client.smoke(plan.serving_url, plan.model_id, readiness.NEW_TOKENS)  # through the router, too
                return readiness.gate(ready.answered, ready.counts)
            counts = serving.replica_counts(serving.serve_details())
            if readiness.can_address_replicas():
                return readiness.gate(await readiness.ask_each(counts, APP, plan.model_id), counts)
            return readiness.router_gate(await readiness.ask_router(base_url, plan.model_id, replicas), replicas)

    try:
        return asyncio.run(ask())
    except TimeoutError:
        raise TimeoutError(f"not all {replicas} replicas answered a request in time") from None


async def reached(plan: Plan, base_url: str, deadline: float) -> Gate:
    """Return gate `haproxy`: it hands requests to every replica that takes them.

    Raises:
        LaunchError: it does not in time.
    """
    pool = plan.ingress or plan.llm_configs.get("decode", plan.llm_configs.get("collocated"))["deployment_config"]
    while True:
        async with deployed(base_url) as running:
            gate = serving_path.haproxy_gate(await running.haproxy(), APP, pool["num_replicas"])
        if gate.passed:
            return gate
        if time.monotonic() > deadline:
            raise LaunchError(f"HAProxy does not reach all replicas: {gate.seen}, expected {gate.expected}")
        await asyncio.sleep(0.5)


def describe_launch(ray, plan: Plan) -> dict:
    """Return what `GET /pdbench/deployment` answers: the fields of `manifest.Deployment`.

    Paths inside this repository are written relative to it, so that a manifest says the same on every machine.
    """
    machines = cluster.on_every_node(ray, stack.machine)
    dumped = json.loads(json.dumps(plan.model_dump()).replace(f"{ROOT}/", ""))
    control = {}
    if isinstance(plan, ControlPlan):
        commands = {server["name"]: _as_typed(server) for server in dumped["servers"]}
        control = {"serving_url": plan.serving_url, "servers": commands}
    return {
        "layout": plan.layout, "mode": plan.mode, "gpus": plan.gpus, "gpus_per_node": plan.gpus_per_node,
        "accelerator": plan.accelerator, "model_id": plan.model_id, "model_source": dumped["model_source"],
        "decode_bench": plan.decode_bench, **control,
        "serving_path": _path_of(plan),
        "transport": plan.transport.model_dump() if plan.transport else None,
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "launched": now(),
        "machines": [{**machine, "node_ip": ip} for ip, machine in machines.items()],
        "repository": stack.repository(ROOT).model_dump(),
        "llm_configs": dumped["llm_configs"],
        "gates": [],
    }  # fmt: skip


def _path_of(plan: Plan) -> dict | None:
    """`manifest.Deployment.serving_path`; None without Ray Serve."""
    if not plan.path:
        return None
    return plan.path.model_dump() | {"ingress_replicas": plan.ingress["num_replicas"] if plan.ingress else 0}


def _as_typed(server: dict) -> str:
    """A server's command line with its environment before it, as a shell reads it."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in server["environment"].items()), server["command"]])


def _engines(plan: Plan) -> list[dict]:
    """Replicas of the running deployment, without the ingress."""
    states = servers.states() if plan.mode in CONTROLS else serving.replicas(serving.serve_details())
    return [state for state in states if state["role"] != "ingress"]


def own_ports(ray, plan: Plan) -> Gate:
    """Return gate `ports`: each engine listens at ports of its own.

    Raises:
        LaunchError: two of a node share one.
    """
    replicas = [{name: state[name] for name in ("replica_id", "node_id", "pid")} for state in _engines(plan)]
    of_nodes = cluster.on_every_node(ray, listening, replicas).values()
    gate = ports_gate([Engine(**engine) for of_node in of_nodes for engine in of_node])
    if not gate.passed:
        raise LaunchError(f"{gate.seen}: expected {gate.expected}; {gate.advice}")
    return gate


def pin_ranks(ray, plan: Plan) -> Gate:
    """Give each engine rank a core of its own.

    Raises:
        LaunchError: not all ranks were found; where some share a core, arms do not compare.
    """
    replicas, first = [], 0
    for replica in _engines(plan):
        replicas.append({"node_id": replica["node_id"], "pid": replica["pid"], "first": first})
        first += plan.llm_configs[replica["role"]]["engine_kwargs"]["tensor_parallel_size"]
    pinned = sum(cluster.on_every_node(ray, cluster.pin_ranks, replicas).values())
    if pinned != first:
        raise LaunchError(f"{pinned} of {first} engine ranks were found and pinned to a core: arms would not compare")
    return Gate(name="core-per-rank", passed=True, seen=f"{pinned} ranks pinned to a core",
                expected=f"{first} ranks", time=now())  # fmt: skip


def fail(ray, error: BaseException, started: float) -> None:
    """Take the half-started deployment down and report the engines' own errors."""
    say(f"launch failed ({type(error).__name__}); stopping what had started")
    found = cluster.on_every_node(ray, cluster.engine_lines, ENGINE_ERROR, started).values()
    errors = (re.search(ENGINE_ERROR, line)[1][:500] for lines in cluster.each_file_once(found) for line in lines)
    for error in list(dict.fromkeys(errors))[:5]:
        say(f"an engine said: {error}")
    servers.stop(ray)
    serving.stop(time.monotonic() + 120)


def refuse_a_second() -> None:
    """Check that the cluster has no deployment of this repository, nor leftovers of an interrupted one.

    Raises:
        LaunchError: it has.
    """
    details = serving.serve_details()
    if servers.names_of_actors() or (details and {APP, describe.NAME} & set(details["applications"])):
        raise LaunchError("a deployment is running already: see it with --status, end it with --stop")


def stop(ray, deadline: float) -> None:
    """Stop the deployment; returns when all of its processes are gone.

    Raises:
        TimeoutError: something is left at the deadline (`time.monotonic()`).
    """
    details = serving.serve_details()
    replicas = [*serving.replicas(details), *servers.states()]
    trees = cluster.on_every_node(ray, cluster.process_tree, [r["pid"] for r in replicas if r["pid"]])
    ended = [servers.stop(ray), serving.stop(deadline)]
    say("stopped" if any(ended) else "no deployment was running")
    for ip, left in trees.items():
        while left:
            left = cluster.on_every_node(ray, cluster.process_tree, left)[ip]
            if left and time.monotonic() > deadline:
                raise TimeoutError(f"processes {left} on {ip} are still there")
    if details:
        cluster.on_every_node(ray, counters.remove, counters.folder(details["http_options"]["port"]))


def status() -> dict | None:
    """Return the app's status, its replica counts and its replicas; None if no deployment of this repository runs."""
    from ray import serve  # after connecting: Ray reads the token's place when it is imported

    details = serving.serve_details()
    if found := servers.states():
        is_whole = all(state["up"] and state["runs"] for state in found)
        counts = {role: {"RUNNING": count} for role, count in servers.engine_counts(found).items()}
        return {"running": True, "status": "RUNNING" if is_whole else "UNHEALTHY", "deployments": counts, "replicas": found}
    if not details or APP not in details["applications"]:
        return None
    app = serve.status().applications[APP]
    counts = {n: {str(getattr(s, "value", s)): c for s, c in d.replica_states.items() if c} for n, d in app.deployments.items()}
    return {"running": True, "status": app.status, "deployments": counts, "replicas": serving.replicas(details)}


def say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)


def quiet_loggers() -> None:
    """Silence Ray Serve's print of every deployment's options; --dry-run shows them better."""
    for name in ("ray.serve", "ray", "vllm"):
        logging.getLogger(name).setLevel(logging.WARNING)

"""Run a plan as an app of Ray Serve LLM. This module is a `kinds.Kind`; its other half is bare_servers.py.

Names, not modules, in `running` and `ask`: they travel to the node of the app that describes the deployment by value.
"""

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from pdbench import garbage
from pdbench.layout import POOL, Layout
from pdbench.manifest import Gate
from pdbench.nodes.stack import Stack
from pdbench.serve.api import deployed
from pdbench.serve.plan import LaunchError, Plan
from pdbench.serve.pool import REPORTS_S, answer, meet, pool_of
from pdbench.serve.readiness import ask_each, ask_router, can_address_replicas, gate, router_gate, short_completion

APP = "pdbench"
# The app that describes the deployment; control arms have it, too.
DESCRIBING_APP = "pdbench-describe"
# Each look costs the controller and this process some 50 ms of a core, which starting engines need.
POLL_S = 1.0


def start(ray: ModuleType, plan: Plan, deadline: float) -> Plan:
    """Start Serve and hand it the plan's app; returns the plan, in which nothing changes."""
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(start_serve, plan)
        with garbage.collector_off():
            importlib.import_module("ray.serve.llm")  # takes as long as Serve does, most of it for vLLM
        started.result()
    deploy(APP, "/", build_app(plan))
    return plan


def start_serve(plan: Plan) -> None:
    """Start Serve and its HTTP proxy at the plan's address."""
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options=plan.http)


def deploy(name: str, route: str, app: Any) -> None:
    """Hand an app to Serve; `wait_until_running` waits for it."""
    from ray import serve

    # Not serve.run: it waits without limit, and says nothing when an engine cannot start.
    target = serve.RunTarget(app, name=name, route_prefix=route)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def build_app(plan: Plan) -> Any:
    """Build the Serve application of a plan, from the public `ray.serve.llm` builders."""
    from ray.serve.llm import LLMConfig, build_openai_app, build_pd_openai_app

    more = {"callback_config": _no_download(LLMConfig)} if Path(plan.model_source).is_dir() else {}
    # Two separate objects: P and D of one shared LLMConfig would share an engine id.
    configs = {role: LLMConfig(**config, **more) for role, config in plan.llm_configs.items()}
    ingress = plan.ingress or {}
    if plan.mode == POOL:
        return build_openai_app({"llm_configs": [_pool(configs["decode"], plan)], "ingress_deployment_config": ingress})
    if "collocated" in configs:
        return build_openai_app({"llm_configs": [configs["collocated"]], "ingress_deployment_config": ingress})
    engines = {"prefill_config": configs["prefill"], "decode_config": configs["decode"]}
    return build_pd_openai_app(engines | Stack.installed().pd_deployments(ingress))


def _pool(config: Any, plan: Plan) -> Any:
    """The LLMConfig of a pool of all engines of a plan, from that of those that decode at first."""
    from pdbench.serve.pool_router import RoleRouter
    from pdbench.serve.pool_server import PoolServer

    router = {"request_router_class": RoleRouter, "request_routing_stats_period_s": REPORTS_S}
    of_pool = config.deployment_config | {"num_replicas": plan.replicas, "request_router_config": router}
    return config.model_copy(update={"server_cls": PoolServer, "deployment_config": of_pool})


def _no_download(llm_config: Any) -> dict[str, Any]:
    """`callback_config` of engines whose weights are a folder: nothing is to be fetched to the node.

    Ray would send a task there all the same, which imports vLLM once more: 13 s of a core for each replica.
    """
    default: Any = llm_config.model_fields["callback_config"].get_default(call_default_factory=True).callback_class

    class LocalWeights(default):
        async def on_before_node_init(self) -> None:
            self.ctx.run_init_node = False

    return {"callback_class": LocalWeights}


def wait_until_up(ray: ModuleType, plan: Plan, deadline: float, report: Callable[[str], None]) -> None:
    """Wait until the app runs, and the one that describes it."""
    wait_until_running([APP, DESCRIBING_APP], deadline, report)


def wait_until_running(names: list[str], deadline: float, report: Callable[[str], None]) -> None:
    """Wait until apps run.

    Args:
        deadline: `time.monotonic()` at which to give up.
        report: called with one line whenever the state of the plan's app changes.

    Raises:
        LaunchError: an app failed or did not run in time.
    """
    from ray import serve

    last = None
    while True:
        apps = serve.status().applications
        states = {name: apps[name] for name in names if name in apps}
        failed = [s for s in states.values() if s.status in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed:
            raise LaunchError(_messages(failed))
        if len(states) == len(names) and all(s.status == "RUNNING" for s in states.values()):
            return
        if time.monotonic() > deadline:
            raise LaunchError("not up within the time limit: " + _messages(states.values()))
        if (now := _replica_counts(apps.get(APP))) != last:
            report(last := now)
        time.sleep(POLL_S)


def _replica_counts(app: Any) -> str:
    if app is None:
        return "waiting for Serve"
    parts = []
    for name, states in _states(app).items():
        counts = ", ".join(f"{count} {state.lower()}" for state, count in states.items())
        parts.append(f"{name.split(':')[0]}: {counts or 'none yet'}")
    return "; ".join(parts) or "waiting for Serve"


def _states(app: Any) -> dict[str, dict[str, int]]:
    """How many replicas of each deployment are in which state."""
    return {name: {_text(state): count for state, count in deployment.replica_states.items() if count}
            for name, deployment in app.deployments.items()}  # fmt: skip


def _text(state: Any) -> str:
    """A state's name, whether it is of Ray's enum or the name itself."""
    return str(getattr(state, "value", state))


def _messages(apps: Iterable[Any]) -> str:
    lines = []
    for app in apps:
        lines += [f"{n}: {d.message}" for n, d in app.deployments.items() if d.message] or [app.message]
    return "\n".join(lines)


async def readiness(plan: Plan) -> Gate:
    """Return gate `readiness`: every replica has answered, or, with an older Ray, many requests at once were."""
    if plan.mode == POOL:
        await meet(pool_of(replicas()) or "", APP, short_completion(plan.model_id))
        async with deployed(plan.base_url) as running:
            await running.set_roles(Layout.parse(plan.layout))
    counts, answered = await ask(plan.model_id)
    if answered is None:
        return router_gate(await ask_router(plan.base_url, plan.model_id, plan.replicas), plan.replicas)
    return gate(answered, counts)


async def ask(model: str) -> tuple[dict[str, int], dict[str, list[str]] | None]:
    """Have every engine complete a request: number by deployment, and who answered if this Ray can address replicas."""
    found = replicas()
    if pool := pool_of(found):
        by_role = await answer(pool, APP, short_completion(model))
        # One that has just died says nothing, and is in no count of those that do.
        silent = {one["replica_id"] for one in found if one["role"] == "pool"}.difference(*by_role.values())
        if silent:
            raise RuntimeError(f"replicas of {pool} that did not answer: {', '.join(sorted(silent))}")
        return {role: len(ids) for role, ids in by_role.items()}, by_role
    counts = dict(Counter(replica["deployment"] for replica in found if replica["role"] != "ingress"))
    answered = await ask_each(counts, APP, model) if can_address_replicas() else None
    return counts, answered


def running() -> list[dict[str, Any]]:
    """Return replicas that run."""
    return [replica for replica in replicas() if replica["state"] == "RUNNING"]


def status() -> dict[str, Any] | None:
    """Return the app's status, its replica counts and its replicas; None if it is not there."""
    from ray import serve  # after connecting: Ray reads the token's place when it is imported

    details = serve_details()
    if not details or APP not in details["applications"]:
        return None
    app = serve.status().applications[APP]
    return {"running": True, "status": app.status, "deployments": _states(app), "replicas": replicas_of(details)}


def exists() -> bool:
    """Return whether Serve has an app of this repository."""
    details = serve_details()
    return bool(details and {APP, DESCRIBING_APP} & set(details["applications"]))


def stop(deadline: float) -> bool:
    """Shut Serve down and wait until no replica is left; False if it was not running.

    Raises:
        TimeoutError: replicas are still there at the deadline (`time.monotonic()`).
    """
    from ray import serve

    if serve_details() is None:
        return False
    serve.shutdown()
    # A controller that is dying still has its name, and the next launch would be handed to it.
    while _controller() is not None:
        if time.monotonic() > deadline:
            raise TimeoutError("Serve is still shutting down")
        time.sleep(0.1)
    return True


def _controller() -> Any:
    """Serve's controller, which may be dying; None without one."""
    import ray

    try:
        return ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return None


def serve_details() -> dict[str, Any] | None:
    """Return Serve's account of its apps, the shape of its REST API (`ray.serve.schema.ServeInstanceDetails`).

    Asked of the controller, as Ray's dashboard does, since a cluster may run without a dashboard.
    None if Serve is not running.
    """
    import ray

    if (controller := _controller()) is None:
        return None
    try:
        return ray.get(controller.get_serve_instance_details.remote(), timeout=30)
    except ray.exceptions.RayActorError:
        return None


def replicas() -> list[dict[str, Any]]:
    """Return every replica of the app: role, replica_id, node_id, node_ip, pid, deployment, state."""
    return replicas_of(serve_details())


def replicas_of(details: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return `replicas`, of what `serve_details` returned."""
    found = []
    app = (details or {"applications": {}})["applications"].get(APP, {"deployments": {}})
    for name, deployment in app["deployments"].items():
        role = role_of(name)
        for r in deployment["replicas"]:
            # A replica that is still starting has no node or process yet.
            found.append({
                "role": role, "replica_id": r["replica_id"], "node_id": r.get("node_id"), "node_ip": r.get("node_ip"),
                "pid": r.get("pid"), "deployment": name, "state": _text(r["state"]),
            })  # fmt: skip
    return found


def role_of(deployment: str) -> str:
    """Return the role of a deployment: `Prefill:gpt-oss-tiny` -> prefill; the names are those that Ray's builders give."""
    prefixes = {"Prefill": "prefill", "Decode": "decode", "LLMServer": "collocated", "PoolServer": "pool"}
    return prefixes.get(deployment.split(":")[0], "ingress")

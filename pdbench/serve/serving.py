"""Turn a layout into a running Ray Serve LLM app, and stop it."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pdbench.configs import HardwareConfig, ModelConfig
from pdbench.layout import CONTROLS, Layout, Pool
from pdbench.manifest import Strict
from pdbench.network.transport import Transport
from pdbench.nodes.cluster import Placement
from pdbench.nodes.stack import Stack
from pdbench.serve import counters
from pdbench.serve.compilations import pad_steps
from pdbench.serve.serving_path import ServingPath

APP = "pdbench"
# The smallest amount that still binds a bundle to a node: Ray gives every node 1.0 of `node:<ip>`.
PIN = 0.001
HEAD_RESOURCE = "node:__internal_head__"
MAX_ONGOING_REQUESTS = 8192
# Each look costs the controller and this process some 50 ms of a core, which starting engines need.
POLL_S = 1.0


class LaunchError(RuntimeError):
    """The app did not come up; the message has the engine's own error where there is one."""


class Plan(Strict):
    """All that a launch decides, before anything starts; prints as YAML with --dry-run."""

    layout: str
    mode: str
    gpus: int
    gpus_per_node: int
    accelerator: str
    model_id: str
    model_source: str
    placement: dict[str, str]
    transport: Transport | None
    core_per_rank: bool
    decode_bench: bool = False
    path: ServingPath | None
    ingress: dict[str, Any] | None
    llm_configs: dict[str, dict[str, Any]]
    http: dict[str, Any]


def make_plan(
    model: ModelConfig, hardware: HardwareConfig, layout: Layout, mode: str, placement: Placement,
    transport: Transport, path: ServingPath, ingress_replicas: int, host: str, port: int,
) -> Plan:  # fmt: skip
    """Resolve a layout on its nodes into the LLMConfigs, placement and environment of a launch."""
    pools = {"prefill": (layout.prefill, placement.prefill), "decode": (layout.decode, placement.decode)}
    if not layout.is_pd:
        pools = {"collocated": (layout.decode, placement.decode)}
    return Plan(
        layout=str(layout),
        mode=mode,
        gpus=layout.gpus,
        gpus_per_node=hardware.accelerators_per_node,
        accelerator=hardware.accelerator_type or hardware.accelerator,
        model_id=model.model_id,
        model_source=model.source,
        placement={role: node.ip if node else "any" for role, (_, node) in pools.items()} | {"ingress": "head"},
        transport=transport if layout.is_pd else None,
        core_per_rank=hardware.core_per_rank,
        path=path,
        ingress=None
        if path.direct_streaming
        else {
            "num_replicas": ingress_replicas,
            "max_ongoing_requests": MAX_ONGOING_REQUESTS,
            # Beside the HTTP proxy, in every arm, on the node that has no engines where there is such a one.
            "ray_actor_options": {"num_cpus": 0, "resources": {HEAD_RESOURCE: PIN}},
        },
        llm_configs={
            role: _llm_config(model, hardware, role, pool, node and node.ip, transport, path, port)
            for role, (pool, node) in pools.items()
        },
        http={"host": host, "port": port},
    )


def with_decode_bench(plan: Plan) -> Plan:
    """Return the plan with engines that fill a prompt's KV cache with dummy values instead of computing it.

    So decode runs at the real context length without prefill: vLLM's DecodeBenchConnector (vllm PR #25986).

    Raises:
        ValueError: the layout is not collocated, whose replicas are what decodes here.
    """
    if "collocated" not in plan.llm_configs:
        raise ValueError(f"--decode-bench measures decode alone: give a collocated layout, not {plan.layout} {plan.mode}")
    config = plan.llm_configs["collocated"]
    connector = {"kv_connector": "DecodeBenchConnector", "kv_role": "kv_both"}
    engine = config["engine_kwargs"] | {"kv_transfer_config": connector}
    return plan.model_copy(update={"decode_bench": True, "llm_configs": {"collocated": config | {"engine_kwargs": engine}}})


def _llm_config(
    model: ModelConfig,
    hardware: HardwareConfig,
    role: str,
    pool: Pool,
    node_ip: str | None,
    transport: Transport,
    path: ServingPath,
    port: int,
) -> dict[str, Any]:
    """Arguments of one `ray.serve.llm.LLMConfig`."""
    engine = {
        **Stack.installed().jit_monitor(hardware.accelerator), **hardware.engine_kwargs, **model.engine_kwargs,
        "tensor_parallel_size": pool.tp, "max_model_len": model.max_model_len,
    }  # fmt: skip
    if hardware.pad_steps_to and Stack.installed().compiles_each_step_size:
        engine = pad_steps(engine, hardware.pad_steps_to)
    env = hardware.env | {counters.ENV: counters.folder(port)}
    if role != "collocated":
        engine["kv_transfer_config"] = transport.kv_transfer_config(
            role, hardware.kv_buffer_device, hardware.kv_connector_extra_config, Stack.installed()
        )
        env |= transport.environment()
    elif transport.verbose:
        env |= {k: v for k, v in transport.environment().items() if k.startswith("VLLM")}
    bundle = {hardware.accelerator: 1}
    if node_ip:
        bundle[f"node:{node_ip}"] = PIN
    config = {
        "model_loading_config": {"model_id": model.model_id, "model_source": model.source},
        "engine_kwargs": engine,
        # A replica's ranks never cross nodes.
        "placement_group_config": {"bundles": [bundle] * pool.tp, "strategy": "STRICT_PACK"},
        "deployment_config": {
            "num_replicas": pool.num,
            "max_ongoing_requests": MAX_ONGOING_REQUESTS,
            # One try: a second start of the same engine only delays its error message.
            "max_constructor_retry_count": 1,
            **path.router_options,
            "ray_actor_options": {"num_cpus": 0 if hardware.accelerator == "CPU" else 1},
        },
        "runtime_env": {"env_vars": env},
        "experimental_configs": path.llm_options,
        # Else vLLM counts through Ray alone, which reports it late: see counters.py.
        "log_engine_metrics": False,
    }
    if hardware.accelerator == "CPU":
        config["accelerator_config"] = {"kind": "cpu"}
    elif hardware.accelerator_type:
        config["accelerator_type"] = hardware.accelerator_type
    return config


def build_app(plan: Plan):
    """Build the Serve application of a plan, from the public `ray.serve.llm` builders."""
    from ray.serve.llm import LLMConfig, build_openai_app, build_pd_openai_app

    more = {"callback_config": _no_download(LLMConfig)} if Path(plan.model_source).is_dir() else {}
    # Two separate objects: P and D of one shared LLMConfig would share an engine id.
    configs = {role: LLMConfig(**config, **more) for role, config in plan.llm_configs.items()}
    ingress = plan.ingress or {}
    if "collocated" in configs:
        return build_openai_app({"llm_configs": [configs["collocated"]], "ingress_deployment_config": ingress})
    engines = {"prefill_config": configs["prefill"], "decode_config": configs["decode"]}
    return build_pd_openai_app(engines | Stack.installed().pd_deployments(ingress))


def _no_download(llm_config: type) -> dict[str, Any]:
    """`callback_config` of engines whose weights are a folder: nothing is to be fetched to the node.

    Ray would send a task there all the same, which imports vLLM once more: 13 s of a core for each replica.
    """

    class LocalWeights(llm_config.model_fields["callback_config"].get_default(call_default_factory=True).callback_class):
        async def on_before_node_init(self) -> None:
            self.ctx.run_init_node = False

    return {"callback_class": LocalWeights}


def deploy(plan: Plan, extra_apps: list[tuple[str, str, Any]], deadline: float, report: Callable[[str], None]) -> None:
    """Deploy the plan's app, which a control arm lacks, and `extra_apps` (name, route, application); wait until they run.

    Args:
        deadline: `time.monotonic()` at which to give up.
        report: called with one line whenever the state changes.

    Raises:
        LaunchError: a deployment failed or was not up in time.
    """
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options=plan.http)
    targets = [] if plan.mode in CONTROLS else [serve.RunTarget(build_app(plan), name=APP, route_prefix="/")]
    targets += [serve.RunTarget(app, name=name, route_prefix=route) for name, route, app in extra_apps]
    # Not serve.run: it waits without limit, and says nothing when an engine cannot start.
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    _wait_until_running([target.name for target in targets], deadline, report)


def _wait_until_running(names: list[str], deadline: float, report: Callable[[str], None]) -> None:
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


def _replica_counts(app) -> str:
    if app is None:
        return "waiting for Serve"
    parts = []
    for name, deployment in app.deployments.items():
        counts = ", ".join(f"{n} {getattr(s, 'value', s).lower()}" for s, n in deployment.replica_states.items() if n)
        parts.append(f"{name.split(':')[0]}: {counts or 'none yet'}")
    return "; ".join(parts) or "waiting for Serve"


def _messages(apps) -> str:
    lines = []
    for app in apps:
        lines += [f"{n}: {d.message}" for n, d in app.deployments.items() if d.message] or [app.message]
    return "\n".join(lines)


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
        time.sleep(POLL_S)
    return True


def _controller():
    """Serve's controller, which may be dying; None without one."""
    import ray

    try:
        return ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return None


def serve_details() -> dict | None:
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


def replicas(details: dict | None) -> list[dict[str, Any]]:
    """Return every replica of the app: role, replica_id, node_id, node_ip, pid, deployment, state."""
    found = []
    app = (details or {"applications": {}})["applications"].get(APP, {"deployments": {}})
    for name, deployment in app["deployments"].items():
        role = role_of(name)
        for r in deployment["replicas"]:
            # A replica that is still starting has no node or process yet.
            found.append({
                "role": role, "replica_id": r["replica_id"], "node_id": r.get("node_id"), "node_ip": r.get("node_ip"),
                "pid": r.get("pid"), "deployment": name, "state": str(getattr(r["state"], "value", r["state"])),
            })  # fmt: skip
    return found


def replica_counts(details: dict | None) -> dict[str, int]:
    """Return engine replicas by deployment name."""
    return dict(Counter(r["deployment"] for r in replicas(details) if r["role"] != "ingress"))


def role_of(deployment: str) -> str:
    """Return the role of a deployment: `Prefill:gpt-oss-tiny` -> prefill; the names are those that Ray's builders give."""
    prefixes = {"Prefill": "prefill", "Decode": "decode", "LLMServer": "collocated"}
    return prefixes.get(deployment.split(":")[0], "ingress")

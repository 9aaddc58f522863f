"""Plan a launch: resolve a layout on its nodes into the arguments of Ray Serve LLM. Nothing starts here."""

from typing import Any, Literal

import yaml

from pdbench.configs import HardwareConfig, ModelConfig
from pdbench.layout import POOL, Layout, Pool
from pdbench.manifest import Strict
from pdbench.network.transport import Transport
from pdbench.nodes.cluster import Node, Placement
from pdbench.nodes.stack import Stack
from pdbench.serve import counters
from pdbench.serve.compilations import pad_steps
from pdbench.serve.serving_path import PREWARM, ServingPath

# The smallest amount that still binds a bundle to a node: Ray gives every node 1.0 of `node:<ip>`.
PIN = 0.001
HEAD_RESOURCE = "node:__internal_head__"
MAX_ONGOING_REQUESTS = 8192
# How often a replica that ends looks whether its last requests have, s: Ray's 2 s would be added to each stop.
QUICK_SHUTDOWN = {"graceful_shutdown_wait_loop_s": 0.1}

Role = Literal["collocated", "prefill", "decode"]


class LaunchError(RuntimeError):
    """The deployment did not come up; the message has the engine's own error where there is one."""


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

    @property
    def base_url(self) -> str:
        """Where the deployment describes itself."""
        return f"http://{self.http['host']}:{self.http['port']}"

    @property
    def takes_requests(self) -> str:
        """Where requests go."""
        return self.base_url

    @property
    def serving_path(self) -> ServingPath:
        """The path through Ray Serve; without Ray Serve one that needs nothing."""
        return self.path or ServingPath()

    @property
    def replicas(self) -> int:
        """How many engines there are."""
        return sum(config["deployment_config"]["num_replicas"] for config in self.llm_configs.values())

    @property
    def ingress_replicas(self) -> int:
        """How many replicas of the ingress there are."""
        return self.ingress["num_replicas"] if self.ingress else 0

    def servers_described(self) -> dict[str, Any]:
        """Return the fields of `manifest.Deployment` that a control arm alone has."""
        return {}

    def to_yaml(self) -> str:
        """Return all of it, every config written out."""
        return yaml.dump(self.model_dump(), Dumper=_Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def make_plan(
    model: ModelConfig, hardware: HardwareConfig, layout: Layout, mode: str, placement: Placement,
    transport: Transport, path: ServingPath, ingress_replicas: int, host: str, port: int,
) -> Plan:  # fmt: skip
    """Resolve a layout on its nodes into the LLMConfigs, placement and environment of a launch.

    Raises:
        ValueError: the engines of a pd-pool are to have two TP sizes.
    """
    if mode == POOL and layout.prefill and layout.prefill.tp != layout.decode.tp:
        raise ValueError(f"layout {layout}: each engine of a pd-pool may prefill and decode: give P and D the same TP size")
    pools: dict[Role, tuple[Pool, Node | None]] = {"collocated": (layout.decode, placement.decode)}
    if layout.prefill:
        pools = {"prefill": (layout.prefill, placement.prefill), "decode": (layout.decode, placement.decode)}
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
        ingress=None if path.direct_streaming else _ingress(ingress_replicas),
        llm_configs={
            role: _llm_config(model, hardware, role, pool, node, transport, path, port, mode == POOL)
            for role, (pool, node) in pools.items()
        },
        http={"host": host, "port": port},
    )  # fmt: skip


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


def _ingress(replicas: int) -> dict[str, Any]:
    return {
        "num_replicas": replicas,
        "max_ongoing_requests": MAX_ONGOING_REQUESTS,
        **QUICK_SHUTDOWN,
        # Beside the HTTP proxy, in every arm, on the node that has no engines where there is such a one.
        "ray_actor_options": {"num_cpus": 0, "resources": {HEAD_RESOURCE: PIN}},
    }


def _llm_config(
    model: ModelConfig, hardware: HardwareConfig, role: Role, pool: Pool, node: Node | None,
    transport: Transport, path: ServingPath, port: int, in_pool: bool,
) -> dict[str, Any]:  # fmt: skip
    """Arguments of one `ray.serve.llm.LLMConfig`; those of a pool differ in `num_replicas` alone."""
    engine = _engine(model, hardware, role, pool)
    env = Stack.installed().compile_cache(hardware.accelerator) | hardware.env | {counters.ENV: counters.folder(port)}
    if role != "collocated":
        engine["kv_transfer_config"] = transport.kv_transfer_config(
            "decode" if in_pool else role, hardware.kv_buffer_device, hardware.kv_connector_extra_config, Stack.installed()
        )
        env |= transport.environment()
    elif transport.verbose:
        env |= {k: v for k, v in transport.environment().items() if k.startswith("VLLM")}
    bundle: dict[str, float] = {hardware.accelerator: 1}
    if node:
        bundle[f"node:{node.ip}"] = PIN
    config = {
        "model_loading_config": {"model_id": model.model_id, "model_source": model.source},
        "engine_kwargs": engine,
        # A replica's ranks never cross nodes.
        "placement_group_config": {"bundles": [bundle] * pool.tp, "strategy": "STRICT_PACK"},
        "deployment_config": {
            "num_replicas": pool.num,
            "max_ongoing_requests": MAX_ONGOING_REQUESTS,
            **QUICK_SHUTDOWN,
            # One try: a second start of the same engine only delays its error message.
            "max_constructor_retry_count": 1,
            **path.router_options,
            "ray_actor_options": {"num_cpus": 0 if hardware.accelerator == "CPU" else 1},
        },
        "runtime_env": {"env_vars": env},
        # A replica of a pool would wait for itself.
        "experimental_configs": path.llm_options | ({PREWARM: False} if in_pool else {}),
        # Else vLLM counts through Ray alone, which reports it late: see counters.py.
        "log_engine_metrics": False,
    }
    if hardware.accelerator == "CPU":
        config["accelerator_config"] = {"kind": "cpu"}
    elif hardware.accelerator_type:
        config["accelerator_type"] = hardware.accelerator_type
    return config


def _engine(model: ModelConfig, hardware: HardwareConfig, role: Role, pool: Pool) -> dict[str, Any]:
    """Engine arguments of both kinds of arm: the model's win over the hardware's, a role's over both, the layout's over all."""
    engine = {
        **Stack.installed().jit_monitor(hardware.accelerator), **hardware.engine_kwargs, **model.engine_kwargs,
        **(model.role_kwargs[role] if role != "collocated" and role in model.role_kwargs else {}),
        "tensor_parallel_size": pool.tp, "max_model_len": model.max_model_len,
    }  # fmt: skip
    if hardware.pad_steps_to and Stack.installed().compiles_each_step_size:
        engine = pad_steps(engine, hardware.pad_steps_to)
    return engine

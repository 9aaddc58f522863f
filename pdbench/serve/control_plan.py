"""Plan the control arm: the engines of a plan under plain `vllm serve`, without Ray Serve between them and the client.

What it measures is what the serving framework adds. Model, engine arguments, environment, nodes and accelerators are
those of the Ray arm; what is in front of the engines is not: nothing before a single server, else vLLM's own router.
"""

import json
import shlex
from typing import Any
from urllib.parse import urlsplit

from pdbench.manifest import Strict
from pdbench.nodes.cluster import Node, Placement
from pdbench.serve.plan import HEAD_RESOURCE, PIN, Plan
from pdbench.serve.serving_path import EVERY_ADDRESS

# Counted from the port at which the deployment describes itself; the last two have one for each server.
ROUTER, ROUTER_METRICS, SERVERS, SIDE_CHANNELS = 1, 2, 10, 1000
# Up to vLLM 0.13 every rank of a server listens at a port of its own.
SIDE_CHANNEL_PORTS = 16
# Used in a plan where Ray chooses the node.
ITS_NODE = "<its node>"
# Of an LLMConfig; the rest has no meaning without Ray Serve, such as the batching of streamed tokens.
KEPT = ("model_loading_config", "engine_kwargs", "placement_group_config", "accelerator_type", "runtime_env")
# Ray Serve's default policy too. A request that fails must fail its level, not be sent once more.
ROUTER_OPTIONS = ("--policy", "power_of_two", "--disable-retries", "--worker-startup-check-interval", "1",
                  "--log-level", "warning")  # fmt: skip


class Server(Strict):
    """One process group of a control arm: a `vllm serve`, or the router (role `ingress`).

    Attributes:
        node_ip: None where Ray chooses the node.
        resources: options of the Ray actor that holds its accelerators.
    """

    name: str
    role: str
    node_ip: str | None
    url: str
    command: str
    environment: dict[str, str]
    resources: dict[str, Any]

    @property
    def as_typed(self) -> str:
        """The command line with its environment before it, as a shell reads it."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), self.command])

    def on(self, node_ip: str) -> "Server":
        """Return the server on the node that Ray has chosen for it."""
        return Server.model_validate_json(self.model_dump_json().replace(ITS_NODE, node_ip)).model_copy(
            update={"node_ip": node_ip}
        )


class ControlPlan(Plan):
    """All that the launch of a control arm decides; `serving_url` is where requests go."""

    servers: list[Server]
    serving_url: str

    @property
    def takes_requests(self) -> str:
        return self.serving_url

    def servers_described(self) -> dict[str, Any]:
        return {"serving_url": self.serving_url, "servers": {server.name: server.as_typed for server in self.servers}}

    def placed(self, node_ips: list[str]) -> "ControlPlan":
        """Return the plan with the nodes on which its servers run, in their order."""
        engines = [server.on(ip) for server, ip in zip(self.servers, node_ips, strict=True) if server.role != "ingress"]
        servers = _with_router(engines, node_ips[-1], self.http)
        return self.model_copy(update={"servers": servers, "serving_url": servers[-1].url})


def control_of(plan: Plan, mode: str, placement: Placement, head_ip: str) -> ControlPlan:
    """Return the control of `plan`, which is of the mode that `layout.CONTROLS` names beside `mode`.

    Args:
        placement: the nodes of `plan`.
        head_ip: where the router runs, as Ray Serve's ingress does.
    """
    configs = {role: _kept(config) for role, config in plan.llm_configs.items()}
    engines: list[Server] = []
    for role, config in configs.items():
        node = placement.prefill if role == "prefill" else placement.decode
        for index in range(config["deployment_config"]["num_replicas"]):
            engines.append(_server(f"{role}-{index}", role, config, node, plan.http, len(engines)))
    servers = _with_router(engines, head_ip, plan.http)
    return ControlPlan(
        **plan.model_dump() | {"mode": mode, "path": None, "ingress": None, "llm_configs": configs},
        servers=servers, serving_url=servers[-1].url,
    )  # fmt: skip


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    kept = {name: config[name] for name in KEPT if name in config}
    return kept | {"deployment_config": {"num_replicas": config["deployment_config"]["num_replicas"]}}


def _server(name: str, role: str, config: dict[str, Any], node: Node | None, http: dict[str, Any], number: int) -> Server:
    ip = node.ip if node else ITS_NODE
    host = http["host"] if node and node.is_head else ip
    port = http["port"] + SERVERS + number
    environment = dict(config["runtime_env"]["env_vars"])
    if role != "collocated":
        # As Ray Serve LLM sets them for its replicas.
        side_channel = http["port"] + SIDE_CHANNELS + number * SIDE_CHANNEL_PORTS
        environment |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": ip, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel)}
    return Server(
        name=name, role=role, node_ip=node and node.ip, url=_url(host, ip, port),
        command=shlex.join(serve_command(config, host, port)), environment=environment, resources=_resources(config),
    )  # fmt: skip


def serve_command(config: dict[str, Any], host: str, port: int) -> list[str]:
    """Return `vllm serve` with an LLMConfig's model and engine arguments."""
    model = config["model_loading_config"]
    words = ["vllm", "serve", model["model_source"], "--served-model-name", model["model_id"]]
    words += ["--host", host, "--port", str(port)]
    return words + [word for name, value in config["engine_kwargs"].items() for word in _option(name, value)]


def _option(name: str, value: Any) -> list[str]:
    """An engine argument as vLLM's command line spells it."""
    option = f"--{name.replace('_', '-')}"
    if value is None:
        return []
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if isinstance(value, dict):
        return [option, json.dumps(value)]
    return [option, *map(str, value)] if isinstance(value, (list, tuple)) else [option, str(value)]


def _with_router(servers: list[Server], head_ip: str, http: dict[str, Any]) -> list[Server]:
    """The servers and, if there are several, vLLM's router before them (https://github.com/vllm-project/router)."""
    if len(servers) == 1:
        return servers
    urls = {role: [server.url for server in servers if server.role == role] for role in ("prefill", "decode")}
    if urls["prefill"]:
        to = ["--vllm-pd-disaggregation", *(w for role in urls for url in urls[role] for w in (f"--{role}", url))]
    else:
        to = ["--worker-urls", *(server.url for server in servers)]
    port = http["port"] + ROUTER
    command = ["vllm-router", "--host", http["host"], "--port", str(port), *to, *ROUTER_OPTIONS]
    command += ["--prometheus-port", str(http["port"] + ROUTER_METRICS)]
    # It follows http_proxy, and its servers are the only ones that it talks to.
    hosts = ",".join(dict.fromkeys(urlsplit(server.url).hostname or "" for server in servers))
    return [*servers, Server(
        name="router", role="ingress", node_ip=head_ip, url=_url(http["host"], head_ip, port),
        command=shlex.join(command), environment=dict.fromkeys(("no_proxy", "NO_PROXY"), hosts),
        resources={"num_cpus": 0, "num_gpus": 0, "resources": {HEAD_RESOURCE: PIN}},
    )]  # fmt: skip


def _url(host: str, node_ip: str, port: int) -> str:
    return f"http://{node_ip if host in EVERY_ADDRESS else host}:{port}"


def _resources(config: dict[str, Any]) -> dict[str, Any]:
    """What the bundles of a Ray replica hold together, for one actor, which no more than those crosses nodes."""
    bundles = config["placement_group_config"]["bundles"]
    number = {unit: sum(bundle.get(unit, 0) for bundle in bundles) for unit in ("CPU", "GPU")}
    pins = {name: PIN for name in bundles[0] if name not in number}
    # Beside its GPUs a Ray replica holds one CPU.
    found = {"num_cpus": number["CPU"] or 1, "num_gpus": number["GPU"], "resources": pins}
    return found | ({"accelerator_type": config["accelerator_type"]} if "accelerator_type" in config else {})

"""Serve, beside the model's app, what is running: `GET /pdbench/deployment` and others.

Results learn their provenance from here, over the same address that they are measured at, and not
from what a caller claims. Idle while nobody asks.
"""

import asyncio
import contextlib
import json
import shlex
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pdbench.configs import ROOT, ModelConfig
from pdbench.files import first_line
from pdbench.layout import POOL, Layout, Pool
from pdbench.manifest import now
from pdbench.network.ucx_log import TABLE, read_tables, ways_of
from pdbench.nodes import stack

# Names, not modules: what the app uses travels to its node by value.
from pdbench.nodes.cluster import NodeProcesses, each_file_once, engine_lines, on_every_node
from pdbench.serve.compilations import LINES, read_compilations
from pdbench.serve.controller import Bounds, Controller
from pdbench.serve.counters import ENV, by_role, of_node
from pdbench.serve.kv_tokens import by_role as kv_by_role
from pdbench.serve.kv_tokens import of_node as kv_of_node
from pdbench.serve.plan import HEAD_RESOURCE, PIN, QUICK_SHUTDOWN, Plan
from pdbench.serve.pool import ROUTING, Report, assign, pool_of, reports, set_roles
from pdbench.serve.serve_app import APP
from pdbench.serve.serving_path import FALLBACK, HA_PROXY, haproxy_servers

ROUTE = "/pdbench"
ANSWERS = ("deployment", "counters", "haproxy", "transports", "compilations", "seeds", "roles", "control")
CONTROL_S = 5.0  # for the engines to report to a controller
# Functions of a kinds.Kind.
Running = Callable[[], list[dict[str, Any]]]
Ask = Callable[[str], Awaitable[tuple[dict[str, int], dict[str, list[str]] | None]]]


def record_of(ray: ModuleType, plan: Plan) -> dict[str, Any]:
    """Return what `GET /pdbench/deployment` answers: the fields of `manifest.Deployment` that a launch knows."""
    machines = on_every_node(ray, stack.machine)
    return planned_record(plan) | {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "launched": now(),
        "machines": [{**machine, "node_ip": ip} for ip, machine in machines.items()],
        "repository": stack.repository(ROOT).model_dump(),
        "gates": [],
    }


def planned_record(plan: Plan) -> dict[str, Any]:
    """Return the fields of `manifest.Deployment` that are known before a launch.

    Paths inside this repository are written relative to it, so that a manifest says the same on every machine.
    """
    return {
        "layout": plan.layout, "mode": plan.mode, "gpus": plan.gpus, "gpus_per_node": plan.gpus_per_node,
        "accelerator": plan.accelerator, "model_id": plan.model_id, "model_source": _relative(plan.model_source),
        "decode_bench": plan.decode_bench, "core_per_rank": plan.core_per_rank, **_relative(plan.servers_described()),
        "serving_path": plan.path and plan.path.model_dump() | {"ingress_replicas": plan.ingress_replicas}
        | ({"pool_routing": ROUTING} if plan.mode == POOL else {}),
        "transport": plan.transport.model_dump() if plan.transport else None,
        "llm_configs": _relative(plan.llm_configs),
    }  # fmt: skip


def described(model: ModelConfig) -> dict[str, Any]:
    """Return the fields of `manifest.Deployment` that a model file decides."""
    return {"kv_cache": model.kv.model_dump(), "made": model.made.model_dump() if model.made else None}


def _relative(data: Any) -> Any:
    return json.loads(json.dumps(data).replace(f"{ROOT}/", ""))


class Describe:
    """The deployment's description as given at launch, with the replicas as they are now."""

    def __init__(self, record: dict[str, Any], started: float, running: Running, ask: Ask) -> None:
        self.record, self.started, self.running, self.ask = record, started, running, ask
        path = record.get("serving_path") or {"env": {}}
        self.has_haproxy = path["env"].get(HA_PROXY) == "1"
        self.nodes = NodeProcesses()
        self.roles: dict[str, str] = {}  # of a pool's replicas
        self.controller: Controller | None = None
        self.seeds: list[int] = []  # of all prompts that these engines may have in their prefix caches

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        what = (request.method, request.url.path.rstrip("/").rsplit("/", 1)[-1])
        if what == ("GET", "deployment"):
            await self._adopt()
            return JSONResponse(await asyncio.to_thread(self._deployment))
        # What waits for other nodes does so in a thread: a controller goes on meanwhile.
        if what == ("GET", "counters"):
            return JSONResponse(await asyncio.to_thread(self._counters))
        if what == ("GET", "haproxy"):
            return JSONResponse(haproxy_servers() if self.has_haproxy else [])
        if what == ("GET", "transports"):
            return JSONResponse(await asyncio.to_thread(self._transports))
        if what == ("GET", "compilations"):
            return JSONResponse(await asyncio.to_thread(self._compilations))
        if what == ("GET", "seeds"):
            return JSONResponse(self.seeds)
        if what == ("GET", "roles"):
            return JSONResponse([one.model_dump() for one in await self._healed()])
        if what == ("GET", "control"):
            since = float(request.query_params.get("since", 0))
            return JSONResponse(self.controller.account(since) if self.controller else None)
        if what in (("POST", "roles"), ("POST", "control")):
            change = self._set_roles if what[1] == "roles" else self._control
            try:
                return JSONResponse([one.model_dump() for one in await change((await request.json())["to"])])
            except ValueError as error:
                return JSONResponse({"error": first_line(error)}, status_code=409)
        if what == ("POST", "ready"):
            return JSONResponse(await self._ready())
        if what == ("POST", "seeds"):
            self.seeds += await request.json()
            return JSONResponse({})
        if what == ("POST", "gates"):
            self.record["gates"].append(await request.json())
            return JSONResponse({})
        return JSONResponse({"error": f"ask for {', '.join(ANSWERS)}"}, status_code=404)

    def _deployment(self) -> dict[str, Any]:
        """The fields of `manifest.Deployment`; how much KV caches hold is known once the engines have started."""
        replicas = self._replicas()
        engines = [replica for replica in replicas if replica["role"] != "ingress"]
        if not self.record.get("kv_tokens") and engines:
            import ray

            self.record["kv_tokens"] = None
            gone = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError, ray.exceptions.NodeDiedError)
            with contextlib.suppress(*gone):  # a node that has just died: asked again the next time
                found = self.nodes.run(ray, kv_of_node, engines, self.started)
                self.record["kv_tokens"] = kv_by_role(engines, found) or None
        return self.record | {"replicas": replicas}

    def _replicas(self) -> list[dict[str, Any]]:
        keep = ("role", "replica_id", "node_id", "node_ip", "pid")
        found = [{name: replica[name] for name in keep} for replica in self.running()]
        return [replica | {"role": self.roles.get(replica["replica_id"], replica["role"])} for replica in found]

    def _pool(self) -> str:
        return pool_of(self.running()) or ""

    async def _healed(self) -> list[Report]:
        """Reports of a pool's replicas, of which one that has come new has got the role of one that is gone."""
        found = await reports(self._pool(), APP)
        whole = len(found) == len(self.roles)  # else one is gone, and the new one is still on its way
        if not whole or {one.replica_id for one in found} == set(self.roles) or self._is_controlled:
            return found
        return await self._set_roles(self.record["layout"])

    @property
    def _is_controlled(self) -> bool:
        """Whether a controller moves the roles."""
        return self.controller is not None and self.controller.runs

    async def _set_roles(self, layout: str) -> list[Report]:
        """Give the pool the roles of a layout; from then on that is the layout of the deployment."""
        if self._is_controlled:
            raise ValueError("a controller moves the roles: stop it with --control off")
        return await self._hand_out(assign(await reports(self._pool(), APP), Layout.parse(layout)))

    async def _hand_out(self, prefill: list[str]) -> list[Report]:
        """Have the replicas named prefill, and the others decode; the record has their layout from then on."""
        return self._note(await set_roles(self._pool(), APP, prefill))

    async def _adopt(self) -> None:
        """After a crash of this replica, learn a pool's table from its engines: it may not be the one of the launch."""
        if not self.roles and (pool := self._pool()):
            self._note(await reports(pool, APP))

    def _note(self, found: list[Report]) -> list[Report]:
        """Keep who does what; the layout of before stays while a replica that is gone leaves a role without an engine."""
        self.roles = {one.replica_id: one.role for one in found}
        counts = {role: list(self.roles.values()).count(role) for role in self.record["llm_configs"]}
        if all(counts.values()):
            for role, config in self.record["llm_configs"].items():
                config["deployment_config"]["num_replicas"] = counts[role]
            tp = Layout.parse(self.record["layout"]).decode.tp
            self.record["layout"] = str(Layout(prefill=Pool(counts["prefill"], tp), decode=Pool(counts["decode"], tp)))
        return found

    async def _control(self, bounds: dict[str, float] | None) -> list[Report]:
        """Have a controller keep bounds, or none; the ticks of the last one stay until the next."""
        if not (pool := self._pool()):
            raise ValueError(f"mode {self.record['mode']} has no table of roles that a controller could move")
        promised = Bounds(**bounds) if bounds else None
        if self.controller:
            await self.controller.stop()
        self.record["controller"] = promised.model_dump() if promised else None
        if promised:
            self.controller = Controller(promised, partial(reports, pool, APP, CONTROL_S), self._hand_out)
            self.controller.start()
        return await reports(pool, APP)

    async def _ready(self) -> dict[str, Any]:
        """Engine replicas by deployment, those that answered a request (null where Ray cannot address them), and how many
        requests that was where answers come from."""
        if self.roles:
            await self._healed()
        counts, answered = await self.ask(self.record["model_id"])
        requests = sum(count for name, count in counts.items() if not name.lower().startswith("prefill"))
        return {"counts": counts, "answered": answered, "requests": requests}

    def _compilations(self) -> dict[str, Any]:
        """Kernels that engines have compiled since they started: the fields of `compilations.Compilations`."""
        import ray

        files = each_file_once(self.nodes.run(ray, engine_lines, LINES, self.started))
        return read_compilations([line for lines in files for line in lines])

    def _transports(self) -> list[str]:
        """What has carried KV reads so far, and how, in the words that UCX printed on any node."""
        import ray

        files = each_file_once(self.nodes.run(ray, engine_lines, TABLE, self.started))
        return ways_of([read for lines in files for read in read_tables(lines)])

    def _counters(self) -> dict[str, dict[str, float]]:
        """Counters since the start, over the living replicas of each role: {role: {name: value}}."""
        import ray

        engines = [replica for replica in self._replicas() if replica["role"] != "ingress"]
        folder = next(iter(self.record["llm_configs"].values()))["runtime_env"]["env_vars"][ENV]
        found = by_role(engines, self.nodes.run(ray, of_node, folder, engines))
        if self.has_haproxy:
            # To a slower proxy, where HAProxy marked the replicas as down.
            others = [server["requests"] for server in haproxy_servers() if server["name"].startswith(FALLBACK)]
            found["ingress"] = {"fallback_requests": float(sum(others))}
        return found


def application(record: dict[str, Any], started: float, running: Running, ask: Ask) -> Any:
    """Return the Serve application; on the head, where it shares no node with engines if there are others.

    Args:
        record: the fields of `manifest.Deployment` but the replicas.
        started: Unix time of the launch; older engine output is of another deployment.
        running: of the deployment's kind, as is `ask`.
    """
    from ray import serve

    options = {"num_cpus": 0, "resources": {HEAD_RESOURCE: PIN}}
    deployment = serve.deployment(Describe, name="Describe", num_replicas=1, ray_actor_options=options, **QUICK_SHUTDOWN)
    return deployment.bind(record, started, running, ask)

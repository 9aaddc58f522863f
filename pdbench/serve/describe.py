"""Serve, beside the model's app, what is running: `GET /pdbench/deployment` and others.

Results learn their provenance from here, over the same address that they are measured at, and not
from what a caller claims. Idle while nobody asks.
"""

from typing import Any

from pdbench.layout import CONTROLS
from pdbench.network.ucx_log import TABLE, read_tables, transports_of

# Names, not modules: what the app uses travels to its node by value.
from pdbench.nodes.cluster import NodeProcesses, each_file_once, engine_lines
from pdbench.serve.compilations import LINES, read_compilations
from pdbench.serve.counters import ENV, by_role, of_node
from pdbench.serve.readiness import ask_each, ask_servers, can_address_replicas
from pdbench.serve.servers import engine_counts, states
from pdbench.serve.serving import APP, replica_counts, replicas, role_of, serve_details
from pdbench.serve.serving_path import FALLBACK, HA_PROXY, haproxy_servers

NAME = "pdbench-describe"
ROUTE = "/pdbench"


class Describe:
    """The deployment's description as given at launch, with the replicas as they are now."""

    def __init__(self, record: dict[str, Any], started: float):
        self.record, self.started = record, started
        self.is_control = record["mode"] in CONTROLS
        path = record.get("serving_path") or {"env": {}}
        self.has_haproxy = path["env"].get(HA_PROXY) == "1"
        self.nodes = NodeProcesses()
        self.seeds: list[int] = []  # of all prompts that these engines may have in their prefix caches

    async def __call__(self, request):
        from starlette.responses import JSONResponse

        what = (request.method, request.url.path.rstrip("/").rsplit("/", 1)[-1])
        if what == ("GET", "deployment"):
            return JSONResponse(self.record | {"replicas": self._replicas()})
        if what == ("GET", "counters"):
            return JSONResponse(self._counters())
        if what == ("GET", "haproxy"):
            return JSONResponse(haproxy_servers() if self.has_haproxy else [])
        if what == ("GET", "transports"):
            return JSONResponse(self._transports())
        if what == ("GET", "compilations"):
            return JSONResponse(self._compilations())
        if what == ("GET", "seeds"):
            return JSONResponse(self.seeds)
        if what == ("POST", "ready"):
            return JSONResponse(await self._ready())
        if what == ("POST", "seeds"):
            self.seeds += await request.json()
            return JSONResponse({})
        if what == ("POST", "gates"):
            self.record["gates"].append(await request.json())
            return JSONResponse({})
        return JSONResponse({"error": "ask for deployment, counters, compilations, transports or seeds"}, status_code=404)

    def _replicas(self) -> list[dict]:
        keep = ("role", "replica_id", "node_id", "node_ip", "pid")
        if self.is_control:
            return [{k: state[k] for k in keep} for state in states() if state["pid"] and state["runs"]]
        return [{k: r[k] for k in keep} for r in replicas(serve_details()) if r["state"] == "RUNNING"]

    async def _ready(self) -> dict[str, dict]:
        """Engine replicas by deployment, those that answered a request (null where Ray cannot address them), and how many
        requests that was where answers come from."""
        model = self.record["model_id"]
        if self.is_control:
            found = states()
            counts, answered = engine_counts(found), await ask_servers(found, model)
        else:
            counts = replica_counts(serve_details())
            answered = await ask_each(counts, APP, model) if can_address_replicas() else None
        requests = sum(count for name, count in counts.items() if "prefill" not in (name, role_of(name)))
        return {"counts": counts, "answered": answered, "requests": requests}

    def _compilations(self) -> dict:
        """Kernels that engines have compiled since they started: the fields of `compilations.Compilations`."""
        import ray

        files = each_file_once(self.nodes.run(ray, engine_lines, LINES, self.started))
        return read_compilations([line for lines in files for line in lines])

    def _transports(self) -> list[str]:
        """What has carried KV reads so far, in the words that UCX printed on any node."""
        import ray

        files = each_file_once(self.nodes.run(ray, engine_lines, TABLE, self.started))
        return transports_of([read for lines in files for read in read_tables(lines)])

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


def application(record: dict[str, Any], started: float):
    """Return the Serve application; on the head, where it shares no node with engines if there are others.

    Args:
        record: the fields of `manifest.Deployment` but the replicas.
        started: Unix time of the launch; older engine output is of another deployment.
    """
    from ray import serve

    from pdbench.serve.serving import HEAD_RESOURCE, PIN

    options = {"num_cpus": 0, "resources": {HEAD_RESOURCE: PIN}}
    deployment = serve.deployment(Describe, name="Describe", num_replicas=1, ray_actor_options=options)
    return deployment.bind(record, started)

"""Run the servers of a control arm: each is started, watched and ended by a detached Ray actor that has its accelerators.

This module is a `kinds.Kind`; its other half is serve_app.py. Names, not modules, in `Keeper`, `running` and `ask`: they travel
to nodes by value.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pdbench.manifest import Gate
from pdbench.nodes.cluster import travel_by_value
from pdbench.serve.api import deployed
from pdbench.serve.client import smoke
from pdbench.serve.control_plan import ControlPlan, Server
from pdbench.serve.plan import LaunchError
from pdbench.serve.readiness import NEW_TOKENS, ask_servers, gate
from pdbench.serve.serve_app import DESCRIBING_APP, POLL_S, start_serve, wait_until_running

NAMESPACE = "pdbench"
PREFIX = "pdbench-bare-"
ANSWER_S = 30.0


class Keeper:
    """Runs one server on its node; its output goes where Ray keeps that of its workers."""

    def __init__(self, name: str, role: str) -> None:
        self.name, self.role = name, role
        self.url, self.up = "", False
        self.process: subprocess.Popen[bytes] | None = None
        self.server: Any = None

    def look(self, program: str) -> tuple[str, bool]:
        """Return this node's IP, and whether `program` is installed there."""
        import ray

        return ray.util.get_node_ip_address(), self._find(program) is not None

    @staticmethod
    def _find(program: str) -> str | None:
        return shutil.which(program, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

    def start(self, url: str, command: str, environment: dict[str, str], keeper: str) -> None:
        """Start the server; `keeper` is the text of keeper.py."""
        program, *options = shlex.split(command)
        self.url = url
        here = {name: os.path.expandvars(value) for name, value in environment.items()}  # as Ray does for its own workers
        # Ray ends what a worker has started with the worker, but not what that has started.
        self.process = subprocess.Popen(
            [sys.executable, "-", self._find(program) or program, *options],
            stdin=subprocess.PIPE, env=os.environ | here,
        )  # fmt: skip
        assert self.process.stdin  # a pipe
        self.process.stdin.write(keeper.encode())
        self.process.stdin.close()

    def state(self) -> dict[str, Any]:
        """Return where it runs, its process, whether it runs, and whether it has answered /health."""
        import psutil
        import ray

        status = self.process.poll() if self.process else None
        if self.process and status is None and not self.server:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self.server = psutil.Process(self.process.pid).children()[0]
        # Its keeper outlives it for as long as it takes to end what it has left.
        has_ended = status is not None or (self.server is not None and not _is_alive(self.server))
        self.up = self.up or bool(self.process and not has_ended and self._is_healthy())
        pid = self.server.pid if self.server else None
        return {
            "role": self.role, "replica_id": self.name, "node_id": ray.get_runtime_context().get_node_id(),
            "node_ip": ray.util.get_node_ip_address(), "pid": pid, "url": self.url, "up": self.up,
            "runs": not has_ended,
        }  # fmt: skip

    def _is_healthy(self) -> bool:
        from http.client import HTTPConnection
        from urllib.parse import urlsplit

        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=2)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def stop(self) -> None:
        """End the server; returns when none of its processes is left."""
        if self.process:
            self.process.terminate()
            self.process.wait()


def _is_alive(process: Any) -> bool:
    """Whether a `psutil.Process` runs; one whose parent has not noticed its end yet does not."""
    with contextlib.suppress(Exception):  # psutil.NoSuchProcess, of a module that only the nodes need
        return process.is_running() and process.status() != "zombie"
    return False


def start(ray: ModuleType, plan: ControlPlan, deadline: float) -> ControlPlan:
    """Start the actors, all servers but the router, and Serve; returns the plan with the nodes that Ray chose.

    Args:
        deadline: `time.monotonic()` at which to give up.

    Raises:
        LaunchError: the cluster has no room for one, or a node lacks a program.
    """
    travel_by_value(ray)
    kind, actors = ray.remote(Keeper), []
    for server in plan.servers:
        options = {"name": PREFIX + server.name, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": 0}
        actors.append(kind.options(**options, **server.resources).remote(server.name, server.role))
    looks = [actor.look.remote(server.command.split()[0]) for actor, server in zip(actors, plan.servers, strict=True)]
    try:
        found = ray.get(looks, timeout=max(0.0, deadline - time.monotonic()))
    except ray.exceptions.GetTimeoutError:
        raise LaunchError("not up within the time limit: waiting for a place for every server") from None
    for server, (ip, is_installed) in zip(plan.servers, found, strict=True):
        if not is_installed:
            raise LaunchError(f"{server.command.split()[0]} is not installed on {ip}: see requirements.txt")
    plan = plan.placed([ip for ip, _ in found])
    ray.get([_run(actor, server) for actor, server in zip(actors, plan.servers, strict=True) if server.role != "ingress"])
    start_serve(plan)
    return plan


def _run(actor: Any, server: Server) -> Any:
    keeper = Path(__file__).with_name("keeper.py").read_text()
    return actor.start.remote(server.url, server.command, server.environment, keeper)


def wait_until_up(ray: ModuleType, plan: ControlPlan, deadline: float, report: Callable[[str], None]) -> None:
    """Wait until every server answers, then start the router, if there is one, and wait for it.

    Raises:
        LaunchError: a server ended, or was not up in time.
    """
    wait_until_running([DESCRIBING_APP], deadline, report)
    _wait([s.name for s in plan.servers if s.role != "ingress"], deadline, report)
    for router in (s for s in plan.servers if s.role == "ingress"):
        ray.get(_run(ray.get_actor(PREFIX + router.name, NAMESPACE), router))
        _wait([router.name], deadline, report)


def _wait(names: list[str], deadline: float, report: Callable[[str], None]) -> None:
    last = None
    while True:
        found = {state["replica_id"]: state for state in replicas()}
        for name in names:
            if name not in found:
                raise LaunchError(f"{name} ended before it was up: its Ray actor is gone")
            if not found[name]["runs"]:
                raise LaunchError(f"{name} ended before it was up")
        up = [name for name in names if found[name]["up"]]
        if (now := f"{', '.join(names)}: {len(up)} of {len(names)} up") != last:
            report(last := now)
        if len(up) == len(names):
            return
        if time.monotonic() > deadline:
            raise LaunchError(f"not up within the time limit: {', '.join(name for name in names if name not in up)}")
        time.sleep(POLL_S)


def replicas() -> list[dict[str, Any]]:
    """Return `Keeper.state` of the control arm's servers on the connected cluster, in the order of their ranks."""
    import ray

    found = []
    for name in names_of_actors():
        with contextlib.suppress(ValueError, ray.exceptions.RayActorError):  # it has ended meanwhile
            found.append(ray.get(ray.get_actor(name, NAMESPACE).state.remote(), timeout=ANSWER_S))
    order = ("prefill", "decode", "collocated", "ingress")
    return sorted(found, key=lambda state: (order.index(state["role"]), int(re.sub(r"\D", "", state["replica_id"]) or 0)))


def names_of_actors() -> list[str]:
    """Return the names of the control arm's actors, which are the same for every one."""
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX)]


def running() -> list[dict[str, Any]]:
    """Return servers that run."""
    return [state for state in replicas() if state["pid"] and state["runs"]]


async def readiness(plan: ControlPlan) -> Gate:
    """Return gate `readiness`: every server has answered, and the router, if there is one."""
    async with deployed(plan.base_url, timeout_s=None) as described:
        ready = await described.ready()  # from the head, on whose loopback some of them may listen
    await smoke(plan.takes_requests, plan.model_id, NEW_TOKENS)
    return gate(ready.answered or {}, ready.counts)


async def ask(model: str) -> tuple[dict[str, int], dict[str, list[str]] | None]:
    """Have every server complete a request: number by role, and who answered."""
    found = replicas()
    return engine_counts(found), await ask_servers(found, model)


def status() -> dict[str, Any] | None:
    """Return whether all servers run and are up, their number by role and themselves; None if there are none."""
    found = replicas()
    if not found:
        return None
    is_whole = all(state["up"] and state["runs"] for state in found)
    counts = {role: {"RUNNING": count} for role, count in engine_counts(found).items()}
    return {"running": True, "status": "RUNNING" if is_whole else "UNHEALTHY", "deployments": counts, "replicas": found}


def engine_counts(found: list[dict[str, Any]]) -> dict[str, int]:
    """Return running servers by role, but the router; `found` is of `replicas`."""
    roles = [state["role"] for state in found if state["runs"] and state["role"] != "ingress"]
    return {role: roles.count(role) for role in dict.fromkeys(roles)}


def exists() -> bool:
    """Return whether there are actors of a control arm."""
    return bool(names_of_actors())


def stop(deadline: float) -> bool:
    """End all servers and their actors, which takes at most ANSWER_S; False if there were none."""
    import ray

    actors = []
    for name in names_of_actors():
        with contextlib.suppress(ValueError):  # it has ended meanwhile
            actors.append(ray.get_actor(name, NAMESPACE))
    ray.wait([actor.stop.remote() for actor in actors] or [ray.put(None)], num_returns=max(1, len(actors)), timeout=ANSWER_S)
    for actor in actors:
        ray.kill(actor)
    return bool(actors)

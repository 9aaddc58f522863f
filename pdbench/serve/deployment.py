"""Start, show and stop one deployment on a cluster."""

import asyncio
import logging
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from pdbench.cli import ENGINES_LOADED
from pdbench.configs import ModelConfig
from pdbench.manifest import Gate
from pdbench.model.model_folder import ModelError, check_weights, ensure_model, verified_checksum
from pdbench.nodes import cluster
from pdbench.serve import counters, describe, launch_gates, loading, serve_app
from pdbench.serve.api import record_gate
from pdbench.serve.kinds import KINDS, kind_of
from pdbench.serve.plan import LaunchError, Plan

# `RuntimeError: ...` at a line's start or after a prefix.
ENGINE_ERROR = re.compile(r"(?:^|\s)((?:[\w.]+\.)?\w*(?:Error|Exception): .+)")
STOP_S = 120  # for what a failed launch had started


def start(ray: ModuleType, plan: Plan, model: ModelConfig, deadline: float) -> None:
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
    try:
        cluster.on_every_node(ray, counters.prepare, counters.folder(plan.http["port"]))
        more = {"model_checksum": checksum} | describe.described(model)
        plan, gates = _bring_up(ray, plan, more, deadline, started)
    except BaseException as error:
        fail(ray, error, started)
        cluster.on_every_node(ray, counters.remove, counters.folder(plan.http["port"]))
        if isinstance(error, ray.exceptions.RayError):
            raise LaunchError(str(error).strip().splitlines()[-1]) from None
        raise
    for gate in gates:
        asyncio.run(record_gate(plan.base_url, gate))
    elsewhere = "" if plan.takes_requests == plan.base_url else f", requests to {plan.takes_requests}"
    say(f"ready after {time.time() - started:.0f} s at {plan.base_url}{elsewhere}: every replica has answered a request")


def _bring_up(ray: ModuleType, plan: Plan, more: dict[str, Any], deadline: float, started: float) -> tuple[Plan, list[Gate]]:
    """Start the engines and the app that describes them, wait, and check them; the plan with its nodes, and the gates.

    Args:
        more: further fields of `manifest.Deployment`.
        started: Unix time of the launch.
    """
    kind, begun = kind_of(plan.mode), time.monotonic()
    quiet_loggers()
    plan = kind.start(ray, plan, deadline)
    record = describe.record_of(ray, plan) | more
    app = describe.application(record, started, kind.running, kind.ask)
    serve_app.deploy(serve_app.DESCRIBING_APP, describe.ROUTE, app)
    kind.wait_until_up(ray, plan, deadline, say)
    took = time.monotonic() - begun
    say(ENGINES_LOADED.format(f"{took:.1f}"))
    found = cluster.on_every_node(ray, cluster.engine_lines, loading.LINES, started).values()
    if stages := loading.stage_seconds(line for lines in cluster.each_file_once(found) for line in lines):
        say(loading.summary(stages, took))
    return plan, launch_gates.check(ray, kind, plan, deadline)


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


def fail(ray: ModuleType, error: BaseException, started: float) -> None:
    """Take the half-started deployment down and report the engines' own errors; `started` is the launch's Unix time."""
    say(f"launch failed ({type(error).__name__}); stopping what had started")
    found = cluster.on_every_node(ray, cluster.engine_lines, ENGINE_ERROR.pattern, started).values()
    lines = (line for lines in cluster.each_file_once(found) for line in lines)
    errors = dict.fromkeys(match[1][:500] for line in lines if (match := ENGINE_ERROR.search(line)))
    for said in list(errors)[:5]:
        say(f"an engine said: {said}")
    for kind in KINDS:
        kind.stop(time.monotonic() + STOP_S)


def refuse_a_second() -> None:
    """Check that the cluster has no deployment of this repository, nor leftovers of an interrupted one.

    Raises:
        LaunchError: it has.
    """
    if any(kind.exists() for kind in KINDS):
        raise LaunchError("a deployment is running already: see it with --status, end it with --stop")


def stop(address: str | None, deadline: float) -> None:
    """Stop the deployment on the cluster at `address`; returns when all of its processes are gone.

    Raises:
        TimeoutError: something is left at the deadline (`time.monotonic()`).
    """
    try:
        ray = cluster.connect(address)
    except ConnectionError:
        say("nothing is running")
        return
    details = serve_app.serve_details()
    pids = [replica["pid"] for kind in KINDS for replica in kind.replicas() if replica["pid"]]
    # Where nothing runs no node has to start a process to find that out.
    trees = cluster.on_every_node(ray, cluster.process_tree, pids) if pids else {}
    ended = [kind.stop(deadline) for kind in KINDS]
    say("stopped" if any(ended) else "no deployment was running")
    for ip, left in trees.items():
        while left:
            left = cluster.on_every_node(ray, cluster.process_tree, left)[ip]
            if left and time.monotonic() > deadline:
                raise TimeoutError(f"processes {left} on {ip} are still there")
    if details:
        cluster.on_every_node(ray, counters.remove, counters.folder(details["http_options"]["port"]))


def status(address: str | None) -> dict[str, Any]:
    """Return what runs on the cluster at `address`: its status, replica counts and replicas; or why nothing does."""
    try:
        cluster.connect(address)
    except ConnectionError as error:
        return {"running": False, "reason": str(error)}
    nothing = {"running": False, "reason": "no deployment of this repository is on the cluster"}
    return next(filter(None, (kind.status() for kind in KINDS)), nothing)


def say(line: str) -> None:
    """Print one line of a launch's progress on stderr."""
    print(f"launch: {line}", file=sys.stderr, flush=True)


def quiet_loggers() -> None:
    """Silence Ray Serve's print of every deployment's options; --dry-run shows them better."""
    for name in ("ray.serve", "ray", "vllm"):
        logging.getLogger(name).setLevel(logging.WARNING)

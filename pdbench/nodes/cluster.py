"""Place a layout on the nodes of a Ray cluster, and run functions there."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from pdbench import interrupts
from pdbench.configs import HardwareConfig
from pdbench.layout import CONTROLS, POOL, Layout, placed_as
from pdbench.nodes import local_cluster


class PlacementError(ValueError):
    """The layout does not fit the nodes; says what there is and what is needed."""


@dataclass(frozen=True)
class Node:
    """One node: `accelerators` is how many engine ranks it can hold in all, `kind` what they are by Ray's name (H100)."""

    ip: str
    accelerators: int
    node_id: str = ""
    is_head: bool = False
    kind: str | None = None

    def __str__(self) -> str:
        return f"{self.ip}: {self.accelerators}" + (f" ({self.kind})" if self.kind and not self.accelerators else "")


@dataclass(frozen=True)
class Placement:
    """Node of each pool; None means that the pool needs several nodes and Ray chooses them."""

    decode: Node | None
    prefill: Node | None = None


def place(layout: Layout, mode: str, nodes: list[Node], unit: str = "GPU") -> Placement:
    """Choose nodes by what they have: the fullest pools first, on the largest nodes.

    A replica never crosses nodes. P and D share one node (pd-pack, pd-pool) or have one each (pd-spread); a
    collocated layout takes one node if it fits there, so that it meets the same memory and links as
    the packed arms, and otherwise as many as it needs.

    Raises:
        PlacementError: too few nodes, or too few accelerators on them.
    """
    if layout.is_pd == (placed_as(mode) == "collocated"):
        fitting = "pd-pack, pd-spread or pd-pool" if layout.is_pd else "collocated"
        if mode in CONTROLS:
            fitting = "bare-pd or bare-pd-spread" if layout.is_pd else "bare"
        raise PlacementError(f"layout {layout} does not go with mode {mode}: use {fitting}")
    mode = placed_as(mode)
    nodes = sorted(nodes, key=lambda n: (-n.accelerators, n.is_head, n.ip))
    have = ", ".join(map(str, nodes)) or "no nodes"
    if mode in ("pd-pack", POOL):
        node = _first_fit(layout.gpus, nodes, f"{layout} packed needs {layout.gpus} {unit}s on one node", have)
        return Placement(decode=node, prefill=node)
    if mode == "pd-spread":
        return _spread(layout, nodes, unit, have)
    if nodes and nodes[0].accelerators >= layout.gpus:
        return Placement(decode=nodes[0])
    tp = layout.decode.tp
    if sum(n.accelerators // tp for n in nodes) < layout.decode.num:
        raise PlacementError(f"{layout} needs {layout.gpus} {unit}s in groups of {tp} on a node; there are {have}")
    return Placement(decode=None)


def _spread(layout: Layout, nodes: list[Node], unit: str, have: str) -> Placement:
    need = f"{layout} spread needs {layout.prefill.gpus} {unit}s on one node and {layout.decode.gpus} on another"
    if len(nodes) < 2:
        raise PlacementError(f"{need}; there {'is one node' if nodes else 'are no nodes'} ({have})")
    larger, smaller = sorted((layout.prefill.gpus, layout.decode.gpus), reverse=True)
    first = _first_fit(larger, nodes, need, have)
    second = _first_fit(smaller, [n for n in nodes if n is not first], need, have)
    if layout.prefill.gpus >= layout.decode.gpus:
        return Placement(prefill=first, decode=second)
    return Placement(prefill=second, decode=first)


def _first_fit(gpus: int, nodes: list[Node], need: str, have: str) -> Node:
    for node in nodes:
        if node.accelerators >= gpus:
            return node
    raise PlacementError(f"{need}; there are {have}")


def of_kind(nodes: list[Node], kind: str | None) -> list[Node]:
    """Return `nodes`, of which those with another accelerator than `kind` can hold no engine: Ray would place nothing there.

    Args:
        kind: `accelerator_type` of a hardware file; None takes any.

    Raises:
        PlacementError: no node has it, but some have another.
    """
    others = [n for n in nodes if kind and n.accelerators and n.kind != kind]
    if others and not any(n.kind == kind and n.accelerators for n in nodes):
        have = ", ".join(f"{n.ip}: {n.accelerators} {n.kind or 'of a kind that Ray does not know'}" for n in others)
        raise PlacementError(f"no node has the hardware file's {kind}; there are {have}: choose another --hardware")
    return [replace(n, accelerators=0) if n in others else n for n in nodes]


def planned_nodes(hardware: HardwareConfig, layout: Layout, mode: str) -> list[Node]:
    """Return nodes as `hardware` describes them, for a dry run without a cluster; named node1, node2, ..."""
    replicas_per_node = max(1, hardware.accelerators_per_node // layout.decode.tp)
    mode = placed_as(mode)
    count = 2 if mode == "pd-spread" else max(1, math.ceil(layout.decode.num / replicas_per_node))
    count = 1 if mode in ("pd-pack", POOL) else count
    return [Node(f"<node{i + 1}>", hardware.accelerators_per_node, kind=hardware.accelerator_type) for i in range(count)]


def connect(address: str | None = None, env: dict[str, str] | None = None):
    """Connect to the cluster at `address`, RAY_ADDRESS, this checkout's local one, or one that runs here.

    Returns the `ray` module, connected.

    Args:
        env: environment of all that this driver starts on the cluster.

    Raises:
        ConnectionError: there is no cluster, or it refuses this driver.
    """
    found = None if address or os.environ.get("RAY_ADDRESS") else local_cluster.state()
    if found:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": found["token_path"]}
        address = found["address"]
    import ray

    if ray.is_initialized():
        return ray
    try:
        # It reaches every engine, too, so no more than what a plan says is in it.
        more = {"runtime_env": {"env_vars": env}} if env else {}
        with interrupts.handlers_kept():
            ray.init(address=address or "auto", log_to_driver=False, logging_level="WARNING", namespace="pdbench", **more)
    except Exception as error:  # Ray raises several unrelated kinds here
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        hint = "" if os.environ.get("RAY_AUTH_MODE") else " (one that requires a token needs RAY_AUTH_MODE=token here too)"
        raise ConnectionError(f"no Ray cluster at {where}: {str(error).splitlines()[0]}{hint}") from None
    return ray


def read_nodes(ray, accelerator: str) -> list[Node]:
    """Return living nodes of the connected cluster, with their total of "GPU" or "CPU"."""
    return [
        Node(
            ip=node["NodeManagerAddress"],
            accelerators=int(node["Resources"].get(accelerator, 0)),
            node_id=node["NodeID"],
            is_head="node:__internal_head__" in node["Resources"],
            kind=next((name.partition(":")[2] for name in node["Resources"] if name.startswith("accelerator_type:")), None),
        )
        for node in _alive(ray)
    ]


def on_every_node(ray: Any, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Run `function(*args)` once on each living node and return {node IP: its result}.

    `function` travels by value, so nodes need Ray and what it imports, not this repository.
    """
    return {ip: ray.get(future) for ip, future in _on_every_node(ray, function, *args).items()}


def on_head(ray: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Run `function(*args)` on the head and return its result, where Ray Serve has its proxy."""
    travel_by_value(ray)
    head = next(node for node in _alive(ray) if "node:__internal_head__" in node["Resources"])
    return ray.get(ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=_on(head)).remote(*args))


def ask_every_node(ray, limit_s: float, function, *args) -> tuple[dict[str, object], dict[str, str]]:
    """Run as `on_every_node`, for nodes that may be ill: {node IP: result}, and {node IP: why there is none}."""
    futures = _on_every_node(ray, function, *args)
    done, _ = ray.wait(list(futures.values()), num_returns=len(futures), timeout=limit_s)
    found, silent = {}, {}
    for ip, future in futures.items():
        try:
            if future in done:
                found[ip] = ray.get(future)
            else:
                silent[ip] = f"no answer within {limit_s:g} s"
        except ray.exceptions.RayError as error:
            silent[ip] = str(error).strip().splitlines()[-1]
    return found, silent


def _on_every_node(ray, function, *args) -> dict[str, object]:
    travel_by_value(ray)
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    return {n["NodeManagerAddress"]: task.options(scheduling_strategy=_on(n)).remote(*args) for n in _alive(ray)}


class NodeProcesses:
    """One process on each living node that runs functions there for as long as this object is: to start one takes seconds."""

    def __init__(self) -> None:
        self.actors: dict[str, Any] = {}

    def run(self, ray, function, *args) -> list:
        """Return the results of `function(*args)` on each node, as `on_every_node` has them."""
        travel_by_value(ray)
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=1)(_Runner)
        nodes = {node["NodeID"]: node for node in _alive(ray)}
        for node_id in nodes.keys() - self.actors.keys():
            self.actors[node_id] = actor.options(scheduling_strategy=_on(nodes[node_id])).remote()
        return ray.get([self.actors[node_id].run.remote(function, *args) for node_id in nodes])


class _Runner:
    def run(self, function, *args):
        return function(*args)


def _alive(ray) -> list[dict]:
    return [node for node in ray.nodes() if node["Alive"]]


def _on(node: dict):
    """The scheduling strategy that puts something on this node or nowhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def travel_by_value(ray) -> None:
    """Have what this process sends to Ray carry this package's code along."""
    with contextlib.suppress(ImportError):  # on a node without the repository, where it came by value itself
        import pdbench

        ray.cloudpickle.register_pickle_by_value(pdbench)


def engine_lines(pattern: str, since: float) -> dict[str, list[str]]:
    """Return lines that match `pattern` in the output of this machine's Ray workers, engines among them, by the file's name.

    Nodes of a local cluster share a machine, and find the same files: see `each_file_once`.

    Runs as a Ray task: its own standard output is a file in Ray's log folder, beside the engines'.

    Args:
        since: Unix time; files untouched since then are left out.
    """
    import pathlib
    import re

    found = {}
    logs = pathlib.Path(os.readlink("/proc/self/fd/1")).parent
    for path in sorted(logs.glob("worker-*.[oe]*"), key=lambda p: p.stat().st_mtime):
        if path.stat().st_mtime >= since:
            lines = [line for line in path.read_text(errors="replace").splitlines() if re.search(pattern, line)]
            found |= {path.name: lines} if lines else {}
    return found


def each_file_once(of_nodes: Iterable[dict[str, list[str]]]) -> list[list[str]]:
    """Return the lines of each file that nodes found with `engine_lines`; its name, which has the worker's id, is unique."""
    return list({name: lines for of_node in of_nodes for name, lines in of_node.items()}.values())


def pin_ranks(replicas: list[dict]) -> int:
    """Pin the engine ranks of this node to a core each; returns how many ranks that were.

    Args:
        replicas: each with node_id, pid and `first`, the number of its first rank among all of the
            deployment: nodes of a local cluster share one machine and must not take the same core.
    """
    import pathlib

    import psutil
    import ray

    here, count = ray.get_runtime_context().get_node_id(), 0
    for replica in (r for r in replicas if r["node_id"] == here):
        workers = [p for p in process_tree([replica["pid"]]) if psutil.Process(p).name().startswith("VLLM::Worker")]
        for number, pid in enumerate(workers, start=replica["first"]):
            for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {number % os.cpu_count()})
        count += len(workers)
    return count


def process_tree(pids: list[int]) -> list[int]:
    """Return those of `pids`, and of their descendants, that live on this node."""
    import psutil

    tree = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            tree |= {p.pid for p in (process, *process.children(recursive=True)) if p.status() != psutil.STATUS_ZOMBIE}
    return sorted(tree)

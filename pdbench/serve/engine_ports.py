"""Find the ports at which engines listen, among their ranks and for NIXL's handshakes: engines of a node must not share one.

vLLM 0.26 gave each engine of a node the same one for its TCPStore; 0.29 lets the system choose.
"""

import contextlib
import ipaddress
from itertools import combinations

from pdbench.manifest import Gate, Strict, now
from pdbench.nodes.cluster import process_tree

SIDE_CHANNEL = "VLLM_NIXL_SIDE_CHANNEL_PORT"
# With Ray's executor, vLLM's default on GPUs, ranks are Ray's workers and are not child processes of their replica.
RAY_RANKS = ("ray::RayWorker", "VLLM::")
PRIVILEGED = 1024
# All processes of a machine that use NCCL share the port of its RAS service on purpose (NCCL_RAS_ADDR has another, if set).
NCCL_RAS = 28028


class Engine(Strict):
    """A replica, or a rank that is a Ray worker: its node, and the addresses and TCP ports at which it listens."""

    name: str
    node: str
    listens: list[tuple[str, int]]
    is_rank: bool = False
    side_channel: int | None = None


def listening(replicas: list[dict]) -> list[dict]:
    """Find the engines of this node, as fields of `Engine`; runs as a Ray task.

    Args:
        replicas: engines of all nodes, each with replica_id, node_id and pid.
    """
    import psutil
    import ray

    here = ray.get_runtime_context().get_node_id()
    sockets = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]

    def engine(name: str, pids: list[int], **more) -> dict:
        return {
            "name": name,
            "node": here,
            "listens": sorted({(c.laddr.ip, c.laddr.port) for c in sockets if c.pid in pids and c.laddr.port != NCCL_RAS}),
            **more,
        }

    found = []
    for replica in (r for r in replicas if r["node_id"] == here):
        pids = process_tree([replica["pid"]])
        found.append(engine(replica["replica_id"], pids, side_channel=_side_channel(pids)))
    raylets = [p for p in psutil.Process().parents() if p.name() == "raylet"]
    for rank in (child for raylet in raylets for child in raylet.children()):
        with contextlib.suppress(psutil.Error):
            if rank.cmdline()[0].startswith(RAY_RANKS):
                found.append(engine(f"rank {rank.pid}", [rank.pid], is_rank=True))
    return found


def _side_channel(pids: list[int]) -> int | None:
    """The port that NIXL's side channel was given: in the environment of an engine's processes."""
    import psutil

    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            if port := psutil.Process(pid).environ().get(SIDE_CHANNEL):
                return int(port)
    return None


def ports_gate(engines: list[Engine]) -> Gate:
    """Return gate `ports`: no two engines of a node listen at one port, or have one side channel for NIXL's handshakes.

    One number at two addresses is two ports. The system, asked for any free port, gives one number out twice for two addresses,
    never for one: seen with four engines of a node.
    """
    shared: dict[int, set[str]] = {}
    for one, other in combinations(engines, 2):
        if one.node == other.node:
            for port in _both_answer(one.listens, other.listens) | ({one.side_channel} & {other.side_channel} - {None}):
                shared.setdefault(port, set()).update({one.name, other.name})
    ports = {(engine.node, port) for engine in engines for _, port in engine.listens}
    channels = sorted({(engine.node, engine.side_channel) for engine in engines if engine.side_channel}, key=lambda of: of[1])
    low = sum(port < PRIVILEGED for _, port in ports)
    seen = f"{len(ports)} ports of {sum(not engine.is_rank for engine in engines)} engines, {low} below {PRIVILEGED}"
    if channels:
        seen += f"; side channels {', '.join(str(port) for _, port in channels)}"
    faults = "; ".join(f"{' and '.join(sorted(names))} share port {port}" for port, names in sorted(shared.items()))
    return Gate(name="ports", passed=not shared, seen=faults or seen, time=now(), expected="no port of two engines on a node",
                advice=f"leave {SIDE_CHANNEL} and VLLM_PORT unset")  # fmt: skip


def _both_answer(some: list[tuple[str, int]], others: list[tuple[str, int]]) -> set[int]:
    """The ports at which a client of one may reach the other: the same address, or one that means all."""
    return {
        port
        for address, port in some
        for there, other in others
        if port == other and (address == there or any(ipaddress.ip_address(a).is_unspecified for a in (address, there)))
    }

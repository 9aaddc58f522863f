"""Count where a token's time goes: CPU of each process on its way."""

import contextlib
import os
from pathlib import Path

import psutil

from pdbench.nodes import local_cluster

# As many as needed so that what is between client and engines has cores enough, too.
MIN_CORES_TO_PIN = 8
STAGES = ("client", "proxy", "ingress", "frontend", "engine core", "engine rank", "Ray")


def pin(deployment: dict, client_pid: int, own: bool) -> None:
    """Give the client and each engine rank a core of its own, and all that is between them the other cores.

    Args:
        own: else all but the ranks, which launch_gptoss.py has pinned, may use every core.
    """
    stages = stage_of(deployment, client_pid)
    held = [client_pid, *(pid for pid, stage in stages.items() if stage == "engine rank")]
    cores = set(range(os.cpu_count()))
    for pid in stages if own else stages.keys() - set(held[1:]):
        mask = cores
        if own:
            mask = {held.index(pid)} if pid in held else cores - set(range(len(held)))
        for thread in threads(pid):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(thread, mask)


def stage_of(deployment: dict, client_pid: int) -> dict[int, str]:
    """Return what each process of the cluster, and the client, is on a token's way."""
    return {pid: stage for pid, (stage, _) in cpu_seconds(deployment, client_pid).items()}


def threads(pid: int) -> list[int]:
    """Return the threads of a process; none if it has ended."""
    with contextlib.suppress(FileNotFoundError):
        return [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]
    return []


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) or process.name()
    return ""


def cpu_seconds(deployment: dict, client_pid: int) -> dict[int, tuple[str, float]]:
    """Return CPU seconds so far of every process of the cluster and of the client: {pid: (stage, seconds)}."""
    roles = {replica["pid"]: "ingress" if replica["role"] == "ingress" else "frontend" for replica in deployment["replicas"]}
    found = {}
    for process in [*local_cluster.marked(local_cluster.state()["mark"]), psutil.Process(client_pid)]:
        with contextlib.suppress(psutil.Error):
            name = title(process)
            if process.pid == client_pid:
                stage = "client"
            elif name.startswith("VLLM::EngineCor"):  # Linux cuts a process's name to 15 letters
                stage = "engine core"
            elif name.startswith("VLLM::Worker"):
                stage = "engine rank"
            elif "ProxyActor" in name or "haproxy" in name:
                stage = "proxy"
            else:
                stage = roles.get(process.pid, "ingress" if "LLMRouter" in name else "Ray")
            times = process.cpu_times()
            found[process.pid] = (stage, times.user + times.system)
    return found

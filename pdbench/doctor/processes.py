"""Find processes that a crash left behind, and who listens on a port."""

import contextlib
import time
from pathlib import Path

import psutil

from pdbench.nodes.marked import MARK

ENGINES = ("VLLM::", "ray::ServeReplica", "ray::ServeController", "ray::ProxyActor")
SECOND_LOOK_S = 1.0


def leftovers() -> list[dict]:
    """Find engines and replicas whose parents are gone, and processes of a local cluster whose head is gone.

    What is ending by itself is none: those that are found are looked at once more a second later.
    """
    if first := _leftovers():
        time.sleep(SECOND_LOOK_S)
        again = _leftovers()
        return [again[key] for key in first if key in again]
    return []


def _leftovers() -> dict[tuple[int, float], dict]:
    """By process id and start, which together name one process for ever."""
    found, by_mark, with_head = {}, {}, set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            title = _title(process)
            if title.startswith(ENGINES) and _is_orphan(process, title):
                found[process.pid, process.create_time()] = _leftover(process, title, "its parent is gone")
            if mark := _mark(process):
                by_mark.setdefault(mark, []).append((process, title))
                # As local_cluster.state: the cluster lives as long as this process of its head does.
                if "start" in process.cmdline() and "--head" in process.cmdline():
                    with_head.add(mark)
    for mark, processes in by_mark.items():
        if mark not in with_head:
            for process, title in processes:
                with contextlib.suppress(psutil.Error):
                    leftover = _leftover(process, title, "the head of its local cluster is gone")
                    found.setdefault((process.pid, process.create_time()), leftover)
    return found


def _is_orphan(process: psutil.Process, title: str) -> bool:
    """Whether no raylet is above it, nor, for an engine, a Python program that started it by itself."""
    above = process.parents()
    if any(parent.name() == "raylet" for parent in above):
        return False
    # A worker's engine is no such program: it may be a leftover itself.
    return not (title.startswith("VLLM::") and any(_runs_engines(p) for p in above if not _title(p).startswith("VLLM::")))


def _runs_engines(process: psutil.Process) -> bool:
    """Whether this is a Python program other than `ray start`; by its file, since torch gives its processes other names."""
    with contextlib.suppress(psutil.Error, OSError):
        return Path(process.exe()).name.startswith("python") and "start" not in process.cmdline()
    return False


def owner_of_port(number: int) -> tuple[str | None, bool]:
    """Find who listens on a TCP port (`python (pid 7)`; None if this user may not know), and whether a Ray Serve does.

    Where this runs as a Ray task, only the Serve below the same raylet counts: a local cluster next door is a stranger.
    """
    pids = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == number}
    for pid in sorted(pid for pid in pids if pid):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            raylets = {p.pid for p in process.parents() if p.name() == "raylet"}
            ours = {p.pid for p in psutil.Process().parents() if p.name() == "raylet"}
            return f"{_title(process)[:40]} (pid {pid})", bool(raylets & ours if ours else raylets)
    return None, False


def _title(process: psutil.Process) -> str:
    """What a process calls itself; Ray and vLLM change it, and arguments of others may hold secrets."""
    words = process.cmdline()
    return words[0] if words and "::" in words[0] else process.name()


def _mark(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(MARK)
    return None


def _leftover(process: psutil.Process, title: str, why: str) -> dict:
    return {"pid": process.pid, "name": title[:60], "why": why}

"""Find the processes of a local cluster by the mark that they inherit, and end them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable

import psutil

MARK = "PDBENCH_CLUSTER"
STOP_GRACE_S = 5.0


def end_marked(mark: str) -> int:
    """End all processes of a cluster, those that outlive their node as well: politely first, then by force."""
    processes = left = marked(mark)
    # The `ray start --block` parents take their own children down in order.
    parents = [p for p in processes if _is_ray_start(p)]
    for process in parents or processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_GRACE_S
    while time.monotonic() < deadline and (left := marked(mark, left)):
        if not any(_is_ray_start(p) for p in left):
            deadline = min(deadline, time.monotonic() + 3)
        time.sleep(0.1)
    while left := _suspended(mark, left):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
    return len(processes)


def marked(mark: str, known: Iterable[psutil.Process] = ()) -> list[psutil.Process]:
    """Find living processes, other than this one, that inherited `mark` from a cluster's node or are `known`, and all below.

    A process that renames itself, as Ray's agents do, overwrites its environment: it is found below its parent.
    """
    found = set(known)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.add(process)
    for process in list(found):
        with contextlib.suppress(psutil.Error):
            found |= set(process.children(recursive=True))
    return [process for process in found if process.pid != os.getpid() and _lives(process)]


def _suspended(mark: str, known: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Suspend what `marked` finds, until it finds no more: what runs on could start another that nobody would look for."""
    found: set[psutil.Process] = set()
    while new := set(marked(mark, [*known, *found])) - found:
        for process in new:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        found |= new
    return list(found)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_ray_start(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "start" in process.cmdline() and "--block" in process.cmdline()
    return False

"""Read the limits that the system puts on the process that this runs in: a Ray worker has its raylet's."""

import contextlib
import os
import resource
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def soft_and_hard(which: int) -> tuple[int | None, int | None]:
    """Return a limit of `resource.RLIMIT_*`: what holds, and up to what it may be raised; None if there is none."""
    soft, hard = (None if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(which))
    return soft, hard


def free_processes(own_groups: str | None = None, root: Path = CGROUPS) -> int | None:
    """Return how many processes and threads may still be started here; None if nothing limits them.

    Both count: the limit of the user (not of root, who has none) and those of the control groups, as containers set them.

    Args:
        own_groups: text of /proc/self/cgroup.
    """
    free = [limit - used for limit, used in _groups(own_groups or _text(Path("/proc/self/cgroup")), root)]
    soft, _ = soft_and_hard(resource.RLIMIT_NPROC)
    if soft is not None and os.geteuid() != 0:
        free.append(soft - _threads_of(os.getuid()))
    return max(0, min(free)) if free else None


def _groups(own: str, root: Path) -> list[tuple[int, int]]:
    """Limit and use of each control group of processes that this one is in, up to the outermost that is seen."""
    found = []
    for line in own.splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "pids"):
            continue
        top = root / kinds
        group = top / path.strip("/")
        # In a container the path may be that of the host, and its own group is the top.
        for folder in (group, *group.parents) if group.is_dir() else (top,):
            limit, used = _text(folder / "pids.max"), _text(folder / "pids.current")
            if limit.isdecimal() and used.isdecimal():
                found.append((int(limit), int(used)))
            if folder == top:
                break
    return found


def _threads_of(user: int) -> int:
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == user:
                count += process.num_threads()
    return count


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

"""Look at the node that this runs on. Changes nothing, and judges nothing.

Runs as a Ray task that travels by value: it uses names, never modules of this package.
"""

import contextlib
import errno
import os
import resource
import shutil
import socket
import sys

import psutil

from pdbench.doctor.hardware import efa, gpudirect, gpus, nics, numa_nodes, rdma
from pdbench.doctor.loading import backends, libraries
from pdbench.doctor.processes import leftovers, owner_of_port
from pdbench.doctor.software import versions
from pdbench.network.slow_link import is_slow
from pdbench.nodes.limits import free_processes, soft_and_hard
from pdbench.nodes.stack import installed_version, telling_environment


def collect(quick: bool, distributions: list[str], ports: list[tuple[str, dict]], limit_s: float) -> dict:
    """Collect the fields of `facts.Facts`, as a plain dict.

    Args:
        quick: leave out what takes seconds: NIXL's backends and the libraries that they need.
        distributions: whose installed versions are asked for.
        ports: that servers of the head will need, each with its address: looked at there alone.
        limit_s: for each NIXL backend to load.
    """
    is_head = _is_head()
    nofile, nofile_hard = soft_and_hard(resource.RLIMIT_NOFILE)
    found = {
        "is_head": is_head,
        "hostname": socket.gethostname(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": psutil.virtual_memory().total,
        "environment": telling_environment(),
        "versions": versions(),
        "installed": {name: installed_version(name) for name in distributions},
        "gpus": gpus(), "nics": nics(), "rdma": rdma(), "numa_nodes": numa_nodes(), "efa": efa(), "gpudirect": gpudirect(),
        "shm": _space("/dev/shm"),
        # A user of a container may have no home.
        "disks": [space for path in dict.fromkeys(("/tmp", os.path.expanduser("~"))) if (space := _space(path))],
        "memlock": soft_and_hard(resource.RLIMIT_MEMLOCK)[0],
        "nofile": nofile, "nofile_hard": nofile_hard, "processes": free_processes(),
        "ports": [_port(host, port) for host, port in ports] if is_head else [],
        "leftovers": leftovers(),
        "slow_link": _slow_link(),
    }  # fmt: skip
    if not quick:
        found |= {"libraries": libraries(), "backends": backends(limit_s)}
    return found


def _is_head() -> bool:
    """Whether this is the head of the connected cluster; without a cluster this machine would be it."""
    ray = sys.modules.get("ray")  # not imported: a machine may be looked at before Ray is installed
    if ray is None or not ray.is_initialized():
        return True
    here = ray.get_runtime_context().get_node_id()
    return any(n["NodeID"] == here and "node:__internal_head__" in n["Resources"] for n in ray.nodes())


def _space(path: str) -> dict | None:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return {"path": path, "total": usage.total, "free": usage.free}


def _port(host: str, port: dict) -> dict:
    """Whether its server could listen there, tried for real; and who is in its way."""
    number = port["number"]
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are in nobody's way
            probe.bind((host, number))
            return port | {"is_free": True}
    except OSError as error:
        taken = {"is_free": False, "host": host, "error": error.strerror or str(error)}
        if error.errno == errno.EADDRINUSE:
            taken["owner"], taken["is_ours"] = owner_of_port(number)
        return port | taken


def _slow_link() -> bool:
    with contextlib.suppress(Exception):  # tc answers nobody without rights, who cannot have slowed the link either
        return is_slow()
    return False

"""Check a node's room and limits, whether ports are free, and whether a crash left something behind."""

import errno
import os

from pdbench.doctor.facts import Facts, Port, Space
from pdbench.doctor.findings import Finding
from pdbench.serve.serving_path import HA_PROXY, HAPROXY, LEAST_CONNECTIONS, files_for

GIB = 2**30
# Docker gives 64 MiB; Ray's object store and the ranks of an engine share more.
SHM_NEEDED, SHM_WANTED_WITH_GPU = 1 * GIB, 8 * GIB
DISK_NEEDED, DISK_WANTED = 1 * GIB, 10 * GIB
RAY_FULL = 0.95  # Ray stops spilling objects above it: RAY_local_fs_capacity_threshold
FILES_WANTED = 8192
# A launch of four engines on 2 cores started 590 processes and threads beside 240 of Ray; more cores have more.
PROCESSES_NEEDED, PROCESSES_WANTED = 600, 4096
MEMLOCK_WANTED = 64 * GIB


def check_host(node: str, facts: Facts) -> list[Finding]:
    found = [_shm(node, facts), *(_disk(node, disk) for disk in facts.disks)]
    found += [_nofile(node, facts), _processes(node, facts), _memlock(node, facts)]
    found += [_port(node, port) for port in facts.ports]
    return [*found, *_leftovers(node, facts), _slow_link(node, facts)]


def _shm(node: str, facts: Facts) -> Finding:
    common = {"name": "/dev/shm", "nodes": [node]}
    fix = "start the container with --shm-size=16g (Kubernetes: an emptyDir of medium Memory), or mount -o remount,size=50%"
    if facts.shm is None:
        return Finding(**common, status="fail", seen="none", reason="Ray and vLLM share memory through it", fix=fix)
    seen = f"{_gib(facts.shm.free)} free of {_gib(facts.shm.total)}"
    if facts.shm.free < SHM_NEEDED:
        return Finding(**common, status="fail", seen=seen, fix=f"{fix}; or remove what fills it",
                       reason=f"less than {_gib(SHM_NEEDED)}: Ray's objects and vLLM's ranks do not fit")  # fmt: skip
    if facts.gpus.names and facts.shm.free < SHM_WANTED_WITH_GPU:
        return Finding(**common, status="warn", seen=seen, fix=fix,
                       reason=f"less than {_gib(SHM_WANTED_WITH_GPU)}: tight for Ray, NCCL and vLLM together")  # fmt: skip
    return Finding(**common, status="ok", seen=seen)


def _disk(node: str, disk: Space) -> Finding:
    common = {"name": f"disk {disk.path}", "nodes": [node], "seen": f"{disk.free // GIB} GiB free of {disk.total // GIB} GiB"}
    if disk.free < DISK_NEEDED or disk.free < (1 - RAY_FULL) * disk.total:
        return Finding(**common, status="fail", reason="Ray refuses to work above 95%, logs and results are cut off",
                       fix="remove old /tmp/ray sessions and model caches")  # fmt: skip
    if disk.free < DISK_WANTED:
        return Finding(**common, status="warn", reason="logs, results and a model cache take more",
                       fix="remove old /tmp/ray sessions and model caches")  # fmt: skip
    return Finding(**common, status="ok")


def _nofile(node: str, facts: Facts) -> Finding:
    common = {"name": "open files", "nodes": [node], "seen": _limit(facts.nofile)}
    hard, needed = facts.nofile_hard, files_for(LEAST_CONNECTIONS)
    if hard is not None and hard < needed and any(port.server == HAPROXY for port in facts.ports):
        return Finding(**common | {"seen": f"hard limit {hard}"}, status="fail",
                       reason=f"HAProxy needs {needed} to take {LEAST_CONNECTIONS} connections at once",
                       fix="ulimit -n 65536 before `ray start` there (docker run --ulimit nofile=65536), or launch with "
                            f"--serve-env {HA_PROXY}=0")  # fmt: skip
    if facts.nofile is not None and facts.nofile < FILES_WANTED:
        return Finding(**common, status="warn", reason=f"fewer than {FILES_WANTED}: many requests at once open many sockets",
                       fix="ulimit -n 65536 before `ray start`")  # fmt: skip
    return Finding(**common, status="ok")


def _processes(node: str, facts: Facts) -> Finding:
    common = {"name": "processes", "nodes": [node]}
    if facts.processes is None:
        return Finding(**common, status="ok", seen="unlimited")
    seen, fix = f"{facts.processes} more may start", "docker run --pids-limit=-1 (Kubernetes: podPidsLimit), or ulimit -u"
    if facts.processes < PROCESSES_NEEDED:
        return Finding(**common, status="fail", seen=seen, fix=fix,
                       reason=f"fewer than {PROCESSES_NEEDED}: Ray's and the engines' threads count, too")  # fmt: skip
    if facts.processes < PROCESSES_WANTED:
        return Finding(**common, status="warn", seen=seen, fix=fix,
                       reason=f"fewer than {PROCESSES_WANTED}: tight for many ranks, or many cores")  # fmt: skip
    return Finding(**common, status="ok", seen=seen)


def _memlock(node: str, facts: Facts) -> Finding:
    seen = _limit(facts.memlock if facts.memlock is None else facts.memlock // 2**20, " MiB")
    common = {"name": "locked memory", "nodes": [node], "seen": seen}
    if not facts.has_rdma:
        return Finding(**common, status="n/a", reason="no RDMA card pins memory here")
    if facts.memlock is not None and facts.memlock < MEMLOCK_WANTED:
        return Finding(**common, status="fail", reason="RDMA pins the whole KV cache: registering it would fail",
                       fix="ulimit -l unlimited before `ray start` (docker run --ulimit memlock=-1)")  # fmt: skip
    return Finding(**common, status="ok")


def _port(node: str, port: Port) -> Finding:
    common = {"name": f"port {port.number}", "nodes": [node]}
    if port.is_free:
        return Finding(**common, status="ok", seen="free")
    if port.is_ours:
        return Finding(**common, status="ok", seen=f"held by {port.owner}", reason="a deployment of this cluster runs there")
    if port.owner or port.error in (None, os.strerror(errno.EADDRINUSE)):
        return Finding(**common, status="fail", seen=f"held by {port.owner or 'another process'}",
                       reason=f"{port.server} cannot listen there",
                       fix=f"end that process, or take another one with {port.option}")  # fmt: skip
    fix = f"take one of 1024 or above with {port.option}, or sysctl net.ipv4.ip_unprivileged_port_start={port.number}"
    if port.error != os.strerror(errno.EACCES):
        fix = f"take an address of the head with --host; {port.host} is none"
    return Finding(**common, status="fail", seen=port.error, reason=f"{port.server} cannot listen there", fix=fix)


def _leftovers(node: str, facts: Facts) -> list[Finding]:
    if not facts.leftovers:
        return [Finding(name="leftovers", nodes=[node], status="ok", seen="none")]
    by_why: dict[str, list] = {}
    for leftover in facts.leftovers:
        by_why.setdefault(leftover.why, []).append(leftover)
    return [
        Finding(
            name="leftovers", nodes=[node], status="fail",
            seen=", ".join(f"{one.name} (pid {one.pid})" for one in sorted(some, key=lambda one: one.pid)),
            reason=f"{why}: they hold memory, cores or ports",
            fix=f"kill {' '.join(str(pid) for pid in sorted(one.pid for one in some))} on that node",
        )
        for why, some in sorted(by_why.items())
    ]  # fmt: skip


def _slow_link(node: str, facts: Facts) -> Finding:
    if facts.slow_link:
        return Finding(name="slow link", nodes=[node], status="warn", seen="loopback is slowed down",
                       reason="an interrupted run may have left it", fix="python -m pdbench.slow_link stop")  # fmt: skip
    return Finding(name="slow link", nodes=[node], status="ok", seen="none")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _limit(value: int | None, unit: str = "") -> str:
    return "unlimited" if value is None else f"{value}{unit}"

"""Run several Ray nodes on this machine: a head and N workers on loopback addresses.

    python -m pdbench.local_cluster start --workers 2              # 0: the head alone, with the engines
    python -m pdbench.local_cluster start --workers 2 --gpus 1     # each worker has a GPU of its own
    python -m pdbench.local_cluster status
    python -m pdbench.local_cluster stop

With it `pd-spread` is placed and run for real on one machine. Every process inherits a mark in its
environment, so that `stop` ends all of them, those of a crash included, and nothing else.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

from pdbench import interrupts
from pdbench.cli import Parser, whole
from pdbench.files import write_atomically
from pdbench.nodes import gpus
from pdbench.nodes.marked import MARK, end_marked

STATE_DIR = Path(os.environ.get("PDBENCH_STATE_DIR", Path(__file__).resolve().parents[2] / ".cluster"))
HEAD_IP = "127.0.0.2"  # Ray turns 127.0.0.1 into the machine's outside address
START_TIMEOUT_S = 90.0
OBJECT_STORE_BYTES = 100_000_000


class ClusterError(RuntimeError):
    """The local cluster cannot be started or stopped; the message says why."""


def state() -> dict | None:
    """Return the running local cluster (address, token_path, mark, temp_dir, workers), or None."""
    try:
        found = json.loads((STATE_DIR / "state.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if _head_is_alive(found) else None


def _head_is_alive(found: dict) -> bool:
    try:
        head = psutil.Process(found["head_pid"])
        return head.create_time() == found["head_created"] and head.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(workers: int, cpus_per_worker: int, gpus_per_worker: int = 0) -> dict:
    """Start a head and `workers` nodes of `cpus_per_worker` engine slots each; without workers the head has the slots.

    Returns once every node has joined. A slot is Ray's logical CPU: one engine rank takes one,
    however many cores the machine has. With GPUs, each node that holds engines sees that number of its own.

    Raises:
        ClusterError: one runs already, there are too few GPUs, or a node did not come up; what had started is stopped.
    """
    shares = _share_out(visible_gpus(), max(1, workers), gpus_per_worker)
    if running := state():
        raise ClusterError(f"a local cluster of {running['workers']} workers runs already: stop it first")
    stop()  # what a crash may have left
    STATE_DIR.mkdir(parents=True, exist_ok=True)
    token_path = STATE_DIR / "token"
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_hex(32))
    found = {
        "mark": uuid.uuid4().hex,
        "address": f"{HEAD_IP}:{_free_port()}",
        "token_path": str(token_path),
        # Short: Ray puts Unix sockets below it, and their paths hold 107 characters.
        "temp_dir": tempfile.mkdtemp(prefix="pdbench-"),
        "workers": workers,
        "head_pid": 0,
        "head_created": 0.0,
    }
    _save(found)
    try:
        _start_nodes(found, workers, cpus_per_worker, shares)
    except BaseException as error:
        tail = _log_tail()
        stop()
        if isinstance(error, TimeoutError):
            raise ClusterError(f"{error}; the end of its log:\n{tail}") from None
        raise
    return found


def visible_gpus() -> list[str]:
    """Return names of this machine's GPUs as CUDA_VISIBLE_DEVICES takes them; those that it names, where it is set."""
    names = gpus.named(os.environ)
    return gpus.nvidia_smi("index") if names is None else names


def _share_out(names: list[str], nodes: int, each: int) -> list[list[str]]:
    """The GPUs of each node with engines."""
    if len(names) < nodes * each:
        what = "one node" if nodes == 1 else f"{nodes} nodes"
        raise ClusterError(f"{what} of {each} GPUs need {nodes * each}; this machine shows {len(names)} (nvidia-smi, "
                           "CUDA_VISIBLE_DEVICES)")  # fmt: skip
    return [names[n * each : (n + 1) * each] for n in range(nodes)]


def _start_nodes(found: dict, workers: int, cpus: int, shares: list[list[str]]) -> None:
    _, port = found["address"].split(":")
    head = _ray_start(found, "head", HEAD_IP, *((0, []) if workers else (cpus, shares[0])), [
        "--head", f"--port={port}", f"--temp-dir={found['temp_dir']}",
        "--include-dashboard=false", f"--ray-client-server-port={_free_port()}",
    ])  # fmt: skip
    found |= {"head_pid": head.pid, "head_created": psutil.Process(head.pid).create_time()}
    _save(found)
    _wait(head, "the head", lambda: _listens(found["address"]))
    with connected(found) as ray:
        # One after the other: raylets that start at the same moment on one machine time out.
        for i in range(workers):
            node = _ray_start(found, f"worker{i + 1}", f"127.0.0.{3 + i}", cpus, shares[i], [f"--address={found['address']}"])
            _wait(node, f"worker {i + 1}", lambda joined=i + 2: _alive_nodes(ray) == joined)


def _ray_start(found: dict, name: str, ip: str, cpus: int, devices: list[str], options: list[str]) -> subprocess.Popen:
    ray = Path(sys.executable).with_name("ray")
    # A replica's own process takes a CPU beside its ranks' GPUs.
    cpus = max(cpus, 2 * len(devices))
    command = [
        str(ray), "start", "--block", f"--node-ip-address={ip}", f"--num-cpus={cpus}", f"--num-gpus={len(devices)}",
        f"--object-store-memory={OBJECT_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0",
        # Nobody reads what it sends to drivers, and it looks at every log ten times a second: the more arms, the more of them.
        "--disable-usage-stats", "--include-log-monitor=false", *options,
    ]  # fmt: skip
    with (STATE_DIR / f"{name}.log").open("wb") as log:
        # A group of its own: Ctrl-C in the terminal must not tear the nodes down before `stop` does. Not a session:
        # Linux shares the cores between sessions first (sched(7), autogroup), whatever their niceness.
        env = _environment(found) | {gpus.VISIBLE: ",".join(devices)}
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, process_group=0)


def _environment(found: dict) -> dict:
    return {
        **os.environ,
        MARK: found["mark"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": found["token_path"],
    }


@contextlib.contextmanager
def connected(found: dict):
    """Connect this process to the local cluster as a driver; yields the `ray` module."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": found["token_path"]}
    import ray

    with interrupts.handlers_kept():
        ray.init(address=found["address"], log_to_driver=False, logging_level="WARNING")
    try:
        yield ray
    finally:
        ray.shutdown()


def _alive_nodes(ray) -> int:
    return sum(node["Alive"] for node in ray.nodes())


def _wait(process: subprocess.Popen, what: str, ready) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None:
            raise TimeoutError(f"{what} of the local cluster exited with code {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} of the local cluster was not up within {START_TIMEOUT_S:.0f} s")
        time.sleep(0.1)


def _listens(address: str) -> bool:
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((HEAD_IP, 0))
        return s.getsockname()[1]


def _log_tail() -> str:
    logs = sorted(STATE_DIR.glob("*.log"), key=lambda p: p.stat().st_mtime)
    return "\n".join(logs[-1].read_text(errors="replace").splitlines()[-8:]) if logs else "(no log)"


def _save(found: dict) -> None:
    write_atomically(STATE_DIR / "state.json", json.dumps(found, indent=2))


def stop() -> int:
    """End every process of the local cluster and return how many there were; 0 if none ran."""
    path = STATE_DIR / "state.json"
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
    count = end_marked(found["mark"])
    shutil.rmtree(found["temp_dir"], ignore_errors=True)
    for leftover in (path, Path(found["token_path"])):
        leftover.unlink(missing_ok=True)
    return count


@contextlib.contextmanager
def lock():
    """Allow one start or stop at a time on this checkout."""
    STATE_DIR.mkdir(parents=True, exist_ok=True)
    with (STATE_DIR / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = Parser(prog="python -m pdbench.local_cluster", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "status", "stop"])
    parser.add_argument("--workers", type=int, default=2,
                        help="worker nodes besides the head; 0: engines run on the head (default: %(default)s)")  # fmt: skip
    parser.add_argument("--cpus", type=int, default=4, help="engine slots of each node with engines (default: %(default)s)")
    parser.add_argument("--gpus", type=whole, default=0, help="GPUs of each node with engines (default: %(default)s)")
    args = parser.parse_args()
    if args.workers < 0 or args.cpus < 1:
        parser.error("--workers must be at least 0, and --cpus at least 1")
    try:
        with lock():
            if args.action == "start":
                others = f" and {args.workers} workers" if args.workers else ""
                print(f"starting a head{others} on loopback ...", flush=True)
                start(args.workers, args.cpus, args.gpus)
            elif args.action == "stop":
                print(f"stopped {stop()} processes")
                return 0
    except ClusterError as error:
        print(f"local_cluster: error: {error}", file=sys.stderr)
        return 1
    found = state()
    if not found:
        print("no local cluster is running")
        return 3
    engines = f"{found['workers']} workers on 127.0.0.3 and up" if found["workers"] else "with the engines on it"
    print(f"local cluster: head {found['address']}, {engines}")
    print(f"for other drivers: export RAY_ADDRESS={found['address']} RAY_AUTH_MODE=token "
          f"RAY_AUTH_TOKEN_PATH={found['token_path']}")  # fmt: skip
    return 0

#!/usr/bin/env python
"""Build UCX and NIXL, or install a wheel, on every node of the Ray cluster at once.

    python debug/build_on_all_nodes.py -- --stack current --prefix /opt/nixl-ucx
    python debug/build_on_all_nodes.py --wheel nixl==1.3.2

What follows -- goes to debug/build_nixl_ucx_efa.sh, which is sent along: nodes need Ray, not this repository. It runs
with the Python of each node's Ray. Nodes that share a file system may be given one prefix: one builds, the others
wait and find it done. Ctrl-C stops all of them. Exits with 1 if a node failed.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: E402
from rich.table import Table  # noqa: E402

from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser  # noqa: E402
from pdbench.cluster import connect, travel_by_value  # noqa: E402
from pdbench.manifest import first_line  # noqa: E402

SENT = ("debug/*.sh", "debug/*.py", "pdbench/**/*.py", "configs/**/*.yaml")  # the script, and what verifies its build
POLL_S = 0.3
ANSWER_S = 60.0  # a node that says nothing for so long is lost
STOP_GRACE_S = 5.0
console = Console(highlight=False, soft_wrap=True)


@dataclass
class Outcome:
    """One node's run: `status` is running, ok, failed (code N), stopped or lost; `seconds` are of wall time."""

    ip: str
    log: Path
    status: str = "running"
    seconds: float = 0.0
    last_line: str = ""

    def add(self, text: bytes) -> None:
        """Append to the log what the node has written since; remember its last whole line."""
        with self.log.open("ab") as file:
            file.write(text)
        lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
        self.last_line = lines[-1].strip() if lines else self.last_line


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="build_on_all_nodes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", metavar="SPEC", help="install this with pip instead of building, such as nixl==1.3.2")
    parser.add_argument("--logs", type=Path, default=Path("build_logs"), metavar="DIR",
                        help="a log per node, written anew each time (default: %(default)s)")  # fmt: skip
    parser.add_argument("--address", help="of the Ray cluster (default: RAY_ADDRESS, or the one that runs here)")
    parser.add_argument("args", nargs="*", metavar="-- ARGS", help="options of build_nixl_ucx_efa.sh")
    args = parser.parse_args(argv)
    if args.wheel is not None and args.args:
        parser.error("--wheel goes without -- ARGS: these are for the build from source")
    if args.wheel is not None and (not args.wheel.strip() or args.wheel.startswith("-")):
        parser.error(f"--wheel {args.wheel!r} is no requirement such as nixl==1.3.2")
    if args.logs.exists() and not args.logs.is_dir():
        parser.error(f"--logs {args.logs}: is a file, not a folder")
    return args


def command(wheel: str | None, args: list[str], python: str, prefix: str, folder: Path) -> list[str]:
    """What runs on a node.

    Args:
        python: its Ray's Python; prefix: that one's sys.prefix; folder: where the sent files are.
    """
    if wheel:
        # Nodes of one machine, or of one file system, may share a Python: pip does not lock it.
        return ["flock", f"{prefix}/.pip-install.lock", python, "-m", "pip", "install", wheel]
    own = [] if "--python" in args else ["--python", python]
    return ["bash", str(folder / "debug/build_nixl_ucx_efa.sh"), *own, *args]


def pack(root: Path) -> bytes:
    """The files that a node needs, as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted({path for pattern in SENT for path in root.glob(pattern)}):
            archive.add(path, path.relative_to(root))
    return buffer.getvalue()


class Remote:
    """One command on one node, as a Ray actor; it ends with its actor."""

    def __init__(self, sent: bytes, wheel: str | None, args: list[str]):
        import tempfile

        self.folder = tempfile.TemporaryDirectory(prefix="pdbench-build-")
        where = Path(self.folder.name)
        with tarfile.open(fileobj=io.BytesIO(sent)) as archive:
            archive.extractall(where, filter="data")
        self.output = where / "output"
        with self.output.open("wb") as out:
            # A group of its own, so that `stop` reaches compilers, too.
            self.process = subprocess.Popen(
                command(wheel, args, sys.executable, sys.prefix, where),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0,
            )  # fmt: skip

    def poll(self, offset: int) -> tuple[bytes, int | None]:
        """Output from byte `offset` on, and the exit code once the command has ended."""
        code = self.process.poll()  # first: what it wrote before its end is read
        with self.output.open("rb") as file:
            file.seek(offset)
            return file.read(), code

    def stop(self) -> None:
        """End the command and all that it started."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, signum)
            except ProcessLookupError:
                break
            try:
                self.process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                continue
        self.folder.cleanup()


def start(ray, sent: bytes, args: argparse.Namespace) -> dict[str, object]:
    """Start the command on every living node; returns {node IP: actor}."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    travel_by_value(ray)
    remote = ray.remote(num_cpus=0, max_restarts=0)(Remote)
    return {
        node["NodeManagerAddress"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(sent, args.wheel, args.args)
        for node in ray.nodes()
        if node["Alive"]
    }


def follow(ray, actors: dict[str, object], logs: Path) -> list[Outcome]:
    """Show and log all nodes until the last has ended; on Ctrl-C stop them and mark those as stopped."""
    outcomes, offsets, begun = {}, dict.fromkeys(actors, 0), time.monotonic()
    for ip in actors:
        outcomes[ip] = Outcome(ip, logs / f"{ip}.log")
        outcomes[ip].log.write_bytes(b"")
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("{task.fields[line]}")
    with Progress(*columns, console=console, transient=True) as progress:
        bars = {ip: progress.add_task(ip, total=1, line="") for ip in actors}
        try:
            while running := [one for one in outcomes.values() if one.status == "running"]:
                # All are asked before any is waited for.
                asked = {one.ip: actors[one.ip].poll.remote(offsets[one.ip]) for one in running}
                for one in running:
                    offsets[one.ip] += _hear(ray, one, asked[one.ip])
                    one.seconds = time.monotonic() - begun
                    progress.update(bars[one.ip], line=escape(one.last_line[:100]), completed=one.status != "running")
                    if one.status != "running":
                        console.print(f"{one.ip}: {one.status} after {one.seconds:.0f} s: {escape(one.last_line[:160])}")
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            for one in (o for o in outcomes.values() if o.status == "running"):
                one.status = "stopped"
        finally:
            _stop_all(ray, actors)
    return list(outcomes.values())


def _hear(ray, one: Outcome, answer) -> int:
    """Take one node's answer; returns how many bytes it held."""
    try:
        text, code = ray.get(answer, timeout=ANSWER_S)
    except ray.exceptions.RayError as error:  # the node, or its actor, died, or could not start
        one.add(f"{error}\n".encode())
        one.status, one.last_line = "lost", first_line(error)
        return 0
    one.add(text)
    if code is not None:
        one.status = "ok" if code == 0 else f"failed (code {code})"
    return len(text)


def _stop_all(ray, actors: dict[str, object]) -> None:
    ray.wait([actor.stop.remote() for actor in actors.values()], num_returns=len(actors), timeout=3 * STOP_GRACE_S)
    for actor in actors.values():
        ray.kill(actor)


def table(outcomes: list[Outcome]) -> Table:
    """A row per node; the logs by name, so that none is cut short in a narrow terminal."""
    made = Table("node", "status", "seconds", "log")
    for one in sorted(outcomes, key=lambda o: o.ip):
        colour = "green" if one.status == "ok" else "red"
        made.add_row(one.ip, f"[{colour}]{one.status}[/{colour}]", f"{one.seconds:.0f}", one.log.name)
    return made


def exit_code(outcomes: list[Outcome]) -> int:
    """0 if all went well, 130 if stopped, else 1."""
    statuses = {one.status for one in outcomes}
    return 0 if statuses == {"ok"} else interrupts.STATUS if "stopped" in statuses else 1


def main() -> int:
    args = parse_args()
    try:
        args.logs.mkdir(parents=True, exist_ok=True)
        ray = connect(args.address)
    except (OSError, ConnectionError) as error:
        print(f"build_on_all_nodes.py: error: {error}", file=sys.stderr)
        return 2
    what = f"pip install {args.wheel}" if args.wheel else f"debug/build_nixl_ucx_efa.sh {' '.join(args.args)}".strip()
    actors = start(ray, pack(ROOT), args)
    console.print(f"{what} on {len(actors)} nodes", markup=False)
    outcomes = follow(ray, actors, args.logs)
    console.print(table(outcomes))
    console.print(f"logs in {args.logs}", markup=False)
    return exit_code(outcomes)


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "build_on_all_nodes.py"))

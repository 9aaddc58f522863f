"""The local cluster on which the benchmarks of this folder launch and measure, with the project's own scripts."""

import contextlib
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
URL = "http://127.0.0.1:8000"
STACK = ["--model", "configs/models/gpt-oss-tiny.yaml", "--hardware", "configs/hardware/cpu.yaml", "--no-doctor"]


def run(*command: str) -> str:
    """Run a command and return its output, standard error included; it is shown where the command fails."""
    program = [] if command[0].startswith("./") else [sys.executable]
    done = subprocess.run([*program, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}")
    return done.stdout


@contextlib.contextmanager
def cluster(workers: int):
    """Run a local cluster around what is measured, which ends with it; none may run already."""
    try:
        run("-m", "pdbench.local_cluster", "start", "--workers", str(workers))
    except KeyboardInterrupt:  # its nodes live on where only the command is ended
        stop()
        raise
    try:
        yield
    finally:
        stop()


def stop() -> None:
    run("-m", "pdbench.local_cluster", "stop")

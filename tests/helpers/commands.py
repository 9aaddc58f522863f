"""The scripts, run as a user would."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STACK = ["--model", "configs/models/gpt-oss-tiny.yaml", "--hardware", "configs/hardware/cpu.yaml", "--timeout", "600"]
URL = "http://127.0.0.1:8000"


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **extra}


def run(*command: str, check: bool = True, timeout: float = 700, **extra: str) -> subprocess.CompletedProcess:
    """Run a command in the repository; its output is shown when a test fails."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, timeout=timeout)
    took = f"{time.monotonic() - began:.1f} s"
    print(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}[exit {done.returncode} after {took}]")
    if check:
        assert done.returncode == 0, done.stderr[-2000:]
    return done


def launch(*options: str, check: bool = True) -> subprocess.CompletedProcess:
    return run(str(BIN / "python"), "launch_gptoss.py", *STACK, *options, check=check)


def module(name: str, *options: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess:
    return run(str(BIN / "python"), "-m", f"pdbench.{name}", *options, check=check, **extra)


def bench(results: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess:
    return run("./run_bm.sh", "--results-dir", str(results), *options, check=check)


def deployment() -> dict:
    """What runs, by its own account."""
    return requests.get(f"{URL}/pdbench/deployment", timeout=30).json()


def level(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def stop() -> None:
    """Stop what is deployed, if anything is: only to ask Ray takes seconds."""
    if runs("ray::ServeController", "ray::Keeper"):
        launch("--stop")


def runs(*titles: str) -> list[str]:
    """Command lines, beginning with one of `titles`, of living processes."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if line.startswith(titles) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(line)
    return found


def wait_for(condition, seconds: float = 120, seen=lambda: "") -> None:
    """Wait until a condition holds; what is `seen` instead is in the failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {seen()}"
        time.sleep(0.2)

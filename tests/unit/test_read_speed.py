"""The benchmark of reading: its folders are such as the reader takes, and its commands run as typed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_commands_are_timed_on_folders_that_can_be_read():
    typed = [sys.executable, "benchmarks/read_speed.py", "--folders", "3", "--repeats", "2", "--details"]
    done = subprocess.run([*typed, "--only", "SLA", "claims"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *steps = done.stdout.splitlines()
    assert first.startswith("3 folders, ") and [step.split(":")[0].strip() for step in steps] == ["SLA", "claims"]
    assert all(" s (CPU " in step and "MiB" in step for step in steps)

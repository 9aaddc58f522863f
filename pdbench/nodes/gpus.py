"""Read what nvidia-smi reports of this machine's GPUs, and which of them CUDA is to see. It runs on nodes, by value."""

import itertools
import subprocess
from collections.abc import Mapping

TIMEOUT_S = 30
VISIBLE = "CUDA_VISIBLE_DEVICES"


def query(what: str, *fields: str) -> subprocess.CompletedProcess[str]:
    """Run `nvidia-smi --query-WHAT=FIELDS`: a line of comma-separated values for each GPU or process.

    Raises:
        FileNotFoundError, subprocess.TimeoutExpired: it is not there, or does not answer.
    """
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


def nvidia_smi(*fields: str) -> list[str]:
    """Return a line of comma-separated `fields` (see nvidia-smi --help-query-gpu) for each GPU, none if it fails."""
    try:
        run = query("gpu", *fields)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in run.stdout.splitlines() if line.strip()] if run.returncode == 0 else []


def named(environment: Mapping[str, str]) -> list[str] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, by number or UUID; None where it is not set."""
    given = environment.get(VISIBLE)
    if given is None:
        return None
    # CUDA sees those before the first that is no device: -1 hides all.
    return list(itertools.takewhile(lambda name: name and name[0] != "-", map(str.strip, given.split(","))))

"""What nvidia-smi reports of this machine's GPUs. Needs nothing but the standard library: it runs on nodes, by value."""

import subprocess

TIMEOUT_S = 30


def nvidia_smi(*fields: str) -> list[str]:
    """A line of comma-separated `fields` (see nvidia-smi --help-query-gpu) for each GPU; none where it finds none or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in run.stdout.splitlines() if line.strip()] if run.returncode == 0 else []

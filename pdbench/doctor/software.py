"""Read versions and commits of what a node has installed, beyond pip's: libfabric, rdma-core, vLLM's and torch's commits."""

import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from pdbench.nodes.stack import versions as stack_versions

# As Debian and Ubuntu, and as Amazon Linux and Red Hat name them.
PACKAGES = {"rdma-core": ("ibverbs-providers", "rdma-core"), "libfabric": ("libfabric-aws", "libfabric1", "libfabric")}


def versions() -> dict[str, str | None]:
    """Return `stack.versions` and more, by name; None where absent."""
    found = stack_versions()
    found["vllm_commit"] = _word_in("vllm", "vllm/_version.py", r"commit_id = '(\w+)'")
    found["torch_commit"] = _word_in("torch", "torch/version.py", r"git_version = '(\w+)'")
    found["libfabric"] = _fi_info() or _package("libfabric")
    found["rdma-core"] = _package("rdma-core")
    return found


def _word_in(distribution: str, name: str, pattern: str) -> str | None:
    """What `pattern` finds in a file of a distribution, without importing it."""
    try:
        path = Path(metadata.distribution(distribution).locate_file(name))
    except metadata.PackageNotFoundError:
        return None
    match = path.is_file() and re.search(pattern, path.read_text())
    return match[1] if match else None


def _fi_info() -> str | None:
    """libfabric's version by its own tool, wherever EFA's installer put it."""
    tool = shutil.which("fi_info") or shutil.which("/opt/amazon/efa/bin/fi_info")
    run = tool and subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=10)
    match = run and re.search(r"libfabric: (\S+)", run.stdout)
    return match[1] if match else None


def _package(name: str) -> str | None:
    """Version of the first of the system's packages that is installed."""
    for package in PACKAGES[name]:
        for tool, *words in (("dpkg-query", "-W", "-f=${Version}", package), ("rpm", "-q", "--qf=%{VERSION}", package)):
            if shutil.which(tool):
                run = subprocess.run([tool, *words], capture_output=True, text=True, timeout=10)
                if run.returncode == 0 and run.stdout:
                    return run.stdout.strip()
    return None

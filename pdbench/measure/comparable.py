"""Compare manifests: levels of what differs in one of these are not put together in a folder."""

from collections.abc import Iterator
from typing import Any

from pdbench.manifest import Deployment, Manifest
from pdbench.serve import serving_path

STACK = ("ray", "ray_commit", "vllm", "nixl", "ucx", "torch", "cuda")


def first_difference(old: Manifest, new: Manifest) -> str | None:
    """Return the first difference that matters, such as `layout 2xtp1, but this is layout 1xtp2`; None without one."""
    changed = (f"{what} {was}, but this is {what} {now}" for what, was, now in _compared(old, new) if was != now)
    return next(changed, None)


def _compared(old: Manifest, new: Manifest) -> Iterator[tuple[str, Any, Any]]:
    yield "base seed", old.base_seed, new.base_seed
    yield "as_published", old.as_published, new.as_published
    was, now = old.deployment, new.deployment
    for what in ("layout", "mode", "model_checksum", "transport"):
        yield what, getattr(was, what, None), getattr(now, what, None)
    for what, of in (("accelerators", _accelerators), ("versions", _versions)):
        yield what, of(was) or of(now), of(now)  # older manifests have none
    given, now_given = _engine_arguments(was), _engine_arguments(now)
    for name in sorted(given.keys() | now_given.keys()):
        yield name, given.get(name), now_given.get(name)
    path, path_now = (serving_path.compared(getattr(which, "serving_path", None)) for which in (was, now))
    yield "serving_path", path, path_now


def _accelerators(deployment: Deployment | None) -> list[str]:
    """What the engines run on, each kind once: GPUs, and CPUs where there are none."""
    machines = deployment.machines if deployment else []
    return sorted({kind for machine in machines for kind in machine.gpus or [machine.cpu]})


def _versions(deployment: Deployment | None) -> list[str]:
    machines = deployment.machines if deployment else []
    return sorted({f"{name} {machine.versions.get(name)}" for machine in machines for name in STACK})


def _engine_arguments(deployment: Deployment | None) -> dict[str, Any]:
    """What vLLM was started with: by role and argument."""
    configs = deployment.llm_configs if deployment else {}
    given = {role: config.get("engine_kwargs", {}) for role, config in configs.items()}
    return {f"{role} {name}": value for role, arguments in given.items() for name, value in arguments.items()}

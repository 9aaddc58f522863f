"""Put into words what the manifests say of where numbers come from."""

from collections.abc import Iterable

from pdbench.layout import CONTROLS
from pdbench.manifest import Machine, Manifest
from pdbench.read.results import Study

# Of a machine's versions, in this order; the rest follows. ray_commit goes beside ray.
FIRST = ("ray", "vllm", "nixl", "ucx", "torch", "cuda", "driver")


def manifests(study: Study) -> dict[str, Manifest | None]:
    """Return the manifest of each arm; None where its folder has none."""
    folders = study.table.drop_duplicates("arm").set_index("arm")["folder"]
    return {arm: study.folders[folder].manifest for arm, folder in folders.items()}


def facts(manifest: Manifest) -> dict[str, str]:
    """Name -> value of all that a reader compares: software, hardware, placement, settings, times, checks."""
    machines = [manifest.client, *(manifest.deployment.machines if manifest.deployment else [])]
    known = _deployment(manifest) | {"Machines": _each(_hardware(machine) for machine in machines)} | _versions(machines)
    known["Environment"] = _each(f"{name}={value}" for m in machines for name, value in sorted(m.environment.items()))
    commits = [level.commit for level in manifest.levels if level.commit] or [manifest.repository.words or "unknown"]
    known["Repository"] = _each(commit.replace("-dirty", " with local changes") for commit in commits)
    known["Procedure"] = "as published: one seed, no warm-up" if manifest.as_published else f"base seed {manifest.base_seed}"
    levels = manifest.levels
    if levels:
        known["Measured"] = f"{min(level.started for level in levels)} to {max(level.ended for level in levels)}"
    gates = [gate for level in levels for gate in level.gates] + (manifest.deployment.gates if manifest.deployment else [])
    failed = _each(gate.name for gate in gates if not gate.passed)
    known["Checks"] = f"{sum(gate.passed for gate in gates)} of {len(gates)} passed" + (f"; failed: {failed}" if failed else "")
    return {name: value for name, value in known.items() if value}


def commands(manifest: Manifest) -> list[str]:
    """Return the launch, then the sweeps, as typed."""
    return ([manifest.deployment.command] if manifest.deployment else []) + manifest.commands


def _deployment(manifest: Manifest) -> dict[str, str]:
    if not manifest.deployment:
        return {"Model": manifest.model}
    deployment, transport = manifest.deployment, manifest.deployment.transport or {}
    nodes = len({replica.node_id for replica in deployment.replicas if replica.role != "ingress"})
    plain = "vllm serve" + " behind vllm-router" * ("router" in deployment.servers)
    return {
        "Serving": plain if deployment.mode in CONTROLS else "Ray Serve LLM",
        "Model": f"{deployment.model_id} from {deployment.model_source}",
        "Model checksum": deployment.model_checksum or "",
        "Accelerators": f"{deployment.gpus} {deployment.accelerator} on {nodes} node{'s' if nodes > 1 else ''}",
        "KV transfer": ", ".join(f"{name} {value}" for name, value in transport.items() if value not in (None, False)),
        "Launched": deployment.launched,
    }


def _hardware(machine: Machine) -> str:
    gpus = f", {len(machine.gpus)} x {_each(machine.gpus)}" if machine.gpus else ""
    return f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB{gpus}"


def _versions(machines: list[Machine]) -> dict[str, str]:
    names = dict.fromkeys(name for machine in machines for name in machine.versions if name != "ray_commit")
    ordered = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    return {name: _each(_version(machine, name) for machine in machines) for name in ordered}


def _version(machine: Machine, name: str) -> str:
    version, commit = machine.versions.get(name) or "", machine.versions.get("ray_commit")
    return f"{version} ({commit})" if name == "ray" and commit else version


def _each(words: Iterable[str]) -> str:
    """Each different word once."""
    return "; ".join(dict.fromkeys(word for word in words if word))

"""Find what differs between arms that are compared and is no part of the comparison: versions, engines, clients, loads."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd

from pdbench.analysis.audit_levels import listed
from pdbench.analysis.audit_source import ASKED, CLIENT_KEYS, Source
from pdbench.analysis.pieces import coarser
from pdbench.manifest import Machine


def mixed(compared: list[Source]) -> Iterator[tuple[str, Iterable[Source], str]]:
    """Yield (kind of finding, the folders that have the rarer values, what differs with its values).

    A setting of engines that only some manifests have is `default` in the others; of all else, nothing is known there.
    """
    for kind, facts_of in FACTS.items():
        by_value: dict[str, dict[str, list[Source]]] = defaultdict(lambda: defaultdict(list))
        facts = [(source, found) for source in compared if (found := facts_of(source))]
        for what in dict.fromkeys(name for _, found in facts for name in found):
            for source, found in facts:
                if what in found or kind == "mixed engines":
                    by_value[what][found.get(what, "default")].append(source)
        for what, values in by_value.items():
            if len(values) > 1:
                rare = sorted(values.items(), key=lambda item: len(item[1]))
                counts = ", ".join(f"{value} in {len(having)} of {len(compared)} folders" for value, having in reversed(rare))
                yield kind, [source for _, having in rare[:-1] for source in having], f"{what}: {counts}"


def mixed_within(source: Source) -> Iterator[tuple[str, str]]:
    """Yield what the levels of one folder, which are taken together, were asked otherwise, each value with its levels."""
    for kind, keys in ASKED.items():
        for key in keys:
            levels: dict[str, list[str]] = defaultdict(list)
            for stem, asked in zip(source.columns["stem"], source.columns["asked"]):
                if asked.get(key) is not None:
                    levels[str(asked[key])].append(stem)
            if len(levels) > 1:
                seen = ", ".join(f"{value} in {listed(stems)}" for value, stems in levels.items())
                yield kind, f"{key} within the folder: {seen}"


def mixed_pieces(compared: list[Source]) -> Iterator[tuple[str, Iterable[Source], str]]:
    """Yield the folders whose answers came in coarser pieces than those of another, each with what was seen."""
    names = ("arm", "tokens_per_piece")
    found = coarser(pd.DataFrame({name: np.concatenate([source.columns[name] for source in compared]) for name in names}))
    for source in compared:
        if seen := found.get(source.columns["arm"][0]):
            yield "mixed pieces", [source], seen


def _versions(source: Source) -> dict[str, str]:
    """Return everything that a folder records of the stack."""
    keys = set.intersection(*map(set, source.columns["keys"]))
    found = {f"the client's key {key}": "present" if key in keys else "absent" for key in CLIENT_KEYS}
    if source.manifest:
        found |= _machines("client", [source.manifest.client])
        if source.manifest.deployment:
            found |= _machines("engines", source.manifest.deployment.machines)
            found["weights"] = str(source.manifest.deployment.model_checksum)
    return found


def _machines(role: str, machines: list[Machine]) -> dict[str, str]:
    seen = defaultdict(set)
    for machine in machines:
        of_machine = machine.versions | {"CPU": machine.cpu, "GPU": ", ".join(sorted(set(machine.gpus)))}
        for name, version in of_machine.items():
            seen[f"{role}' {name}" if role.endswith("s") else f"{role}'s {name}"].add(str(version))
    return {name: " and ".join(sorted(versions)) for name, versions in seen.items()}


def _engines(source: Source) -> dict[str, str]:
    deployment = source.manifest.deployment if source.manifest else None
    return deployment.engine_settings if deployment else {}


def _asked(kind: str) -> Callable[[Source], dict[str, str]]:
    def of(source: Source) -> dict[str, str]:
        found = {key: sorted({str(asked.get(key)) for asked in source.columns["asked"]} - {"None"}) for key in ASKED[kind]}
        if kind == "mixed loads" and source.columns["kind"][0] == "request-rate":
            found |= {
                f"requests at {rate:g}/s": [str(count)]
                for rate, count in zip(source.columns["level"], source.columns["completed"])
            }
        return {key: " and ".join(values) for key, values in found.items() if values}

    return of


FACTS: dict[str, Callable[[Source], dict[str, str]]] = {
    "mixed versions": _versions, "mixed engines": _engines, **{kind: _asked(kind) for kind in ASKED},
}  # fmt: skip

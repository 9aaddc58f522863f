"""Find what differs between arms that are compared and is no part of the comparison: versions, engines, clients, loads."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
import pandas as pd

from pdbench.analysis.audit_levels import listed
from pdbench.analysis.audit_source import ASKED, CLIENT_KEYS, Source
from pdbench.analysis.pieces import coarser
from pdbench.manifest import Machine

LONG = 80  # characters of a value that is shown as it is
MANY = 8  # entries of a list that is
BEFORE = 10  # characters shown before the place where long values first differ


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
                name, texts = in_short(what, list(values))
                rare = sorted(zip(texts, values.values(), strict=True), key=lambda item: len(item[1]))
                counts = ", ".join(f"{text} in {len(having)} of {len(compared)} folders" for text, having in reversed(rare))
                yield kind, [source for _, having in rare[:-1] for source in having], f"{name}: {counts}"


def in_short(what: str, values: Sequence[str]) -> tuple[str, list[str]]:
    """Return what differs and its values, shortened to what distinguishes them.

    Of JSON objects only the keys that differ remain, of a long list its length and last entry; other long texts are cut to
    the place where they first differ.

    Args:
        what: name of a setting or version; the key is added to it where a single one differs.
        values: different ones, as text; JSON where they are objects or lists.
    """
    read: list[Any] = [json.loads(value) if _is_json(value) else value for value in values]
    while all(isinstance(value, dict) for value in read):
        names = dict.fromkeys(name for value in read for name in value)
        differing = [name for name in names if any(value.get(name) != read[0].get(name) for value in read)]
        if len(differing) != 1:
            read = [{name: value[name] for name in differing if name in value} for value in read]
            break
        what, read = f"{what}.{differing[0]}", [value.get(differing[0], "default") for value in read]
    texts = [_text(value) for value in read]
    if len(set(texts)) < len(texts):  # lists that differ in their middle
        texts = [json.dumps(value) for value in read]
    begin = max(0, len(commonprefix(texts)) - BEFORE)
    return what, [text if len(text) <= LONG else _cut(text, begin) for text in texts]


def _is_json(value: str) -> bool:
    """Whether it is an object or a list; of several roles' values in one text none is."""
    try:
        return isinstance(json.loads(value), dict | list)
    except ValueError:
        return False


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_text(of)}' for name, of in value.items())}}}"
    if isinstance(value, list) and len(value) > MANY:
        return f"{len(value)} values ending in {_text(value[-1])}"
    return value if isinstance(value, str) else json.dumps(value)


def _cut(text: str, begin: int) -> str:
    end = begin + LONG
    return "..." * (begin > 0) + text[begin:end] + "..." * (end < len(text))


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

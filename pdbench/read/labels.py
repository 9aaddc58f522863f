"""Name arms: in few words, and no two alike."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pdbench.cli import visible
from pdbench.layout import Layout

if TYPE_CHECKING:
    from pdbench.read.results import Arm


def arm_labels(arms: "Sequence[Arm]") -> list[str]:
    """Return short names, unique among these arms: layout and placement, then whatever else distinguishes them."""
    labels = [" ".join(filter(None, (str(arm.layout), arm.placement, "bare" * arm.is_control))) for arm in arms]
    # A workload that differs anywhere is in every label: no title could say it for all.
    for extra in (lambda a: a.run.model, lambda a: f"{a.run.isl}:{a.run.osl}", lambda a: a.run.phase):
        if len({extra(arm) for arm in arms}) > 1:
            labels = [f"{label} {visible(extra(arm))}" for label, arm in zip(labels, arms, strict=True)]
    remarks = [_remarks(arm.run.name) for arm in arms]
    distinct = _distinct(labels, remarks)
    # A setting that two arms differ in is named wherever it is set: `1xtp2` beside `2xtp1 step512` would look like the default.
    labels = [
        f"{label} {visible('-'.join(dict.fromkeys(word for word in of if word in distinct)))}".strip()
        for label, of in zip(labels, remarks, strict=True)
    ]
    for extras in (lambda alike: [arm.run.name for arm in alike], _places):
        labels = _with_extras(labels, arms, extras)
    return labels


def _with_extras(labels: list[str], arms: "Sequence[Arm]", extras: "Callable[[list[Arm]], list[str]]") -> list[str]:
    """Labels, each with what `extras` says of those that are alike, where it does not say the same of all."""
    alike: dict[str, list[int]] = defaultdict(list)
    for at, label in enumerate(labels):
        alike[label].append(at)
    found = list(labels)
    for label, places in alike.items():
        more = extras([arms[at] for at in places]) if len(places) > 1 else []
        if len(set(more)) > 1:
            for at, extra in zip(places, more, strict=True):
                found[at] = f"{label} {visible(extra)}".strip()
    return found


def _distinct(labels: list[str], remarks: list[list[str]]) -> set[str]:
    """Return the words of folders' names that some arms of one label have and others lack: not an experiment's of all."""
    alike: dict[str, list[set[str]]] = defaultdict(list)
    for label, words in zip(labels, remarks, strict=True):
        alike[label].append(set(words))
    return {word for of in alike.values() for word in set.union(*of) if not all(word in words for words in of)}


def _places(alike: "list[Arm]") -> list[str]:
    """The folders that these arms lie in, by the shortest parts of their paths that no two share: `(bm_results)`."""
    folders = [Path(os.path.abspath(arm.folder)) for arm in alike]
    shared = Path(os.path.commonpath([folder.parent for folder in folders]))
    paths = [folder.parent.relative_to(shared).parts[::-1] for folder in folders]  # the nearest comes first
    if len(set(paths)) < len(paths):
        return [f"({folder.relative_to(shared)})" for folder in folders]
    ends = range(1, max(map(len, paths)) + 1)
    for part in (*(slice(end - 1, end) for end in ends), *map(slice, ends)):
        found = [path[part] for path in paths]
        if len(set(found)) == len(paths) and all(some or not path for some, path in zip(found, paths, strict=True)):
            break
    return [f"({'/'.join(some[::-1]) or shared.name})" for some in found]


def _remarks(name: str) -> list[str]:
    """What a folder's name says besides layout and placement: `spread_srd_1xtp4-1xtp4` -> `srd`."""
    words = name.replace("_", "-").split("-")
    return [word for word in words if word not in ("pack", "packed", "spread", "pool", "bare") and not _is_pool(word)]


def _is_pool(word: str) -> bool:
    try:
        Layout.parse(word.replace("ptp", "xtp").replace("dtp", "xtp").lstrip("pd"))
    except ValueError:
        return False
    return True

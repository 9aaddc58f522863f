"""Find the runs that claims are asked of: by layout, placement, transport and settings, never by a folder's name."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pdbench.analysis import audit
from pdbench.analysis.audit import Finding, findings
from pdbench.analysis.audit_source import Source, columns_of, sources_of
from pdbench.layout import Layout
from pdbench.manifest import LINK_MBIT, NOT_PATH, ROUTER, Deployment
from pdbench.read.folder import are_small, check_folder, folders_among, left_out_words
from pdbench.read.level_file import ResultError, naming
from pdbench.read.results import per_node_of, read_study
from pdbench.workload import Level, RunName

# Of two layouts the audit cannot say which is right: such a run is used where there is no other.
DOUBTFUL = "two layouts"
UNKNOWN = "no manifest"  # beside folders that have one
REFUTED = tuple(kind for kind in audit.REFUTED if kind not in (DOUBTFUL, "same results", UNKNOWN))
REPLAYED = "replayed prompts"  # taken where there is no other: throughput is too high
LAST = (DOUBTFUL, UNKNOWN, REPLAYED)
COPIES = ("same results", "two layouts")
# Settings of a transport that an arm can have for its own, and those of them that say what `spread` and `tcp` say, or nothing.
OF_TRANSPORTS = ("UCX_", "NIXL_", LINK_MBIT)
PLACEMENTS = ("pack", "pool", "spread")
KINDS = (*PLACEMENTS, "tcp", "bare")
OF_RAY_SERVE = "RAY_SERVE_|RAYLLM_"
DERIVED = "compilation_config="  # its sizes of CUDA graphs follow from other arguments
NOT_TUNING = ("UCX_TLS", "UCX_NET_DEVICES", "UCX_PROTO_INFO", "UCX_TCP_PORT_RANGE")


@dataclass(frozen=True)
class Spec:
    """An arm as claims name it: a layout, and what its kind and transport are if that matters.

    `p1xtp4-d1xtp4` is on one node, `... pack` and `... pool` are kinds of that; `... spread` is on two, `... spread tcp
    UCX_TCP_TX_SEG_SIZE=1m` over TCP with a setting of its own; `... bare` is the control without Ray Serve, `...
    max_num_batched_tokens=512` an arm whose engines have an argument that those of others do not, `...
    RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0` one whose Ray Serve has such a variable.
    """

    layout: Layout
    placement: str | None  # None: on one node
    tcp: bool
    tuning: frozenset[str] = frozenset()
    bare: bool = False
    settings: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Spec":
        layout, *words = text.split()
        tuning = {word for word in words if re.fullmatch(f"({'|'.join(OF_TRANSPORTS)})[A-Z0-9_]*=.+", word)}
        given = [word for word in words if re.fullmatch(f"([a-z][a-z0-9_]*|({OF_RAY_SERVE})[A-Z0-9_]+)=.+", word)]
        settings = {word for word in given if word.partition("=")[0] not in (*KINDS, *NOT_PATH)}
        if len({word.partition("=")[0] for word in settings}) < len(settings):
            raise ValueError(f"{text!r}: gives an engine argument or a variable twice")
        placements = [word for word in words if word in PLACEMENTS]
        wrong = [*placements[1:], *(set(words) - {*KINDS} - tuning - settings)]
        if wrong:
            allowed = (
                "one of pack, pool and spread, bare, tcp, a variable such as UCX_NAME=VALUE or RAY_SERVE_NAME=VALUE, an engine "
                "argument such as max_num_batched_tokens=512, or nothing"
            )
            raise ValueError(f"{text!r}: {wrong[0]!r} is not allowed after the layout: write {allowed}")
        placement, bare = next(iter(placements), None), "bare" in words
        return cls(Layout.parse(layout), placement, "tcp" in words, frozenset(tuning), bare, frozenset(settings))

    def placed(self, placement: str | None) -> bool:
        """Return whether an arm's placement is the one that is named."""
        return placement == self.placement if self.placement else placement != "spread"


def tuning_of(deployment: Deployment) -> frozenset[str]:
    """Return how an arm's transport was set, besides which one: variables of the engines, as NAME=VALUE."""
    found = ((config.get("runtime_env") or {}).get("env_vars", {}) for config in deployment.llm_configs.values())
    return frozenset(
        f"{name}={value}" for variables in found for name, value in variables.items()
        if name.startswith(OF_TRANSPORTS) and name not in NOT_TUNING
    )  # fmt: skip


def ray_settings(deployment: Deployment) -> dict[str, str]:
    """Return how Ray Serve was set: its variables, and a router that is not its own."""
    path = deployment.serving_path or {}
    found = {name: value for name, value in path.get("env", {}).items() if name not in NOT_PATH}
    return found | ({"router": router} if (router := path.get("router", ROUTER)) != ROUTER else {})


def _named(settings: dict[str, str]) -> frozenset[str]:
    return frozenset(name + "=" + str(value).strip('"') for name, value in settings.items())


@dataclass(frozen=True)
class Evidence:
    """The result folders of one workload, and what the audit says of them.

    Attributes:
        workload: (model, as in the tidy table, ISL, OSL, phase, kind of load).
        others: folders of other workloads.
        unread: why a folder cannot be read.
    """

    workload: tuple[Any, ...]
    sources: list[Source]
    found: list[Finding]
    others: list[str]
    unread: list[str]

    def doubts(self, source: Source, *kinds: str) -> list[Finding]:
        return [f for f in self.found if f.kind in kinds and source.name in f.folders]

    def over_tcp(self, source: Source) -> bool:
        """Return whether UCX, or without it the name of the folder or of a copy of it, says TCP."""
        if gates := source.manifest.transport_gates if source.manifest else []:
            return gates[-1].seen.startswith("tcp")
        names = {source.name}.union(*(f.folders for f in self.doubts(source, *COPIES)))
        return any("tcp" in re.split("[-_]", Path(name).name) for name in names)

    @cached_property
    def tunings(self) -> dict[str, frozenset[str]]:
        """How each run's transport was set, by folder; without what all arms of PD have, which is the hardware's."""
        known = {
            source.name: tuning_of(source.manifest.deployment)
            for source in self.sources if source.manifest and source.manifest.deployment and source.arm.layout.is_pd
        }  # fmt: skip
        shared = frozenset.intersection(*known.values()) if known else frozenset()
        return {name: tuning - shared for name, tuning in known.items()}

    @cached_property
    def settings(self) -> dict[str, tuple[frozenset[str], frozenset[str] | None]]:
        """Arguments of each run's engines, and how its Ray Serve was set, if that is recorded; by folder, as NAME=VALUE."""
        found = {}
        for source in self.sources:
            if source.manifest and (deployment := source.manifest.deployment):
                # Names in capitals are variables of the engines' environment.
                engines = {name: value for name, value in deployment.engine_settings.items() if name.islower()}
                found[source.name] = (_named(engines), _named(ray_settings(deployment)) if deployment.serving_path else None)
        return found

    def has(self, source: Source, settings: frozenset[str]) -> bool:
        """Return whether a run has all settings that a claim names."""
        engines, ray = self.settings.get(source.name, (frozenset(), None))
        return engines | (ray or frozenset()) >= settings

    def unnamed(self, source: Source, spec: Spec) -> int:
        """Return how many settings a run has that not all runs have, of those that record them, and that the claim does not
        name."""
        own: set[str] = set()
        for kind, of_run in enumerate(self.settings.get(source.name, ())):
            recorded = [one for of in self.settings.values() if (one := of[kind]) is not None]
            own |= of_run - frozenset.intersection(*recorded) if of_run else set()
        named = {setting.partition("=")[0] for setting in spec.settings}
        names_engines = any(name.islower() and name != "router" for name in named)
        return sum(not (names_engines and setting.startswith(DERIVED)) for setting in own - spec.settings)

    def candidates(self, text: str) -> list[Source]:
        """Return runs of an arm, to take first one not in doubt, with a manifest, unseen prompts, no setting of its own
        that is not named, not archived, the latest."""
        spec = Spec.parse(text)
        fitting = [
            source for source in self.sources
            if source.arm.layout == spec.layout and spec.placed(source.arm.placement)
            and source.arm.is_control == spec.bare and self.over_tcp(source) == spec.tcp and not self.doubts(source, *REFUTED)
            and self.tunings.get(source.name, frozenset()) == spec.tuning
            and self.has(source, spec.settings)
        ]  # fmt: skip
        latest = sorted(fitting, key=lambda source: source.columns["date"][-1], reverse=True)
        doubts = {source: [bool(self.doubts(source, kind)) for kind in LAST] for source in latest}
        return sorted(latest, key=lambda of: (*doubts[of], self.unnamed(of, spec), "archive" in of.arm.folder.parts))

    def among(self, words: str) -> list[str]:
        """Return all layouts measured on one node."""
        arms = [source.arm for source in self.sources if not source.arm.is_control]
        fitting = (arm for arm in arms if arm.layout.gpus <= arm.gpus_per_node and arm.placement != "spread")
        return list(dict.fromkeys(str(arm.layout) for arm in fitting if arm.layout.is_pd or words == "one node"))


def read_evidence(
    folders: Sequence[str | os.PathLike[str]], lengths: tuple[int, int] | None = None, model: str | None = None,
    details: bool = False,
) -> Evidence:  # fmt: skip
    """Read all result folders in `folders`, at any depth, and keep one workload: that of most layouts.

    Args:
        lengths: (ISL, OSL) of the workload, where it is not to be that of most layouts.
        model: as the folders' names have it, where it is not to be that of most layouts.
        details: read those of every request, however many; else only of small folders.

    Raises:
        ResultError: a folder is missing, or no result folder in them can be read or is of `lengths` and `model`.
    """
    unread: list[str] = []
    given, files = folders_among(folders)
    unread += [left_out_words(files)] * bool(files)
    paths = {os.path.realpath(path): path for top in given for path in result_folders(top, unread)}
    sources = _read(list(paths.values()), unread, details)
    by_workload = defaultdict(list)
    for source in sources:
        fits = lengths is None or (source.arm.run.isl, source.arm.run.osl) == lengths
        if fits and model in (None, source.arm.run.model):
            by_workload[(_asked_model(source), *source.workload[1:])].append(source)
    if not by_workload:
        asked = (f" of {model}" if model else "") + (f" of {lengths[0]}:{lengths[1]}" if lengths else "")
        have = ", ".join(sorted({_workload_words(source) for source in sources}))
        reasons = [*([f" (there are: {have})"] if have else []), *(f": {why}" for why in unread), ""]
        raise ResultError(f"{', '.join(map(str, folders))}: no result folder{asked} that can be read{reasons[0]}")
    workload, kept = max(by_workload.items(), key=lambda item: len({source.arm.layout for source in item[1]}))
    others = [source.name for source in sources if source not in kept]
    node = max(source.arm.gpus_per_node for source in kept)  # else arms of smaller nodes would seem to do less
    kept = [source if _is_of(source, node) else _of_node(source, node) for source in kept]
    return Evidence(workload, kept, findings(sources), others, unread)


def _read(folders: list[Path], unread: list[str], details: bool) -> list[Source]:
    """Read folders at once; `unread` takes why one cannot be read."""
    try:
        return sources_of(read_study(folders, details=details or are_small(folders), unreadable=unread), sharing=False)
    except ResultError:  # none can
        return []


def _is_of(source: Source, node: int) -> bool:
    """Whether its throughput per node is of nodes of this size."""
    return bool((source.columns["gpus_per_node"] == node).all())


def _of_node(source: Source, node: int) -> Source:
    return replace(source, columns=columns_of(per_node_of(source.levels, node)))


def _asked_model(source: Source) -> str:
    """The model by the folder's name, with the name that requests had for it where folders of one name differ in that."""
    return str(source.columns["model"][0])


def _workload_words(source: Source) -> str:
    return f"{source.arm.run.model} {source.arm.run.isl}:{source.arm.run.osl}"


def result_folders(folder: Path, unread: list[str]) -> Iterator[Path]:
    """Yield the result folders at and below `folder`: by their name, or by a level's file in them.

    Args:
        unread: takes what cannot be looked into, and why.

    Raises:
        ResultError: it is no folder.
    """
    with naming(folder):
        check_folder(folder)
    for path, inside, files in os.walk(folder, onerror=lambda error: unread.append(f"{error.filename}: {error.strerror}")):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        if _reads(RunName.parse, os.path.basename(os.path.abspath(path))) or any(_reads(Level.from_filename, f) for f in files):
            yield Path(path)


def _reads(parse: Callable[[str], Any], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True

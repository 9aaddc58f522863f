"""Read result folders into one tidy table, a row per arm, level and repeat. What is not whole is an error.

Latency figures are the bench client's own: TTFT, TPOT and inter-token latency over the requests of a
level, in milliseconds. Interactivity and chunk latency are derived from the *medians* of TTFT and TPOT.
Throughput is tokens / duration of the whole level, in tokens per second, its beginning and end included.
Per-request details are most of a file and most of the time that reading takes: callers that do not need them skip them.
"""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pdbench.cli import visible
from pdbench.layout import CONTROLS, Layout, placed_as
from pdbench.manifest import FILENAME as MANIFEST
from pdbench.manifest import Manifest
from pdbench.read.folder import VERSIONS, check_folder, find_levels, provenance, read_manifest
from pdbench.read.held import run_name
from pdbench.read.labels import arm_labels
from pdbench.read.laws import SERVED
from pdbench.read.level_file import TOKENS, LevelFile, ResultError, naming, read_level
from pdbench.workload import Level, RunName

GPUS_PER_NODE = 8
CHUNK_SIZE = 16
CONTROLLED = "controlled "  # begins the placement of a pool whose roles a controller moves
LARGEST = 10**12  # of requests, tokens or GPUs; columns of whole numbers hold 64 bits
TEXT = ("folder", "arm", "model", "layout", "placement", "serving", "kind", "accelerator", "phase", "commit", "engine",
        *VERSIONS, "date", "machines")  # fmt: skip
WHOLE = ("repeat", "block", "gpus", "gpus_per_node", "isl", "osl", "completed")


@dataclass(frozen=True)
class Arm:
    """One result folder: what was deployed, what was asked of it, and its level files."""

    folder: Path
    run: RunName
    layout: Layout
    placement: str
    serving: str
    gpus_per_node: int
    accelerator: str
    decode_bench: bool
    levels: dict[Level, Path]

    @property
    def is_control(self) -> bool:
        """Whether it ran without Ray Serve, to measure what that adds; such an arm takes part in no decision."""
        return self.serving == "bare"


@dataclass(frozen=True)
class Folder:
    """All that was read of one result folder, so that nothing has to open it again."""

    arm: Arm
    manifest: Manifest | None
    levels: dict[Level, LevelFile]


@dataclass(frozen=True)
class Study:
    """Result folders, each of whose files was opened once.

    Attributes:
        table: see `read_results`.
        folders: by the table's column `folder`.
    """

    table: pd.DataFrame
    folders: dict[str, Folder]

    def without(self, left_out: Collection[str]) -> "Study":
        """Return the study less these folders; raises ResultError if none remains."""
        folders = {name: folder for name, folder in self.folders.items() if name not in left_out}
        if not folders:
            raise ResultError("the audit refutes every folder: see --audit, or compare them with --include-refuted")
        return Study(self.table[self.table["folder"].isin(folders)].reset_index(drop=True), folders)

    def with_bare(self) -> "Study":
        """Return the study with its control arms as deployments of their own, which decisions are about, too."""
        return Study(self.table.replace({"serving": {"bare": "alone"}}), self.folders)


def read_results(
    folders: Sequence[str | os.PathLike[str]], gpus_per_node: int | None = None, chunk_size: int = CHUNK_SIZE,
    sla: dict[str, float] | None = None, details: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Read result folders into one table, in the order given, levels ascending.

    Args:
        folders: result folders, each `{model}_itl{ISL}_otl{OSL}_{phase}_{name}`.
        gpus_per_node: accelerators of a node; None takes the most that a folder's manifest says, without one 8, so that
            all throughput per node is of nodes of one size.
        chunk_size: tokens of the first chunk, for `chunk_latency_ms` = TTFT + (chunk_size - 1) * TPOT.
        sla: upper bounds in ms by `ttft` and `tpot`, for `goodput`.
        details: read and check per-request details; else what rests on them is NaN, except p90, p95 and max
            where the client's summary has them, and except pure decode, which is made of nothing else.

    Returns:
        One row per (folder, level, repeat), columns always of the same types: text, whole numbers, numbers
        and, for as_published, a truth value. Identity: folder, arm (unique short label), model (by the folder's name; where
        requests to one went to models of several names, with that name after it), layout,
        placement ("" when unknown or collocated), serving (without Ray Serve "bare", or "alone" by `Study.with_bare`; else
        "ray", or "" where no manifest records it), kind (concurrency | request-rate | shift), level, repeat,
        block (0 outside blocks), accelerator, gpus, gpus_per_node, isl, osl, phase. Provenance, of the
        manifest, "" where unknown: commit (with "-dirty"), engine (its settings), vllm, ray, nixl (versions), as_published
        (false without a manifest, too: then nothing is known), machines (ids of those with the engines), and date, the
        client's. Measures: completed, duration (s),
        {mean,median,p90,p95,p99,max,std}_{ttft,tpot,itl}_ms, {mean,median,p90,p95,p99,max}_e2e_ms (end to end, of the details,
        else of the client's summary where it has them), {input,output,total}_throughput (tokens/s),
        request_throughput (1/s), the same with `_per_node` (times gpus_per_node / gpus), interactivity
        (1000 / median TPOT, tokens/s/user) and chunk_latency_ms; in_flight (requests, in the mean over the level, by
        Little's law), steady_request_throughput (1/s, what the level would have with all the requests asked for in flight
        all the time: concurrency / mean end-to-end time; NaN at a rate), served_share (`laws.served_share`; NaN at a
        concurrency), cap_reached (the client's cap of requests in flight where it held a rate back, else NaN), full_share (of
        the time, with all the requests asked for in flight; NaN at a rate),
        tokens_per_piece (as the client got them), ttft_share (the least share of a request's time that its TTFT is) and, with
        `sla`, goodput (requests/s). What rests on TPOT is NaN where requests have a single output token; what rests on
        per-request details is NaN without them.

    Raises:
        ResultError: a folder or file is missing, truncated, malformed or has failed requests.
    """
    return read_study(folders, gpus_per_node, chunk_size, sla, details).table


def read_study(
    folders: Sequence[str | os.PathLike[str]], gpus_per_node: int | None = None, chunk_size: int = CHUNK_SIZE,
    sla: dict[str, float] | None = None, details: bool = True, unreadable: list[str] | None = None,
) -> Study:  # fmt: skip
    """Read result folders like `read_results`, and keep what was read beside the table.

    Args:
        unreadable: takes, for each folder that cannot be read, why; such a folder is left out. Without it it is an error.
    """
    for real, count in Counter(map(os.path.realpath, folders)).items():
        if count > 1:
            raise ResultError(f"{real}: given {count} times")
    read = []
    for folder in map(Path, folders):
        try:
            read.append(_read_folder(folder, gpus_per_node, sla, details))
        except ResultError as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))
    if not read:
        raise ResultError(f"no folder can be read: {unreadable[0] if unreadable else 'none is given'}")
    rows = []
    for one, label in zip(read, arm_labels([one.arm for one in read]), strict=True):
        for level, file in one.levels.items():
            rows.append(_identity(one.arm, label, level) | provenance(one.manifest, level) | file.row)
    table = pd.DataFrame(rows)
    table["model"] = _models(table["model"], [_asked_for(file) for one in read for file in one.levels.values()])
    table["gpus_per_node"] = table.groupby("accelerator")["gpus_per_node"].transform("max")
    return Study(_typed(_with_derived(table, chunk_size)), {str(one.arm.folder): one for one in read})


def _read_folder(path: Path, gpus_per_node: int | None, sla: dict[str, float] | None, details: bool) -> Folder:
    arm, manifest = _read_arm(path, gpus_per_node)
    levels = {}
    for level, file in sorted(arm.levels.items(), key=lambda item: (item[0].value, item[0].repeat)):
        levels[level] = read_level(file, level, arm.run, sla, arm.decode_bench, details)
        sizes = {"completed": levels[level].row["completed"], "repeat": level.repeat, "ISL": arm.run.isl, "OSL": arm.run.osl}
        sizes |= {"GPUs": arm.layout.gpus, "gpus_per_node": arm.gpus_per_node}
        sizes |= {"block": provenance(manifest, level)["block"]}
        if large := next((name for name, value in sizes.items() if abs(value) > LARGEST), None):
            raise ResultError(f"{file}: {large} above {LARGEST:,}: no measurement has that")
    return Folder(arm, manifest, levels)


def _read_arm(folder: Path, gpus_per_node: int | None = None) -> tuple[Arm, Manifest | None]:
    """Read what a folder's name and manifest say, and find its level files, without opening these.

    The layout is the manifest's, and only without one the folder name's: a name is what somebody typed.
    """
    with naming(folder):
        check_folder(folder)
        if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
            raise ValueError("its path is not UTF-8: give it another name")
        run = run_name(folder)
        levels = find_levels(folder)
    manifest = read_manifest(folder, run, {level.stem for level in levels})
    deployment = manifest.deployment if manifest else None
    placement: str | None
    with naming(folder / MANIFEST if deployment else folder):
        if deployment:
            layout, placement = Layout.parse(deployment.layout), placed_as(deployment.mode).removeprefix("pd-")
            placement = f"{CONTROLLED}{placement}" if deployment.controller else placement
            serving = "bare" if deployment.mode in CONTROLS else "ray"
        else:
            layout, placement = Layout.parse_published(run.name)
            serving = "bare" if "bare" in run.name.replace("_", "-").split("-") else ""
        per_node = gpus_per_node or (deployment.gpus_per_node if deployment else GPUS_PER_NODE)
        if per_node < 1:
            raise ValueError(f"gpus_per_node is {per_node}: give --gpus-per-node")
    arm = Arm(
        folder, run, layout, (placement or "") if layout.is_pd else "", serving, per_node,
        deployment.accelerator if deployment else "GPU", bool(deployment and deployment.decode_bench), levels,
    )  # fmt: skip
    return arm, manifest


def node_words(table: pd.DataFrame) -> str:
    """Return the node of per-node throughput: `8 GPUs`, `1 GPU`, `4 CPU cores`, or `4 or 8 GPUs` where folders differ."""
    sizes, units = sorted(table["gpus_per_node"].unique()), unit_words(table)
    return f"{' or '.join(map(str, sizes))} {units.removesuffix('s') if sizes == [1] else units}"


def unit_words(table: pd.DataFrame) -> str:
    """Return what nodes and layouts are counted in: `GPUs`, `CPU cores`."""
    return " or ".join(sorted({"CPU cores" if name == "CPU" else "GPUs" for name in table["accelerator"]}))


def per_node_of(table: pd.DataFrame, gpus: int) -> pd.DataFrame:
    """Return the table with throughput per node of so many GPUs."""
    columns = [f"{kind}_throughput_per_node" for kind in (*TOKENS, "request")]
    scaled = {name: table[name] * gpus / table["gpus_per_node"] for name in columns}
    return table.assign(**scaled, gpus_per_node=gpus)


def contenders(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a decision is about: without control arms, unless there is nothing else."""
    others = table[table["serving"] != "bare"]
    return table if others.empty else others


def controls(table: pd.DataFrame) -> list[str]:
    """Return the arms that `contenders` leaves out."""
    return list(table.loc[~table.index.isin(contenders(table).index), "arm"].unique())


def saturated(table: pd.DataFrame) -> pd.Series:
    """Return whether a level's TTFT says nothing of its arm: it is that of a queue, or the queue was in the client."""
    return (table["served_share"] < SERVED) | table["cap_reached"].notna()


def _identity(arm: Arm, label: str, level: Level) -> dict[str, Any]:
    run, layout = arm.run, arm.layout
    return (
        {"folder": str(arm.folder), "arm": label, "model": run.model, "layout": str(layout)}
        | {"placement": arm.placement, "serving": arm.serving, "kind": level.kind, "level": level.value, "repeat": level.repeat}
        | {"accelerator": arm.accelerator, "gpus": layout.gpus, "gpus_per_node": arm.gpus_per_node}
        | {"isl": run.isl, "osl": run.osl, "phase": run.phase}
    )


def _with_derived(table: pd.DataFrame, chunk_size: int) -> pd.DataFrame:
    nodes = table["gpus"] / table["gpus_per_node"]
    for kind in (*TOKENS, "request"):
        table[f"{kind}_throughput_per_node"] = table[f"{kind}_throughput"] / nodes
    table["interactivity"] = 1000 / table["median_tpot_ms"]
    table["chunk_latency_ms"] = table["median_ttft_ms"]
    if chunk_size > 1:  # a chunk of one token is there at TTFT, whether or not there is a TPOT
        table["chunk_latency_ms"] += (chunk_size - 1) * table["median_tpot_ms"]
    return table


def _asked_for(file: LevelFile) -> str:
    """The name that requests had for the model, without the folder or owner before it; "" where the file has none."""
    return visible(str(file.summary.get("model_id") or "")).rsplit("/", 1)[-1]


def _models(named: pd.Series, asked: list[str]) -> pd.Series:
    """Names of models by the folders; where requests to one of these went to several, each with the name that they had."""
    several = {name for name in named.unique() if len({a for a, of in zip(asked, named, strict=True) if a and of == name}) > 1}
    names = [f"{of} ({a})" if of in several and a else of for a, of in zip(asked, named, strict=True)]
    return pd.Series(names, index=named.index)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of the same types whatever the folders hold, so that exported tables can be put together."""
    kinds = dict.fromkeys(TEXT, "str") | dict.fromkeys(WHOLE, "int64") | {"as_published": "bool"}
    return table.astype({name: kinds.get(name, "float64") for name in table.columns})

"""Result folders -> one tidy table, a row per arm, level and repeat. What is not whole is an error.

Latency figures are the bench client's own: TTFT, TPOT and inter-token latency over the requests of a
level, in milliseconds. Interactivity and chunk latency are derived from the *medians* of TTFT and TPOT.
Throughput is tokens / duration of the whole level, in tokens per second; beside it stands that of the
steady state, without ramp and drain, where per-request details exist (`pdbench/requests.py`). These are most
of a file and most of the time that reading takes, so whoever needs none of them passes over them.
"""

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pdbench.layout import CONTROLS, Layout, placed_as
from pdbench.manifest import FILENAME as MANIFEST
from pdbench.manifest import Manifest, first_line
from pdbench.requests import Requests, decode_steps, goodput, percentiles, steady
from pdbench.workload import Level, RunName, phase_lengths

GPUS_PER_NODE = 8
CHUNK_SIZE = 16
METRICS = ("ttft", "tpot", "itl")
STATISTICS = ("mean", "median", "p99", "std")
TOKENS = ("input", "output", "total")
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")  # in the client's order
# Bytes at the beginning and at the end of a level's file that hold all that is not a detail.
EDGE = 1 << 14
VERSIONS = ("vllm", "ray", "nixl")
TEXT = ("folder", "arm", "model", "layout", "placement", "serving", "kind", "accelerator", "phase", "commit", *VERSIONS, "date")
WHOLE = ("repeat", "gpus", "gpus_per_node", "isl", "osl", "completed")


class ResultError(ValueError):
    """Results that cannot be read or compared; one line that names the file and the reason."""


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
    provenance: dict[str, Any]
    levels: dict[Level, Path]

    @property
    def is_control(self) -> bool:
        """Whether it ran without Ray Serve, to tell what that adds; such an arm takes part in no decision."""
        return self.serving == "bare"


def read_results(
    folders: Sequence[str | os.PathLike[str]], gpus_per_node: int | None = None, chunk_size: int = CHUNK_SIZE,
    sla: dict[str, float] | None = None, details: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Read result folders into one table, in the order given, levels ascending.

    Args:
        folders: result folders, each `{model}_itl{ISL}_otl{OSL}_{phase}_{name}`.
        gpus_per_node: accelerators of a node; None takes each folder's manifest, else 8.
        chunk_size: tokens of the first chunk, for `chunk_latency_ms` = TTFT + (chunk_size - 1) * TPOT.
        sla: upper bounds in ms by `ttft` and `tpot`, for `goodput`.
        details: read and check per-request details; else what rests on them is NaN, except p90 and p95
            where the client's summary has them, and except pure decode, which is made of nothing else.

    Returns:
        One row per (folder, level, repeat), columns always of the same types: text, whole numbers, numbers
        and, for as_published, a truth value. Identity: folder, arm (unique short label), model, layout,
        placement ("" when unknown or collocated), serving ("bare" of a control arm, without Ray Serve; else "ray", or ""
        where no manifest tells), kind (concurrency | request-rate), level, repeat,
        accelerator, gpus, gpus_per_node, isl, osl, phase. Provenance, of the manifest, "" where unknown:
        commit (with "-dirty"), vllm, ray, nixl (versions), as_published (false without a manifest, too: then
        nothing is known), and date, the client's. Measures: completed, duration (s),
        {mean,median,p90,p95,p99,std}_{ttft,tpot,itl}_ms, {input,output,total}_throughput (tokens/s),
        request_throughput (1/s), the same with `_per_node` (times gpus_per_node / gpus), interactivity
        (1000 / median TPOT, tokens/s/user) and chunk_latency_ms; steady_duration (s),
        steady_{request,input,output}_throughput and, with `sla`, goodput (requests/s). What rests on TPOT is
        NaN where requests have a single output token; what rests on per-request details is NaN without them.

    Raises:
        ResultError: a folder or file is missing, truncated, malformed or tells of failed requests.
    """
    paths = [Path(folder) for folder in folders]
    for real, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise ResultError(f"{real}: given {count} times")
    arms = [read_arm(path, gpus_per_node) for path in paths]
    rows = []
    for arm, label in zip(arms, arm_labels(arms), strict=True):
        for level, path in sorted(arm.levels.items(), key=lambda item: (item[0].value, item[0].repeat)):
            measured = read_level(path, level, arm.run, sla, arm.decode_bench, details)
            rows.append(_identity(arm, label, level) | measured)
    return _typed(_with_derived(pd.DataFrame(rows), chunk_size))


def read_arm(folder: Path, gpus_per_node: int | None = None) -> Arm:
    """Read what a folder's name and manifest say, and find its level files, without opening these.

    The layout is the manifest's, and only without one the folder name's: a name is what somebody typed.
    """
    with _naming(folder):
        if not folder.is_dir():
            raise ValueError("is not a folder" if folder.exists() else "no such folder")
        run = RunName.parse(Path(os.path.abspath(folder)).name)
        levels = _find_levels(folder)
    manifest = _read_manifest(folder, run, {level.stem for level in levels})
    deployment = manifest.deployment if manifest else None
    with _naming(folder / MANIFEST if deployment else folder):
        if deployment:
            layout, placement = Layout.parse(deployment.layout), placed_as(deployment.mode).removeprefix("pd-")
            serving = "bare" if deployment.mode in CONTROLS else "ray"
        else:
            layout, placement = Layout.parse_published(run.name)
            serving = "bare" if "bare" in run.name.replace("_", "-").split("-") else ""
        per_node = gpus_per_node or (deployment.gpus_per_node if deployment else GPUS_PER_NODE)
        if per_node < 1:
            raise ValueError(f"gpus_per_node is {per_node}: give --gpus-per-node")
    return Arm(
        folder, run, layout, (placement or "") if layout.is_pd else "", serving, per_node,
        deployment.accelerator if deployment else "GPU", bool(deployment and deployment.decode_bench),
        _provenance(manifest), levels,
    )  # fmt: skip


def read_requests(folder: Path) -> dict[Level, Requests | None]:
    """The requests of every level and repeat of a result folder, for intervals; raises ResultError."""
    arm = read_arm(folder)
    found = {}
    for level, path in arm.levels.items():
        read_level(path, level, arm.run, decode_bench=arm.decode_bench)  # what is not whole is told
        found[level] = Requests.of(load_level(path))
    return found


def read_level(
    path: Path, level: Level, run: RunName, sla: dict[str, float] | None = None, decode_bench: bool = False,
    details: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Read one level's file, checking that it is whole and that it is what its name says.

    Returns:
        date, completed, duration (s), the latency statistics (ms), the throughputs (tokens/s, requests/s) and
        what follows from per-request details.

    Raises:
        ResultError: see the module's first line; the message names `path`.
    """
    with _naming(path):
        content = load_level(path, details or decode_bench)
        isl, osl = run.isl, phase_lengths(run.phase, run.isl, run.osl)[1]
        completed = _check_requests(content, level)
        duration = _number(content, "duration", positive=True)
        tokens = _check_tokens(content, completed, isl, osl, run.phase)
        _check_details(content, completed, osl)
        row = {"date": str(content.get("date", "")), "completed": completed, "duration": duration}
        row |= (latencies := _latencies(content, osl))
        for kind in TOKENS:
            row[f"{kind}_throughput"] = tokens[kind] / duration
        row["request_throughput"] = completed / duration
        _check_throughput(content, row)
        requests = Requests.of(content)
        row |= {key: value for key, value in percentiles(requests).items() if math.isnan(latencies[key])} | steady(requests)
        if decode_bench:
            row |= _pure_decode(requests)
        return row | ({"goodput": goodput(requests, duration, sla)} if sla else {})


def _pure_decode(requests: Requests | None) -> dict[str, float]:
    """What stands in a row of a deployment that fills KV caches: decode steps only, and nothing of prompts."""
    if requests is None:
        raise ValueError("decode steps need per-request details")
    nothing = [f"{statistic}_ttft_ms" for statistic in (*STATISTICS, "p90", "p95")]
    nothing += ["input_throughput", "total_throughput", "request_throughput"]
    return dict.fromkeys(nothing, math.nan) | decode_steps(requests)


def node_words(table: pd.DataFrame) -> str:
    """The node of per-node throughput: `8 GPUs`, `4 CPU cores`, or `4 or 8 GPUs` where folders differ."""
    units = sorted({"CPU cores" if name == "CPU" else "GPUs" for name in table["accelerator"]})
    return f"{' or '.join(map(str, sorted(table['gpus_per_node'].unique())))} {' or '.join(units)}"


def contenders(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a decision is about: without control arms, unless there is nothing else."""
    others = table[table["serving"] != "bare"]
    return table if others.empty else others


def arm_labels(arms: Sequence[Arm]) -> list[str]:
    """Short names, unique among these arms: layout and placement, then whatever else tells them apart."""
    labels = [" ".join(filter(None, (str(arm.layout), arm.placement, "bare" * arm.is_control))) for arm in arms]
    # A workload that differs anywhere stands in every label: no title could say it for all.
    for extra in (lambda a: a.run.model, lambda a: f"{a.run.isl}:{a.run.osl}", lambda a: a.run.phase):
        if len({extra(arm) for arm in arms}) > 1:
            labels = [f"{label} {extra(arm)}" for label, arm in zip(labels, arms, strict=True)]
    # The words that all folders share, such as an experiment's name, tell nothing apart.
    shared = set.intersection(*(set(_remarks(arm.run.name)) for arm in arms))
    remark = lambda a: "-".join(word for word in _remarks(a.run.name) if word not in shared)  # noqa: E731
    for extra in (remark, lambda a: a.folder.name, lambda a: str(a.folder)):
        count = Counter(labels)
        labels = [
            f"{label} {extra(arm)}".strip() if count[label] > 1 else label
            for label, arm in zip(labels, arms, strict=True)
        ]
    return labels


def _remarks(name: str) -> list[str]:
    """What a folder's name says besides layout and placement: `spread_srd_1xtp4-1xtp4` -> `srd`."""
    words = name.replace("_", "-").split("-")
    return [word for word in words if word not in ("pack", "packed", "spread", "bare") and not _is_pool(word)]


def _is_pool(word: str) -> bool:
    try:
        Layout.parse(word.replace("ptp", "xtp").replace("dtp", "xtp").lstrip("pd"))
    except ValueError:
        return False
    return True


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn any complaint into a ResultError of one line that begins with `path`."""
    try:
        yield
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror or first_line(error)}") from error
    except ValueError as error:
        raise ResultError(f"{path}: {first_line(error).removeprefix(f'{path}: ')}") from error


def _find_levels(folder: Path) -> dict[Level, Path]:
    """The level files of a folder; other kinds of file are not looked at."""
    levels: dict[Level, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".json" or path.name == MANIFEST or path.name.startswith("."):
            continue
        level = Level.from_filename(path.name)
        if level in levels:
            raise ValueError(f"{levels[level].name} and {path.name} are the same level")
        levels[level] = path
    if not levels:
        raise ValueError("holds no level: expected conc<K>.json or rr<R>.json")
    return levels


def _read_manifest(folder: Path, run: RunName, levels: set[str]) -> Manifest | None:
    with _naming(folder / MANIFEST):
        try:
            manifest = Manifest.read(folder)
        except FileNotFoundError:
            return None
        told, named = (manifest.isl, manifest.osl, manifest.phase), (run.isl, run.osl, run.phase)
        if told != named:
            raise ValueError(f"is of {told}, but the folder's name says {named}")
        for record in manifest.levels:
            if record.level in levels and not record.ok:
                raise ValueError(f"{record.level} does not count: {'; '.join(record.problems)}")
        return manifest


def _provenance(manifest: Manifest | None) -> dict[str, Any]:
    """What was running, as far as a manifest says so; see `read_results`."""
    if manifest is None:
        return dict.fromkeys(("commit", *VERSIONS), "") | {"as_published": False}
    measured = manifest.deployment or manifest
    machine = manifest.deployment.machines[0] if manifest.deployment else manifest.client
    commit = (measured.repository.commit or "") + "-dirty" * bool(measured.repository.dirty)
    versions = {name: machine.versions.get(name) or "" for name in VERSIONS}
    return {"commit": commit} | versions | {"as_published": manifest.as_published}


def _without_details(path: Path) -> bytes:
    """A level's file less its per-request lists but `errors`; whole where these do not stand as the client writes them.

    A quote within a text is escaped in JSON, so no text can hold what the lists are found by.
    """
    with path.open("rb") as file:
        head = file.read(EDGE)
        begin = head.find(b'"input_lens": [')
        if begin < 0:
            return head + file.read()
        file.seek(max(begin, os.fstat(file.fileno()).st_size - EDGE))
        tail = file.read()
    end = tail.rfind(b'"errors": [')
    return path.read_bytes() if end < 0 else head[:begin] + tail[end:]


def load_level(path: Path, details: bool = True) -> dict[str, Any]:
    """A level's file as the client wrote it, or all of it but per-request details; raises ValueError if it is not whole."""
    data = path.read_bytes() if details else _without_details(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not whole JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"must hold a JSON object, not {reprlib.repr(content)}")
    return content


def _value(name: str, value: Any, positive: bool = False) -> float:
    """A finite number that is not negative, or above 0 if `positive`; true and "1" are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, not {reprlib.repr(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        allowed = "above 0" if positive else "at least 0"
        raise ValueError(f"{name} must be finite and {allowed}, not {reprlib.repr(value)}")
    return number


def _number(content: dict[str, Any], key: str, positive: bool = False) -> float:
    if key not in content:
        raise ValueError(f"{key} is missing")
    return _value(key, content[key], positive)


def _count(content: dict[str, Any], key: str, positive: bool = False) -> int:
    _number(content, key, positive)
    if not isinstance(content[key], int):
        raise ValueError(f"{key} must be a whole number, not {content[key]!r}")
    return content[key]


def _check_requests(content: dict[str, Any], level: Level) -> int:
    """Requests completed: all that were asked, at the load that the file's name says."""
    asked, completed = _count(content, "num_prompts", positive=True), _count(content, "completed")
    # Clients before vLLM 0.11.1 do not count failures; `completed` shows them all the same.
    failed = _count(content, "failed") if "failed" in content else 0
    if failed or completed != asked:
        raise ValueError(f"{completed} of {asked} requests completed, {failed} counted as failed")
    key = {"concurrency": "max_concurrency", "request-rate": "request_rate"}[level.kind]
    if _number(content, key, positive=True) != level.value:
        raise ValueError(f"{key} is {content[key]}, but the file's name says {level.value:g}")
    return completed


def _check_tokens(content: dict[str, Any], completed: int, isl: int, osl: int, phase: str) -> dict[str, int]:
    """Tokens in, out and both; every request must have OSL tokens out and about ISL in."""
    tokens = {kind: _count(content, f"total_{kind}_tokens", positive=True) for kind in ("input", "output")}
    if tokens["output"] != completed * osl:
        raise ValueError(
            f"total_output_tokens is {tokens['output']}, not {completed * osl}: {completed} requests of {osl}"
        )
    # Decode-only is 1:OSL here; the public study's decode-only folders hold prompts of ISL tokens.
    lengths = (isl, 1) if phase == "decode-only" else (isl,)
    # Random prompts change length a little when decoded and encoded again: near is enough.
    if not any(abs(tokens["input"] - completed * n) <= completed * (0.1 * n + 8) for n in lengths):
        mean = tokens["input"] / completed
        raise ValueError(f"prompts have {mean:g} tokens on average, but the folder's name says {isl}")
    return tokens | {"total": tokens["input"] + tokens["output"]}


def _check_throughput(content: dict[str, Any], row: dict[str, float]) -> None:
    """The client's own throughputs must follow from its counts: else the file was edited or mixed up."""
    for key, kind in (("output_throughput", "output"), ("total_token_throughput", "total")):
        told, counted = _number(content, key), row[f"{kind}_throughput"]
        if not math.isclose(told, counted, rel_tol=1e-3):
            raise ValueError(f"{key} is {told:g}, but tokens / duration is {counted:g}")


def _check_details(content: dict[str, Any], completed: int, osl: int) -> None:
    """Per-request lists, which only `--save-detailed` writes."""
    details = {key: content[key] for key in DETAILS if key in content}
    for key, values in details.items():
        if not isinstance(values, list) or len(values) != completed:
            raise ValueError(f"{key} must be a list of {completed} entries, not {reprlib.repr(values)}")
    for error in details.get("errors", []):
        if error:
            raise ValueError(f"a request failed: {reprlib.repr(error)}")
    for length in details.get("output_lens", []):
        if _value("an entry of output_lens", length) != osl:
            raise ValueError(f"a request has {length} output tokens, not {osl}")
    for key in ("input_lens", "ttfts", "start_times"):
        for value in details.get(key, []):
            _value(f"an entry of {key}", value, positive=key == "input_lens")
    for gaps in details.get("itls", []):
        if not isinstance(gaps, list):
            raise ValueError(f"an entry of itls must be a list, not {reprlib.repr(gaps)}")
        for gap in gaps:
            _value("an entry of itls", gap)
    if "input_lens" in details and sum(details["input_lens"]) != content["total_input_tokens"]:
        raise ValueError(f"input_lens add up to {sum(details['input_lens'])}, not to total_input_tokens")


def _latencies(content: dict[str, Any], osl: int) -> dict[str, float]:
    """Every statistic of every metric, in ms; the client writes 0 where there was no second token."""
    latencies = {}
    for metric in METRICS:
        for statistic in STATISTICS:
            key = f"{statistic}_{metric}_ms"
            defined = osl > 1 or metric == "ttft"
            number = _number(content, key, positive=defined and statistic == "median" and metric != "itl")
            latencies[key] = number if defined else math.nan
        for key in (f"p90_{metric}_ms", f"p95_{metric}_ms"):  # there only if the client was asked for them
            latencies[key] = _number(content, key) if defined and key in content else math.nan
    return latencies


def _identity(arm: Arm, label: str, level: Level) -> dict[str, Any]:
    run, layout = arm.run, arm.layout
    return (
        {"folder": str(arm.folder), "arm": label, "model": run.model, "layout": str(layout)}
        | {"placement": arm.placement, "serving": arm.serving, "kind": level.kind, "level": level.value, "repeat": level.repeat}
        | {"accelerator": arm.accelerator, "gpus": layout.gpus, "gpus_per_node": arm.gpus_per_node}
        | {"isl": run.isl, "osl": run.osl, "phase": run.phase}
        | arm.provenance
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


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of the same types whatever the folders hold, so that exported tables can be put together."""
    kinds = dict.fromkeys(TEXT, "str") | dict.fromkeys(WHOLE, "int64") | {"as_published": "bool"}
    return table.astype({name: kinds.get(name, "float64") for name in table.columns})

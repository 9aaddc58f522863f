"""Load experiments, `configs/experiments/*.yaml`, and build the commands that they mean."""

import random
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

from packaging.version import Version
from pydantic import Field, field_validator, model_validator

from pdbench import workload
from pdbench.configs import ROOT, load, load_model
from pdbench.layout import CONTROLS, Layout, Mode, placed_as
from pdbench.manifest import FILENAME, Manifest, Strict, read_json
from pdbench.network import slow_link
from pdbench.serve.serving_path import Router

# What a phase's figures need: there is no TPOT of a single token, and no throughput of prompts in decode.
PHASE_OPTIONS = {
    "mixed": [], "prefill-only": ["--latency-mode", "first_token"], "decode-only": ["--throughput-metric", "output"],
}  # fmt: skip


class Workload(Strict):
    """Tokens in and out of each request, and which phase of it is sent."""

    isl: int = Field(ge=1)
    osl: int = Field(ge=1)
    phase: workload.Phase = "mixed"


class Levels(Strict):
    """Either requests in flight or requests per second."""

    concurrency: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    request_rate: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=1)
    num_prompts: int | None = Field(default=None, ge=1, description="per level; run_bm.sh's default if absent")

    @model_validator(mode="after")
    def _one_kind(self):
        if (self.concurrency is None) == (self.request_rate is None):
            raise ValueError("give either concurrency or request_rate")
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"{self.kind} names a level twice")
        return self

    @property
    def kind(self) -> str:
        """The key that is given."""
        return "concurrency" if self.concurrency else "request_rate"

    @property
    def values(self) -> list[float]:
        return getattr(self, self.kind)


class Arm(Strict):
    """One layout of an experiment, its placement, and what carries its KV cache."""

    layout: str
    mode: Mode = Field(default="collocated", description="bare, bare-pd: a control without Ray Serve")
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+$", description="if others have its layout")
    phase: workload.Phase | None = Field(default=None, description="instead of the workload's")
    backend: Literal["UCX", "LIBFABRIC"] = "UCX"
    ucx_tls: str | None = Field(default=None, description="UCX_TLS of the engines")
    transport: list[str] | None = Field(default=None, min_length=1, description="of these UCX must name one, and no other")
    env: dict[str, str] = Field(default={}, description="further environment variables of the engines")
    serve_env: dict[str, str] = Field(default={}, description="of Ray Serve, instead of those of configs/serve.yaml")
    llm_options: dict[str, str] = Field(default={}, description="options of Ray Serve LLM, over configs/serve.yaml's")
    direct_streaming: bool = Field(default=False, description="no ingress; binds every address, unless local_workers is 0")
    router: Router | None = Field(default=None, description="request routing policy")
    link_mbit: int | None = Field(default=None, ge=1, description="slow UCX over TCP on one machine down to N Mbit/s")
    needs_vllm: str | None = Field(default=None, pattern=r"^\d+(\.\d+)*$", description="the oldest vLLM that can")

    @field_validator("layout")
    @classmethod
    def _spelled_right(cls, text: str) -> str:
        return str(Layout.parse(text))

    @model_validator(mode="after")
    def _fits(self):
        if Layout.parse(self.layout).is_pd != self.is_pd:
            raise ValueError(f"layout {self.layout} does not go with mode {self.mode}")
        if not self.is_pd and (self.ucx_tls or self.transport or self.link_mbit or self.backend != "UCX"):
            raise ValueError(f"arm {self.layout} is collocated: it has no KV transfer to configure")
        if self.is_pd and self.phase == "decode-only":
            raise ValueError(f"arm {self.layout}: decode alone is measured collocated")
        if self.backend == "LIBFABRIC" and (self.ucx_tls or self.transport):
            raise ValueError("ucx_tls and transport are about UCX, not LIBFABRIC")
        if self.mode in CONTROLS and (self.serve_env or self.llm_options or self.direct_streaming or self.router):
            raise ValueError(f"arm {self.layout} is a control: it runs without Ray Serve")
        if self.link_mbit and self.ucx_tls != "tcp":
            raise ValueError(f"arm {self.layout}: link_mbit slows TCP down, so it needs ucx_tls: tcp")
        return self

    @property
    def is_pd(self) -> bool:
        return placed_as(self.mode) != "collocated"

    @property
    def label(self) -> str:
        """`2xtp4`, `pack_p1xtp4-d1xtp4`, `spread_p1xtp4-d1xtp4_tcp`; `decode-only_2xtp4` (own phase), `bare_2xtp4`."""
        words = [self.phase] if self.phase else []
        words += {"collocated": [], "bare-pd": ["bare"]}.get(self.mode, [self.mode.replace("pd-", "")])
        return "_".join([*words, self.layout, *([self.name] if self.name else [])])


class Experiment(Strict):
    """Arms of one workload, how each is measured, and what is drawn from them."""

    shows: str = Field(min_length=1, description="what the experiment is to show")
    cannot_show: str | None = Field(default=None, description="what must not be concluded from it; printed at the end")
    model: str
    hardware: str
    local_workers: int | None = Field(default=None, ge=0, description="start a local cluster of N nodes besides the head; "
                                      "0: engines run on the head")  # fmt: skip
    local_gpus: int = Field(default=0, ge=0, description="GPUs of each node of the local cluster that holds engines")
    workload: Workload
    levels: Levels
    max_hit_rate: float | None = Field(default=None, ge=0, le=1, description="prefix cache; else run_bm.sh's default")
    as_published: bool = Field(default=False, description="by the public study's procedure: one seed, no warm-up")
    repeats: int = Field(default=3, ge=1, description="measurements of each level, all in one launch of its arm")
    blocks: int | None = Field(default=None, ge=1, description="instead of repeats: each block launches every arm once, in an "
                               "order drawn for it, and measures every level once, all on one machine")  # fmt: skip
    doctor: bool = Field(default=True, description="check the nodes first, and before each launch; stop if a check fails")
    arms: list[Arm] = Field(min_length=1)
    figures: list[list[str]] = Field(default=[[]], min_length=1, description="further options of viz.py, a figure each")
    timeout_s: int = Field(default=1800, ge=1, description="for one launch")

    def phase_of(self, arm: Arm) -> str:
        return arm.phase or self.workload.phase

    @model_validator(mode="after")
    def _arms_are_distinct(self):
        if self.local_gpus and self.local_workers is None:
            raise ValueError("local_gpus is for a local cluster: give local_workers, too")
        labels = [arm.label for arm in self.arms]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two arms are both {twice[0]}: give one a name")
        if self.blocks and "repeats" in self.model_fields_set:
            raise ValueError("give either repeats or blocks: a block measures each level once")
        if any(arm.is_pd for arm in self.arms) and self.arms[0].is_pd:
            raise ValueError("the first arm must be collocated: PD arms are compared with its tokens")
        return self


@dataclass(frozen=True)
class Step:
    """One command of an experiment; `arm` is its label, or None for what belongs to all arms."""

    what: Literal["cluster", "doctor", "link", "launch", "check", "sweep", "stop", "figure"]
    command: list[str]
    arm: str | None = None


STOP = Step("stop", ["python", "launch_gptoss.py", "--stop"])


@dataclass(frozen=True)
class Round:
    """Launch, check and sweep of one arm, then what ends it.

    Attributes:
        repeats: the measurements of each level, all of them or, in a block, the block's.
    """

    arm: Arm
    block: int | None
    repeats: Collection[int]
    steps: list[Step]
    ends: list[Step]


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment file; raises ConfigError like `configs.load_model`."""
    return load(Experiment, path, "configs/experiments")


def select(
    experiment: Experiment, arms: list[str] | None, levels: list[float] | None, repeats: int | None = None,
    blocks: int | None = None,
) -> Experiment:  # fmt: skip
    """Select the part of an experiment that --arms, --levels, --repeats and --blocks name.

    Raises:
        ValueError: the experiment has no such arm or level, or no blocks, or no repeats but blocks.
    """
    if repeats and experiment.blocks:
        raise ValueError("this experiment has blocks, which measure each level once: give --blocks")
    if blocks and not experiment.blocks:
        raise ValueError("this experiment has no blocks: give --repeats")
    have = {"arm": [arm.label for arm in experiment.arms], "level": experiment.levels.values}
    for what, named in (("arm", arms or []), ("level", levels or [])):
        if unknown := [x for x in named if x not in have[what]]:
            first = f"{unknown[0]:g}" if what == "level" else unknown[0]
            raise ValueError(f"no {what} {first} in this experiment: there are {', '.join(map(str, have[what]))}")
    update = {}
    if arms:
        update["arms"] = [arm for arm in experiment.arms if arm.label in arms]
    if levels:
        kept = [value for value in have["level"] if value in levels]
        update["levels"] = experiment.levels.model_copy(update={experiment.levels.kind: kept})
    if repeats:
        update["repeats"] = repeats
    if blocks:
        update["blocks"] = blocks
    return experiment.model_copy(update=update)


def rounds(name: str, experiment: Experiment, results: Path, only: int | None = None) -> list[Round]:
    """List what is measured, in order.

    Args:
        name: of the experiment; begins the names of its result folders.
        results: folder that gets a result folder per arm.
        only: one block, instead of all.
    """
    blocks = [only] if only else range(1, experiment.blocks + 1) if experiment.blocks else [None]
    found = []
    for block in blocks:
        repeats = [block] if block else range(1, experiment.repeats + 1)
        for arm in drawn(name, experiment, block) if block else experiment.arms:
            commands = {
                "link": _link("start", "--mbit", str(arm.link_mbit)) if arm.link_mbit else [],
                "launch": _launch(arm, experiment),
                "check": _check(arm, experiment, str(tokens_file(name, results))),
                "sweep": _sweep(name, arm, experiment, results, block),
            }
            ends = {"stop": STOP.command, "link": _link("stop") if arm.link_mbit else []}
            steps = [[Step(what, command, arm.label) for what, command in some.items() if command] for some in (commands, ends)]
            found.append(Round(arm, block, repeats, *steps))
    return found


def drawn(name: str, experiment: Experiment, block: int) -> list[Arm]:
    """Return the arms in the order of a block, drawn from the experiment's name, so that the same command plans the same.

    The first block begins with the arm whose tokens the others are compared with.
    """
    order = random.Random(f"{name} {block}").sample(experiment.arms, len(experiment.arms))
    return sorted(order, key=lambda arm: arm is not experiment.arms[0]) if block == 1 else order


def left_out(arm: Arm, vllm: Version) -> str | None:
    """Return why an arm cannot be measured here; None if it can."""
    if arm.needs_vllm and vllm < Version(arm.needs_vllm):
        return f"needs vLLM {arm.needs_vllm}, here is {vllm}"
    return slow_link.why_not() if arm.link_mbit and not slow_link.is_slow() else None


def tokens_file(name: str, results: Path) -> Path:
    """Return greedy tokens of the experiment's collocated arm."""
    return results / f"{name}_tokens.json"


def cluster_steps(experiment: Experiment) -> tuple[Step | None, Step | None]:
    """Return the steps that start the local cluster before all arms, and what stops it after them; nothing without one."""
    if experiment.local_workers is None:
        return None, None
    module = ["python", "-m", "pdbench.local_cluster"]
    gpus = ["--gpus", str(experiment.local_gpus)] if experiment.local_gpus else []
    start = Step("cluster", [*module, "start", "--workers", str(experiment.local_workers), *gpus])
    return start, Step("cluster", [*module, "stop"])


def doctor_step(experiment: Experiment) -> Step | None:
    """Return the step that looks at the nodes before anything is measured on them."""
    return Step("doctor", ["python", "debug/doctor.py", "--quick", "--brief"]) if experiment.doctor else None


def ends_of_all(experiment: Experiment) -> list[Step]:
    """Return the steps that remove all that an interrupted run may have left."""
    _, stop = cluster_steps(experiment)
    link = [Step("link", _link("stop"))] if any(arm.link_mbit for arm in experiment.arms) else []
    return [stop or STOP, *link]


def figure_steps(name: str, experiment: Experiment, results: Path, without: Collection[str] = ()) -> list[Step]:
    """Return the steps of the figures of all arms, but those whose labels are in `without`; phases do not share one."""
    arms = [arm for arm in experiment.arms if arm.label not in without]
    phases = list(dict.fromkeys(experiment.phase_of(arm) for arm in arms))
    # A selection of arms may have nothing to compare stalls with, no control, or no KV transfer to draw.
    kinds = {arm.is_pd for arm in arms if arm.mode not in CONTROLS}
    contenders = sum(arm.mode not in CONTROLS for arm in arms)
    fits = {
        "--show-stalls": len(kinds) == 2, "--show-overhead": _has_pair(arms),
        "--show-blocks": bool(experiment.blocks) and False in kinds and contenders > 1,
    }  # fmt: skip
    unfit = {option for option, fit in fits.items() if not fit}
    figures = [options for options in experiment.figures if True in kinds or "network" not in options]
    found = []
    for phase in phases:
        folders = [str(results / folder(name, arm, experiment)) for arm in arms if experiment.phase_of(arm) == phase]
        for number, options in enumerate(figures, start=1):
            words = [name, *([phase] if len(phases) > 1 else []), *([str(number)] if len(figures) > 1 else [])]
            path = results / f"{'_'.join(words)}.png"
            options = [*(word for word in options if word not in unfit), *PHASE_OPTIONS[phase]]
            found.append(Step("figure", ["python", "viz.py", "--exps", *folders, *options, "--plot-path", str(path)]))
    return found


def _has_pair(arms: list[Arm]) -> bool:
    """Whether an arm and its control are among them."""
    known = {(arm.layout, arm.mode) for arm in arms}
    return any((arm.layout, placed_as(arm.mode)) in known for arm in arms if arm.mode in CONTROLS)


def script(name: str, experiment: Experiment, results: Path, only: int | None = None) -> str:
    """Write the whole experiment, or one block of it, as a shell script: the reproduction recipe."""
    start, stop = cluster_steps(experiment)
    lines = ["#!/usr/bin/env bash", f"# {name}: {experiment.shows}", "set -euo pipefail"]
    lines += [shlex.join(step.command) for step in (start, doctor_step(experiment)) if step]
    for number, one in enumerate(rounds(name, experiment, results, only), start=1):
        needs = f", needs vLLM >= {one.arm.needs_vllm}" if one.arm.needs_vllm else ""
        block = f", block {one.block}" if one.block else ""
        lines += [
            "",
            f"# {number}: {one.arm.label}{block}{needs}",
            *(shlex.join(step.command) for step in [*one.steps, *one.ends]),
        ]
    lines += ["", *(shlex.join(step.command) for step in [*([stop] if stop else []), *figure_steps(name, experiment, results)])]
    return "\n".join(lines) + "\n"


def to_measure(
    name: str, experiment: Experiment, results: Path, machine: str, vllm: Version, only: int | None = None
) -> list[Round]:  # fmt: skip
    """List the rounds whose arms must be launched, and those of arms that are left out here.

    A block is of one machine: what another one has measured of a block that it did not end is measured again.

    Args:
        machine: id of this one.
        only: one block, instead of all.
    """
    every = rounds(name, experiment, results, only)
    if not experiment.blocks:
        return [one for one in every if machines(name, one, experiment, results) is None]
    todo = []
    for _, group in groupby(every, key=lambda one: one.block):
        known = [(one, machines(name, one, experiment, results)) for one in group]
        needed = [where for one, where in known if where is not None or not left_out(one.arm, vllm)]
        is_whole = None not in needed and len({tuple(where or ()) for where in needed}) == 1
        todo += [one for one, where in known if where is None or not (is_whole or machine in where)]
    return todo


def machines(name: str, one: Round, experiment: Experiment, results: Path) -> list[str] | None:
    """Return the ids of the machines with the engines of a round; None if a level of it is missing or does not count.

    Machines without an id, of older manifests, are none of them.
    """
    path = results / folder(name, one.arm, experiment)
    if not (path / FILENAME).is_file():
        return None
    manifest, levels = Manifest.read(path), experiment.levels
    kind = levels.kind.replace("_", "-")
    wanted = [workload.Level(kind, float(v), r) for v in levels.values for r in one.repeats]
    at_once = experiment.phase_of(one.arm) == "decode-only"
    records = [manifest.found(path, level, levels.num_prompts or level.num_prompts(at_once)) for level in wanted]
    return None if None in records else sorted({machine for record in records if record for machine in record.machines})


def measured_seconds(name: str, arm: Arm, experiment: Experiment, results: Path, since: str) -> float:
    """Return how long the bench client measured the arm's levels that began after `since` (UTC, ISO 8601)."""
    path = results / folder(name, arm, experiment)
    levels = [record.level for record in Manifest.read(path).levels if record.ok and record.started >= since]
    return sum(read_json(path / f"{level}.json")["duration"] for level in levels)


def folder(name: str, arm: Arm, experiment: Experiment) -> str:
    """Name of an arm's result folder, as run_bm.sh makes it."""
    model = load_model(ROOT / experiment.model).model_id.rsplit("/", 1)[-1]
    w = experiment.workload
    return str(workload.RunName(model, w.isl, w.osl, experiment.phase_of(arm), f"{name}_{arm.label}"))


def _launch(arm: Arm, experiment: Experiment) -> list[str]:
    command = ["python", "launch_gptoss.py", "--mode", arm.mode, "--layout", arm.layout]
    command += ["--model", experiment.model, "--hardware", experiment.hardware, "--timeout", str(experiment.timeout_s)]
    command += [] if experiment.doctor else ["--no-doctor"]
    command += ["--decode-bench"] if experiment.phase_of(arm) == "decode-only" else []
    command += ["--use-libfabric"] if arm.backend == "LIBFABRIC" else []
    command += ["--ucx-tls", arm.ucx_tls] if arm.ucx_tls else []
    command += ["--router", arm.router] if arm.router else []
    command += ["--direct-streaming"] if arm.direct_streaming else []
    # Engines on other nodes must be reached by HAProxy.
    command += ["--host", "0.0.0.0"] if arm.direct_streaming and experiment.local_workers != 0 else []
    command += [word for name, value in arm.serve_env.items() for word in ("--serve-env", f"{name}={value}")]
    command += [word for name, value in arm.llm_options.items() for word in ("--llm-option", f"{name}={value}")]
    env = arm.env | (slow_link.UCX_ENV if arm.link_mbit else {})
    return command + [word for name, value in env.items() for word in ("--env", f"{name}={value}")]


def _link(*words: str) -> list[str]:
    return ["python", "-m", "pdbench.slow_link", *words]


def _check(arm: Arm, experiment: Experiment, tokens: str) -> list[str]:
    """PD arms are compared with the tokens of the first arm; further collocated arms move no KV cache."""
    gates = ["python", "-m", "pdbench.gates"]
    if arm.is_pd:
        return [*gates, "--against", tokens, *(["--transport", ",".join(arm.transport)] if arm.transport else [])]
    is_needed = arm is experiment.arms[0] and any(a.is_pd for a in experiment.arms)
    return [*gates, "--save", tokens] if is_needed else []


def _sweep(name: str, arm: Arm, experiment: Experiment, results: Path, block: int | None) -> list[str]:
    w, levels = experiment.workload, experiment.levels
    command = ["./run_bm.sh", "-e", f"{name}_{arm.label}", "--isl", str(w.isl), "--osl", str(w.osl)]
    phase = experiment.phase_of(arm)
    command += ["--mode", phase] if phase != "mixed" else []
    command += ["-c"] if levels.concurrency else ["-t", "request-rate", "-r"]
    command += [",".join(f"{value:g}" for value in levels.values)]
    command += ["-n", str(levels.num_prompts)] if levels.num_prompts else []
    command += ["--transport", ",".join(arm.transport)] if arm.transport else []
    command += ["--tokens", str(tokens_file(name, results))] if arm.is_pd else []
    command += ["--max-hit-rate", f"{experiment.max_hit_rate:g}"] if experiment.max_hit_rate is not None else []
    command += ["--as-published"] if experiment.as_published else []
    command += ["--block", str(block)] if block else ["--repeats", str(experiment.repeats)]
    return [*command, "--results-dir", str(results)]

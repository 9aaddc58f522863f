"""Plan an experiment: its rounds in their order, which of them are still to be measured, and all of it as a script."""

import json
import random
import shlex
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from packaging.version import Version

from pdbench.layout import Layout
from pdbench.manifest import FILENAME, Manifest, controlled_identity, differences, planned_identity, stack_of
from pdbench.measure.experiment import Arm, Experiment, Levels
from pdbench.measure.experiment_steps import (
    Step,
    cluster_steps,
    doctor_step,
    ends_of,
    figure_steps,
    folders,
    launch_of,
    roles_of,
    steps_of,
    sweeps_of,
)
from pdbench.measure.sweep_options import build_parser
from pdbench.network import slow_link
from pdbench.read.trace import Shift
from pdbench.serve.roles import bounds_of
from pdbench.workload import Level

MOST_NAMED = 4  # settings that differ, of an arm


@dataclass(frozen=True)
class Round:
    """Holds one launch of an arm: what launches, checks and measures it, then what ends it.

    Attributes:
        block: from 1; None in an experiment without blocks.
        repeats: the measurements of each level, from 1: all of them or, in a block, the block's.
    """

    arm: Arm
    block: int | None
    repeats: Collection[int]
    steps: list[Step]
    ends: list[Step]

    def after(self, before: Arm) -> "Round":
        """Return the round of an arm whose engines run already, by the launch of another: see `Experiment.share_launch`."""
        instead = [roles_of(self.arm)] if self.arm.shares_pool(before) else []
        return replace(self, steps=[*instead, *(step for step in self.steps if step.what != "launch")])


def rounds(name: str, experiment: Experiment, results: Path, only: int | None = None) -> list[Round]:
    """List what is measured, in order.

    Args:
        name: of the experiment; begins the names of its result folders.
        results: folder that gets a result folder per arm.
        only: one block, instead of all.
    """

    def one(arm: Arm, block: int | None, repeats: Collection[int]) -> Round:
        return Round(arm, block, repeats, steps_of(arm, name, experiment, results, block), ends_of(arm))

    if not experiment.blocks:
        return [one(arm, None, range(1, experiment.repeats + 1)) for arm in experiment.arms]
    blocks = [only] if only else range(1, experiment.blocks + 1)
    return [one(arm, block, [block]) for block in blocks for arm in drawn(name, experiment, block)]


def drawn(name: str, experiment: Experiment, block: int) -> list[Arm]:
    """Return the arms in the order of a block, drawn from the experiment's name, so that the same command plans the same.

    The first block begins with the arm whose tokens the others are compared with. Arms that share a launch follow each other.
    """
    sample = random.Random(f"{name} {block}").sample(experiment.arms, len(experiment.arms))
    if block == 1:
        sample.sort(key=lambda arm: arm is not (experiment.reference or experiment.arms[0]))
    order: list[Arm] = []
    for arm in sample:
        order += [other for other in sample if other not in order and (other is arm or experiment.share_launch(other, arm))]
    return order


def chained(every: list[Round], experiment: Experiment) -> list[Round]:
    """Have rounds that follow each other in a block share a launch where they can."""
    shared = [one.block == other.block and experiment.share_launch(one.arm, other.arm) for one, other in pairwise(every)]
    begun = every[:1] + [other.after(one.arm) if is_shared else other
                         for is_shared, (one, other) in zip(shared, pairwise(every), strict=True)]  # fmt: skip
    return [replace(one, ends=[]) if is_shared else one for one, is_shared in zip(begun, [*shared, False], strict=True)]


def left_out(arm: Arm, vllm: Version) -> str | None:
    """Return why an arm cannot be measured here; None if it can."""
    if arm.needs_vllm and vllm < Version(arm.needs_vllm):
        return f"needs vLLM {arm.needs_vllm}, here is {vllm}"
    if arm.link_mbit and not slow_link.is_slow():
        return slow_link.why_not()
    return None


def script(
    name: str, experiment: Experiment, results: Path, only: int | None = None, measured: bool = False
) -> str:  # fmt: skip
    """Write the whole experiment, or one block of it, as a shell script.

    Args:
        measured: only what is in the results: the recipe that reproduces them, "" where nothing is.
    """
    start, stop = cluster_steps(experiment)
    every = rounds(name, experiment, results, only)
    if measured:
        every = [one for one in every if machines(name, one, experiment, results) is not None]
        if not every:
            return ""
        labels = {one.arm.label for one in every}
        experiment = experiment.model_copy(update={"arms": [arm for arm in experiment.arms if arm.label in labels]})
        # Of these arms the first that can be saves the tokens.
        every = [replace(one, steps=steps_of(one.arm, name, experiment, results, one.block)) for one in every]
    lines = ["#!/usr/bin/env bash", f"# {name}: {experiment.shows}", "set -euo pipefail"]
    lines += _lines([start, doctor_step(experiment)])
    for number, one in enumerate(chained(every, experiment), start=1):
        needs = f", needs vLLM >= {one.arm.needs_vllm}" if one.arm.needs_vllm else ""
        block = f", block {one.block}" if one.block else ""
        lines += ["", f"# {number}: {one.arm.label}{block}{needs}", *_lines([*one.steps, *one.ends])]
    lines += ["", *_lines([stop, *figure_steps(name, experiment, results)])]
    return "\n".join(lines) + "\n"


def check_unchanged(
    name: str, experiment: Experiment, results: Path, identity_of: Callable[[list[str]], dict[str, str]]
) -> None:  # fmt: skip
    """Refuse to continue in result folders that hold levels of other settings than the experiment's.

    Args:
        identity_of: returns what a command line of launch_gptoss.py would launch, see `launch_settings`.

    Raises:
        ValueError: names the arms, and of each what differs.
    """
    changed = []
    for arm in experiment.arms:
        sweeps = sweeps_of(arm, name, experiment, results, None)
        for path, sweep in zip(folders(name, arm, experiment, results), sweeps, strict=True):
            if not (path / FILENAME).is_file():
                continue
            manifest = Manifest.read(path)
            planned = identity_of(launch_of(arm, experiment)) | _controlled(arm) | client_options(sweep.command)
            ran = launch_settings(manifest.deployment.model_dump()) if manifest.deployment else {"layout": "unknown"}
            ran |= client_options(shlex.split(manifest.commands[-1])) | {"run_bm.sh seed": str(manifest.base_seed)}
            different = differences(ran, planned)
            changed += [f"{arm.label} ({', '.join(different[:MOST_NAMED])})"] if different else []
    if changed:
        named = "; ".join(dict.fromkeys(changed))  # once, however many workloads
        raise ValueError(f"{results} holds levels of {name} with other settings: {named}: "
                         "give another --results-dir, or move those folders away to measure them again")  # fmt: skip


def _controlled(arm: Arm) -> dict[str, str]:
    """What a controller, which is started after the launch, makes of a deployment's identity."""
    if not arm.control:
        return {}
    record = {"gpus": Layout.parse(arm.layout).gpus, "controller": bounds_of(arm.control).model_dump()}
    return controlled_identity(record)


def launch_settings(record: dict[str, Any]) -> dict[str, str]:
    """Return all that is known of a launch before it, by name: what an experiment file says, and the stack's versions.

    Args:
        record: has the fields of `manifest.Deployment`; of its machines the versions.
    """
    found = {name: str(record[name]) for name in ("model_source", "gpus_per_node")} | planned_identity(record)
    found |= stack_of([machine["versions"] for machine in record["machines"]])
    return found | {name: json.dumps(record[name], sort_keys=True) for name in ("kv_cache", "made") if record.get(name)}


def client_options(command: list[str]) -> dict[str, str]:
    """Return what an experiment file says of a sweep, apart from its levels, from a command line of run_bm.sh."""
    args, _ = build_parser().parse_known_args(command)  # what is not known is the program's own name
    found = {f"run_bm.sh {name}": str(getattr(args, name)) for name in ("transport", "max_hit_rate", "seed", "as_published")}
    return found | ({"run_bm.sh shift": args.shift.identity} if args.shift else {})


def _lines(steps: Iterable[Step | None]) -> list[str]:
    return [shlex.join(step.command) for step in steps if step]


def to_measure(
    name: str, experiment: Experiment, results: Path, machine: str, vllm: Version, only: int | None = None
) -> list[Round]:
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
    paths, levels = folders(name, one.arm, experiment, results), experiment.levels
    if not all((path / FILENAME).is_file() for path in paths):
        return None
    wanted = [replace(level, repeat=repeat) for level in levels.measured for repeat in one.repeats]
    at_once = experiment.phase_of(one.arm) == "decode-only"
    read = [(path, asked.shift, Manifest.read(path)) for path, asked in zip(paths, experiment.asked, strict=True)]
    records = [
        manifest.found(path, level, _requests(level, levels, shift, at_once))
        for path, shift, manifest in read
        for level in wanted
    ]
    if None in records:
        return None
    return sorted({machine for record in records if record for machine in record.machines})


def _requests(level: Level, levels: Levels, shift: Shift | None, at_once: bool) -> int:
    return len(shift.sent(level.value, 0)) if shift else levels.num_prompts or level.num_prompts(at_once)

"""Plan a sweep: ask the deployment what it is, and leave out levels that are there already."""

import argparse
import asyncio
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pdbench import workload
from pdbench.configs import ROOT
from pdbench.manifest import FILENAME, Deployment, LevelRecord, Machine, Manifest, differences, kept_launches
from pdbench.measure import tokens
from pdbench.measure.bench_client import Limits
from pdbench.nodes import stack
from pdbench.read.trace import Sent, longest_gap, trace_path
from pdbench.serve import client, serving_path
from pdbench.serve.api import deployed
from pdbench.workload import ALL_AT_ONCE, SHIFT, Level, RunName, level_seed

BAD = ".bad"  # ends the name of what no plot reads
# Of a level, unless the user gives its limit: so long, and so much longer for each request that a place in flight sends.
LEVEL_LIMIT_S, WAVE_LIMIT_S = 7200.0, 60.0
# At a rate requests come at random: between two of them this many mean times may pass, once in 10^8 requests more.
LONGEST_GAP = 20


class SweepError(ValueError):
    """The sweep cannot begin, or cannot go on; one line."""


@dataclass
class Task:
    """One level to measure.

    Attributes:
        warmup_seed: None where nothing is warmed up.
        again_seed: of a second measurement, if kernels were compiled during the first.
        sent: where load shifts, each request; of other prompts in a second measurement.
    """

    level: Level
    num_prompts: int
    seed: int
    warmup_seed: int | None
    again_seed: int
    sent: Sequence[Sent] = ()


@dataclass
class Target:
    """What is measured, and where its results go."""

    deployment: Deployment | None
    model: str
    tokenizer: str
    serving_url: str
    name: RunName
    folder: Path
    manifest: Manifest

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens (in, out) that each request really has."""
        return self.manifest.lengths

    @property
    def launch(self) -> dict[str, Any]:
        """When and where the deployment was launched: fields of `LevelRecord`."""
        if not self.deployment:
            return {"launched": None, "machines": []}
        return {"launched": self.deployment.launched, "machines": self.deployment.machine_ids}

    def record(self, record: LevelRecord) -> None:
        """Write a level's record into the manifest; what there was of this level before goes only now."""
        level = Level.from_filename(f"{record.level}.json")
        self.manifest.levels = [old for old in self.manifest.levels if old.level != record.level] + [record]
        for old in (self.folder / level.filename, self.folder / (level.filename + BAD)):
            for path in (old, trace_path(old)):
                path.unlink(missing_ok=True)
        self.manifest.write(self.folder)


def plan(args: argparse.Namespace, warn: Callable[[str], None]) -> tuple[Target, list[Task]]:
    """Check server and folder, write the manifest, and choose the levels to measure.

    Args:
        args: run_bm.sh's options.

    Raises:
        SweepError, ValueError: an option does not fit, or the folder holds something else; nothing is written.
        ServerError: the server does not answer.
    """
    loads = {"concurrency": args.concurrency, "request-rate": args.request_rate, SHIFT: args.load}
    named = workload.parse_levels(args.type, loads[args.type])
    # All levels once, then again: drift of the machine does not pass for a difference between levels.
    repeats = [args.block] if args.block else range(1, args.repeats + 1)
    levels = [replace(level, repeat=repeat) for repeat in repeats for level in named]
    if args.num_prompts and (most := max(map(_in_flight, levels))) > args.num_prompts:
        raise SweepError(
            f"-n {args.num_prompts}: {args.num_prompts} requests cannot keep {most:g} in flight: give at least {most:g}"
        )
    # Repeats have other times, and all arms the same ones.
    sent = {level: args.shift.sent(level.value, level_seed(args.seed, level, "times")) for level in levels if args.shift}
    deployment = describe_deployment(args.base_url)
    model, tokenizer = _model(args, deployment, warn)
    if deployment:
        if args.tokens:
            tokens.read_tokens(args.tokens, deployment)  # an error in it must not cost a level
        serving_path.check_load(deployment.serving_path, max(_in_flight(level) for level in levels))
    name = RunName(model.rsplit("/", 1)[-1], args.isl, args.osl, args.mode, args.exp_name)
    folder = args.results_dir / str(name)
    decode_bench = _check_phase(args, deployment, warn)
    manifest = _manifest(folder, name, args, deployment)
    prompts = {level: len(sent[level]) if sent else args.num_prompts or level.num_prompts(decode_bench) for level in levels}
    todo = [
        level for level in levels if args.force or not _has(manifest, folder, level, prompts[level], args.block, deployment)
    ]
    serving_url = deployment.takes_requests(args.base_url) if deployment else args.base_url
    asyncio.run(client.smoke(serving_url, model, max_tokens=4))
    manifest.write(folder)
    for path in folder.glob("*.json"):
        # What this manifest does not cover, such as levels of another layout, must not be plotted with it.
        if path.name != FILENAME and path.stem not in {record.level for record in manifest.levels}:
            os.replace(path, f"{path}{BAD}")
    seeds: Mapping[Level, tuple[int, int | None, int]]
    if args.as_published:
        seeds = {level: (args.seed, None, args.seed) for level in todo}
    else:
        seeds = unseen_seeds(args.base_url, args.seed, todo, deployment is not None)
    warn(f"{folder}: {len(todo)} of {len(levels)} levels to measure")
    target = Target(deployment, model, tokenizer or model, serving_url, name, folder, manifest)
    return target, [Task(level, prompts[level], *seeds[level], sent.get(level, ())) for level in todo]


def _has(
    manifest: Manifest, folder: Path, level: Level, num_prompts: int, block: int | None, deployment: Deployment | None
) -> bool:
    """Whether a level need not be measured; what another machine measured is no part of a block on this one."""
    record = manifest.found(folder, level, num_prompts)
    if level.kind == SHIFT and not trace_path(folder / level.filename).is_file():
        return False
    elsewhere = record and block and deployment and record.machines != deployment.machine_ids
    return bool(record) and not elsewhere


def describe_deployment(base_url: str) -> Deployment | None:
    """Ask what runs at `base_url`; None if the server was not launched by this repository.

    Raises:
        client.ServerError: nothing answers there.
    """

    async def ask() -> Deployment | None:
        try:
            async with deployed(base_url) as running:
                return await running.deployment()
        except client.ServerError:
            async with client.session(base_url, total_s=30) as opened:
                await client.first_model(opened)  # distinguishes a dead server from one of another kind
            return None

    return asyncio.run(ask())


def _model(args: argparse.Namespace, deployment: Deployment | None, warn: Callable[[str], None]) -> tuple[str, str | None]:
    """Name and tokenizer, as given or as the deployment reports them."""
    if deployment:
        return args.model or deployment.model_id, args.tokenizer or deployment.model_source
    if not args.model:
        raise SweepError(f"{args.base_url} does not describe itself: name the model with -m")
    warn(f"{args.base_url} was not launched by launch_gptoss.py: the manifest will not say what ran there, "
         "and no gate is checked")  # fmt: skip
    return args.model, args.tokenizer


def _in_flight(level: Level) -> float:
    return level.value if level.kind == "concurrency" else 0


def _check_phase(args: argparse.Namespace, deployment: Deployment | None, warn: Callable[[str], None]) -> bool:
    """Whether the deployment fills KV caches instead of computing them.

    Raises:
        SweepError: it does, but that is not what is to be measured.
    """
    decode_bench = bool(deployment and deployment.decode_bench)
    if decode_bench and (args.mode, args.type) != ("decode-only", "concurrency"):
        raise SweepError("the deployment was launched with --decode-bench: measure --mode decode-only at a concurrency")
    if decode_bench and args.num_prompts:
        raise SweepError(f"-n {args.num_prompts}: {ALL_AT_ONCE}")
    if args.mode == "decode-only" and not decode_bench:
        warn("prompts of one token leave out what a long context costs: launch with --decode-bench to have it counted")
    return decode_bench


def unseen_seeds(base_url: str, base_seed: int, levels: list[Level], described: bool) -> dict[Level, tuple[int, int, int]]:
    """Derive three seeds for each level that the running deployment has not been given before: of its measurement, its warm-up,
    and of a second measurement if kernels were compiled during the first.

    A level that is measured again, or under another name, would otherwise replay prompts into a live
    prefix cache. A server that does not describe itself cannot be asked: it gets each level's first seeds.
    """

    async def ask() -> dict[Level, tuple[int, int, int]]:
        async with deployed(base_url) as running:
            seen = await running.seeds()
            fresh = {level: first_unseen(base_seed, level, seen) for level in levels}
            await running.add_seeds(seed for of_level in fresh.values() for seed in of_level)
            return fresh

    return asyncio.run(ask()) if described else {level: first_unseen(base_seed, level, set()) for level in levels}


def first_unseen(base_seed: int, level: Level, seen: set[int]) -> tuple[int, int, int]:
    """Derive a level's seeds, by attempts, until none of them is among those `seen`."""

    def seeds(attempt: int) -> tuple[int, int, int]:
        measure, warm_up, again = (
            workload.level_seed(base_seed, level, purpose, attempt) for purpose in ("measure", "warm-up", "again")
        )
        return measure, warm_up, again

    return next(found for found in map(seeds, itertools.count(1)) if not seen.intersection(found))


def _manifest(folder: Path, name: RunName, args: argparse.Namespace, deployment: Deployment | None) -> Manifest:
    new = Manifest(
        name=name.name, model=name.model, phase=name.phase, isl=name.isl, osl=name.osl, base_seed=args.seed,
        shift=args.shift.identity if args.shift else None, as_published=args.as_published, deployment=deployment,
        client=Machine(**stack.machine()),
        repository=stack.repository(ROOT), commands=[args.typed],
    )  # fmt: skip
    if not (folder / FILENAME).exists():
        return new
    old = Manifest.read(folder)
    different = differences(old.identity, new.identity)
    if different and not args.force:
        raise SweepError(f"{folder} holds results of {different[0]}: choose another --exp-name, or --force to measure again")
    levels = [] if different else old.levels
    return new.model_copy(update={
        "commands": [*old.commands, args.typed], "levels": levels, "earlier": kept_launches([old], levels, new.deployment),
    })  # fmt: skip


def limits(args: argparse.Namespace, task: Task) -> Limits:
    """Return how long a level may take, and its requests: what the user says, else by the load."""
    value, requests = task.level.value, task.num_prompts
    if task.sent:
        usual, request = LEVEL_LIMIT_S + task.sent[-1].at, args.request_limit + longest_gap(task.sent)
    elif task.level.kind == "concurrency":
        usual, request = LEVEL_LIMIT_S + WAVE_LIMIT_S * math.ceil(requests / value), args.request_limit
    else:
        usual, request = LEVEL_LIMIT_S + requests / value, args.request_limit + LONGEST_GAP / value
    return Limits(args.level_limit or usual, request)

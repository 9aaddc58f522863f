"""Take the runs of a fit from result folders, refuse what does not belong in one fit, and make the model of it."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pdbench.analysis.audit import KINDS, Finding, audit, refuted, short
from pdbench.layout import Layout
from pdbench.manifest import REMEMBERS, Deployment, Manifest, differences
from pdbench.planner.costs import Engine
from pdbench.planner.fitting import Fitter, left_out, predict_run, with_hold
from pdbench.planner.model import FEWEST_LEFT_OUT, Model, PlanError, errors_of, missing
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.runs import Run, budget_of, graphs_of, is_ahead, routing_of, without_sizes
from pdbench.planner.simulator import Workload
from pdbench.read.results import Study, read_study

# Experts of a layer, and of these for each token, by the name of the model.
_EXPERTS = ((r"gpt-?oss-20b(-shape)?", (32, 4)), (r"gpt-?oss-tiny", (4, 2)), (r"gpt-?oss(-120b(-shape)?)?", (128, 4)))
# In a stack, the sizes of CUDA graphs for decode steps: a fit has one set of them, and a comparison with it takes any.
_GRAPHS, _LARGEST_STEP = "CUDA graphs of", "steps of at most"
# What two runs of one fit may differ in, of their deployments' identity: each is simulated with its own routers.
_OF_A_RUN = re.compile(
    rf"layout|mode|base seed|serving_path (ingress_replicas|pool_routing|{REMEMBERS})|(collocated|prefill|decode) .*"
)


def read(folders: Sequence[Path], levels: Sequence[int] = ()) -> Study:
    """Read result folders, and refuse what the audit refutes.

    Args:
        levels: only these; none means all.

    Raises:
        ResultError: a folder cannot be read.
        PlanError: it is not what it is called, or has no level at a concurrency, or prompts were not both read and answered.
    """
    study = read_study(folders)
    for folder, kinds in refuted(audit(study)).items():
        raise PlanError(f"{short(folder)}: {kinds[0]}: {KINDS[kinds[0]][0]} (viz.py --audit has the details)")
    table = study.table
    check_kinds(table)
    for folder, rows in table.groupby("folder", sort=False):
        if levels and not set(rows["level"]) & set(levels):
            raise PlanError(f"{short(folder)}: has none of the levels {', '.join(map(str, levels))}")
    return Study(table[table["level"].isin(levels)], study.folders) if levels else study


def check_kinds(table: pd.DataFrame) -> None:
    """Refuse runs of a kind that the planner has no model of.

    Raises:
        PlanError: a folder has no level at a concurrency, or prompts were not both read and answered.
    """
    for folder, rows in table.groupby("folder", sort=False):
        if (phase := rows["phase"].iloc[0]) == "decode-only":
            raise PlanError(
                f"{short(folder)}: is {phase}: with trained weights its steps are shorter than in mixed runs; take these"
            )
        if (rows["kind"] != "concurrency").any():
            raise PlanError(f"{short(folder)}: has request rates: the model is of levels with N requests in flight")


def runs_of(study: Study, as_published: bool | None) -> list[Run]:
    """Return a study's folders as runs; repeats of a level count as one, by their mean.

    Args:
        as_published: whether folders without a manifest replayed prompts; None: not said.

    Raises:
        PlanError: it has to be said, or contradicts the manifests.
    """
    manifests = [folder.manifest for folder in study.folders.values()]
    if all(manifests):
        recorded = bool(manifests[0] and manifests[0].as_published)
        if as_published not in (None, recorded):
            raise PlanError(f"--{'' if as_published else 'no-'}as-published: the manifests say otherwise")
        as_published = recorded
    elif as_published is None and (replayed := _replayed(study)):
        raise PlanError(
            f"{replayed.where.split(', ')[0]}: no manifest says whether its levels replayed prompts, as the public "
            "study's did: give --as-published or --no-as-published"
        )
    return [
        _run(Path(str(name)), rows, bool(as_published), study.folders[str(name)].manifest)
        for name, rows in study.table.groupby("folder", sort=False)
    ]


def _replayed(study: Study) -> Finding | None:
    return next((finding for finding in audit(study) if finding.kind == "replayed prompts"), None)


def _run(folder: Path, rows: pd.DataFrame, as_published: bool, manifest: Manifest | None) -> Run:
    first = rows.iloc[0]
    levels = rows.groupby("level")
    osl = 1 if first["phase"] == "prefill-only" else int(first["osl"])
    measured = levels[list(COLUMNS)].mean().to_numpy(float)
    measured[measured <= 0] = np.nan
    counts = [(int(level), int(of["completed"].iloc[0])) for level, of in levels]
    deployment = manifest.deployment if manifest else None
    try:
        workload = Workload(int(first["isl"]), osl, as_published, *routing_of(deployment))
    except ValueError as error:
        raise PlanError(f"{short(folder)}: {error}") from None
    layout = Layout.parse(first["layout"])
    return Run(short(folder), first["arm"], layout, workload, tuple(counts), measured, *_sizes(deployment))


def _sizes(deployment: Deployment | None) -> tuple[tuple[int, ...], int]:
    """The engines' CUDA graphs, and their largest step."""
    try:
        return graphs_of(deployment), budget_of(deployment)
    except ValueError as error:
        raise PlanError(f"the manifests: {error}") from None


def stack_of(study: Study, purpose: str = "fit") -> dict[str, str]:
    """Return what all runs' manifests say alike; empty without manifests.

    Args:
        purpose: of a "fit" CUDA graphs and the largest step have to be alike, too; of a "check" they need not.

    Raises:
        PlanError: they are of different models, versions, hardware or engine settings: nothing of one predicts the other.
    """
    table, alone = study.table, f"{purpose} each of them alone"
    for what in ("model", "accelerator"):
        if table[what].nunique() > 1:
            raise PlanError(f"runs of different {what}s in one {purpose}: {', '.join(sorted(table[what].unique()))}: {alone}")
    placements = sorted(set(table["placement"]) - {""})
    if len(placements) > 1:
        raise PlanError(f"runs with P and D placed differently in one {purpose}: {', '.join(placements)}: {alone}")
    found: dict[str, str] = {}
    first = ""
    for name, folder in study.folders.items():
        if folder.manifest:
            stack = _stack(folder.manifest)
            if first and (different := compared(found, stack, with_sizes=purpose == "fit")):
                where = f"{short(first)} has {different[0]} in {short(name)}"
                raise PlanError(f"runs of different stacks in one {purpose}: {where}: {alone}")
            found, first = found | stack, first or name
    return found


def compared(was: dict[str, str], now: dict[str, str], with_sizes: bool = True) -> list[str]:
    """Return what differs between two stacks; a transport only where both have one, since a collocated run has none."""
    alone = [name for name in {**was, **now} if name.startswith("transport ") and not (name in was and name in now)]
    alone += [] if with_sizes else [_GRAPHS, _LARGEST_STEP]
    return differences(*({k: v for k, v in of.items() if k not in alone} for of in (was, now)))


def _stack(manifest: Manifest) -> dict[str, str]:
    found = {name: value for name, value in manifest.identity.items() if not _OF_A_RUN.fullmatch(name)}
    if not (deployment := manifest.deployment):
        return found
    graphs, budget = _sizes(deployment)
    found |= {_GRAPHS: ", ".join(map(str, graphs)) or "no size", _LARGEST_STEP: f"{budget} tokens"}
    try:
        bare = {role: without_sizes(config) for role, config in deployment.llm_configs.items()}
    except ValueError as error:
        raise PlanError(f"the manifests: the engines' compilation_config: {error}") from None
    settings = deployment.model_copy(update={"llm_configs": bare}).engine_settings
    return found | {f"engines' {name}": value for name, value in settings.items()}


def engine_of(study: Study, kv_tokens: dict[int, int], experts: tuple[int, int] | None) -> Engine:
    """Return what is known of the engines: by option, by manifest, or by the model's name.

    Args:
        kv_tokens: of a PD replica's block pool, by TP size, where no manifest says it.
        experts: of a layer, and of these for each token.

    Raises:
        PlanError: nothing says how many experts the model has, or an option contradicts the manifests.
    """
    name = str(study.table["model"].iloc[0])
    made = _experts_made(study)
    if experts and made and experts != made:
        raise PlanError("--experts {}:{}: the manifests say {}:{}: leave it out".format(*experts, *made))
    experts = experts or made
    if experts is None:
        experts = next((of for pattern, of in _EXPERTS if re.fullmatch(pattern, name)), None)
    if experts is None:
        raise PlanError(
            f"how many experts has {name}? give --experts 128:4 (of a layer, for each token), or 1:1 if it is dense"
        )
    recorded = _kv_tokens_recorded(study)
    if other := [tp for tp in sorted(kv_tokens) if recorded.get(tp, kv_tokens[tp]) != kv_tokens[tp]]:
        raise PlanError(f"--kv-tokens {other[0]}={kv_tokens[other[0]]}: the manifests say {recorded[other[0]]}: leave it out")
    first = next(iter(_deployments(study)), None)
    graphs, budget = _sizes(first)
    known = {"kv_tokens": kv_tokens | recorded, "graphs": graphs, "budget": budget, "ahead": is_ahead(first)}
    return Engine(experts=experts[0], active=experts[1], **known)


def _deployments(study: Study) -> list[Deployment]:
    found = [folder.manifest.deployment for folder in study.folders.values() if folder.manifest]
    return [deployment for deployment in found if deployment]


def _experts_made(study: Study) -> tuple[int, int] | None:
    """Return the experts of a model that was made here: of a layer, and of these for each token."""
    made = next((deployment.made for deployment in _deployments(study) if deployment.made), {})
    experts = made.get("experts") or made.get("num_experts")
    return (int(experts), int(made["experts_per_token"])) if experts else None


def _kv_tokens_recorded(study: Study) -> dict[int, int]:
    """Return by TP size what the smallest block pool of a PD replica holds, by the manifests."""
    found: dict[int, int] = {}
    for deployment in _deployments(study):
        layout = Layout.parse(deployment.layout)
        for role, tokens in (deployment.kv_tokens or {}).items():
            pool = {"prefill": layout.prefill, "decode": layout.decode if layout.prefill else None}.get(role)
            if pool:
                found[pool.tp] = min(tokens, found.get(pool.tp, tokens))
    return found


def launch_options(study: Study) -> list[str]:
    """Return `--model` and `--hardware` as the first folder of the largest nodes was launched with; empty without manifests."""
    largest = max(_deployments(study), key=lambda deployment: deployment.gpus_per_node, default=None)
    words = shlex.split(largest.command) if largest else []
    pairs = zip(words, words[1:], strict=False)
    return [word for name, value in pairs if name in ("--model", "--hardware") for word in (name, value)]


def make_model(study: Study, runs: Sequence[Run], engine: Engine, stack: dict[str, str]) -> Model:
    """Fit a model, and see how far each layout is missed without its runs.

    Raises:
        PlanError: no run decodes.
    """
    decoding, prefilling = _by_phase(runs)
    if not decoding:
        raise PlanError(f"{runs[0].name}: has prefill alone: nothing says how long a decode step takes; add a mixed run")
    fitter = Fitter(runs, engine)
    parameters = with_hold(fitter.fit(), runs, engine)
    left = left_out(fitter, lambda layout, others: not missing(layout, *map(_layouts, _by_phase(others))))
    left = [(run, of) for run, of in left if run.decodes]
    enough = len({run.layout for run, _ in left}) >= FEWEST_LEFT_OUT
    judged = left if enough else [(run, predict_run(run, parameters, engine)) for run in decoding]
    first = study.table.iloc[0]
    counts = [level for run in decoding for level, _ in run.levels]
    ingress, asked = _routing(runs)
    return Model(
        name=first["model"], accelerator=first["accelerator"], gpus_per_node=int(study.table["gpus_per_node"].max()),
        engine=engine, parameters=parameters, runs=[run.name for run in runs],
        layouts=list(map(str, _layouts(decoding))), prefilled=list(map(str, _layouts(prefilling))),
        workloads=sorted({f"{run.workload.isl}:{run.workload.osl}" for run in decoding}),
        as_published=runs[0].workload.as_published, levels=(min(counts), max(counts)),
        most_running=max(1.0, *(run.levels[-1][0] / run.layout.decode.num for run in decoding)),
        ingress=ingress, asked=asked, launch=launch_options(study), stack=stack, left_out=enough,
        errors=[e for run, of in judged for e in errors_of(run.layout, run.levels, run.log_ratios(of))],
    )  # fmt: skip


def _routing(runs: Sequence[Run]) -> tuple[int, bool]:
    """Return the routing of a fit's predictions, `routing_of`: that of the runs whose routers have a choice, if there are any.

    Where some of these remember and others ask it is Ray Serve's default, to remember.
    """
    choosing = [run for run in runs if run.has_choice] or runs
    ingress = max(run.workload.ingress for run in choosing)
    return ingress, not ingress and any(run.workload.asked for run in choosing)


def _by_phase(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Those that decode, and those that have prefill alone."""
    return [run for run in runs if run.decodes], [run for run in runs if not run.decodes]


def _layouts(runs: Sequence[Run]) -> list[Layout]:
    return list(dict.fromkeys(run.layout for run in runs))


def check_same(model: Model, study: Study) -> None:
    """Refuse to compare a model with runs of something else; their engines may have other CUDA graphs and another largest step,
    which `check` counts in.

    Raises:
        PlanError: model, accelerator or stack differ.
    """
    stack = stack_of(study, "check")
    for what, fitted in (("model", model.name), ("accelerator", model.accelerator)):
        if (here := study.table[what].iloc[0]) != fitted:
            raise PlanError(f"the model was fitted to {what} {fitted}, these runs are of {here}")
    if bool(stack) != bool(model.stack):
        raise PlanError("the model's runs and these are of different stacks: one of them has no manifests")
    if stack and (different := compared(model.stack, stack, with_sizes=False)):
        raise PlanError(f"the model's runs have {different[0]} in these")

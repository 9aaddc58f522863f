"""Build the command lines of an experiment: what launches, checks, measures and stops each arm, and draws the figures."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pdbench.configs import ROOT, load_model
from pdbench.layout import CONTROLS, Layout, placed_as
from pdbench.manifest import LINK_MBIT
from pdbench.measure.experiment import Arm, Experiment
from pdbench.measure.workloads import Workload
from pdbench.network import slow_link
from pdbench.workload import SHIFT, Phase, RunName

What = Literal["cluster", "doctor", "link", "launch", "roles", "check", "control", "sweep", "stop", "figure"]
STOP = ["python", "launch_gptoss.py", "--stop"]
# What a phase's figures need: there is no TPOT of a single token, and no throughput of prompts in decode.
PHASE_OPTIONS: dict[Phase, list[str]] = {
    "mixed": [], "prefill-only": ["--latency-mode", "first_token"], "decode-only": ["--throughput-metric", "output"],
    "shift": [],
}  # fmt: skip
# Figures that have neither of these axes, and what uses the options beside any figure: viz.py refuses what nothing uses.
WITHOUT_AXES = {"targets", "lengths", "timeline", "overhead", "shift"}
DECISIONS = {"--show-decision", "--sla", "--gpu-hour-price", "--json", "--report"}


@dataclass(frozen=True)
class Step:
    """Holds one command of an experiment, and whose it is.

    Attributes:
        arm: the arm's label; None for what belongs to all arms.
    """

    what: What
    command: list[str]
    arm: str | None = None


def folder(name: str, arm: Arm, experiment: Experiment, asked: Workload) -> str:
    """Return the name of an arm's result folder with a workload, as run_bm.sh makes it."""
    model = load_model(ROOT / experiment.model).model_id.rsplit("/", 1)[-1]
    return str(RunName(model, asked.isl, asked.osl, experiment.phase_of(arm), f"{name}_{arm.label}"))


def folders(name: str, arm: Arm, experiment: Experiment, results: Path) -> list[Path]:
    """Return the paths of an arm's result folders, one of each workload."""
    return [results / folder(name, arm, experiment, asked) for asked in experiment.asked]


def tokens_file(name: str, results: Path) -> Path:
    """Return the file with the greedy tokens of the experiment's collocated arm."""
    return results / f"{name}_tokens.json"


def cluster_steps(experiment: Experiment) -> tuple[Step | None, Step | None]:
    """Return what starts the local cluster before all arms, and what stops it after them; nothing without one."""
    if experiment.local_workers is None:
        return None, None
    module = ["python", "-m", "pdbench.local_cluster"]
    gpus = ["--gpus", str(experiment.local_gpus)] if experiment.local_gpus else []
    start = Step("cluster", [*module, "start", "--workers", str(experiment.local_workers), *gpus])
    return start, Step("cluster", [*module, "stop"])


def doctor_step(experiment: Experiment) -> Step | None:
    """Return what looks at the nodes before anything is measured on them."""
    return Step("doctor", ["python", "debug/doctor.py", "--quick", "--brief"]) if experiment.doctor else None


def steps_of(arm: Arm, name: str, experiment: Experiment, results: Path, block: int | None) -> list[Step]:
    """Return what launches, checks and measures an arm; a check that it does not need is left out.

    Args:
        name: of the experiment; begins the names of its result folders.
        results: folder that gets a result folder per arm.
        block: the block to measure; None measures all repeats.
    """
    before: dict[What, list[str]] = {
        "link": _link("start", "--mbit", str(arm.link_mbit)) if arm.link_mbit else [],
        "launch": launch_of(arm, experiment),
        "check": _check(arm, experiment, str(tokens_file(name, results))),
        # After the check, which counts by roles.
        "control": ["python", "launch_gptoss.py", "--control", arm.control] if arm.control else [],
    }
    return [*_of_arm(arm, before), *sweeps_of(arm, name, experiment, results, block)]


def sweeps_of(arm: Arm, name: str, experiment: Experiment, results: Path, block: int | None) -> list[Step]:
    """Return what measures an arm: a sweep of each workload, as in `steps_of`."""
    commands = [_sweep(name, arm, experiment, asked, results, block) for asked in experiment.asked]
    return [Step("sweep", command, arm.label) for command in commands]


def roles_of(arm: Arm) -> Step:
    """Return what gives a running pool an arm's ratio."""
    layout = Layout.parse(arm.layout)
    return Step("roles", ["python", "launch_gptoss.py", "--roles", layout.roles], arm.label)


def ends_of(arm: Arm) -> list[Step]:
    """Return what stops an arm, however far it came."""
    return _of_arm(arm, {"stop": STOP, "link": _link("stop") if arm.link_mbit else []})


def _of_arm(arm: Arm, commands: dict[What, list[str]]) -> list[Step]:
    return [Step(what, command, arm.label) for what, command in commands.items() if command]


def ends_of_all(experiment: Experiment) -> list[Step]:
    """Return what removes all that an interrupted run may have left."""
    _, stop = cluster_steps(experiment)
    link = [Step("link", _link("stop"))] if any(arm.link_mbit for arm in experiment.arms) else []
    return [stop or Step("stop", STOP), *link]


def launch_of(arm: Arm, experiment: Experiment) -> list[str]:
    """Return the command line that launches an arm."""
    command = ["python", "launch_gptoss.py", "--mode", arm.mode, "--layout", arm.layout]
    command += ["--model", experiment.model, "--hardware", experiment.hardware, "--timeout", str(experiment.timeout_s)]
    command += [] if experiment.doctor else ["--no-doctor"]
    command += ["--decode-bench"] if experiment.phase_of(arm) == "decode-only" else []
    command += ["--use-libfabric"] if arm.backend == "LIBFABRIC" else []
    command += ["--ucx-tls", arm.ucx_tls] if arm.ucx_tls else []
    command += ["--router", arm.router] if arm.router else []
    command += ["--ingress-replicas", str(arm.ingress_replicas)] if arm.ingress_replicas else []
    command += ["--direct-streaming"] if arm.direct_streaming else []
    # Engines on other nodes must be reached by HAProxy.
    command += ["--host", "0.0.0.0"] if arm.direct_streaming and experiment.local_workers != 0 else []
    command += [word for name, value in arm.engine_args.items() for word in ("--engine-arg", f"{name}={json.dumps(value)}")]
    command += [word for name, value in arm.serve_env.items() for word in ("--serve-env", f"{name}={value}")]
    command += [word for name, value in arm.llm_options.items() for word in ("--llm-option", f"{name}={value}")]
    env = arm.env | (slow_link.UCX_ENV | {LINK_MBIT: str(arm.link_mbit)} if arm.link_mbit else {})
    return command + [word for name, value in env.items() for word in ("--env", f"{name}={value}")]


def _link(*words: str) -> list[str]:
    return ["python", "-m", "pdbench.slow_link", *words]


def _check(arm: Arm, experiment: Experiment, tokens: str) -> list[str]:
    """PD arms are compared with the tokens of the reference; further collocated arms move no KV cache."""
    gates = ["python", "-m", "pdbench.gates"]
    if arm.is_pd:
        return [*gates, "--against", tokens, *(["--transport", ",".join(arm.transport)] if arm.transport else [])]
    return [*gates, "--save", tokens] if arm is experiment.reference else []


def _sweep(name: str, arm: Arm, experiment: Experiment, asked: Workload, results: Path, block: int | None) -> list[str]:
    levels = experiment.levels
    command = ["./run_bm.sh", "-e", f"{name}_{arm.label}", *asked.options]
    phase = experiment.phase_of(arm)
    command += ["--mode", phase] if phase not in ("mixed", SHIFT) else []
    command += {"concurrency": ["-c"], "request_rate": ["-t", "request-rate", "-r"], "load": ["--load"]}[levels.kind]
    command += [",".join(f"{value:g}" for value in levels.values)]
    command += ["-n", str(levels.num_prompts)] if levels.num_prompts else []
    for option, limit in (("--request-limit", levels.request_limit), ("--level-limit", levels.level_limit)):
        command += [option, f"{limit:g}"] if limit else []
    command += ["--transport", ",".join(arm.transport)] if arm.transport else []
    command += ["--tokens", str(tokens_file(name, results))] if arm.is_pd else []
    command += ["--max-hit-rate", f"{experiment.max_hit_rate:g}"] if experiment.max_hit_rate is not None else []
    command += ["--as-published"] if experiment.as_published else []
    command += ["--block", str(block)] if block else ["--repeats", str(experiment.repeats)]
    return [*command, "--results-dir", str(results)]


def figure_steps(name: str, experiment: Experiment, results: Path, without: Collection[str] = ()) -> list[Step]:
    """Return what draws the figures of all arms, but those whose labels are in `without`; phases do not share one."""
    arms = [arm for arm in experiment.arms if arm.label not in without]
    phases = list(dict.fromkeys(experiment.phase_of(arm) for arm in arms))
    found = []
    for phase in phases:
        of_phase = [arm for arm in arms if experiment.phase_of(arm) == phase]
        figures = _fitting_figures(experiment, of_phase)
        paths = [str(path) for arm in of_phase for path in folders(name, arm, experiment, results)]
        for number, options in enumerate(figures, start=1):
            words = [name, *([phase] if len(phases) > 1 else []), *([str(number)] if len(figures) > 1 else [])]
            path = results / f"{'_'.join(words)}.png"
            unused = WITHOUT_AXES & set(options) and DECISIONS.isdisjoint(options)
            drawn = [*options, *([] if unused else PHASE_OPTIONS[phase]), "--plot-path", str(path)]
            found.append(Step("figure", ["python", "viz.py", "--exps", *paths, *drawn]))
    return found


def _fitting_figures(experiment: Experiment, arms: list[Arm]) -> list[list[str]]:
    """Options of each figure, without those that a selection of arms has nothing for.

    It may lack another arm to compare stalls or blocks with, a control, several replicas, a KV transfer to draw, or the level.
    """
    contenders = [arm for arm in arms if arm.mode not in CONTROLS]
    kinds = {arm.is_pd for arm in contenders}
    fits = {
        "--show-stalls": len(kinds) == 2,
        "--show-overhead": _has_pair(arms),
        "--show-sharing": any(Layout.parse(arm.layout).decode.num > 1 for arm in arms),
        "--show-blocks": bool(experiment.blocks) and False in kinds and len(contenders) > 1,
    }
    figures = [options for options in experiment.figures if True in kinds or "network" not in options]
    figures = [options for options in figures if _level(options) in (None, *experiment.levels.values)]
    return [[word for word in options if fits.get(word, True)] for options in figures]


def _level(options: list[str]) -> float | None:
    """The level that a figure is of, where its options say one."""
    return float(options[options.index("--level") + 1]) if "--level" in options else None


def _has_pair(arms: list[Arm]) -> bool:
    """Whether an arm and its control are among them."""
    known = {(arm.layout, arm.mode) for arm in arms}
    return any((arm.layout, placed_as(arm.mode)) in known for arm in arms if arm.mode in CONTROLS)

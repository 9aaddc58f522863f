"""Carry out plan.py's commands: what is read, asked of the planner, printed and written."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pdbench.analysis.sla import Bound
from pdbench.cli import note
from pdbench.files import first_line, write_atomically
from pdbench.layout import CONTROLS
from pdbench.manifest import REMEMBERS
from pdbench.output import plan_text
from pdbench.planner.model import NOMINAL, Model, PlanError
from pdbench.planner.predicting import Checked, Prediction, check, check_possible, parts, predict
from pdbench.planner.recommending import Choice, recommend, sweep
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.runs import LARGEST
from pdbench.planner.simulator import Workload
from pdbench.read.level_file import naming


def run(args: argparse.Namespace) -> None:
    """Carry out one command.

    Raises:
        PlanError: what is asked cannot be answered.
        ResultError: a result folder cannot be read, or a file not be written.
    """
    if args.command == "fit":
        return _fit(args)
    model = Model.read(args.model)
    return {"predict": _predict, "recommend": _recommend, "check": _check, "explain": _explain}[args.command](model, args)


def _fit(args: argparse.Namespace) -> None:
    from pdbench.planner import calibration  # pandas and SciPy take most of a second

    study = calibration.read(args.runs, args.levels)
    runs, stack = calibration.runs_of(study, args.as_published), calibration.stack_of(study)
    engine = calibration.engine_of(study, args.kv_tokens, args.experts)
    model = calibration.make_model(study, runs, engine, stack)
    model.write(args.output)
    plan_text.print_fit(model)
    if model.ingress and any(run.workload.asked for run in runs):
        print(
            "some runs' routers ask for loads each time: predicted are routers that remember them, as Ray Serve's do by default"
        )
    print(args.output)


def _predict(model: Model, args: argparse.Namespace) -> None:
    workload = _workload(model, args)
    found: list[Prediction] = []
    for layout in args.layouts:
        check_possible(model, layout)
        for step in args.steps or [None]:
            found += predict(model, layout, args.levels, workload, step=step)
    _refuse_outside(found, args.extrapolate)
    plan_text.print_predictions(found)
    _write(args.json, {"predictions": [one.as_json() for one in found]})


def _refuse_outside(found: Sequence[Prediction], extrapolate: bool) -> None:
    """Refuse levels and kinds of layouts that no run had; other lengths and prompts the answer names."""
    for one in found:
        if not extrapolate and (far := [why for why in one.outside if why.startswith(("level ", "lacks "))]):
            raise PlanError(f"{one.layout}: {far[0]}: give --extrapolate to see it all the same")


def _recommend(model: Model, args: argparse.Namespace) -> None:
    workload = _workload(model, args)
    found = recommend(model, args.sla, args.gpus, workload, args.unit_gpus, args.extrapolate, args.steps)
    commands = _commands(model, found.choices, workload, args.experiment)
    plan_text.print_recommendation(found, args.sla, args.gpus, commands)
    if args.plot_path:
        from pdbench.output.figures import files, planned  # Matplotlib takes a second

        named = found.choices or found.nearest
        sweeps = [(choice, sweep(model, choice.prediction, workload)) for choice in named]
        files.save(planned.finalists(sweeps, args.sla), args.plot_path)
        print(args.plot_path)
    content: dict[str, Any] = {"screened": found.screened, "simulated": found.simulated}
    content |= {"bounds": [_bound(bound) for bound in args.sla], "gpus": args.gpus, "commands": commands}
    content["left_out"] = {"layouts": list(map(str, found.left_out)), "lacking": found.lacking}
    for name, choices in (("measure", found.choices), ("nearest", found.nearest)):
        content[name] = [
            one.prediction.as_json() | {"units": one.units, "fleet_throughput": one.fleet_throughput, "excess": one.excess}
            for one in choices
        ]
    _write(args.json, content)


def _bound(bound: Bound) -> dict[str, Any]:
    return {"column": bound.column, "limit": bound.limit}


def _commands(model: Model, choices: Sequence[Choice], workload: Workload, experiment: Path | None) -> list[str]:
    if not choices or experiment is None:
        return plan_text.launch_commands(model, choices, workload)
    arms = _arms(experiment)
    lines, labels = [], []
    for choice in choices:
        layout, step = str(choice.layout), choice.prediction.step
        same = (step,) if step else (None, model.engine.budget)  # an arm that names none has that of the runs
        fitting = [label for label, arm in arms.items() if arm.layout == layout and arm.step in same]
        label = next(iter(sorted(fitting, key=lambda label: arms[label].asked != model.asked)), None)
        if label is None:
            mode = ", mode: pd-pack" if choice.layout.is_pd else ""
            own = f", name: step{step}, engine_args: {{{LARGEST}: {step}}}" if step else ""
            lines.append(f"# not in {experiment}, add to its arms:  - {{layout: {layout}{mode}{own}}}")
            label = (f"pack_{layout}" if choice.layout.is_pd else layout) + (f"_step{step}" if step else "")
        labels.append(label)
    return [*lines, f"python run_experiment.py {experiment} --arms {','.join(labels)}"]


class _Arm(NamedTuple):
    """What of an experiment's arm says whether it is a choice: its largest step only where it names one."""

    layout: str
    step: int | None
    asked: bool


def _arms(experiment: Path) -> dict[str, _Arm]:
    """Arms of an experiment but controls, by run_experiment.py's labels; one that a controller moves has no layout."""
    try:
        arms = yaml.safe_load(experiment.read_text(encoding="utf-8"))["arms"]
        found = {}
        for arm in arms:
            mode = arm.get("mode", "collocated")
            words = [arm.get("phase"), mode.replace("pd-", "").replace("collocated", ""), arm["layout"], arm.get("name")]
            if mode not in CONTROLS and not arm.get("control"):
                asked = arm.get("serve_env", {}).get(REMEMBERS) == "0"
                found["_".join(filter(None, words))] = _Arm(arm["layout"], arm.get("engine_args", {}).get(LARGEST), asked)
        return found
    except OSError as error:
        raise PlanError(f"--experiment {experiment}: {error.strerror}") from error
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise PlanError(f"--experiment {experiment} is no experiment with arms: {first_line(error)}") from error


def _check(model: Model, args: argparse.Namespace) -> None:
    from pdbench.planner import calibration

    study = calibration.read(args.runs, args.levels)
    runs = calibration.runs_of(study, args.as_published)
    calibration.check_same(model, study)
    used = [run.name for run in runs if run.name in model.runs]
    if used:
        note(f"plan.py: left out, since the model was fitted to them: {', '.join(used)}")
    runs = [run for run in runs if run.name not in used]
    if not runs:
        raise PlanError("the model was fitted to all of these runs: check it on others")
    checked = check(model, runs)
    plan_text.print_checked(checked)
    if args.plot_path:
        from pdbench.output.figures import files, planned  # Matplotlib takes a second

        files.save(planned.against_measured(checked), args.plot_path)
        print(args.plot_path)
    _write(args.json, {"nominal": NOMINAL, "runs": [_checked(one) for one in checked]})


def _checked(one: Checked) -> dict[str, Any]:
    levels = []
    for prediction, measured, covered in zip(one.predicted, one.run.measured, one.covered, strict=True):
        values = {f"{c}_measured": float(v) for c, v in zip(COLUMNS, measured, strict=True) if v == v}
        inside = {f"{c}_covered": bool(v) for c, v in zip(COLUMNS, covered, strict=True) if v == v}
        levels.append(prediction.as_json() | values | inside)
    return {"run": one.run.name, "arm": one.run.arm, "layout": str(one.run.layout), "levels": levels}


def _explain(model: Model, args: argparse.Namespace) -> None:
    workload = _workload(model, args)
    content = []
    for layout in args.layouts:
        check_possible(model, layout)
        _refuse_outside(predict(model, layout, args.levels, workload, (1,)), args.extrapolate)
        for level in args.levels:
            found = parts(model, layout, level, workload)
            plan_text.print_parts(layout, level, found)
            content.append({"layout": str(layout), "level": level, "ms": found})
    _write(args.json, {"parts": content})


def _workload(model: Model, args: argparse.Namespace) -> Workload:
    isl, osl = map(int, model.workloads[0].split(":"))
    if len(model.workloads) > 1 and not (args.isl and args.osl):
        raise PlanError(f"the model's runs have several lengths, {', '.join(model.workloads)}: give --isl and --osl")
    return Workload(args.isl or isl, args.osl or osl, getattr(args, "as_published", False), model.ingress, model.asked)


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path:
        with naming(path):
            write_atomically(path, json.dumps(content, indent=1) + "\n")
        print(path)

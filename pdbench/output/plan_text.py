"""Print what plan.py finds."""

import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from pdbench.analysis.sla import Bound
from pdbench.layout import Layout
from pdbench.manifest import REMEMBERS
from pdbench.output.grid import show
from pdbench.output.number_text import number
from pdbench.planner.model import NOMINAL, Model
from pdbench.planner.predicting import Checked, Prediction
from pdbench.planner.recommending import Choice, Recommendation
from pdbench.planner.replicas import COLUMNS, PARTS
from pdbench.planner.runs import LARGEST
from pdbench.planner.simulator import Workload

HEADINGS = {
    "request_throughput": "requests/s", "mean_tpot_ms": "TPOT mean\nms", "mean_ttft_ms": "TTFT mean\nms",
    "median_tpot_ms": "TPOT median\nms", "median_ttft_ms": "TTFT median\nms", "p99_tpot_ms": "TPOT p99\nms",
    "p99_ttft_ms": "TTFT p99\nms", "max_itl_ms": "ITL max\nms", "p99_itl_ms": "ITL p99\nms",
}  # fmt: skip
_SHOWN = ("request_throughput", "median_tpot_ms", "median_ttft_ms", "max_itl_ms")
_JUDGED = ("request_throughput", "mean_tpot_ms", "mean_ttft_ms", "median_ttft_ms", "max_itl_ms", "p99_itl_ms")
_INTERVALS = f"[nominal {NOMINAL:.0%} interval of one measurement]"


def _short(column: str) -> str:
    """A column's heading without its unit."""
    return HEADINGS[column].partition("\n")[0]


def print_fit(model: Model) -> None:
    """Print what a model can predict and how well it did on layouts that were left out of the fit."""
    layouts = {*model.layouts, *model.prefilled}
    print(
        f"{model.name} on {model.accelerator}: {_counted(len(model.runs), 'run')} of {_counted(len(layouts), 'layout')}, ",
        end="",
    )
    print(f"{', '.join(model.workloads)} tokens, {model.levels[0]} to {model.levels[1]} in flight")
    if not model.engine.kv_tokens:
        print("block pools are taken as never full (--kv-tokens)")
    rows = []
    for level in sorted({error.level for error in model.errors}):
        found = [e.ratios for e in model.errors if e.level == level]
        rows.append([number(level), *(_percent([abs(np.expm1(-r[c])) for r in found if c in r]) for c in _JUDGED)])
    rows.append(["all", *(_percent([abs(np.expm1(-e.ratios[c])) for e in model.errors if c in e.ratios]) for c in _JUDGED)])
    show(["in flight", *(_short(c) for c in _JUDGED)], rows)
    if model.left_out:
        print("mean error of layouts that were left out of the fit; intervals are theirs")
    else:
        print("mean error of the fit itself: too few layouts can be left out, so intervals are twice as wide, and never")
        print("narrower than those of the public study's 18 layouts")
    for what in _lacking(model):
        print(f"not predicted, for want of {what}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _lacking(model: Model) -> list[str]:
    """Which kinds of runs would let the model predict more layouts of its own TP sizes."""
    tried = [Layout.parse(f"1xtp{size}") for size in model.sizes]
    tried += [Layout.parse(f"p1xtp{p}-d1xtp{d}") for p in model.sizes for d in model.sizes]
    return list(dict.fromkeys(what for one in tried for what in model.lacks(one)))


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """Print layouts at levels with their intervals."""
    rows = [[p.name, number(p.layout.gpus), number(p.level), *(_with_interval(p, c) for c in _SHOWN)] for p in predictions]
    show(["layout", "GPUs", "in flight", *(HEADINGS[c] for c in _SHOWN)], rows)
    print(_INTERVALS)
    if any(_SHOWN[-1] not in p.values for p in predictions):
        print("-: no PD run of the fit says how long its requests wait from token to token")
    _print_outside([(p.name, p) for p in predictions])


def _print_outside(named: Sequence[tuple[str, Prediction]]) -> None:
    for name in dict.fromkeys(name for name, _ in named):
        reasons = dict.fromkeys(reason for of, prediction in named if of == name for reason in prediction.outside)
        if reasons:
            print(f"outside what was measured, where intervals may not hold: {name}: {'; '.join(reasons)}")


def _with_interval(prediction: Prediction, column: str) -> str:
    if column not in prediction.values:
        return "-"
    low, high = prediction.intervals[column]
    return f"{number(prediction.values[column])} [{number(low)}, {number(high)}]"


def print_recommendation(found: Recommendation, bounds: Sequence[Bound], gpus: int, commands: Sequence[str]) -> None:
    """Print the layouts worth measuring for a target, and how; or the nearest misses.

    Args:
        commands: that measure them.
    """
    target = ", ".join(map(str, bounds))
    looked = f"{found.screened} layouts in closed form, {found.simulated} of them simulated"
    if found.choices:
        print(f"{target} on {gpus:,} GPUs: {looked}")
    else:
        print(f"no layout keeps to {target} on {gpus:,} GPUs: allow more, or bring runs of other TP sizes")
        print(f"{looked}; these come nearest:")
    choices = found.choices or found.nearest
    columns = list(dict.fromkeys(bound.column for bound in bounds))
    show(
        ["one deployment", "of them", "GPUs", "in flight\neach", "requests/s\nin all", *(HEADINGS[c] for c in columns)],
        [_choice_row(choice, columns) for choice in choices],
    )
    print(_INTERVALS)
    _print_outside([(choice.prediction.name, choice.prediction) for choice in choices])
    if found.left_out:
        print(f"left out: {_kinds(found.left_out)}, for want of {' or '.join(found.lacking)}: --extrapolate adds them")
    if not found.choices:
        return
    print("requests are taken to be split evenly over the deployments; which one leads is not known before they are measured:")
    print(*commands, sep="\n")


def _kinds(layouts: Sequence[Layout]) -> str:
    pd = sum(layout.is_pd for layout in layouts)
    counts = {"collocated layout": len(layouts) - pd, "PD layout": pd}
    return " and ".join(_counted(count, what) for what, count in counts.items() if count)


def _choice_row(choice: Choice, columns: Sequence[str]) -> list[str]:
    prediction = choice.prediction
    low, high = (choice.units * end for end in prediction.intervals["request_throughput"])
    used = choice.units * choice.layout.gpus
    cells = [prediction.name, number(choice.units), number(used), number(prediction.level)]
    return [*cells, f"{number(choice.fleet_throughput)} [{number(low)}, {number(high)}]",
            *(_with_interval(prediction, column) for column in columns)]  # fmt: skip


def launch_commands(model: Model, choices: Sequence[Choice], workload: Workload) -> list[str]:
    """Return for each layout the command that launches and measures it; where no node of the runs holds it, after a remark."""
    commands = []
    for choice in choices:
        layout, options, remark = choice.layout, model.launch, ""
        mode = "pd-pack" if layout.is_pd else "collocated"
        if mode == "pd-pack" and layout.gpus > model.gpus_per_node:
            remark = f"# {layout} needs a node with {layout.gpus} GPUs, the runs' have {model.gpus_per_node}: name its file\n"
            options = [*_without_hardware(options), "--hardware", f"<file of a node with {layout.gpus} GPUs>"]
        launch = ["python", "launch_gptoss.py", "--mode", mode, "--layout", str(layout), *options]
        name = f"planned_{'pack_' if layout.is_pd else ''}{layout}"
        if model.asked:
            launch += ["--serve-env", f"{REMEMBERS}=0"]
        if step := choice.prediction.step:
            launch += ["--engine-arg", f"{LARGEST}={step}"]
            name += f"_step{step}"
        lengths = ["--isl", str(workload.isl), "--osl", str(workload.osl)]
        sweep = ["./run_bm.sh", "-e", name, *lengths, "-c", str(choice.prediction.level)]
        commands.append(f"{remark}{shlex.join(launch)} && {shlex.join(sweep)} && python launch_gptoss.py --stop")
    return commands


def _without_hardware(options: Sequence[str]) -> list[str]:
    """Options of a launch, which come in pairs, but `--hardware`."""
    pairs = zip(options[::2], options[1::2], strict=False)
    return [word for name, value in pairs if name != "--hardware" for word in (name, value)]


def print_parts(layout: Layout, level: int, parts: Mapping[str, float]) -> None:
    """Print where the time of a request goes, in the mean."""
    total = sum(parts.values())
    show(
        [f"{layout}\n{level} in flight", "ms", "share"],
        [[name, number(parts[name]), f"{parts[name] / total:.1%}"] for name in PARTS] + [["in all", number(total), ""]],
    )


def print_checked(checked: Sequence[Checked]) -> None:
    """Print how far runs that were not used are missed, and how many of their numbers lie in the intervals."""
    judged = [COLUMNS.index(column) for column in _JUDGED]
    rows = []
    for one in checked:
        rows.append([one.run.arm, number(len(one.run.levels)), *(_percent(one.errors[:, i]) for i in judged)])
        rows[-1].append(_percent(one.covered))
    errors, covered = np.vstack([one.errors for one in checked]), np.vstack([one.covered for one in checked])
    rows.append(["all", number(len(errors)), *(_percent(errors[:, i]) for i in judged), _percent(covered)])
    show(["arm", "levels", *(_short(c) for c in _JUDGED), "in the\ninterval"], rows)
    each = ", ".join(f"{_short(c)} {_percent(covered[:, COLUMNS.index(c)])}" for c in _JUDGED)
    print(f"mean error; in the interval (nominal {NOMINAL:.0%}): {each}")
    _print_outside([(one.run.arm, prediction) for one in checked for prediction in one.predicted])


def _percent(values: Sequence[float] | np.ndarray) -> str:
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return f"{100 * finite.mean():.1f}%" if len(finite) else "-"

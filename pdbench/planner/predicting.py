"""Predict layouts at levels with intervals, say where a request's time goes, and compare predictions with measured runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pdbench.layout import Layout
from pdbench.planner.costs import Engine, costs_of
from pdbench.planner.model import Model, PlanError
from pdbench.planner.replicas import COLUMNS, PARTS
from pdbench.planner.runs import Run
from pdbench.planner.simulator import Sweep, Workload, simulate
from pdbench.workload import Level

SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Prediction:
    """One layout at one level.

    Attributes:
        values: by column of `COLUMNS`, requests/s and ms, without waits of PD where no PD run of the fit has them.
        intervals: of these, nominally holding 90% of measurements.
        outside: in words, why it lies outside what the model was fitted to; empty within.
        step: tokens of the engines' largest step where that is not the fit's.
    """

    layout: Layout
    level: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    outside: tuple[str, ...]
    step: int | None = None

    @property
    def name(self) -> str:
        """The layout, and its engines' largest step where that is not the fit's."""
        return f"{self.layout}, steps of {self.step}" if self.step else str(self.layout)

    def as_json(self) -> dict[str, object]:
        """Return it as plain data: each column with `_low` and `_high`."""
        found: dict[str, object] = {"layout": str(self.layout), "gpus": self.layout.gpus, "level": self.level}
        for column, value in self.values.items():
            low, high = self.intervals[column]
            found |= {column: value, f"{column}_low": low, f"{column}_high": high}
        return found | {"outside": list(self.outside)} | ({"largest_step": self.step} if self.step else {})


def predict(
    model: Model,
    layout: Layout,
    levels: Sequence[int],
    workload: Workload,
    seeds: Sequence[int] = SEEDS,
    step: int | None = None,
) -> list[Prediction]:
    """Predict a sweep of one layout, levels in ascending order, 5 requests for each in flight, as run_bm.sh measures it.

    Args:
        step: tokens of the engines' largest step; None: the fit's.
    """
    engine = model.engine.with_step(step)
    counts = [(level, Level("concurrency", float(level)).num_prompts()) for level in sorted(levels)]
    rows = simulate(layout, model.parameters, engine, workload, counts, seeds)
    other = _other_sizes(model.engine, engine)
    found = [with_intervals(model, layout, level, row, workload, other) for (level, _), row in zip(counts, rows, strict=True)]
    return [replace(one, step=step if other else None) for one in found]


def with_intervals(
    model: Model, layout: Layout, level: int, row: np.ndarray, workload: Workload, other: tuple[str, ...] = ()
) -> Prediction:
    """Return one simulated level with its intervals, and with what lies outside the model's runs, `other` first."""
    values = {column: float(value) for column, value in zip(COLUMNS, row, strict=True) if not np.isnan(value)}
    intervals = {column: model.interval(column, level, value, layout.is_pd) for column, value in values.items()}
    outside = [*other, *(f"lacks {what}" for what in model.lacks(layout))]
    if not model.levels[0] <= level <= model.levels[1]:
        outside.append(f"level {level}, fitted to {model.levels[0]} to {model.levels[1]}")
    elif level / layout.decode.num > model.most_running:
        outside.append(f"{level / layout.decode.num:g} in flight per decode replica, fitted to {model.most_running:g}")
    if (lengths := f"{workload.isl}:{workload.osl}") not in model.workloads:
        outside.append(f"lengths {lengths}, fitted to {', '.join(model.workloads)}")
    if workload.as_published != model.as_published:
        outside.append("prompts unseen, fitted to replayed" if model.as_published else "prompts replayed, fitted to unseen")
    return Prediction(layout, level, values, intervals, tuple(outside))


def check_possible(model: Model, layout: Layout) -> None:
    """Refuse a layout with a TP size that no run has.

    Raises:
        PlanError: names the layout and the runs that it lacks.
    """
    sizes = {pool.tp for pool in (layout.prefill, layout.decode) if pool}
    if sizes.difference(model.sizes):
        raise PlanError(f"{layout} cannot be predicted: the model lacks {' and '.join(model.lacks(layout))}")


def parts(model: Model, layout: Layout, level: int, workload: Workload) -> dict[str, float]:
    """Return where the time of a request goes in the mean, ms, by `PARTS`; together they are its end-to-end latency."""
    costs = costs_of(layout, model.parameters, model.engine, workload.isl, workload.osl, level)
    requests = Level("concurrency", float(level)).num_prompts()
    runs = [Sweep(layout, costs, model.engine, workload, seed).run(level, requests) for seed in SEEDS]
    return dict(zip(PARTS, map(float, 1e3 * np.mean([run.parts() for run in runs], axis=0)), strict=True))


@dataclass(frozen=True)
class Checked:
    """One measured run beside its prediction.

    Attributes:
        predicted: a prediction for each level.
        ratios: logarithms of measured over predicted, a row per level, columns `COLUMNS`; NaN where nothing was measured.
    """

    run: Run
    predicted: list[Prediction]
    ratios: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Absolute errors as shares of the measured values, in the shape of `ratios`."""
        return np.abs(np.exp(-self.ratios) - 1)

    @property
    def covered(self) -> np.ndarray:
        """Whether a measured value lies in its interval, in the shape of `ratios`; NaN where there is none."""
        found = np.full(self.ratios.shape, np.nan)
        for row, (prediction, measured) in enumerate(zip(self.predicted, self.run.measured, strict=True)):
            for i, column in enumerate(COLUMNS):
                if column in prediction.intervals and not np.isnan(measured[i]):
                    low, high = prediction.intervals[column]
                    found[row, i] = low <= measured[i] <= high
        return found


def _other_sizes(fitted: Engine, engine: Engine) -> tuple[str, ...]:
    """What sizes of their own some engines have; of CUDA graphs those that both could have."""
    most = min(fitted.budget, engine.budget)
    graphs = [[size for size in of.graphs if size <= most] for of in (fitted, engine)]
    found = ["CUDA graphs of other sizes than the fit's"] * (graphs[0] != graphs[1])
    found += [f"steps of at most {engine.budget} tokens, fitted to {fitted.budget}"] * (fitted.budget != engine.budget)
    return tuple(found)


def check(model: Model, runs: Sequence[Run]) -> list[Checked]:
    """Predict each run as it was measured, with its own routers, CUDA graphs and largest step.

    Raises:
        PlanError: a run has a TP size that the model lacks.
    """
    found = []
    for run in runs:
        check_possible(model, run.layout)
        engine = model.engine.model_copy(update={"graphs": run.graphs, "budget": run.budget})
        rows = simulate(run.layout, model.parameters, engine, run.workload, run.levels, SEEDS)
        predicted = [
            with_intervals(model, run.layout, level, row, run.workload, _other_sizes(model.engine, engine))
            for (level, _), row in zip(run.levels, rows, strict=True)
        ]
        found.append(Checked(run, predicted, run.log_ratios(rows)))
    return found

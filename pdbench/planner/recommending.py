"""Name the layouts worth measuring for a target: closed form over all of them, then simulation of the most promising."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from pdbench.analysis.sla import Bound
from pdbench.layout import Layout
from pdbench.planner.model import Model, PlanError
from pdbench.planner.predicting import Prediction, predict
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.screen import Cell, screen, units_of
from pdbench.planner.simulator import Workload

NAMED = 3  # layouts worth measuring
UNIT = 16  # GPUs of one deployment, unless said
_FINALISTS, _MOST = 8, 16  # at least and at most: it ends where closed form, rarely too low, promises less than is found
# From the load that closed form finds, until it lies between one that keeps the target and one that does not; downwards by
# the factor by which the target is missed, within these.
_UP, _DOWN, _FAR = 1.2, 0.9, 0.25
_TRIES = 5  # loads simulated of a layout
_STEP = 1.5  # from one load of a sweep to the next
_NEAR = 0.05  # how far apart these two may be in the end
_SEEDS = (1, 2)


@dataclass(frozen=True)
class Choice:
    """One layout for a fleet, at the level with the most throughput within the target.

    Attributes:
        units: deployments of it that the fleet's GPUs hold.
        prediction: of one unit.
        excess: the factor by which it misses the target, 1 or less where it keeps to it.
    """

    units: int
    prediction: Prediction
    excess: float

    @property
    def layout(self) -> Layout:
        """What is deployed in each unit."""
        return self.prediction.layout

    @property
    def fleet_throughput(self) -> float:
        """Requests/s of all units, the load split evenly."""
        return self.units * self.prediction.values["request_throughput"]


@dataclass(frozen=True)
class Recommendation:
    """The answer to one target.

    Attributes:
        choices: at most `NAMED` that keep to it by prediction, highest throughput first; else empty.
        nearest: where nothing keeps to it, the nearest misses.
        screened, simulated: numbers of layouts.
    """

    choices: list[Choice]
    nearest: list[Choice]
    screened: int
    simulated: int


def limits_of(bounds: Sequence[Bound]) -> dict[str, float]:
    """Return limits in ms by column.

    Raises:
        PlanError: nothing predicts such a latency.
    """
    for bound in bounds:
        if bound.column not in COLUMNS:
            raise PlanError(f"{bound}: the model predicts mean, median and p99 of TTFT and TPOT, nothing else")
    return {bound.column: bound.limit for bound in bounds}


def recommend(
    model: Model, bounds: Sequence[Bound], gpus: int, workload: Workload, unit: int = UNIT, extrapolate: bool = False
) -> Recommendation:  # fmt: skip
    """Find the layouts worth measuring for a target.

    Args:
        gpus: of the whole fleet.
        unit: most of one deployment.
        extrapolate: look at kinds of layouts that no run had, too.

    Raises:
        PlanError: no such layout fits the GPUs, or a bound is on what is not predicted.
    """
    limits = limits_of(bounds)
    layouts = list(dict.fromkeys(units_of(model, gpus, unit, extrapolate)))
    if not layouts:
        raise PlanError(f"{gpus} GPUs hold no layout of the TP sizes and kinds that the model's runs have")
    finalists = _finalists(screen(model, layouts, gpus, workload), limits)
    choices: list[Choice] = []
    for number, cell in enumerate(finalists[:_MOST]):
        kept = sorted((c for c in choices if c.excess <= 1), key=lambda c: -c.fleet_throughput)
        if number >= _FINALISTS and len(kept) >= NAMED and cell.fleet_throughput < kept[NAMED - 1].fleet_throughput:
            break
        choices.append(_simulated(model, cell, limits, workload))
    kept = sorted((c for c in choices if c.excess <= 1), key=lambda c: -c.fleet_throughput)
    nearest = [] if kept else sorted(choices, key=lambda c: c.excess)[:NAMED]
    return Recommendation(kept[:NAMED], nearest, len(layouts), len(choices))


def sweep(model: Model, prediction: Prediction, workload: Workload) -> list[Prediction]:
    """Predict a layout from the lowest calibrated level to the highest, and at the level of `prediction`; ascending."""
    most = int(model.most_running * prediction.layout.decode.num)
    levels, level = {prediction.level}, model.levels[0]
    while level <= most:
        levels.add(level)
        level = max(level + 1, round(level * _STEP))
    return predict(model, prediction.layout, sorted(levels), workload, _SEEDS)


def excess(values: dict[str, float], limits: dict[str, float]) -> float:
    """Return the largest factor by which a value exceeds its limit."""
    return max(values[name] / limit for name, limit in limits.items())


def _finalists(cells: Sequence[Cell], limits: dict[str, float]) -> list[Cell]:
    """Of each layout one cell: first those within the limits, by throughput, then the nearest to them."""
    within: dict[Layout, Cell] = {}
    nearest: dict[Layout, tuple[float, Cell]] = {}
    for cell in cells:
        over = excess(cell.values, limits)
        if over <= 1 and cell.fleet_throughput > (within[cell.layout].fleet_throughput if cell.layout in within else 0):
            within[cell.layout] = cell
        if over < nearest.get(cell.layout, (inf, cell))[0]:
            nearest[cell.layout] = (over, cell)
    others = sorted((pair for layout, pair in nearest.items() if layout not in within), key=lambda pair: pair[0])
    return [*sorted(within.values(), key=lambda cell: -cell.fleet_throughput), *(cell for _, cell in others)]


def _simulated(model: Model, cell: Cell, limits: dict[str, float], workload: Workload) -> Choice:
    """Simulate a layout from the level that closed form finds, upwards or down, to the highest that keeps to the limits."""
    most = max(1, int(model.most_running * cell.layout.decode.num))
    level, kept, missed = min(most, max(1, cell.in_flight)), 0, most + 1
    found: list[Prediction] = []
    for _ in range(_TRIES):
        found += predict(model, cell.layout, [level], workload, _SEEDS)
        over = excess(found[-1].values, limits)
        kept, missed = (level, missed) if over <= 1 else (kept, level)
        if missed - kept <= max(1, _NEAR * kept):
            break
        if not kept:
            level = max(1, int(level * max(_FAR, min(_DOWN, 1 / over))))
        else:
            level = (kept + missed) // 2 if missed <= most else min(most, round(level * _UP) + 1)
    best = max(found, key=lambda one: (_throughput_within(one.values, limits), -excess(one.values, limits)))
    return Choice(cell.units, best, excess(best.values, limits))


def _throughput_within(values: dict[str, float], limits: dict[str, float]) -> float:
    """The throughput of a level, or -inf where it exceeds a limit (ms, by column)."""
    return values["request_throughput"] if all(values[name] <= limit for name, limit in limits.items()) else -inf

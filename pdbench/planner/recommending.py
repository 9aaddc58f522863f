"""Name the layouts worth measuring for a target: closed form over all of them, then simulation of the most promising."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from pdbench.analysis.sla import Bound
from pdbench.layout import Layout
from pdbench.planner.costs import HOLD
from pdbench.planner.model import Model, PlanError
from pdbench.planner.predicting import Prediction, predict
from pdbench.planner.replicas import COLUMNS, WAITS
from pdbench.planner.screen import Cell, screen, units_of
from pdbench.planner.simulator import Workload

NAMED = 3  # layouts worth measuring
UNIT = 16  # GPUs of one deployment, unless said
# PD ratios simulated, at least and at most: it ends where closed form promises less than this share of what is found.
# Collocated ones, one for each TP size, always are: for few requests in a replica closed form, with Poisson arrivals, is up to
# a quarter too low.
_FINALISTS, _MOST, _PROMISED = 8, 16, 0.95
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
        choices: at most `NAMED` that keep to it by prediction, highest throughput first, each ratio once; else empty.
        nearest: where nothing keeps to it, the nearest misses.
        screened, simulated: numbers of layouts, each with each largest step.
        left_out: layouts of kinds that no run had.
        lacking: the runs for want of which they are left out.
    """

    choices: list[Choice]
    nearest: list[Choice]
    screened: int
    simulated: int
    left_out: list[Layout]
    lacking: list[str]


def limits_of(bounds: Sequence[Bound]) -> dict[str, float]:
    """Return limits in ms by column.

    Raises:
        PlanError: nothing predicts such a latency.
    """
    for bound in bounds:
        if bound.column not in COLUMNS:
            raise PlanError(
                f"{bound}: the model predicts mean, median and p99 of TTFT and TPOT, and p99 and max of ITL, nothing else"
            )
    return {bound.column: bound.limit for bound in bounds}


def recommend(
    model: Model, bounds: Sequence[Bound], gpus: int, workload: Workload, unit: int = UNIT, extrapolate: bool = False,
    steps: Sequence[int] = (),
) -> Recommendation:  # fmt: skip
    """Find the layouts worth measuring for a target.

    Args:
        gpus: of the whole fleet.
        unit: most of one deployment.
        extrapolate: look at kinds of layouts that no run had, too.
        steps: largest steps (tokens) that collocated layouts are tried with besides the fit's; of a ratio the best is named.

    Raises:
        PlanError: no such layout fits the GPUs, or a bound is on what is not predicted, or not of PD.
    """
    limits = limits_of(bounds)
    units = units_of(model, gpus, unit)
    lacks = {layout: [] if extrapolate else model.lacks(layout) for layout in units}
    layouts = {layout: ratio for layout, ratio in units.items() if not lacks[layout]}
    lacking = list(dict.fromkeys(what for of in lacks.values() for what in of))
    if not layouts:
        hint = f": --extrapolate adds some, for want of {' or '.join(lacking)}" if lacking else ""
        raise PlanError(f"{gpus} GPUs hold no layout of the TP sizes and kinds that the model's runs have{hint}")
    unknown = [layout for layout in layouts if layout.is_pd and HOLD not in model.parameters]
    if unknown and (waits := [bound for bound in bounds if bound.column in WAITS]):
        raise PlanError(f"{waits[0]}: {unknown[0]}'s is not predicted: no PD run of the fit has per-request latencies")
    finalists: dict[Layout, list[Cell]] = {}
    cells, others = screen(model, list(layouts), gpus, workload), sorted({*steps} - {model.engine.budget})
    together = [layout for layout in layouts if not layout.is_pd]
    for step in others:
        cells += screen(model, together, gpus, workload, step)
    for cell in _finalists(cells, limits):
        finalists.setdefault(layouts[cell.layout], []).append(cell)
    choices, simulated = _of_each_ratio(model, list(finalists.values()), limits, workload)
    kept = [choice for choice in choices if choice.excess <= 1]
    left_out = [layout for layout, of in lacks.items() if of]
    screened = len(layouts) + len(together) * len(others)
    return Recommendation(kept[:NAMED], [] if kept else choices[:NAMED], screened, simulated, left_out, lacking)


def sweep(model: Model, prediction: Prediction, workload: Workload) -> list[Prediction]:
    """Predict a layout from the lowest calibrated level to the highest, and at the level of `prediction`; ascending."""
    most = int(model.most_running * prediction.layout.decode.num)
    levels, level = {prediction.level}, model.levels[0]
    while level <= most:
        levels.add(level)
        level = max(level + 1, round(level * _STEP))
    return predict(model, prediction.layout, sorted(levels), workload, _SEEDS, prediction.step)


def excess(values: dict[str, float], limits: dict[str, float]) -> float:
    """Return the largest factor by which a value exceeds its limit."""
    return max(values[name] / limit for name, limit in limits.items())


def _of_each_ratio(
    model: Model, ratios: Sequence[Sequence[Cell]], limits: dict[str, float], workload: Workload
) -> tuple[list[Choice], int]:
    """Simulate ratios, each by itself and repeated, which closed form takes to be alike, and with each largest step; return the
    best of each, best ratio first, and how many that were."""
    collocated = [cells for cells in ratios if not cells[0].layout.is_pd]
    found: list[Choice] = []
    simulated = 0
    for number, cells in enumerate(sorted(ratios, key=lambda cells: cells[0].layout.is_pd), -len(collocated)):
        kept = [choice.fleet_throughput for choice in found if choice.excess <= 1]
        enough = number >= _FINALISTS and len(kept) >= NAMED and cells[0].fleet_throughput < _PROMISED * kept[NAMED - 1]
        if enough or number >= _MOST:
            break
        found.append(min((_simulated(model, cell, limits, workload) for cell in cells), key=_rank))
        found.sort(key=_rank)
        simulated += len(cells)
    return found, simulated


def _rank(choice: Choice) -> tuple[bool, float]:
    """The lower, the better: those that keep to the target by throughput, then the others by how far they miss it."""
    return choice.excess > 1, choice.excess if choice.excess > 1 else -choice.fleet_throughput


def _finalists(cells: Sequence[Cell], limits: dict[str, float]) -> list[Cell]:
    """Of each layout and largest step one cell: first those within the limits, by throughput, then the nearest to them."""
    within: dict[tuple[Layout, int | None], Cell] = {}
    nearest: dict[tuple[Layout, int | None], tuple[float, Cell]] = {}
    for cell in cells:
        over, of = excess(cell.values, limits), (cell.layout, cell.step)
        if over <= 1 and cell.fleet_throughput > (within[of].fleet_throughput if of in within else 0):
            within[of] = cell
        if over < nearest.get(of, (inf, cell))[0]:
            nearest[of] = (over, cell)
    others = sorted((pair for of, pair in nearest.items() if of not in within), key=lambda pair: pair[0])
    return [*sorted(within.values(), key=lambda cell: -cell.fleet_throughput), *(cell for _, cell in others)]


def _simulated(model: Model, cell: Cell, limits: dict[str, float], workload: Workload) -> Choice:
    """Simulate a layout from the level that closed form finds, upwards or down, to the highest that keeps to the limits."""
    most = max(1, int(model.most_running * cell.layout.decode.num))
    level, kept, missed = min(most, max(1, cell.in_flight)), 0, most + 1
    found: list[Prediction] = []
    for _ in range(_TRIES):
        found += predict(model, cell.layout, [level], workload, _SEEDS, cell.step)
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

"""Fit the parameters to measured runs by least squares; again without each layout, to see how far that one is missed."""

from collections.abc import Callable, Sequence
from math import log

import numpy as np
from scipy.optimize import brentq, least_squares

from pdbench.layout import Layout
from pdbench.planner.costs import HOLD, Engine, costs_of, deviation_of, matters, names_of, start_of
from pdbench.planner.replicas import COLUMNS, FITTED, Level
from pdbench.planner.runs import Run
from pdbench.planner.simulator import Sweep, simulate

# What a residual of each of `FITTED` counts, and at a first level that starts cold: by how well it repeats.
_WEIGHTS = np.array([1.0, 1.0, 0.4, 0.0, 0.25, 0.0, 0.0])
_TTFT = [column.endswith("ttft_ms") for column in FITTED]
_COLD_WEIGHTS = np.array([0.3, 0.6, 0.1, 0.0, 0.3, 0.0, 0.0])
# Of these weights of TTFT, where Ray Serve's memory shares requests out: TTFT differs by up to 70% from launch to launch.
_UNEVEN = 0.25
_PRIOR = 0.12  # weight of a parameter one deviation from its start: as a level whose throughput is wrong by 12%
_STEP = 0.06  # of a parameter, for its derivative: smaller ones drown in single events that change places
_CLOSE = 0.3  # derivatives are taken for those of a point where no parameter differs by more
_FAR = 2.5  # the most by which a parameter's logarithm may leave its start
_ITERATIONS = 6
_SEEDS = (1, 2)
_SEEDS_PREDICTED = (1, 2, 3, 4)
_HOLDS = (1e-6, 1.0)  # the least and the most by which a pull of 1000 tokens may lengthen a wait, s


class Fitter:
    """Runs, and the derivatives of what is predicted of them, which all fits to them share: no measurement is in these."""

    def __init__(self, runs: Sequence[Run], engine: Engine) -> None:
        self.runs, self.engine = runs, engine
        self.names = names_of(set[int]().union(*(run.sizes for run in runs)))
        self.start = np.log([start_of(name) for name in self.names])
        self.spread = np.array([deviation_of(name) for name in self.names])
        self._of_run = [self._relevant(run) for run in runs]
        self._predicted: dict[tuple[int, bytes], np.ndarray] = {}
        self._derivatives: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in runs]

    def fit(self, without: Sequence[int] = ()) -> dict[str, float]:
        """Return the parameters that fit the runs best, by name; `without` are numbers of runs that take no part."""
        kept = [number for number in range(len(self.runs)) if number not in without]

        def residuals(x: np.ndarray) -> np.ndarray:
            of_runs = [self._residuals(number, x) for number in kept]
            return np.concatenate([*of_runs, _PRIOR * (x - self.start) / self.spread])

        def jacobian(x: np.ndarray) -> np.ndarray:
            return np.vstack([*(self._jacobian(number, x) for number in kept), np.diag(_PRIOR / self.spread)])

        bounds = (self.start - _FAR, self.start + _FAR)
        found = least_squares(residuals, self.start, jacobian, bounds, max_nfev=_ITERATIONS)
        return dict(zip(self.names, map(float, np.exp(found.x)), strict=True))

    def _relevant(self, run: Run) -> list[int]:
        return [i for i, name in enumerate(self.names) if matters(name, run.layout, run.workload.as_published)]

    def _log_predicted(self, number: int, x: np.ndarray) -> np.ndarray:
        key = (number, x[self._of_run[number]].tobytes())
        if key not in self._predicted:
            parameters = dict(zip(self.names, np.exp(x), strict=True))
            predicted = predict_run(self.runs[number], parameters, self.engine, _SEEDS, watched=False)
            self._predicted[key] = np.log(np.where(predicted > 0, predicted, np.nan))  # a single token has no TPOT
        return self._predicted[key]

    def _residuals(self, number: int, x: np.ndarray) -> np.ndarray:
        run = self.runs[number]
        measured = np.log(run.measured[:, : len(FITTED)])
        return np.nan_to_num((self._log_predicted(number, x) - measured) * self._weights(run)).ravel()

    def _weights(self, run: Run) -> np.ndarray:
        weights = np.tile(_WEIGHTS, (len(run.levels), 1))
        if run.workload.as_published:
            weights[0] = _COLD_WEIGHTS
        if run.workload.ingress and run.has_choice:
            weights[:, _TTFT] *= _UNEVEN
        return weights * np.isfinite(run.measured[:, : len(FITTED)])

    def _jacobian(self, number: int, x: np.ndarray) -> np.ndarray:
        """Derivatives of a run's residuals; zero for parameters that its layout does not have."""
        relevant = self._of_run[number]
        for known, derivatives in self._derivatives[number]:
            if np.abs(known - x[relevant]).max() < _CLOSE:
                return derivatives
        base, weights = self._log_predicted(number, x), self._weights(self.runs[number])
        found = np.zeros((base.size, len(x)))
        for i in relevant:
            moved = x.copy()
            moved[i] += _STEP
            found[:, i] = np.nan_to_num((self._log_predicted(number, moved) - base) / _STEP * weights).ravel()
        self._derivatives[number].append((x[relevant], found))
        return found


def predict_run(
    run: Run, parameters: dict[str, float], engine: Engine, seeds: Sequence[int] = _SEEDS_PREDICTED, watched: bool = True
) -> np.ndarray:  # fmt: skip
    """Return what is predicted of a run's levels, columns `replicas.COLUMNS`, or `FITTED` where nothing is watched."""
    return simulate(run.layout, parameters, engine, run.workload, run.levels, seeds, watched)


def with_hold(parameters: dict[str, float], runs: Sequence[Run], engine: Engine) -> dict[str, float]:
    """Return fitted parameters with `HOLD`: with it PD's longest waits are as measured, in the mean of their logarithms.

    The parameters as they are where no such run has its longest waits.
    """
    longest: list[tuple[list[Level], float, float]] = []
    for run in runs:
        measured = run.measured[:, COLUMNS.index("max_itl_ms")]
        if not run.decodes or not run.layout.prefill or np.isnan(measured).all():
            continue
        workload, most = run.workload, max(in_flight for in_flight, _ in run.levels)
        costs = costs_of(run.layout, parameters, engine, workload.isl, workload.osl, most)
        sweeps = [Sweep(run.layout, costs, engine, workload, seed, watched=True) for seed in _SEEDS]
        for level, value in zip(run.levels, measured, strict=True):
            ran = [sweep.run(*level) for sweep in sweeps]
            if not np.isnan(value):
                longest.append((ran, workload.isl / 1000, value))

    def missed(hold: float) -> float:
        return sum(log(np.mean([level.waits(hold * long)[0] for level in ran]) / value) for ran, long, value in longest)

    if not longest:
        return parameters
    beyond = [end for end, sign in zip(_HOLDS, (1, -1), strict=True) if sign * missed(end) >= 0]
    return parameters | {HOLD: beyond[0] if beyond else float(brentq(missed, *_HOLDS))}


def left_out(fitter: Fitter, can_be_predicted: Callable[[Layout, Sequence[Run]], bool]) -> list[tuple[Run, np.ndarray]]:
    """Predict each run by a fit to those of all other layouts.

    Args:
        can_be_predicted: by the other runs.

    Returns:
        Each run that can be, and its prediction, columns `replicas.COLUMNS`.
    """
    found = []
    for layout in dict.fromkeys(run.layout for run in fitter.runs):
        without = [number for number, run in enumerate(fitter.runs) if run.layout == layout]
        others = [run for run in fitter.runs if run.layout != layout]
        if others and can_be_predicted(layout, others):
            parameters = with_hold(fitter.fit(without), others, fitter.engine)
            found += [(fitter.runs[i], predict_run(fitter.runs[i], parameters, fitter.engine)) for i in without]
    return found

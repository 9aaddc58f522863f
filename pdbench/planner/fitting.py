"""Fit the parameters to measured runs by least squares; again without each layout, to see how far that one is missed."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import least_squares

from pdbench.layout import Layout
from pdbench.planner.costs import Engine, deviation_of, matters, names_of, start_of
from pdbench.planner.runs import Run
from pdbench.planner.simulator import simulate

# What a residual of each column counts, and at a first level that starts cold: by how well it repeats.
_WEIGHTS = np.array([1.0, 1.0, 0.4, 0.0, 0.25, 0.0, 0.0])
_COLD_WEIGHTS = np.array([0.3, 0.6, 0.1, 0.0, 0.3, 0.0, 0.0])
_PRIOR = 0.12  # weight of a parameter one deviation from its start: as a level whose throughput is wrong by 12%
_STEP = 0.06  # of a parameter, for its derivative: smaller ones drown in single events that change places
_CLOSE = 0.3  # derivatives are taken for those of a point where no parameter differs by more
_FAR = 2.5  # the most by which a parameter's logarithm may leave its start
_ITERATIONS = 6
_SEEDS = (1, 2)
_SEEDS_PREDICTED = (1, 2, 3, 4)


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
            predicted = predict_run(self.runs[number], parameters, self.engine, _SEEDS)
            self._predicted[key] = np.log(np.where(predicted > 0, predicted, np.nan))  # a single token has no TPOT
        return self._predicted[key]

    def _residuals(self, number: int, x: np.ndarray) -> np.ndarray:
        run = self.runs[number]
        return np.nan_to_num((self._log_predicted(number, x) - np.log(run.measured)) * self._weights(run)).ravel()

    def _weights(self, run: Run) -> np.ndarray:
        weights = np.tile(_WEIGHTS, (len(run.levels), 1)) * np.isfinite(run.measured)
        if run.workload.as_published:
            weights[0] = _COLD_WEIGHTS * np.isfinite(run.measured[0])
        return weights

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


def predict_run(run: Run, parameters: dict[str, float], engine: Engine, seeds: Sequence[int] = _SEEDS_PREDICTED) -> np.ndarray:
    """Return what is predicted of a run's levels, columns `replicas.COLUMNS`."""
    return simulate(run.layout, parameters, engine, run.workload, run.levels, seeds)


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
            parameters = fitter.fit(without)
            found += [(fitter.runs[i], predict_run(fitter.runs[i], parameters, fitter.engine)) for i in without]
    return found

"""Describe what was measured of one layout, in the form that it is simulated in."""

from dataclasses import dataclass

import numpy as np

from pdbench.layout import Layout
from pdbench.planner.simulator import Workload


@dataclass(frozen=True)
class Run:
    """One layout as measured.

    Attributes:
        name: of its result folder.
        levels: (requests in flight, requests) of each level, in the order measured.
        measured: a row per level, columns `replicas.COLUMNS`; NaN where there is no such number.
    """

    name: str
    layout: Layout
    workload: Workload
    levels: tuple[tuple[int, int], ...]
    measured: np.ndarray

    @property
    def sizes(self) -> set[int]:
        """Its TP sizes."""
        return {pool.tp for pool in (self.layout.prefill, self.layout.decode) if pool}

    def log_ratios(self, predicted: np.ndarray) -> np.ndarray:
        """Return the logarithms of measured over predicted, 0.1 where about 10% more was measured; NaN where nothing was."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.measured / predicted)

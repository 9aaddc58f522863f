"""Describe what was measured of one layout, in the form that it is simulated in."""

from dataclasses import dataclass

import numpy as np

from pdbench.layout import POOL, Layout
from pdbench.manifest import Deployment
from pdbench.planner.routing import REMEMBERED_S
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
    def decodes(self) -> bool:
        """Whether it has decode steps: prefill alone asks for a single token."""
        return self.workload.osl > 1

    @property
    def sizes(self) -> set[int]:
        """Its TP sizes."""
        return {pool.tp for pool in (self.layout.prefill, self.layout.decode) if pool}

    def log_ratios(self, predicted: np.ndarray) -> np.ndarray:
        """Return the logarithms of measured over predicted, 0.1 where about 10% more was measured; NaN where nothing was."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.measured / predicted)


def ingress_of(deployment: Deployment | None) -> int:
    """Return how many ingress replicas chose by what they remember; 0 where routers know loads, or nothing says how it was.

    Those of a pool read reports, bare servers have one router for all, and with direct streaming there is no ingress replica.
    """
    path = deployment.serving_path if deployment else None
    if not deployment or not path or deployment.mode == POOL or path.get("router", "power-of-two") != "power-of-two":
        return 0
    remembered = float(path.get("env", {}).get("RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S", REMEMBERED_S))
    return int(path.get("ingress_replicas") or 0) if remembered > 0 else 0

"""Describe what was measured of one layout, in the form that it is simulated in."""

from dataclasses import dataclass

import numpy as np

from pdbench.layout import POOL, Layout
from pdbench.manifest import Deployment
from pdbench.planner.routing import REMEMBERED_S
from pdbench.planner.simulator import Workload

_GRAPHS = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))


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


def graphs_of(deployment: Deployment | None) -> tuple[int, ...]:
    """Return steps of how many tokens have a CUDA graph in engines that decode, ascending; none where there are no graphs.

    Without a manifest, and where it names no sizes, they are vLLM's own (vllm/config/vllm.py, `_set_cudagraph_sizes`).
    """
    configs = deployment.llm_configs if deployment else {}
    engine = (configs.get("decode") or configs.get("collocated") or {}).get("engine_kwargs", {})
    compilation = engine.get("compilation_config") or {}
    if (deployment and deployment.accelerator == "CPU") or engine.get("enforce_eager"):
        return ()
    if not isinstance(compilation, dict):
        return _GRAPHS  # vLLM takes a level of optimization, too
    if compilation.get("cudagraph_mode") == "NONE":
        return ()
    most = compilation.get("max_cudagraph_capture_size") or _GRAPHS[-1]
    return tuple(sorted(size for size in compilation.get("cudagraph_capture_sizes") or _GRAPHS if size <= most))


def ingress_of(deployment: Deployment | None) -> int:
    """Return how many ingress replicas chose by what they remember; 0 where routers know loads, or nothing says how it was.

    Those of a pool read reports, bare servers have one router for all, and with direct streaming there is no ingress replica.
    """
    path = deployment.serving_path if deployment else None
    if not deployment or not path or deployment.mode == POOL or path.get("router", "power-of-two") != "power-of-two":
        return 0
    remembered = float(path.get("env", {}).get("RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S", REMEMBERED_S))
    return int(path.get("ingress_replicas") or 0) if remembered > 0 else 0

"""Describe what was measured of one layout, in the form that it is simulated in."""

import json
import re
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from pdbench.files import first_line
from pdbench.layout import POOL, Layout
from pdbench.manifest import REMEMBERS, ROUTER, Deployment
from pdbench.planner.costs import BUDGET
from pdbench.planner.routing import REMEMBERED_S
from pdbench.planner.simulator import Workload


class _Compilation(BaseModel):
    """What of vLLM's compilation_config says which graphs there are."""

    cudagraph_mode: str | int | None = "FULL_AND_PIECEWISE"
    cudagraph_capture_sizes: list[PositiveInt] | None = Field(default=None, min_length=1)
    max_cudagraph_capture_size: PositiveInt = 512


_SIZES = ("cudagraph_capture_sizes", "max_cudagraph_capture_size")
LARGEST = "max_num_batched_tokens"


@dataclass(frozen=True)
class Run:
    """One layout as measured.

    Attributes:
        name: of its result folder.
        arm: its name in print, of which no two runs have the same.
        levels: (requests in flight, requests) of each level, in the order measured.
        measured: a row per level, columns `replicas.COLUMNS`; NaN where there is no such number.
        graphs: of its engines, see `graphs_of`.
        budget: tokens of one step of the engines that prefill, see `budget_of`.
    """

    name: str
    arm: str
    layout: Layout
    workload: Workload
    levels: tuple[tuple[int, int], ...]
    measured: np.ndarray
    graphs: tuple[int, ...]
    budget: int = BUDGET

    @property
    def decodes(self) -> bool:
        """Whether it has decode steps: prefill alone asks for a single token."""
        return self.workload.osl > 1

    @property
    def sizes(self) -> set[int]:
        """Its TP sizes."""
        return {pool.tp for pool in (self.layout.prefill, self.layout.decode) if pool}

    @property
    def has_choice(self) -> bool:
        """Whether requests can go to more than one replica of a role."""
        return any(pool.num > 1 for pool in (self.layout.prefill, self.layout.decode) if pool)

    def log_ratios(self, predicted: np.ndarray) -> np.ndarray:
        """Return the logarithms of measured over predicted, 0.1 where about 10% more was measured; NaN where nothing was."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.measured / predicted)


def _arguments(deployment: Deployment | None, role: str) -> dict[str, Any]:
    """The arguments of the engines that do a role's work; none are known without a manifest."""
    configs = deployment.llm_configs if deployment else {}
    return (configs.get(role) or configs.get("collocated") or {}).get("engine_kwargs", {})


def graphs_of(deployment: Deployment | None) -> tuple[int, ...]:
    """Return steps of how many tokens have a CUDA graph in engines that decode, ascending; none where there are no graphs.

    Without a manifest, and where it names no sizes, they are vLLM's own (vllm/config/vllm.py, `_set_cudagraph_sizes`).

    Raises:
        ValueError: the engines' compilation_config is not one that vLLM takes; one line.
    """
    engine = _arguments(deployment, "decode")
    given = engine.get("compilation_config") or {}
    if (deployment and deployment.accelerator == "CPU") or engine.get("enforce_eager"):
        return ()
    try:
        # A number is a level of optimization, which leaves the graphs as they are.
        read = _Compilation.model_validate_json if isinstance(given, str) else _Compilation.model_validate
        config = _Compilation() if isinstance(given, int) else read(given)
    except ValidationError as error:
        raise ValueError(f"the engines' compilation_config: {first_line(error)}") from None
    if str(config.cudagraph_mode).upper() in ("NONE", "0"):
        return ()
    if config.cudagraph_capture_sizes:
        return tuple(sorted(set(config.cudagraph_capture_sizes)))
    most = config.max_cudagraph_capture_size
    small = range(1, 33) if engine.get("performance_mode") == "interactivity" else (1, 2, 4)
    return tuple(sorted({size for size in (*small, *range(8, 256, 8), *range(256, most + 1, 16)) if size <= most}))


def budget_of(deployment: Deployment | None) -> int:
    """Return the tokens of one step of the engines that prefill; where nothing says it, vLLM's own on GPUs of 70 GB and more.

    Engines that only decode may have another: their steps have a token for each request, far fewer.

    Raises:
        ValueError: the engines' max_num_batched_tokens is no number of tokens; one line.
    """
    engine = _arguments(deployment, "prefill")
    given = engine.get(LARGEST)
    if given is None:
        return BUDGET * (2 if engine.get("performance_mode") == "throughput" else 1)
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f"the engines' {LARGEST}: {given!r} is no number of tokens")
    return given


def is_ahead(deployment: Deployment | None) -> bool:
    """Return whether the engines schedule a step while the one before it runs: vLLM's async scheduling.

    By the arguments of the engines that prefill; else by default on GPUs since 0.14 (vLLM's pull request #27614; on CPUs
    vllm/platforms/cpu.py turns it off). Not without a manifest, as in the public study.
    """
    if not deployment or deployment.accelerator == "CPU":
        return False
    given = _arguments(deployment, "prefill").get("async_scheduling")
    version = re.match(r"(\d+)\.(\d+)", deployment.identity.get("vllm", ""))
    return bool(given) if given is not None else bool(version and (int(version[1]), int(version[2])) >= (0, 14))


def without_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Return one role's LLM config without its largest step and the sizes of its CUDA graphs; whether there are any graphs
    stays, since more depends on it.

    Raises:
        ValueError: its compilation_config is text that is no JSON.
    """
    engine = dict(config.get("engine_kwargs", {}))
    engine.pop(LARGEST, None)
    given = engine.pop("compilation_config", None)
    given = json.loads(given) if isinstance(given, str) else given
    if isinstance(given, dict):
        given = {name: value for name, value in given.items() if name not in _SIZES}
    if given:
        engine["compilation_config"] = given
    if engine.get("performance_mode") in ("balanced", "interactivity"):
        del engine["performance_mode"]
    return config | {"engine_kwargs": engine}


def routing_of(deployment: Deployment | None) -> tuple[int, bool]:
    """Return by how many ingress replicas' memory replicas are chosen, and whether these ask for loads each time instead.

    (0, False) where routers know loads, or nothing says how it was: those of a pool read reports, bare servers have one router
    for all, and with direct streaming there is no ingress replica.

    Raises:
        ValueError: they remember for a time that is not simulated; one line.
    """
    path = deployment.serving_path if deployment else None
    replicas = int(path.get("ingress_replicas") or 0) if path else 0
    if not deployment or not path or not replicas or deployment.mode == POOL or path.get("router", ROUTER) != ROUTER:
        return 0, False
    given = path.get("env", {}).get(REMEMBERS, REMEMBERED_S)
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = nan
    if seconds not in (0, REMEMBERED_S):
        raise ValueError(f"{REMEMBERS}: {given!r} is not simulated: 0 or {REMEMBERED_S:g} is")
    return (replicas, False) if seconds else (0, True)

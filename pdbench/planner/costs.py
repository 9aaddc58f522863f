"""Say what each piece of work costs in a layout, by the model's parameters: prompts, decode steps, pulls of KV caches.

All parameters are above zero, so that the fit can work on their logarithms.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan

from pydantic import Field, PositiveInt, field_validator

from pdbench.layout import Layout
from pdbench.manifest import Strict

# Of each TP size, where a fit begins, in seconds. A larger TP divides the work, but not all of it: so the exponents.
_OF_TP = {"prefill": (0.033, -0.6), "step": (0.0055, 0.0), "expert": (1.5e-4, -0.5)}
# Of all TP sizes, where a fit begins.
_SHARED = {
    "spread": 1.0, "token": 1e-5, "request": 0.05, "admit": 0.006, "handover": 0.03, "contact": 1.0,
    "stall": 2e-4, "stall_slow": 6e-3, "stall_unequal": 6e-4, "pull": 6e-3, "pull_slow": 0.016, "pull_unequal": 0.024,
}  # fmt: skip
# How far from that start, as a factor exp(deviation), a parameter is expected to be: what runs do not inform stays near it.
_DEVIATIONS = {
    "prefill": 0.5, "step": 0.3, "expert": 0.4, "spread": 0.2, "token": 0.5, "request": 0.5, "admit": 0.5,
    "handover": 0.7, "contact": 0.7, "stall": 0.3, "stall_slow": 0.7, "stall_unequal": 0.7, "pull": 0.5, "pull_slow": 0.7,
    "pull_unequal": 0.7,
}  # fmt: skip
HOLD = "hold"  # a parameter that is found after the fit, and not everywhere: see `Costs.hold`
_OF_PD = ("handover", "contact", "stall", "stall_slow", "stall_unequal", "pull", "pull_slow", "pull_unequal", HOLD)
_OF_UNEQUAL = ("stall_unequal", "pull_unequal")

_ALL = 512  # so many tokens wake all experts, or nearly all where there are hundreds: a step of more is as one of these
BUDGET = 8192  # tokens of an engine step: vLLM's own on GPUs of 70 GB and more

Parameters = Mapping[str, float]


class Engine(Strict):
    """What is known of the engines before any fit.

    Attributes:
        experts, active: of a layer, and of these for each token; 1 and 1 of a dense model.
        budget: tokens of one engine step, `max_num_batched_tokens`.
        kv_tokens: that a PD replica's block pool holds, by TP size; none known means that pools never fill.
        collocated_kv: how many times as many a collocated replica holds: 2 where half of the layers slide and the KV
            connector makes PD engines keep all of them whole.
        graphs: steps of how many tokens have a CUDA graph, ascending: vLLM pads a decode step to the next of these.
        ahead: whether a step is scheduled while the one before it runs, as by vLLM's async scheduling.

    Raises:
        ValueError: these are not in ascending order.
    """

    experts: int = Field(default=128, ge=1)
    active: int = Field(default=4, ge=1)
    budget: int = Field(default=BUDGET, ge=1)
    kv_tokens: dict[int, PositiveInt] = {}
    collocated_kv: float = Field(default=2.0, gt=0, lt=inf)
    graphs: tuple[PositiveInt, ...] = ()
    ahead: bool = False

    @field_validator("graphs")
    @classmethod
    def _ascend(cls, graphs: tuple[int, ...]) -> tuple[int, ...]:
        if list(graphs) != sorted(set(graphs)):
            raise ValueError("sizes are not in ascending order")
        return graphs

    def with_step(self, step: int | None) -> "Engine":
        """Return this engine with another largest step (tokens), which no CUDA graph exceeds; None: as it is."""
        graphs = self.graphs if step is None else tuple(size for size in self.graphs if size <= step)
        return self.model_copy(update={"budget": step or self.budget, "graphs": graphs})


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of each piece of work in one layout and workload.

    Attributes:
        prefill: of one token of a prompt.
        admit: of each prompt that a step ends, and of one that it goes on with, beside their tokens.
        awake: of the experts in a step with prefill in it, by how many tokens it has; more than the last count as it.
        attend: of each running request in such a step.
        steps: of a decode step, by the number of running requests, from 0.
        joining: steps that a request waits for, in the mean, until one takes it, while others run.
        request: from the client to an engine and back, in the mean: anything from nothing to twice that, as chance has it.
        handover: from a prefill replica to a decode replica.
        contact: the first time that two replicas meet.
        stall, stall_slow: of the decode engine while a pull is posted, and what comes on top where blocks are scattered.
        pull, pull_slow: of a pull, of which a decode replica has one at a time, and what comes on top there.
        hold: by which a pull lengthens a wait between two tokens where that is longest, beside its stall in the mean; NaN
            where no run says it.
    """

    prefill: float
    admit: float
    awake: list[float]
    attend: float
    steps: list[float]
    joining: float
    request: float
    handover: float
    contact: float
    stall: float
    stall_slow: float
    pull: float
    pull_slow: float
    hold: float
    unequal: bool

    def prefill_step(self, tokens: int, parts: int, running: int) -> float:
        """Return the time of a step of prefill, s.

        Args:
            tokens: of prompts; each request that runs has one besides.
            parts: prompts that it ends, and one more if it goes on with a prompt.
        """
        count = tokens + running
        experts = self.awake[count if count < len(self.awake) else -1]
        return experts + self.prefill * tokens + self.admit * parts + self.attend * running


def names_of(sizes: Iterable[int]) -> list[str]:
    """Return the names of the parameters of a model with these TP sizes."""
    return [f"{name}_tp{size}" for size in sorted(sizes) for name in _OF_TP] + list(_SHARED)


def start_of(name: str) -> float:
    """Return where the fit of a parameter begins."""
    base, size = _split(name)
    if size is None:
        return _SHARED[base]
    value, exponent = _OF_TP[base]
    return value * size**exponent


def deviation_of(name: str) -> float:
    """Return the standard deviation of a parameter's logarithm around its start, before any run is seen."""
    return _DEVIATIONS[_split(name)[0]]


def matters(name: str, layout: Layout, cold: bool) -> bool:
    """Return whether a parameter changes what is predicted of a layout; `contact` does where nothing is warmed up."""
    base, size = _split(name)
    if size is not None:
        prefills = size == (layout.prefill or layout.decode).tp
        return prefills or (base != "prefill" and size == layout.decode.tp)
    if not layout.prefill:
        return base not in _OF_PD
    if base in _OF_UNEQUAL:
        return is_unequal(layout)
    if base == "pull_slow":
        return not is_unequal(layout)
    return base != "contact" or (cold and layout.prefill.num * layout.decode.num > 1)


def is_unequal(layout: Layout) -> bool:
    """Return whether KV caches go between replicas of different TP size."""
    return bool(layout.prefill and layout.prefill.tp != layout.decode.tp)


def costs_of(layout: Layout, of: Parameters, engine: Engine, isl: int, osl: int, most: int) -> Costs:
    """Return the costs of a layout's work; steps for up to `most` running requests."""
    size, prefill, unequal, long = layout.decode.tp, (layout.prefill or layout.decode).tp, is_unequal(layout), isl / 1000
    context = (isl + osl / 2) / 1000
    step, expert, token = of[f"step_tp{size}"], of[f"expert_tp{size}"], of["token"] * context / size
    experts = [woken(engine, of["spread"], padded(engine.graphs, tokens)) for tokens in range(max(most, _ALL) + 1)]
    pulled_slowly = of["pull_unequal"] if unequal else of["pull_slow"]
    return Costs(
        prefill=of[f"prefill_tp{prefill}"] / 1000,
        admit=of["admit"],
        awake=[of[f"step_tp{prefill}"] + of[f"expert_tp{prefill}"] * count for count in experts],
        attend=token,
        steps=[0.0] + [step + expert * count + token * b for b, count in enumerate(experts[1 : most + 1], 1)],
        joining=1.5 if engine.ahead else 0.5,
        request=of["request"],
        handover=of["handover"],
        contact=of["contact"],
        stall=(of["stall"] + (of["stall_unequal"] if unequal else 0.0)) * long,
        stall_slow=of["stall_slow"] * long,
        pull=of["pull"] * long,
        pull_slow=pulled_slowly * long,
        hold=of.get(HOLD, nan) * long if layout.prefill else 0.0,
        unequal=unequal,
    )


def padded(graphs: Sequence[int], running: int) -> int:
    """Return how many tokens a decode step has: one for each running request, and what its CUDA graph adds."""
    at = bisect_left(graphs, running)
    return graphs[at] if at < len(graphs) else running


def woken(engine: Engine, spread: float, tokens: float) -> float:
    """Return how many experts of a layer some tokens go to; `spread` 1: each token draws its experts by itself."""
    return engine.experts * (1 - (1 - min(1.0, spread * engine.active / engine.experts)) ** tokens)


def _split(name: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\w+?)_tp(\d+)", name)
    return (match[1], int(match[2])) if match else (name, None)

"""Judge every layout in closed form: requests per decode replica are the free variable, so that nothing has to be iterated.

With b requests running, a request takes T(b) = step(b) + s b / (OSL - 1) per token, where s is what each admission stalls the
engine. Throughput is n b / ((OSL - 1) T), bounded by the prefill replicas; queues of prompts and of pulls are those of a
server with Poisson arrivals and constant service.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from pdbench.layout import Layout, Pool
from pdbench.planner.costs import Costs, costs_of, is_unequal
from pdbench.planner.model import Model
from pdbench.planner.simulator import Workload

_FULL = 0.97  # of a server's time; beyond that its queue is no queue any more
# Of the mean, where the public study's levels have it in the middle.
_OF_TPOT = {"mean": 1.0, "median": 1.0, "p99": 1.14}
_OF_TTFT = {"mean": 1.0, "median": 0.87, "p99": 2.5}
_SELDOM = 0.025  # p99 does not see so few of all tokens: many begin together, so that 1% of them wait
_LATE = 0.95  # a level has 5 K requests and begins with K at once, so that 1% of all are the last 5% of these


@dataclass(frozen=True)
class Cell:
    """One layout at one number of requests in flight, in closed form.

    Attributes:
        fleet_throughput: requests/s of as many copies as the GPUs hold.
        values: of one copy, by column.
        step: tokens of the engines' largest step; None: the fit's.
    """

    layout: Layout
    units: int
    in_flight: int
    fleet_throughput: float
    values: dict[str, float]
    step: int | None = None


def units_of(model: Model, gpus: int, most: int) -> dict[Layout, Layout]:
    """Return layouts of the runs' TP sizes, each with its ratio: ratios by themselves, and as often as node and unit hold them.

    Args:
        gpus: of the whole fleet.
        most: of one unit, the part of the fleet that is one deployment.
    """
    most = min(gpus, most)
    found: dict[Layout, Layout] = {}
    for ratio in _ratios(model.sizes, most):
        times = max(1, min(most, model.gpus_per_node) // ratio.gpus)
        repeated = [pool and Pool(pool.num * times, pool.tp) for pool in (ratio.decode, ratio.prefill)]
        found |= {ratio: ratio, Layout(repeated[0] or ratio.decode, repeated[1]): ratio}
    return found


def _ratios(sizes: Sequence[int], most: int) -> Iterator[Layout]:
    """Yield the smallest layout of each ratio that has at most `most` GPUs."""
    yield from (Layout(Pool(1, size)) for size in sizes if size <= most)
    for prefill in sizes:
        for decode in sizes:
            for m in range(1, most // prefill + 1):
                for n in range(1, (most - m * prefill) // decode + 1):
                    if gcd(m, n) == 1:
                        yield Layout(Pool(n, decode), Pool(m, prefill))


def screen(model: Model, layouts: Sequence[Layout], gpus: int, workload: Workload, step: int | None = None) -> list[Cell]:
    """Return every layout at every number of running requests that the model's runs had, in closed form.

    Args:
        step: tokens of the engines' largest step; None: the fit's.
    """
    most, engine = max(1, int(model.most_running)), model.engine.with_step(step)
    running = np.unique(np.round(np.geomspace(1, most, 40)).astype(int))
    found = []
    for layout in layouts:
        costs = costs_of(layout, model.parameters, engine, workload.isl, workload.osl, most)
        throughput, tpot, ttft = _closed_form(layout, costs, running, workload, engine.budget)
        waits = _waits(layout, costs, running, workload, engine.budget)
        first = _LATE * _prompt(costs, workload, engine.budget) / (layout.prefill or layout.decode).num
        in_flight = throughput * (ttft + (workload.osl - 1) * tpot)
        units = gpus // layout.gpus
        for x, t, f, k, longest, late in zip(throughput, tpot, ttft, in_flight, *waits):
            if np.isfinite(x) and k >= 1:
                values = {"request_throughput": x} | {f"{of}_tpot_ms": 1e3 * t * share for of, share in _OF_TPOT.items()}
                values |= {f"{of}_ttft_ms": 1e3 * f * share for of, share in _OF_TTFT.items()}
                values["p99_ttft_ms"] = max(values["p99_ttft_ms"], 1e3 * (f + first * k))
                values |= {"max_itl_ms": 1e3 * longest, "p99_itl_ms": 1e3 * late}
                found.append(Cell(layout, units, round(k), x * units, values, step))
    return found


def _closed_form(
    layout: Layout, costs: Costs, running: np.ndarray, workload: Workload, budget: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Requests/s, TPOT and TTFT (s) of one unit, by running requests per decode replica; NaN where prefill cannot keep up."""
    tokens, step = max(1, workload.osl - 1), np.array(costs.steps)[running]
    prompt = _prompt(costs, workload, budget)
    prefillers = (layout.prefill or layout.decode).num
    slow = is_unequal(layout)
    # Collocated, each step of a prompt gives those who run a token, too.
    steps = 1 + _further_steps(workload, budget)
    stall = _stall(layout, costs) if layout.prefill else prompt + steps * (costs.attend * running - step)
    tpot = step + np.maximum(stall, 0) * running / tokens
    throughput = layout.decode.num * running / (tokens * tpot)
    busy = throughput * prompt / prefillers
    queued = prompt * 0.5 * busy / np.maximum(1 - busy, 1e-9)
    if not layout.prefill:
        return throughput, tpot, costs.request + prompt + queued + costs.joining * step
    pull = costs.pull + (costs.pull_slow if slow else 0.0)
    pulling = throughput * pull / layout.decode.num
    transfer = pull * (1 + 0.5 * pulling / np.maximum(1 - pulling, 1e-9))
    ttft = costs.request + prompt + queued + costs.handover + transfer + (1 + costs.joining) * step
    throughput = np.where((busy < _FULL) & (pulling < _FULL), throughput, np.nan)
    return throughput, tpot, ttft


def _waits(layout: Layout, costs: Costs, running: np.ndarray, workload: Workload, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """The longest wait between two tokens and that of p99 (s): a level begins with all prompts at once, one of which runs."""
    step, isl = np.array(costs.steps)[running], workload.isl
    if layout.prefill:
        # In the mean of many loads two of the prompts that end together are pulled within one step.
        stall = costs.hold + _stall(layout, costs)
        longest, one, share = step + np.minimum(2, running) * stall, step + stall, running
    else:
        others = running - 1
        tokens = np.minimum(budget, others * isl)
        parts = np.maximum(1, tokens // isl) + (others * isl > budget)
        longest = np.where(
            others > 0, costs.awake[-1] + costs.prefill * tokens + costs.admit * parts + costs.attend * running, step
        )
        one, share = longest, running * (1 + _further_steps(workload, budget))
    return longest, np.where(share > _SELDOM * workload.osl, one, step)


def _stall(layout: Layout, costs: Costs) -> float:
    """How long a pull stalls its engine in the mean (s), before blocks lie scattered."""
    return costs.stall + (costs.stall_slow if is_unequal(layout) else 0.0)


def _prompt(costs: Costs, workload: Workload, budget: int) -> float:
    """What one prompt takes a prefill replica (s), alone in steps of at most `budget` tokens."""
    return costs.prefill * workload.isl + (costs.awake[-1] + costs.admit) * (1 + _further_steps(workload, budget))


def _further_steps(workload: Workload, budget: int) -> int:
    """How many steps a prompt takes that do not end it."""
    return (workload.isl - 1) // budget

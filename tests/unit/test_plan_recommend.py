"""Recommendations: what closed form leaves out would not have been named, and how a fleet is cut into deployments."""

import pytest

from benchmarks.planner import made_up
from pdbench.analysis.sla import parse
from pdbench.layout import Layout
from pdbench.planner import recommending, screen
from pdbench.planner.costs import Engine, names_of, start_of
from pdbench.planner.model import Errors, Model
from pdbench.planner.predicting import predict
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.runs import graphs_of
from pdbench.planner.simulator import Workload

WORKLOAD = Workload(5000, 250)
LAYOUTS = ["4xtp2", "2xtp4", "p1xtp2-d1xtp2", "p1xtp2-d1xtp4"]
MODEL = Model(
    name="gptoss", accelerator="GPU", gpus_per_node=8, engine=Engine(graphs=graphs_of(None)), runs=LAYOUTS,
    layouts=LAYOUTS, parameters={name: start_of(name) for name in names_of((2, 4))}, workloads=["5000:250"], as_published=False,
    levels=(4, 64), most_running=32, stack={}, left_out=True,
    errors=[Errors(layout="4xtp2", level=8, ratios=dict.fromkeys(COLUMNS, 0.1))],
)  # fmt: skip


def test_each_ratio_is_tried_once_and_fills_a_node():
    found = list(screen.units_of(MODEL, 100, 12))
    assert len(found) == len(set(found)) and all(layout.gpus <= 12 for layout in found)
    assert {Layout.parse(text) for text in ("4xtp2", "2xtp4", "p2xtp2-d2xtp2", "p1xtp2-d3xtp2", "p2xtp2-d1xtp4")} <= set(found)
    # No run had a prefill TP above its decode TP.
    assert not [layout for layout in found if layout.prefill and layout.prefill.tp > layout.decode.tp]
    assert all(layout.gpus <= 4 for layout in screen.units_of(MODEL, 4, 12))


@pytest.mark.parametrize("target", ["tpot=10,ttft=600", "tpot=14,ttft=2000", "ttft=300", "p99_ttft=1500"])
def test_no_layout_that_was_left_out_beats_those_named(target):
    """All layouts are simulated at many loads, as the recommendation does for some only; the rest is chance."""
    found = recommending.recommend(MODEL, parse(target), 64, WORKLOAD, 8)
    limits = recommending.limits_of(parse(target))
    most = {}
    for layout in screen.units_of(MODEL, 64, 8):
        for level in range(4, min(64, 32 * layout.decode.num) + 1, 4):
            (one,) = predict(MODEL, layout, [level], WORKLOAD, (1, 2))
            if recommending.excess(one.values, limits) <= 1:
                most[layout] = max(most.get(layout, 0), one.values["request_throughput"] * (64 // layout.gpus))
    third = sorted(most.values())[-3]
    assert len(found.choices) == 3
    assert all(choice.fleet_throughput >= 0.95 * third for choice in found.choices)


@pytest.mark.parametrize("limit", [800, 1500, 3000])
def test_the_search_reaches_the_low_loads_that_a_bound_on_p99_leaves(limit):
    """A level begins with all its requests at once, so that the last of these wait for all others: 8xtp1 was never named."""
    model, bound = made_up(), parse(f"p99_ttft={limit}")
    choices = recommending.recommend(model, bound, 8, WORKLOAD).choices
    assert Layout.parse("8xtp1") in [choice.layout for choice in choices]
    swept = [predict(model, Layout.parse("8xtp1"), [level], WORKLOAD, (1, 2))[0].values for level in range(4, 120, 4)]
    kept = [values["request_throughput"] for values in swept if values["p99_ttft_ms"] <= limit]
    assert choices[0].fleet_throughput >= 0.95 * max(kept)


def test_no_choice_has_more_requests_in_flight_than_the_runs_had():
    choices = recommending.recommend(MODEL, parse("tpot=100,ttft=100000"), 8, WORKLOAD).choices
    assert len(choices) == 3
    assert all(choice.excess <= 1 and choice.prediction.level <= 32 * choice.layout.decode.num for choice in choices)

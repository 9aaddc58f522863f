"""Recommendations: what closed form leaves out would not have been named, and how a fleet is cut into deployments."""

import pytest

from benchmarks.planner import made_up
from pdbench.analysis.sla import parse
from pdbench.layout import Layout
from pdbench.planner import recommending, screen
from pdbench.planner.costs import HOLD, Engine, names_of, start_of
from pdbench.planner.model import Errors, Model
from pdbench.planner.predicting import predict
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.runs import graphs_of
from pdbench.planner.simulator import Workload

WORKLOAD = Workload(5000, 250)
LAYOUTS = ["4xtp2", "2xtp4", "p1xtp2-d1xtp2", "p1xtp2-d1xtp4"]
MODEL = Model(
    name="gptoss", accelerator="GPU", gpus_per_node=8, engine=Engine(graphs=graphs_of(None)), runs=LAYOUTS,
    layouts=LAYOUTS, parameters={name: start_of(name) for name in names_of((2, 4))} | {HOLD: 2e-3},
    workloads=["5000:250"], as_published=False,
    levels=(4, 64), most_running=32, stack={}, left_out=True,
    errors=[Errors(layout="4xtp2", level=8, ratios=dict.fromkeys(COLUMNS, 0.1))],
)  # fmt: skip


def test_each_ratio_is_tried_by_itself_and_as_often_as_a_node_holds_it():
    found = {str(layout): str(ratio) for layout, ratio in screen.units_of(MODEL, 100, 12).items()}
    expected = {
        "1xtp2": "1xtp2", "4xtp2": "1xtp2", "2xtp4": "1xtp4", "p1xtp2-d1xtp2": "p1xtp2-d1xtp2",
        "p2xtp2-d2xtp2": "p1xtp2-d1xtp2", "p1xtp2-d3xtp2": "p1xtp2-d3xtp2", "p2xtp2-d1xtp4": "p2xtp2-d1xtp4",
    }  # fmt: skip
    assert expected.items() <= found.items() and not {"2xtp2", "3xtp2", "p3xtp2-d3xtp2"} & set(found)


@pytest.mark.parametrize(("gpus", "unit"), [(8, 2), (8, 4), (8, 6), (4, 12), (100, 12)])
def test_no_unit_has_more_gpus_than_it_may(gpus, unit):
    """Ratios were repeated to fill a node of the runs, whatever was asked: `--unit-gpus 2` had 4xtp2."""
    found = list(screen.units_of(MODEL, gpus, unit))
    assert found and max(layout.gpus for layout in found) == min(gpus, unit)


def test_one_replica_is_named_where_independent_ones_do_better():
    """Behind one router requests are shared out by chance; over deployments they are split evenly. Closed form is low here."""
    bound = parse("tpot=12,ttft=1000")
    named = {unit: recommending.recommend(made_up(), bound, 64, WORKLOAD, unit).choices for unit in (1, 16)}
    assert [(str(one.layout), one.units) for one in named[1]] == [("1xtp1", 64)]
    (alone,) = (one for one in named[16] if one.layout.decode.tp == 1 and not one.layout.is_pd)
    assert str(alone.layout) == "1xtp1" and alone.fleet_throughput == named[1][0].fleet_throughput
    assert alone.fleet_throughput > 1.05 * 8 * most_within(made_up(), "8xtp1", bound)


def test_a_ratio_is_named_repeated_where_that_does_better():
    """The third request of one replica waits for the others' prompts; in four replicas few of 20 wait."""
    bound = parse("tpot=10,ttft=350")
    alone, repeated = (recommending.recommend(MODEL, bound, 8, WORKLOAD, unit).choices for unit in (2, 8))
    (best,) = (one for one in repeated if not one.layout.is_pd)
    assert [str(one.layout) for one in alone] == ["1xtp2"] and str(best.layout) == "4xtp2"
    assert best.fleet_throughput > 1.2 * alone[0].fleet_throughput


@pytest.mark.parametrize("target", ["tpot=15,ttft=2000", "tpot=12,ttft=1000", "p99_ttft=1500"])
def test_each_ratio_is_named_once(target):
    choices = recommending.recommend(made_up(), parse(target), 64, WORKLOAD).choices
    ratios = [screen.units_of(made_up(), 64, 16)[choice.layout] for choice in choices]
    assert len(set(ratios)) == 3


def test_kinds_of_layouts_that_no_run_had_are_left_out_and_named():
    """No run had a prefill TP above its decode TP."""
    bound = parse("tpot=12,ttft=1000")
    found = recommending.recommend(MODEL, bound, 8, WORKLOAD)
    assert found.lacking == ["a PD run whose prefill TP is above its decode TP"]
    assert list(map(str, found.left_out)) == ["p1xtp4-d1xtp2", "p1xtp4-d2xtp2"]
    everything = recommending.recommend(MODEL, bound, 8, WORKLOAD, extrapolate=True)
    assert everything.screened == found.screened + 2 and not everything.left_out and not everything.lacking


def most_within(model, layout, bound):
    """The most requests/s of a layout at levels 4, 8, 12 and so on that keep to the target."""
    limits = recommending.limits_of(bound)
    swept = [predict(model, Layout.parse(layout), [level], WORKLOAD, (1, 2))[0].values for level in range(4, 120, 4)]
    return max(values["request_throughput"] for values in swept if recommending.excess(values, limits) <= 1)


@pytest.mark.parametrize(
    "target", ["tpot=10,ttft=600", "tpot=14,ttft=2000", "ttft=300", "p99_ttft=1500", "max_itl=60", "p99_itl=60"]
)
def test_no_layout_that_was_left_out_beats_those_named(target):
    """All layouts are simulated at many loads, as the recommendation does for some only; the rest is chance."""
    found = recommending.recommend(MODEL, parse(target), 64, WORKLOAD, 8)
    limits = recommending.limits_of(parse(target))
    most = {}
    for layout, ratio in screen.units_of(MODEL, 64, 8).items():
        if MODEL.lacks(ratio):
            continue
        for level in range(4, min(64, 32 * layout.decode.num) + 1, 4):
            (one,) = predict(MODEL, layout, [level], WORKLOAD, (1, 2))
            if recommending.excess(one.values, limits) <= 1:
                most[ratio] = max(most.get(ratio, 0), one.values["request_throughput"] * (64 // layout.gpus))
    third = sorted(most.values())[-3]
    assert len(found.choices) == 3
    assert all(choice.fleet_throughput >= 0.95 * third for choice in found.choices)


@pytest.mark.parametrize("limit", [800, 1500, 3000])
def test_the_search_reaches_the_low_loads_that_a_bound_on_p99_leaves(limit):
    """A level begins with all its requests at once, so that the last of these wait for all others: TP1 was never named."""
    model, bound = made_up(), parse(f"p99_ttft={limit}")
    choices = recommending.recommend(model, bound, 8, WORKLOAD).choices
    assert {"1xtp1", "8xtp1"} & {str(choice.layout) for choice in choices}
    assert choices[0].fleet_throughput >= 0.95 * most_within(model, "8xtp1", bound)


def test_no_choice_has_more_requests_in_flight_than_the_runs_had():
    choices = recommending.recommend(MODEL, parse("tpot=100,ttft=100000"), 8, WORKLOAD).choices
    assert len(choices) == 3
    assert all(choice.excess <= 1 and choice.prediction.level <= 32 * choice.layout.decode.num for choice in choices)

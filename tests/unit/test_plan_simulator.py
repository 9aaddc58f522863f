"""The planner's simulator against what can be worked out by hand, and laws that hold for every level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench.layout import Layout
from pdbench.planner.costs import HOLD, Engine, costs_of, matters, names_of, start_of, woken
from pdbench.planner.replicas import COLUMNS, PARTS
from pdbench.planner.simulator import Sweep, Workload, simulate

PARAMETERS = {name: start_of(name) for name in names_of((1, 2, 4, 8))} | {HOLD: 2e-3}
AT_ONCE = {"request": 1e-9}  # no time between client and engine, which is drawn for each request
UNSEEN, REPLAYED, ENGINE = Workload(5000, 250), Workload(5000, 250, as_published=True), Engine()


def swept(layout, levels=((8, 40),), workload=UNSEEN, engine=ENGINE, seeds=(1, 2), **changed):
    rows = simulate(Layout.parse(layout), PARAMETERS | changed, engine, workload, levels, seeds)
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def test_one_request_at_a_time_takes_what_its_pieces_take():
    (level,) = swept("p1xtp2-d1xtp2", [(1, 5)], **AT_ONCE)
    costs = costs_of(Layout.parse("p1xtp2-d1xtp2"), PARAMETERS, Engine(), 5000, 250, 1)
    ttft = costs.prefill_step(5000, 1, 0) + costs.handover + costs.pull + costs.steps[1]
    assert level["mean_tpot_ms"] == pytest.approx(1e3 * costs.steps[1])
    assert [level["median_ttft_ms"], level["p99_ttft_ms"]] == pytest.approx([1e3 * ttft] * 2)
    assert level["request_throughput"] == pytest.approx(1 / (ttft + 249 * costs.steps[1]))


def test_a_collocated_request_alone_needs_no_transfer():
    (level,) = swept("1xtp2", [(1, 5)], **AT_ONCE)
    costs = costs_of(Layout.parse("1xtp2"), PARAMETERS, Engine(), 5000, 250, 1)
    assert level["mean_ttft_ms"] == pytest.approx(1e3 * costs.prefill_step(5000, 1, 0))


def test_prompts_are_prefilled_in_steps_of_8192_tokens():
    """The first of three comes first and alone; the next step holds all of the second and 3192 tokens of the third."""
    costs = costs_of(Layout.parse("p1xtp2-d1xtp2"), PARAMETERS | AT_ONCE, Engine(), 5000, 250, 3)
    sweep = Sweep(Layout.parse("p1xtp2-d1xtp2"), costs, Engine(), UNSEEN, 1)
    ended = sorted(sweep.run(3, 3).prefilled)
    steps = [costs.prefill_step(5000, 1, 0), costs.prefill_step(8192, 1, 0), costs.prefill_step(1808, 2, 0)]
    assert ended == pytest.approx(list(np.cumsum(steps)))


def test_a_step_of_prefill_wakes_experts_and_pays_for_each_prompt_that_it_ends_or_goes_on_with():
    costs = costs_of(Layout.parse("2xtp1"), PARAMETERS, Engine(), 5000, 250, 1)
    every = PARAMETERS["step_tp1"] + 128 * PARAMETERS["expert_tp1"]
    assert costs.prefill_step(8192, 0, 0) == pytest.approx(every + 8192 * PARAMETERS["prefill_tp1"] / 1000)
    assert costs.prefill_step(8192, 3, 0) - costs.prefill_step(8192, 1, 0) == pytest.approx(2 * PARAMETERS["admit"])
    assert costs.prefill_step(8192, 1, 4) - costs.prefill_step(8192, 1, 0) == pytest.approx(4 * PARAMETERS["token"] * 5.125)
    few = PARAMETERS["step_tp1"] + woken(Engine(), 1.0, 16) * PARAMETERS["expert_tp1"] + 16 * PARAMETERS["prefill_tp1"] / 1000
    assert costs.prefill_step(16, 0, 0) == pytest.approx(few)
    assert costs.prefill_step(12, 0, 4) - 4 * costs.attend - costs.prefill_step(12, 0, 0) == pytest.approx(
        PARAMETERS["expert_tp1"] * (woken(Engine(), 1.0, 16) - woken(Engine(), 1.0, 12))
    )


@pytest.mark.parametrize("layout", ["1xtp1", "2xtp2"])
def test_prompts_alone_leave_nothing_that_runs(layout):
    """A request for a single token has it with its prompt: no step for it is scheduled ahead, and it takes no place in one."""
    rows = [swept(layout, [(6, 30)], Workload(5000, 1), Engine(budget=5000, ahead=ahead))[0] for ahead in (False, True)]
    assert {**rows[0], "max_itl_ms": 0, "p99_itl_ms": 0} == {**rows[1], "max_itl_ms": 0, "p99_itl_ms": 0}


def test_prompts_are_computed_beside_more_requests_than_a_step_has_tokens():
    (level,) = swept("1xtp1", [(16, 32)], Workload(64, 50), Engine(budget=8))
    assert np.isfinite(level["mean_ttft_ms"]) and level["request_throughput"] > 0


@pytest.mark.parametrize("ahead", [False, True])
def test_a_step_that_is_scheduled_ahead_holds_only_prompts_that_came_before_the_last_one(ahead):
    """Two prompts come in the first one's step. If the next, of its token, is scheduled by then, they wait for it."""
    engine = Engine(ahead=ahead)
    costs = costs_of(Layout.parse("1xtp2"), PARAMETERS | AT_ONCE, engine, 5000, 250, 3)
    sweep = Sweep(Layout.parse("1xtp2"), costs, engine, UNSEEN, 1)
    sweep.delay = iter((0.0, 5e5, 1e6)).__next__  # 0, 1 and 2 ms between client and engine
    level = sweep.run(3, 3)
    first, second = costs.prefill_step(5000, 1, 0), costs.prefill_step(8192 - ahead, 1, 1)
    began = [0.0, first + costs.steps[1] * ahead, first + costs.steps[1] * ahead]
    assert sorted(level.begun) == pytest.approx(began, abs=1e-6)
    assert sorted(level.prefilled)[:2] == pytest.approx([first, began[1] + second], rel=1e-4)


@pytest.mark.parametrize("layout", ["2xtp4", "p2xtp2-d1xtp4", "p1xtp1-d3xtp2"])
@given(level=st.integers(1, 24), seed=st.integers(0, 99))
def test_a_request_is_somewhere_all_the_time(layout, level, seed):
    """The parts add up to the end-to-end latency, none is negative, and no more requests are in flight than asked for."""
    costs = costs_of(Layout.parse(layout), PARAMETERS, Engine(), 5000, 250, level)
    run = Sweep(Layout.parse(layout), costs, Engine(), UNSEEN, seed).run(level, 3 * level)
    parts = run.parts()
    assert len(parts) == len(PARTS) and min(parts) >= -1e-9
    took = np.array(run.ended) - run.sent
    assert sum(parts) == pytest.approx(took.mean())
    assert took.sum() <= level * max(run.ended) * (1 + 1e-9)


def test_more_requests_in_flight_raise_throughput_and_latencies():
    few, many = swept("p1xtp2-d2xtp2", [(4, 20)])[0], swept("p1xtp2-d2xtp2", [(16, 80)])[0]
    assert many["request_throughput"] > few["request_throughput"]
    assert many["mean_tpot_ms"] > few["mean_tpot_ms"] and many["mean_ttft_ms"] > few["mean_ttft_ms"]


def test_a_bound_prefill_pool_is_the_throughput():
    """Above what one prefill replica can do the rest does not matter."""
    (level,) = swept("p1xtp2-d3xtp2", [(64, 640)])
    costs = costs_of(Layout.parse("p1xtp2-d3xtp2"), PARAMETERS, Engine(), 5000, 250, 64)
    assert level["request_throughput"] == pytest.approx(1 / costs.prefill_step(5000, 1, 0), rel=0.05)


def test_collocated_decode_is_stalled_by_prefill_and_disaggregated_is_not():
    collocated, disaggregated = swept("2xtp2", [(16, 160)])[0], swept("p1xtp2-d1xtp2", [(8, 80)])[0]
    assert collocated["mean_tpot_ms"] > 1.2 * disaggregated["mean_tpot_ms"]


def test_replayed_prompts_are_not_computed_again():
    levels = [(8, 40), (8, 40)]
    unseen, replayed = swept("1xtp2", levels), swept("1xtp2", levels, REPLAYED)
    assert unseen[1]["mean_ttft_ms"] == pytest.approx(unseen[0]["mean_ttft_ms"], rel=0.2)
    assert replayed[1]["mean_ttft_ms"] < 0.8 * replayed[0]["mean_ttft_ms"]


def test_a_small_pool_has_forgotten_what_is_replayed():
    levels = [(8, 40), (8, 40)]
    tiny = swept("p1xtp2-d1xtp2", levels, REPLAYED, Engine(kv_tokens={2: 10_000}))
    large = swept("p1xtp2-d1xtp2", levels, REPLAYED, Engine(kv_tokens={2: 10**7}))
    assert large[1]["mean_ttft_ms"] < 0.8 * tiny[1]["mean_ttft_ms"]


def test_pulls_are_slow_once_a_pool_has_been_used_up_and_between_unequal_sizes():
    equal = swept("p1xtp2-d1xtp2")[0]["mean_ttft_ms"]
    assert swept("p1xtp2-d1xtp2", engine=Engine(kv_tokens={2: 10_000}))[0]["mean_ttft_ms"] > equal + 50
    # All else is that of TP2, so only the transfer differs.
    same = {name.replace("tp2", "tp4"): value for name, value in PARAMETERS.items() if "tp2" in name}
    costs = [costs_of(Layout.parse(f"p1xtp2-d1xtp{n}"), PARAMETERS | same, Engine(), 5000, 250, 1) for n in (2, 4)]
    assert costs[1].unequal and costs[1].stall > costs[0].stall and costs[1].pull_slow > costs[0].pull_slow


def test_the_first_contact_of_two_replicas_takes_time_only_where_nothing_is_warmed_up():
    cold = swept("p2xtp2-d2xtp2", workload=REPLAYED, contact=5.0)[0]["p99_ttft_ms"]
    assert cold > 5000 > swept("p2xtp2-d2xtp2", contact=5.0)[0]["p99_ttft_ms"]


def test_longer_prompts_and_answers_cost_in_proportion():
    costs = [costs_of(Layout.parse("1xtp2"), PARAMETERS, Engine(), isl, 250, 8) for isl in (1000, 10000)]
    assert costs[0].prefill == costs[1].prefill and costs[1].steps[8] > costs[0].steps[8]
    short, long = (swept("p1xtp2-d1xtp2", [(1, 5)], Workload(5000, osl))[0] for osl in (100, 200))
    assert short["mean_tpot_ms"] == pytest.approx(long["mean_tpot_ms"], rel=0.01)


def test_the_way_to_an_engine_takes_its_mean_and_at_most_twice_that():
    costs = costs_of(Layout.parse("p1xtp2-d9xtp2"), PARAMETERS, Engine(), 5000, 250, 8)
    run = Sweep(Layout.parse("p1xtp2-d9xtp2"), costs, Engine(), UNSEEN, 3).run(8, 800)
    took = np.array(run.arrived) - run.sent
    assert took.mean() == pytest.approx(costs.request, rel=0.05) and 0 <= took.min() < took.max() <= 2 * costs.request


def test_experts_wake_by_chance_and_never_more_than_there_are():
    engine = Engine(experts=128, active=4)
    assert woken(engine, 1, 1) == pytest.approx(4) and woken(engine, 1, 1e4) == pytest.approx(128)
    assert woken(Engine(experts=1, active=1), 1, 1) == woken(Engine(experts=1, active=1), 1, 99) == 1


@pytest.mark.parametrize("layout", ["4xtp2", "p1xtp2-d2xtp2", "p1xtp1-d1xtp4"])
def test_a_parameter_changes_a_layout_exactly_where_it_is_said_to(layout):
    """So the fit may skip the others."""
    levels, engine = [(6, 30), (8, 40)], Engine(kv_tokens={1: 10**5, 2: 10**5, 4: 10**5})
    base = swept(layout, levels, REPLAYED, engine)
    for name, value in PARAMETERS.items():
        changed = swept(layout, levels, REPLAYED, engine, **{name: value * 0.7}) != base
        assert changed <= matters(name, Layout.parse(layout), cold=True), name
        assert changed or not matters(name, Layout.parse(layout), cold=True), name

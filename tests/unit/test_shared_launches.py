"""Which arms of an experiment one launch serves, and what a run does where one of them fails or is there already."""

import functools

import pytest

from pdbench.measure import experiment_plan as plan
from pdbench.measure import experiment_run
from pdbench.measure.experiment import Arm, load_experiment
from tests.helpers.recorded_run import Recorded
from tests.helpers.small_experiment import small_experiment


@pytest.fixture
def write(tmp_path):
    return functools.partial(small_experiment, tmp_path)


POOL = ["pool_p1xtp1-d2xtp1", "pool_p2xtp1-d1xtp1"]


@pytest.fixture
def pool(write, tmp_path, monkeypatch):
    """Two ratios of one pool, behind the collocated arm and before another PD arm."""
    monkeypatch.setattr(experiment_run, "measured_seconds", lambda *args: 0.0)
    ratios = [{"layout": name.removeprefix("pool_"), "mode": "pd-pool"} for name in POOL]
    last = {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack"}
    return Recorded(load_experiment(write(arms=[{"layout": "3xtp1"}, *ratios, last])), tmp_path / "results")


FIRST, SECOND = (
    [(name, what) for what in (first, "check", "sweep")] for name, first in zip(POOL, ("launch", "roles"), strict=True)
)


def test_ratios_of_one_pool_share_a_launch(pool):
    pool.all()
    of_pool = [(arm, what) for arm, what in pool.ran if arm in POOL]
    assert of_pool == [*FIRST, *SECOND, (POOL[1], "stop")] and pool.failed == {}
    assert [what for arm, what in pool.ran if arm == "pack_p1xtp1-d1xtp1"] == ["launch", "check", "sweep", "stop"]
    script = plan.script("small", pool.experiment, pool.results)
    assert script.count("launch_gptoss.py --mode pd-pool") == script.count("launch_gptoss.py --roles p2-d1") == 1
    assert script.count("--stop") == 3


@pytest.mark.parametrize("failing", ["launch", "check", "sweep"])
def test_a_ratio_that_fails_stops_the_pool_and_the_next_launches_its_own(pool, failing):
    pool.fails = {(POOL[0], failing)}
    pool.all()
    ran = [(arm, what) for arm, what in pool.ran if arm in POOL]
    begun = FIRST[: FIRST.index((POOL[0], failing)) + 1]
    assert ran == [*begun, (POOL[0], "stop"), *((POOL[1], what) for what in ("launch", "check", "sweep", "stop"))]


def test_a_pool_that_does_not_follow_is_stopped(pool):
    pool.fails = {(POOL[1], "roles")}
    pool.all()
    assert [one for one in pool.ran if one[0] in POOL] == [*FIRST, (POOL[1], "roles"), (POOL[1], "stop")]
    assert pool.failed == {POOL[1]: "roles exited with 1"}


def test_a_pool_is_stopped_where_its_next_ratio_cannot_be_measured(pool, monkeypatch):
    monkeypatch.setattr(experiment_run, "left_out", lambda arm, vllm: "why" if arm.label == POOL[1] else None)
    pool.all()
    assert [one for one in pool.ran if one[0] in POOL] == [*FIRST, (POOL[1], "stop")]


def test_ratios_of_one_pool_follow_each_other_in_every_block(write):
    ratios = [{"layout": f"p{p}xtp1-d{4 - p}xtp1", "mode": "pd-pool"} for p in (1, 2, 3)]
    others = [{"layout": "4xtp1"}, {"layout": "2xtp2"}, {"layout": "p2xtp1-d2xtp1", "mode": "pd-pack"}]
    experiment = load_experiment(write(arms=[*others, *ratios])).model_copy(update={"blocks": 8})
    orders = set()
    for block in range(1, 9):
        order = [arm.label for arm in plan.drawn("small", experiment, block)]
        at = [number for number, label in enumerate(order) if label.startswith("pool")]
        assert sorted(order) == sorted(arm.label for arm in experiment.arms) and at == list(range(at[0], at[0] + 3))
        orders.add(tuple(label for label in order if label.startswith("pool")))
    assert len(orders) > 1, "drawn in each block"


def test_pools_that_differ_in_more_than_their_ratio_do_not_share(write):
    arms = [
        Arm(layout=layout, mode="pd-pool", **more)
        for layout, more in (
            ("p1xtp1-d2xtp1", {}),
            ("p2xtp1-d1xtp1", {}),
            ("p1xtp1-d3xtp1", {}),
            ("p2xtp1-d1xtp1", {"env": {"A": "1"}, "name": "x"}),
        )
    ]
    assert [arms[0].shares_pool(other) for other in arms[1:]] == [True, False, False]
    packed = Arm(layout="p1xtp1-d2xtp1", mode="pd-pack")
    assert not packed.shares_pool(Arm(layout="p2xtp1-d1xtp1", mode="pd-pack"))


PROMPTS = "prefill-only_2xtp1"


@pytest.fixture
def phases(write, tmp_path, monkeypatch):
    """Both phases together, decode alone, and prefill alone, of the same engines; in two blocks."""
    monkeypatch.setattr(experiment_run, "measured_seconds", lambda *args: 0.0)
    arms = [{"layout": "2xtp1"}, *({"layout": "2xtp1", "phase": phase} for phase in ("decode-only", "prefill-only"))]
    experiment = load_experiment(write(arms=arms)).model_copy(update={"blocks": 2})
    return Recorded(experiment, tmp_path / "results")


def test_prompts_alone_share_the_launch_of_both_phases_and_decode_alone_does_not(phases):
    phases.all()
    ran = [one for one in phases.ran if one[0]]
    alone = [("decode-only_2xtp1", what) for what in ("launch", "sweep", "stop")]
    assert ran[:7] == [("2xtp1", "launch"), ("2xtp1", "sweep"), (PROMPTS, "sweep"), (PROMPTS, "stop"), *alone]
    assert phases.failed == {} and len(ran) == 14 and ran.count(("decode-only_2xtp1", "launch")) == 2
    script = plan.script("small", phases.experiment, phases.results)
    assert script.count("launch_gptoss.py --mode") == script.count("--stop") == 4


@pytest.mark.parametrize("failing", ["launch", "sweep"])
def test_prompts_alone_have_a_launch_of_their_own_where_the_other_failed(phases, failing):
    phases.fails, phases.only = {("2xtp1", failing)}, 1
    phases.all()
    assert [what for arm, what in phases.ran if arm == PROMPTS] == ["launch", "sweep", "stop"]
    assert phases.ran.count(("2xtp1", "stop")) == 1


@pytest.mark.parametrize(("there", "left"), [("2xtp1", PROMPTS), (PROMPTS, "2xtp1")])
def test_of_two_that_share_a_launch_the_one_that_is_not_there_is_launched(phases, monkeypatch, there, left):
    monkeypatch.setattr(plan, "machines", lambda name, one, *_: ["here"] if one.arm.label == there else None)
    monkeypatch.setattr(experiment_run, "machine_id", lambda: "here")
    phases.only = 1
    phases.all()
    assert [one for one in phases.ran if one[0] == left] == [(left, what) for what in ("launch", "sweep", "stop")]
    assert there not in [arm for arm, _ in phases.ran]


def test_where_the_second_of_two_is_left_out_the_engines_of_the_first_are_stopped(phases, monkeypatch):
    monkeypatch.setattr(experiment_run, "left_out", lambda arm, vllm: "why" if arm.label == PROMPTS else None)
    phases.only = 1
    phases.all()
    assert [one for one in phases.ran if one[0] in ("2xtp1", PROMPTS)] == [
        ("2xtp1", "launch"), ("2xtp1", "sweep"), (PROMPTS, "stop"),
    ]  # fmt: skip


def test_either_of_two_may_come_first(phases):
    orders = [[arm.label for arm in plan.drawn("small", phases.experiment, block)] for block in range(2, 10)]
    assert all(abs(order.index("2xtp1") - order.index(PROMPTS)) == 1 for order in orders)
    assert {order.index("2xtp1") < order.index(PROMPTS) for order in orders} == {True, False}


def test_arms_that_differ_in_more_than_the_phase_do_not_share(write):
    experiment = load_experiment(write())
    mixed, prompts, decode = (Arm(layout="2xtp1", phase=phase) for phase in (None, "prefill-only", "decode-only"))
    assert experiment.share_launch(mixed, prompts) and experiment.share_launch(prompts, mixed)
    others = [decode, mixed, Arm(layout="1xtp2"), Arm(layout="2xtp1", mode="bare"), Arm(layout="2xtp1", env={"A": "1"})]
    assert not any(experiment.share_launch(prompts, other) for other in [*others[:1], *others[2:]])
    assert not any(experiment.share_launch(mixed, other) for other in others), "the same again is another launch"

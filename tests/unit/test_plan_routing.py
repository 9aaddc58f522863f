"""How requests are shared out in the planner's simulation: by true loads, or by what each ingress replica remembers."""

from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from pdbench.configs import ROOT
from pdbench.layout import Layout
from pdbench.planner import calibration, simulator
from pdbench.planner.costs import Engine, costs_of, names_of, start_of
from pdbench.planner.fitting import Fitter, predict_run
from pdbench.planner.routing import REMEMBERED_S, Ingress, Router
from pdbench.planner.runs import routing_of
from pdbench.planner.simulator import Sweep, Workload

RESULTS = ROOT / "bm_results"
ASKS = {"RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "0"}


def loads(*numbers):
    return [SimpleNamespace(load=number) for number in numbers]


def test_a_router_that_asks_takes_the_emptier():
    router = Router(Random(1).random, remembers=False)
    assert {router.choose(0.0, loads(3, 1)) for _ in range(50)} == {1}


def test_a_router_remembers_answers_and_its_own_requests():
    """Of two it fills the emptier until, by its own count, both are equal, whatever the others have sent meanwhile."""
    router, replicas = Router(Random(1).random, remembers=True), loads(4, 2)
    assert router.choose(0.0, replicas) == 1, "nothing is known yet: both are asked"
    replicas[1].load = 9  # others sent six
    assert router.choose(0.1, replicas) == 1, "3 by what it remembers"
    router.answered(0.2, 1, 10)
    assert router.choose(2.0, replicas) == 0, "4 against 10"
    for when in (3.0, 4.0, 5.0, 5.5, 5.6, 5.7):
        router.ended(when, 1)
    replicas[0].load = 20
    assert router.choose(6.0, replicas) == 1, "4 against 5: others' requests it does not know of"


@pytest.mark.parametrize("at_once", [False, True])
def test_requests_that_come_before_an_answer_go_by_the_own_count_alone(at_once):
    """Two routers that remember one replica as empty send it all of a burst; with answers at once they share it out."""
    routers, replicas = [Router(Random(seed).random, remembers=True) for seed in (1, 2)], loads(5, 0)
    for router in routers:
        router.answered(0.0, 0, 5)
        router.answered(0.0, 1, 0)
    burst = []
    for router in routers * 5:
        burst.append(router.choose(0.1, replicas))
        replicas[burst[-1]].load += 1
        if at_once:
            router.answered(0.1, burst[-1], replicas[burst[-1]].load)
    assert sum(burst) < 10 if at_once else burst == [1] * 10


def test_the_later_answers_come_the_less_evenly_requests_are_shared(monkeypatch):
    shares = []
    for seconds in (0.0, simulator.ACCEPTED_S):
        monkeypatch.setattr(simulator, "ACCEPTED_S", seconds)
        shares.append(busiest(Layout.parse("2xtp1"), 4, in_flight=24))
    assert shares[0] + 0.01 < shares[1]


def test_what_is_old_is_asked_again():
    router, replicas = Router(Random(1).random, remembers=True), loads(0, 5)
    assert router.choose(0.0, replicas) == 0
    replicas[0].load = 9
    assert router.choose(REMEMBERED_S - 0.1, replicas) == 0, "1"
    replicas[0].load, replicas[1].load = 9, 3
    assert router.choose(3 * REMEMBERED_S, replicas) == 1


def test_one_replica_is_not_chosen_from():
    draws = Random(1)
    assert Router(draws.random, remembers=True).choose(0.0, loads(7)) == 0 and draws.random() == Random(1).random()


def test_the_ingress_with_the_fewest_open_requests_is_next():
    ingress = Ingress(3, Random(1).random)
    assert [ingress.take() for _ in range(5)] == [0, 1, 2, 0, 1]
    ingress.ended(1.0, 1, 0)
    ingress.ended(1.0, 1, 0)
    assert [ingress.take() for _ in range(3)] == [1, 2, 1]


def deployment(mode="collocated", **path):
    return SimpleNamespace(mode=mode, serving_path={"env": {}, "router": "power-of-two", "ingress_replicas": 8} | path)


@pytest.mark.parametrize(
    ("of", "ingress", "asked"),
    [
        (deployment(), 8, False),
        (deployment("pd-pack", env={"RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "10"}), 8, False),
        (deployment(env=ASKS), 0, True),
        (deployment("pd-pack", env=ASKS), 0, True),
        (deployment(env=ASKS, router="round-robin"), 0, False),
        (deployment("pd-pool", env=ASKS), 0, False),
        (deployment(env=ASKS, ingress_replicas=0), 0, False),  # direct streaming
        (SimpleNamespace(mode="bare", serving_path=None), 0, False),
        (None, 0, False),
    ],
)
def test_which_deployments_have_routers_that_remember_or_ask(of, ingress, asked):
    assert routing_of(of) == (ingress, asked)


@pytest.mark.parametrize("given", ["3", "abc", "", "nan", "-1", None, [1]])
def test_a_time_that_is_not_simulated_is_one_line(given):
    with pytest.raises(ValueError, match=r"^RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S: [^\n]+ is not simulated: 0 or 10 is$"):
        routing_of(deployment(env=dict.fromkeys(ASKS, given)))


def test_requests_that_come_within_an_answers_time_do_not_see_one_another(monkeypatch):
    """Two at once may meet at one of two replicas; where others are seen at once they do not."""
    asked = Workload(5000, 250, asked=True)
    monkeypatch.setattr(simulator, "ASKED_S", 0.0)
    assert met(asked) == met(Workload(5000, 250)) == 0
    alone = busiest(Layout.parse("p1xtp1-d2xtp1"), 0, in_flight=2, asked=True)
    monkeypatch.setattr(simulator, "ASKED_S", 0.1)
    assert met(asked) > 0 and busiest(Layout.parse("p1xtp1-d2xtp1"), 0, in_flight=2, asked=True) > alone


def met(workload: Workload) -> int:
    """How many requests had to wait for another's prompt, of twenty levels with one in flight for each of two replicas."""
    return sum(level.begun[i] > level.arrived[i] for level in levels("2xtp1", workload, 2) for i in range(10))


@pytest.mark.parametrize(("asked", "ingress"), [(True, 0), (False, 8)])
def test_behind_ingress_replicas_who_decodes_is_chosen_first(asked, ingress):
    sweep = sweep_of(Layout.parse("p2xtp1-d2xtp1"), Workload(5000, 250, ingress=ingress, asked=asked), 4, 0)
    sweep.run(4, 20)
    assert sweep.is_decoder_first and {router.remembers for router in sweep.of_decoders} == {not asked}


def sweep_of(layout: Layout, workload: Workload, in_flight: int, seed: int) -> Sweep:
    costs = costs_of(layout, {name: start_of(name) for name in names_of({1})}, Engine(), 5000, 250, in_flight)
    return Sweep(layout, costs, Engine(), workload, seed)


def levels(layout: str, workload: Workload, in_flight: int):
    return [sweep_of(Layout.parse(layout), workload, in_flight, seed).run(in_flight, 5 * in_flight) for seed in range(20)]


def test_what_ended_before_it_was_counted_makes_no_replica_emptier_than_an_idle_one():
    router = Router(Random(1).random, remembers=False)
    assert {router.choose(0.0, loads(-1, 0)) for _ in range(50)} == {0, 1}


def busiest(layout: Layout, ingress: int, in_flight: int = 16, asked: bool = False) -> float:
    """The busiest replica's share of the requests that arrive, the mean over seeds."""
    found = []
    for seed in range(20):
        sweep = sweep_of(layout, Workload(5000, 250, ingress=ingress, asked=asked), in_flight, seed)
        level = sweep.run(in_flight, 5 * in_flight)
        assert all(level.ended) and not any(replica.load for replica in (*sweep.prefillers, *sweep.decoders))
        assert not any(sweep.ingress.open)
        found.append(np.bincount(sweep.to if layout.prefill else sweep.through).max() / (5 * in_flight))
    return float(np.mean(found))


@pytest.mark.parametrize("layout", ["2xtp1", "4xtp1", "p2xtp1-d2xtp1", "p1xtp1-d3xtp1"])
def test_the_more_routers_remember_the_less_evenly_requests_are_shared(layout):
    parsed = Layout.parse(layout)
    known, asked, remembered = busiest(parsed, 0), busiest(parsed, 0, asked=True), busiest(parsed, 8)
    assert known < remembered > asked and max(known, asked) < 1.2 / parsed.decode.num


@pytest.fixture(scope="module")
def of_two_gpus():
    """A fit to what two H200s have shown, and the run of four: another host, and more replicas than any run of the fit."""
    fitted, four = (
        _runs(*sorted(RESULTS.glob(f"gpt-oss-120b-shape_*_{name}"))) for name in ("h200x2_120b_*", "h200x4_ratio_4xtp1")
    )
    return Fitter(*fitted), four[0][0]


def _runs(*folders: Path):
    study = calibration.read(folders)
    return calibration.runs_of(study, None), calibration.engine_of(study, {}, None)


def test_four_replicas_are_predicted_from_runs_of_two(of_two_gpus):
    """docs/planner.md: requests/s, mean TPOT and mean TTFT. By true loads requests/s are missed by more."""
    fitter, four = of_two_gpus
    assert four.workload.ingress == 8
    errors = np.mean(np.abs(predict_run(four, fitter.fit(), fitter.engine) / four.measured - 1), axis=0)[:3]
    assert (errors < (0.02, 0.03, 0.11)).all()

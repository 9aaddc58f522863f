"""The simulated pool of the benchmark of the P:D policy: what can be computed by hand, and what must hold for any run."""

import json
import statistics

import pytest

from benchmarks import ratio_policy
from benchmarks.pool_simulation import Phase, Pool, Scenario, World
from pdbench.configs import ROOT
from pdbench.ratio.policy import Bounds, Policy

POOL = Scenario("", 2, 10_000, 0.01, 0.001, Bounds(1000, 12), (Phase(2000, 0.002, 1000, 100),), 1)


def test_a_request_alone_takes_the_time_of_its_prefill_and_of_its_steps():
    request = Pool(POOL, seed=3).follow_plan((1,)).requests[0]
    assert request.first - request.arrived == pytest.approx(request.isl / 10_000)
    assert (request.ended - request.first) / (request.osl - 1) == pytest.approx(0.011)


def test_prefills_wait_as_in_a_queue_with_one_server():
    """The mean wait in an M/G/1 queue by Pollaczek and Khinchine; lengths are uniform within a fifth of 1000."""
    rate, mean = 6.0, 0.1
    load = Scenario("", 2, 10_000, 1e-4, 1e-6, POOL.bounds, (Phase(4000, rate, 1000, 2),), 1)
    requests = Pool(load, seed=1).follow_plan((1,)).requests
    wait = statistics.mean(request.first - request.arrived - request.isl / 10_000 for request in requests)
    square = mean**2 * (1 + 0.4**2 / 12)
    assert wait == pytest.approx(rate * square / (2 * (1 - rate * mean)), rel=0.1)


@pytest.mark.parametrize("world", [World(), World(away_s=20), World(lost=0.3), World(lengths_known=False, delay_s=3)])
def test_every_request_ends_once_and_sums_of_reports_agree(world):
    pool = Pool(ratio_policy.CPUS, 2, world).follow_policy(Policy(ratio_policy.CPUS.bounds), 1)
    assert all(request.arrived < request.first < request.ended for request in pool.requests)
    sums = {name: sum(engine.sums[name] for engine in pool.engines) for name in pool.engines[0].sums}
    assert sums["prompt_asked"] == sum(request.isl for request in pool.requests)
    if not world.away_s:  # a restart begins prefills again
        assert sums["prefilled"] == pytest.approx(sums["prompt_asked"], abs=1)
        assert sums["decoded"] == pytest.approx(sum(request.osl - 1 for request in pool.requests), abs=1)


def test_arms_of_one_seed_have_the_same_requests():
    first, second = (
        [(each.arrived, each.isl, each.osl) for each in Pool(ratio_policy.CPUS, 5).follow_plan(plan).requests]
        for plan in ((1, 1), (2, 1))
    )
    assert first == second and len(first) == len(set(first)) > 100


def test_the_recorded_reports_are_reproducible(tmp_path):
    ratio_policy.record(tmp_path / "again.json")
    recorded = (ROOT / "tests/data/ratio_reports.json").read_text()
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(recorded)


def test_the_policy_beats_every_static_ratio_where_the_load_shifts():
    arms = ratio_policy.runs(ratio_policy.CPUS, range(1, 4))
    best = max(ratio_policy.attained(pools) for arm, pools in arms.items() if arm.startswith("static"))
    assert best + 0.5 < ratio_policy.attained(arms["policy"]) <= ratio_policy.attained(arms["oracle"])
    assert ratio_policy.attained(arms["policy, restarts of 60 s"]) < best


def test_tables_show_each_arm(capsys, monkeypatch):
    monkeypatch.setattr(ratio_policy, "QUICK", (ratio_policy.CPUS,))
    monkeypatch.setattr("sys.argv", ["ratio_policy.py", "--quick"])
    assert ratio_policy.main() == 0
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in ("static 1:2", "static 2:1", "oracle", "policy", "restarts"))

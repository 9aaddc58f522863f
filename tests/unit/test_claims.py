"""Claims: every rule in every verdict, on made-up arms."""

import numpy as np
import pandas as pd
import pytest

from pdbench.analysis import claims
from pdbench.analysis.claim_rules import judge
from tests.helpers.claims import MIXED, flat, judged, writer


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    return writer(tmp_path, write_folder, level_content)


# -- order_by --


@pytest.mark.parametrize(
    ("tpots", "verdict"),
    [
        ((12, 12), "holds"),
        ((12, 10.2), "holds"),
        ((12, 9), "partly"),
        ((9, 9), "fails"),
    ],
)
def test_order_at_levels(tmp_path, arm, tpots, verdict):
    """1xtp2 has 10 ms at both levels; the other has 12 (in order) or 9 (reversed)."""
    arm("1xtp2", flat(10, 10))
    arm("2xtp1", flat(*tpots))
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms", tolerance=0.01)
    assert found.verdict == verdict
    assert [point.values["2xtp1"] for point in found.points] == list(tpots)


def test_a_control_arm_stands_for_no_layout(tmp_path, arm, make_manifest):
    """With it 2xtp1 would be in order; without, there is no such arm."""
    arm("1xtp2", flat(10, 10))
    arm("bare_2xtp1", flat(12, 12))
    arm("2xtp1_mislabelled", flat(12, 12), manifest=make_manifest("2xtp1", "bare"))
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms", tolerance=0.01)
    assert found.verdict == "no-data" and found.missing == ["2xtp1"]


def test_arms_that_are_alike_are_in_no_order(tmp_path, arm):
    arm("1xtp2", flat(10, 10))
    arm("2xtp1", flat(10.2, 10.2))
    assert judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms").verdict == "fails"


def test_an_order_is_judged_as_a_whole_within_the_tolerance(tmp_path, arm):
    """10 > 9.8 is within 3% and 9.8 < 12 makes first better than last; with 9.6 the first two are 4% apart."""
    arm("1xtp4", flat(10))
    arm("2xtp2", flat(9.8))
    arm("4xtp1", flat(12))
    asked = {"rule": "order_by", "arms": ["1xtp4", "2xtp2", "4xtp1"], "metric": "median_tpot_ms"}
    assert judged(tmp_path, **asked).verdict == "holds"
    arm("2xtp2", flat(9.6))
    assert judged(tmp_path, **asked).verdict == "fails"


@pytest.mark.parametrize(("at", "levels"), [("low levels", ["4", "8"]), ("high levels", ["16", "20"]), ("levels", 5)])
def test_low_and_high_are_thirds_of_the_levels_that_all_have(tmp_path, arm, at, levels):
    """Five common levels: 5 / 3, rounded up, is 2."""
    arm("1xtp2", flat(10, 10, 10, 10, 10, 10))
    arm("2xtp1", flat(12, 12, 12, 12, 12))
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms", at=at)
    assert levels in ([point.at for point in found.points], len(found.points))


def test_order_at_equal_latency(tmp_path, arm):
    """Both from 10 to 20 ms: 1000 to 3000 tokens/s against 2000 at all times; equal at 15 ms.

    At 10, 12.5, 15, 17.5, 20 ms the first attains 1000, 1500, 2000, 2500, 3000: above in the last two.
    """
    arm("1xtp2", {4: (10, 1000), 8: (20, 3000)})
    arm("2xtp1", {4: (10, 2000), 8: (20, 2000.001)})
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], at="latencies")
    assert [point.true for point in found.points] == [False, False, False, True, True]
    assert [round(point.values["1xtp2"]) for point in found.points] == [1000, 1500, 2000, 2500, 3000]
    assert found.verdict == "fails"


# -- dominated_by --


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ({4: (12, 900), 8: (20, 2900)}, "holds"),  # the other attains 1400 at 12 ms and 3000 at 20
        ({4: (12, 900), 8: (20, 3300)}, "partly"),
        ({4: (12, 1500), 8: (20, 3300)}, "fails"),
        ({4: (9, 500), 8: (20, 3300)}, "fails"),  # at 9 ms the other was never seen
        ({4: (30, 3000)}, "holds"),  # beyond its last level the other attains its most
    ],
)
def test_dominated(tmp_path, arm, levels, verdict):
    arm("2xtp1", {4: (10, 1000), 8: (20, 3000)})
    arm("p1xtp1-d1xtp1", levels)
    assert judged(tmp_path, rule="dominated_by", arms=["p1xtp1-d1xtp1"], than="2xtp1").verdict == verdict


def test_dominated_where_an_arm_attains_enough(tmp_path, arm):
    arm("2xtp1", {4: (10, 1000), 8: (20, 3000)})
    arm("p1xtp1-d1xtp1", {4: (9, 900), 8: (20, 2000)})
    asked = {"rule": "dominated_by", "arms": ["p1xtp1-d1xtp1"], "than": "2xtp1"}
    assert [judged(tmp_path, **asked, above=at).verdict for at in (0, 1000, 5000)] == ["partly", "holds", "no-data"]


# -- best_by_regime --

LOW = {4: (10, 1000), 8: (12, 3000), 16: (30, 4000)}  # attains 3000 at 12 ms and 4000 at 30
HIGH = {4: (15, 1000), 8: (20, 5000)}  # attains 3000 at 17.5 ms, 3500 at 18.125, 5000 at 20


def regimes(*pairs, **more):
    return {"rule": "best_by_regime", "regimes": [{"best": best, "since": since} | more for best, since in pairs]}


@pytest.mark.parametrize(
    ("switch", "verdict"),
    [(3300, "holds"), (2000, "holds"), (1100, "partly"), (None, "holds")],
)
def test_best_by_regime(tmp_path, arm, switch, verdict):
    """The first has the lower latency up to where 12 + (y - 3000) / 1000 x 18 = 15 + (y - 1000) / 4000 x 5: y = 3,328.

    So of 2,000 to 5,000 the second is best in 56%, of 1,100 to 5,000 in 43%.
    """
    arm("p1xtp1-d1xtp1", LOW)
    arm("2xtp1", HIGH)
    found = judged(tmp_path, **regimes(("p1xtp1-d1xtp1", None), ("2xtp1", switch)))
    assert found.verdict == verdict
    last = found.points[-1].values["2xtp1"]
    y = 3000 + (17.5 - 12) / (18 / 1000 - 5 / 4000)
    assert last == pytest.approx(min(1, (5000 - y) / (5000 - (switch or y))), abs=1e-4)


def test_regimes_the_other_way_round_fail(tmp_path, arm):
    arm("p1xtp1-d1xtp1", LOW)
    arm("2xtp1", HIGH)
    assert judged(tmp_path, **regimes(("2xtp1", None), ("p1xtp1-d1xtp1", 3300))).verdict == "fails"


def test_a_regime_that_no_arm_attains_is_not_true(tmp_path, arm):
    arm("p1xtp1-d1xtp1", LOW)
    arm("2xtp1", HIGH)
    last = judged(tmp_path, **regimes(("p1xtp1-d1xtp1", None), ("2xtp1", 6000))).points[-1]
    assert (last.at, last.true, last.values) == ("from 6,000 tokens/s on, which none attains", False, {})


def test_requests_per_second_of_a_regime(tmp_path, arm):
    """5000 input tokens/s per node of prompts of 100: 50 requests/s."""
    arm("p1xtp1-d1xtp1", LOW)
    arm("2xtp1", HIGH)
    asked = [{"best": "p1xtp1-d1xtp1"}, {"best": "2xtp1", "since": 3300, "reaches": 51}]
    found = judged(tmp_path, rule="best_by_regime", regimes=asked)
    assert found.verdict == "holds" and found.points[-1].values["2xtp1"] == pytest.approx(50)
    asked[1]["reaches"] = 60
    assert judged(tmp_path, rule="best_by_regime", regimes=asked).verdict == "partly"


# -- best_of --


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ({4: (10, 900), 8: (20, 2500)}, "holds"),
        ({4: (10, 900), 8: (20, 3700)}, "partly"),  # 900, 1600, 2300, 3000, 3700 against 1000, 1500, 2000, 2500, 3000
        ({4: (10, 1900), 8: (20, 3900)}, "fails"),
    ],
)
def test_best_of(tmp_path, arm, other, verdict):
    arm("1xtp2", {4: (10, 1000), 8: (20, 3000)})
    arm("2xtp1", other)
    found = judged(tmp_path, rule="best_of", arms=["1xtp2", "2xtp1"], tolerance=0.15)
    assert found.verdict == verdict and len(found.points) == 5


@pytest.mark.parametrize(("among", "verdict"), [("one node", "fails"), ("PD on one node", "holds")])
def test_best_of_all_on_one_node(tmp_path, arm, among, verdict):
    """Better are a collocated arm, one on two nodes and one of 16 GPUs; only the first is asked about, and once."""
    arm("p1xtp4-d1xtp4", {4: (10, 1000), 8: (20, 3000)})
    arm("p2xtp2-d1xtp4", {4: (10, 500), 8: (20, 2000)})
    for name in ("2xtp4", "spread_p1xtp4-d1xtp4", "p1xtp8-d1xtp8"):
        arm(name, {4: (10, 9000), 8: (20, 9500)})
    found = judged(tmp_path, rule="best_of", arms=["p1xtp4-d1xtp4"], among=among)
    assert found.verdict == verdict
    assert {name for point in found.points for name in point.values} <= {"p1xtp4-d1xtp4", "p2xtp2-d1xtp4", "2xtp4"}


# -- about_equal, far_below --


@pytest.mark.parametrize(
    ("throughputs", "verdict"), [((1040, 1960), "holds"), ((1040, 1800), "partly"), ((1100, 1800), "fails")]
)
def test_about_equal(tmp_path, arm, throughputs, verdict):
    """Against 1000 and 2000, within 5% of the larger: 1040 and 1960 are, 1100 and 1800 are not."""
    arm("p1xtp1-d1xtp1", flat(10, 10))
    arm("spread_p1xtp1-d1xtp1", {4: (10, throughputs[0]), 8: (10, throughputs[1])})
    arms = ["p1xtp1-d1xtp1", "p1xtp1-d1xtp1 spread"]
    assert judged(tmp_path, rule="about_equal", arms=arms, tolerance=0.05).verdict == verdict


def test_a_pool_and_a_pack_of_one_layout(tmp_path, arm):
    """Named, each is itself; not named, either is taken, and what is spread is not."""
    arm("pack_p1xtp1-d1xtp1", {4: (10, 1000)})
    arm("pool_p1xtp1-d1xtp1", {4: (10, 1030)})
    arm("spread_p1xtp1-d1xtp1", {4: (10, 100)})
    about = {"rule": "about_equal", "arms": ["p1xtp1-d1xtp1 pool", "p1xtp1-d1xtp1 pack"]}
    found = judged(tmp_path, **about, tolerance=0.05)
    assert found.verdict == "holds"
    assert list(found.points[0].values.items()) == [("p1xtp1-d1xtp1 pool", 1030), ("p1xtp1-d1xtp1 pack", 1000)]
    assert judged(tmp_path, **about, tolerance=0.01).verdict == "fails"
    either = judged(tmp_path, rule="far_below", arms=["p1xtp1-d1xtp1 spread"], than="p1xtp1-d1xtp1")
    assert either.verdict == "holds" and either.points[0].values["p1xtp1-d1xtp1"] in (1000, 1030)


@pytest.mark.parametrize(("throughputs", "verdict"), [((500, 100), "holds"), ((500, 1100), "partly"), ((600, 1100), "fails")])
def test_far_below(tmp_path, arm, throughputs, verdict):
    arm("spread_srd_p1xtp1-d1xtp1", flat(10, 10))
    arm("spread_tcp_p1xtp1-d1xtp1", {4: (10, throughputs[0]), 8: (10, throughputs[1])})
    claim = {"rule": "far_below", "arms": ["p1xtp1-d1xtp1 spread tcp"], "than": "p1xtp1-d1xtp1 spread"}
    assert judged(tmp_path, **claim).verdict == verdict


def test_arms_on_nodes_of_other_sizes_are_compared_per_node_of_one(tmp_path, arm, make_manifest):
    """The same throughput, of two nodes with a GPU each and of one with two."""
    arm("2xtp1", flat(10, 10), manifest=make_manifest(layout="2xtp1", mode="collocated", gpus_per_node=1))
    arm("p1xtp1-d1xtp1", flat(10, 10), manifest=make_manifest(layout="p1xtp1-d1xtp1", mode="pd-pack", gpus_per_node=2))
    verdict = judged(tmp_path, rule="about_equal", arms=["2xtp1", "p1xtp1-d1xtp1"])
    assert verdict.verdict == "holds" and [set(point.values.values()) for point in verdict.points] == [{250}, {500}]


def test_a_claim_about_inter_token_latency_needs_pieces_alike(tmp_path, write_folder, level_content, lawful):
    fine = level_content(detailed=True, requests=100)
    for name, content in (("2xtp1", fine), ("1xtp2", lawful(fine | {"itls": [[0.05] * 2] * 100, "seed": "2"}))):
        write_folder(tmp_path / "results", MIXED + name, {"conc4.json": content})
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="p99_itl_ms")
    assert (found.verdict, found.missing) == ("no-data", ["1xtp2"])
    assert judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms").missing == []


@pytest.mark.parametrize(("machines", "true"), [("abc", True), ("xyz", False)])
def test_arms_of_the_same_blocks_are_compared_within_them(machines, true):
    """Each block is on a slower machine, where both arms differ by 1%: within blocks that is shown, else not."""
    claim = claims.Claim(
        id="c", says="so", rule="about_equal", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms", tolerance=0.05
    )
    rows = {
        arm: pd.DataFrame({
            "level": 4.0, "block": [1, 2, 3], "machines": list(where), "median_tpot_ms": np.array([10.0, 15.0, 25.0]) * factor,
            "served_share": np.nan, "cap_reached": np.nan, "request_throughput_per_node": 1.0,
        })
        for arm, where, factor in (("1xtp2", "abc", 1.0), ("2xtp1", machines, np.array([1.01, 1.012, 1.008])))
    }  # fmt: skip
    (point,) = judge(claim, rows, exact=False)
    assert point.true == true


def test_with_repeats_an_equivalence_test_must_show_that_arms_are_about_equal(tmp_path, arm):
    """Medians are 1% apart in both; of the second pair repeats differ so much that this shows nothing."""

    def repeated(name, within, *tpots):
        folder = arm(name, flat(tpots[0], tpots[0]), within=within)
        for number, tpot in enumerate(tpots[1:], start=2):
            for file in arm(f"{name}_{number}", flat(tpot, tpot), within="parts").iterdir():
                (folder / f"{file.stem}_rep{number}.json").write_bytes(file.read_bytes())

    equal = {"rule": "about_equal", "arms": ["1xtp2", "2xtp1"], "metric": "median_tpot_ms", "tolerance": 0.05}
    for within, spread, verdict in (("close", 0.01, "holds"), ("wide", 2.0, "fails")):
        repeated("1xtp2", within, 10 - spread, 10, 10 + spread)
        repeated("2xtp1", within, 10.1 - spread, 10.1, 10.1 + spread)
        assert judged(tmp_path, within, **equal).verdict == verdict

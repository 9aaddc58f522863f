"""Claims: every rule in every verdict, on made-up arms."""

import json
import subprocess
import sys

import pytest

import check_claims
from pdbench.analysis import claims
from pdbench.analysis.claim_evidence import read_evidence
from pdbench.configs import ROOT, ConfigError
from pdbench.layout import Layout
from pdbench.manifest import Gate

STUDY = ROOT / "configs/claims/study.yaml"
MIXED = "tiny_itl100_otl11_mixed_"


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    """Writes a folder: {level: (median TPOT in ms, input tokens/s per node of 8)}; each measured a second after the last."""
    second = iter(range(1000))

    def write(name, levels, prefix=MIXED, within="results", manifest=None, **more):
        gpus, files = Layout.parse_published(name)[0].gpus, {}
        for level, (tpot, throughput) in levels.items():
            # Requests of 100 tokens on gpus of the node's 8: 100 x requests / duration = throughput x gpus / 8
            requests = max(20, level)
            content = {
                "requests": requests,
                "duration": 100 * requests * 8 / (throughput * gpus),
                "median_tpot_ms": tpot,
                "date": f"2026-{next(second):04d}",
            }
            files[f"conc{level}.json"] = level_content(level, **content | more)
        folder = write_folder(tmp_path / within, prefix + name, files)
        if manifest:
            manifest.write(folder)
        return folder

    return write


def judged(tmp_path, within="results", **claim):
    """The verdict on one claim about the folders written."""
    asked = claims.Claims(claims=[{"id": "c", "says": "so"} | claim])
    (verdict,) = claims.check(asked, read_evidence([tmp_path / within]))
    return verdict


def flat(*tpots):
    """Levels 4, 8, ... with these TPOTs and throughputs of 1000, 2000, ..."""
    return {4 * (i + 1): (tpot, 1000 * (i + 1)) for i, tpot in enumerate(tpots)}


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


# -- arms that are not there, and which run is taken --


@pytest.mark.parametrize(
    "claim",
    [
        {"rule": "order_by", "arms": ["1xtp2", "2xtp1"]},
        {"rule": "dominated_by", "arms": ["p1xtp1-d1xtp1"], "than": "1xtp2"},
        {"rule": "dominated_by", "arms": ["1xtp2"], "than": "2xtp1"},
        {"rule": "best_of", "arms": ["1xtp2", "2xtp1"]},
        {"rule": "best_by_regime", "regimes": [{"best": "1xtp2"}, {"best": "2xtp1"}]},
        {"rule": "about_equal", "arms": ["1xtp2", "2xtp1"]},
        {"rule": "far_below", "arms": ["1xtp2"], "than": "2xtp1"},
    ],
)
def test_no_data(tmp_path, arm, claim):
    arm("1xtp2", flat(10, 10))
    found = judged(tmp_path, **claim)
    assert (found.verdict, found.points, found.runs) == ("no-data", [], {}) and found.missing


def test_one_output_token_has_no_tpot_to_compare_at(tmp_path, arm):
    for name in ("1xtp2", "2xtp1"):
        arm(name, {4: (0.0, 1000), 8: (0.0, 2000)}, prefix="tiny_itl100_otl1_mixed_", osl=1)
    named = {"order_by": {"at": "latencies"}, "best_of": {}, "dominated_by": {"than": "2xtp1"}}
    for rule, more in named.items():
        arms = ["1xtp2", "2xtp1"][: 1 if "than" in more else 2]
        assert judged(tmp_path, rule=rule, arms=arms, **more).verdict == "no-data"
    assert judged(tmp_path, rule="about_equal", arms=["1xtp2", "2xtp1"]).verdict == "holds"


def test_a_folder_given_twice_is_read_once(tmp_path, arm):
    folder = arm("1xtp2", flat(10))
    evidence = read_evidence([tmp_path, folder, folder / ".." / folder.name])
    assert len(evidence.sources) == 1 and "same results" not in [f.kind for f in evidence.found]


def test_what_was_not_measured_keeps_a_claim_from_holding(tmp_path, arm):
    arm("1xtp2", flat(10, 10))
    arm("2xtp1", flat(12, 12))
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1", "1xtp1"], metric="median_tpot_ms")
    assert (found.verdict, found.missing) == ("partly", ["1xtp1"])


def test_the_latest_run_outside_an_archive_is_taken_and_others_are_tried(tmp_path, arm):
    """The last of three runs of 1xtp2 lies in the archive; with it the order would be the other way round."""
    arm("old_1xtp2", flat(11))
    latest = arm("new_1xtp2", flat(10))
    arm("2xtp1", flat(12))
    archived = arm("1xtp2", flat(13), within="results/archive")
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms")
    assert found.verdict == "holds" and found.runs["1xtp2"] == str(latest)
    assert {name.rsplit("/", 1)[1]: verdict for _, name, verdict in found.others} == {
        f"{MIXED}old_1xtp2": "holds", archived.name: "fails"
    }  # fmt: skip


def test_a_run_of_doubtful_layout_is_the_last_to_be_taken_and_warns(tmp_path, arm):
    """The later folder of p2-d1 is a copy of p2-d2's. For p2-d2 there is no other, so its verdict carries the warning."""
    arm("2xtp1", flat(12))
    clean = arm("p2xtp1-d1xtp1", flat(10))
    twin = arm("p2xtp1-d2xtp1", flat(11))
    copy = tmp_path / "results" / f"{MIXED}again_p2xtp1-d1xtp1"
    copy.mkdir()
    (copy / "conc4.json").write_text((twin / "conc4.json").read_text())
    asked = {"rule": "order_by", "metric": "median_tpot_ms"}
    one, two = (judged(tmp_path, arms=[f"p2xtp1-d{d}xtp1", "2xtp1"], **asked) for d in (1, 2))
    assert one.runs["p2xtp1-d1xtp1"] == str(clean) and "two layouts" not in [f.kind for f in one.warnings]
    assert two.runs["p2xtp1-d2xtp1"] == str(twin)
    (warning,) = (f for f in two.warnings if f.kind == "two layouts")
    assert warning.folders == (str(twin),) and "p2xtp1-d1xtp1 (3 GPUs)" in warning.seen


def test_a_run_whose_decode_cannot_be_its_layouts_is_not_taken(tmp_path, arm):
    for prefill, tpot in ((1, 20), (2, 10), (3, 20)):
        arm(f"p{prefill}xtp1-d1xtp1", flat(tpot))
    arm("2xtp1", flat(30))
    asked = {"rule": "order_by", "metric": "median_tpot_ms"}
    found = judged(tmp_path, arms=["p2xtp1-d1xtp1", "2xtp1"], **asked)
    assert found.verdict == "no-data" and found.missing == ["p2xtp1-d1xtp1"]
    assert [f.kind for f in found.refused] == ["odd decode"]


def test_the_transport_is_what_ucx_named(tmp_path, arm, make_manifest):
    """The names say nothing, the manifests' gates do."""
    for name, seen, throughput in (("a", "srd/rdmap0 (zero-copy)", 1000), ("b", "tcp/ens32 (software emulation)", 10)):
        gate = Gate(name="transport", passed=True, seen=seen, expected="any", time="now")
        arm(f"{name}_p1xtp2-d1xtp2", {4: (10, throughput)}, manifest=make_manifest(gates=[gate], gpus_per_node=8))
    claim = {"rule": "far_below", "arms": ["p1xtp2-d1xtp2 spread tcp"], "than": "p1xtp2-d1xtp2 spread"}
    assert judged(tmp_path, **claim).verdict == "holds"


def test_a_copy_of_a_tcp_run_is_one_too(tmp_path, arm):
    arm("spread_tcp_p1xtp1-d1xtp1", flat(10))
    copy = tmp_path / "results" / f"{MIXED}spread_p1xtp1-d1xtp1"
    copy.mkdir()
    (copy / "conc4.json").write_text((tmp_path / "results" / f"{MIXED}spread_tcp_p1xtp1-d1xtp1" / "conc4.json").read_text())
    found = judged(tmp_path, rule="order_by", arms=["p1xtp1-d1xtp1 spread", "p1xtp1-d1xtp1 spread tcp"])
    assert found.missing == ["p1xtp1-d1xtp1 spread"]


def test_the_workload_of_most_layouts_is_kept_unless_one_is_named(tmp_path, arm):
    arm("1xtp2", flat(10))
    arm("2xtp1", flat(12))
    arm("1xtp1", flat(9), prefix="tiny_itl100_otl21_mixed_", osl=21)
    assert read_evidence([tmp_path]).workload == ("tiny", 100, 11, "mixed", "concurrency")
    evidence = read_evidence([tmp_path], (100, 21))
    assert evidence.workload[2] == 21 and len(evidence.others) == 2


def test_folders_of_one_name_whose_requests_asked_for_another_model_are_not_compared(tmp_path, arm):
    arm("1xtp2", flat(10))
    arm("2xtp1", flat(12))
    arm("4xtp1", flat(9), model_id="org/other")
    evidence = read_evidence([tmp_path])
    assert evidence.workload[0] == "tiny (tiny)" and [name.rsplit("_", 1)[1] for name in evidence.others] == ["4xtp1"]
    assert judged(tmp_path, rule="order_by", arms=["4xtp1", "2xtp1"], metric="median_tpot_ms").missing == ["4xtp1"]


def test_a_saturated_level_proves_nothing_of_ttft(tmp_path, write_folder, level_content):
    """At 8/s both are late; that one queue is the longer is no property of the arm."""
    for name, late in (("1xtp2", 5000.0), ("2xtp1", 9000.0)):
        rates = {f"rr{rate}.json": level_content(None, rate=float(rate), requests=200, duration=took, median_ttft_ms=ttft,
                                              p99_ttft_ms=2 * ttft)
                 for rate, took, ttft in ((2, 100.0, 50.0), (8, 100.0, late))}  # fmt: skip
        write_folder(tmp_path / "results", MIXED + name, rates)
    claim = {"rule": "order_by", "arms": ["1xtp2", "2xtp1"]}
    found = judged(tmp_path, metric="median_ttft_ms", **claim)
    assert [point.at for point in found.points] == ["2"] and found.verdict == "fails", "equal at the rate that is served"
    assert [point.at for point in judged(tmp_path, metric="median_tpot_ms", **claim).points] == ["2", "8"]


# -- the claims file --


def refusal(tmp_path, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        claims.load(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("claim", "reported"),
    [
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1], levles: all}", "unknown key 'claims.0.levles'"),
        ("{id: a, says: b, rule: best}", "claims.0.rule: Input should be 'order_by'"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1]}", "order_by needs 2 arms"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, two]}", "cannot read the layout 'two'"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1 fast]}", "'fast' is not allowed after the layout"),
        ("{id: a, says: b, rule: far_below, arms: [1xtp1]}", "`than` goes with dominated_by and far_below"),
        ("{id: a, says: b, rule: best_of, arms: [1xtp1], regimes: [{best: 1xtp1}]}", "`regimes` goes with best_by_regime"),
        ("{id: a, says: b, rule: best_by_regime, regimes: [{best: 1}]}", "claims.0.regimes.0.best"),
        ("{id: A b, says: b, rule: best_of, arms: [1xtp1]}", "claims.0.id"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1], metric: speed}", "claims.0.metric"),
        ("{id: a, says: b, rule: best_of, arms: [1xtp1], metric: median_ttft_ms}", "throughputs are compared, not median_ttft"),
    ],
)
def test_a_wrong_claim_is_refused_in_one_line(tmp_path, claim, reported):
    message = refusal(tmp_path, f"claims:\n  - {claim}\n")
    assert reported in message and "\n" not in message


def test_ids_are_unique(tmp_path):
    claim = "  - {id: a, says: b, rule: best_of, arms: [1xtp1]}\n"
    assert "several claims are called 'a'" in refusal(tmp_path, f"claims:\n{claim}{claim}")


# -- check_claims.py --


def test_why_a_run_is_not_taken_is_printed(tmp_path, arm, capsys):
    for prefill, tpot in ((1, 20), (2, 10), (3, 20)):
        arm(f"p{prefill}xtp1-d1xtp1", flat(tpot))
    arm("2xtp1", flat(30))
    claim = "{id: c, says: So., rule: order_by, arms: [p2xtp1-d1xtp1, 2xtp1], metric: median_tpot_ms}"
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {claim}\n")
    check_claims.main([str(tmp_path / "claims.yaml"), "--results", str(tmp_path)])
    assert "not taken: results/p2xtp1-d1xtp1: odd decode: median TPOT (ms) by level" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_claim_about_inter_token_latency_needs_pieces_alike(tmp_path, write_folder, level_content, lawful):
    fine = level_content(detailed=True, requests=100)
    for name, content in (("2xtp1", fine), ("1xtp2", lawful(fine | {"itls": [[0.05] * 2] * 100, "seed": "2"}))):
        write_folder(tmp_path / "results", MIXED + name, {"conc4.json": content})
    found = judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="p99_itl_ms")
    assert (found.verdict, found.missing) == ("no-data", ["1xtp2"])
    assert judged(tmp_path, rule="order_by", arms=["1xtp2", "2xtp1"], metric="median_tpot_ms").missing == []


def test_the_verdicts_as_json_and_in_words(tmp_path, arm, capsys):
    arm("2xtp1", {4: (10, 1000), 8: (20, 3000)})
    arm("p1xtp1-d1xtp1", {4: (9, 500), 8: (20, 2000)})
    broken = tmp_path / "results" / f"{MIXED}1xtp1"
    broken.mkdir()
    (broken / "conc4.json").write_text("{")
    claim = "{id: lost, says: It loses., rule: dominated_by, arms: [p1xtp1-d1xtp1], than: 2xtp1}"
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {claim}\n")
    out = tmp_path / "verdicts.json"
    check_claims.main([str(tmp_path / "claims.yaml"), "--results", str(tmp_path), "--json", str(out)])
    text = capsys.readouterr().out
    assert "PARTLY lost: It loses." in text and "1 of 2 as claimed" in text and "tolerance 3%" in text
    assert "NO   4, 9.00 ms: p1xtp1-d1xtp1 500, 2xtp1 -" in text and "partly: 1" in text
    assert f"not read: {broken}/conc4.json: not whole JSON" in " ".join(text.split())
    (verdict,) = json.loads(out.read_text())
    assert (verdict["id"], verdict["verdict"]) == ("lost", "partly")
    assert verdict["numbers"][0] == {
        "at": "4, 9.00 ms", "as_claimed": False, "values": {"p1xtp1-d1xtp1": pytest.approx(500), "2xtp1": None}
    }  # fmt: skip


def test_needs_neither_ray_nor_vllm():
    code = "import sys, check_claims, pdbench.analysis.claims, pdbench.output.claim_text; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in run.stdout.split()} & {"ray", "vllm", "torch", "matplotlib"}


@pytest.mark.parametrize(
    ("argv", "reported"),
    [
        (
            ["{root}/none.yaml", "--results", "{root}"],
            "no such file: {root}/none.yaml (there are: configs/claims/h200x2.yaml, configs/claims/study.yaml)",
        ),
        (["{study}", "--results", "{root}/none"], "{root}/none: no such folder"),
        (["{study}", "--results", "{root}"], "{root}: no result folder that can be read"),
        (["{study}", "--results", "{root}", "--workload", "5000"], "--workload: '5000' is not like 5000:250"),
        (["{study}"], "required: --results"),
    ],
)
def test_mistakes_are_reported_in_one_line(tmp_path, capsys, argv, reported):
    fill = {"root": tmp_path, "study": STUDY}
    with pytest.raises(SystemExit) as caught:
        check_claims.main([word.format(**fill) for word in argv])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and reported.format(**fill) in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("experiment", "verdicts"),
    [
        ("first", ["holds", "partly", "partly", "fails", "no-data", *["no-data"] * 5]),
        ("120b", ["holds", "fails", "fails", "fails", "no-data", "partly", "partly", "holds", "holds", "holds"]),
        ("network", [*["no-data"] * 4, "holds", *["no-data"] * 5]),
    ],
)
def test_the_claims_of_our_own_results(experiment, verdicts):
    """What docs/GPU.md says of them."""
    folders = sorted((ROOT / "bm_results").glob(f"*_h200x2_{experiment}_*"))
    found = claims.check(claims.load(ROOT / "configs/claims/h200x2.yaml"), read_evidence(folders))
    assert [verdict.verdict for verdict in found] == verdicts


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

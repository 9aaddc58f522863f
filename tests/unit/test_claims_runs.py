"""Claims: which run speaks for an arm, and what is said where none does."""

import json

import pytest

import check_claims
from pdbench.analysis import claims
from pdbench.analysis.claim_evidence import read_evidence
from pdbench.manifest import Gate
from tests.helpers.claims import MIXED, flat, judged, writer


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    return writer(tmp_path, write_folder, level_content)


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


def test_settings_of_the_transport_make_another_arm(tmp_path, arm, make_manifest):
    """A run with larger segments neither speaks for the arm over TCP nor replaces it; what all have is the hardware's."""
    gate = Gate(name="transport", passed=True, seen="tcp/lo (software emulation)", expected="any", time="now")
    shared = {"UCX_TLS": "tcp", "UCX_RNDV_THRESH": "8192"}
    for name, own, throughput in (("plain", {}, 10), ("segments", {"UCX_TCP_TX_SEG_SIZE": "1m"}, 100)):
        engines = {role: {"runtime_env": {"env_vars": shared | own}} for role in ("prefill", "decode")}
        found = make_manifest(layout="p1xtp1-d1xtp1", mode="pd-spread", gates=[gate], gpus_per_node=8, llm_configs=engines)
        arm(f"spread_p1xtp1-d1xtp1_{name}", {4: (10, throughput)}, manifest=found)
    tcp, segments = "p1xtp1-d1xtp1 spread tcp", "p1xtp1-d1xtp1 spread tcp UCX_TCP_TX_SEG_SIZE=1m"
    found = judged(tmp_path, rule="far_below", arms=[tcp], than=segments)
    assert found.verdict == "holds" and found.others == []
    assert {name: folder.rpartition("_")[2] for name, folder in found.runs.items()} == {tcp: "plain", segments: "segments"}
    assert judged(tmp_path, rule="far_below", arms=[tcp], than=f"{tcp} UCX_TCP_TX_SEG_SIZE=2m").missing != []


@pytest.fixture
def with_arguments(arm, make_manifest):
    """Return what writes a run of 1xtp1, whose engines have these arguments and variables of the environment."""

    def write(name, throughput, env=None, **own):
        engine = {"enable_prefix_caching": False} | own
        config = {"collocated": {"engine_kwargs": engine, "runtime_env": {"env_vars": env or {}}}}
        found = make_manifest(layout="1xtp1", gpus_per_node=8, llm_configs=config)
        return arm(f"1xtp1_{name}", {4: (10, throughput)}, manifest=found)

    return write


def taken(verdict):
    return {arm: folder.rpartition("_")[2] for arm, folder in verdict.runs.items()}


def sizes(*graphs):
    return {"cudagraph_capture_sizes": list(graphs)}


SMALL = "1xtp1 max_num_batched_tokens=512"


def test_arguments_of_the_engines_make_another_arm(tmp_path, with_arguments):
    """What a claim does not name is taken last, though it is the latest; sizes of CUDA graphs follow from what it names."""
    with_arguments("own", 100, compilation_config=sizes(8192))
    with_arguments("small", 10, compilation_config=sizes(512), max_num_batched_tokens=512)
    with_arguments("smallest", 1, compilation_config=sizes(512), max_num_batched_tokens=512, block_size=64)
    found = judged(tmp_path, rule="far_below", arms=[SMALL], than="1xtp1")
    assert found.verdict == "holds" and taken(found) == {SMALL: "small", "1xtp1": "own"}
    both = f"{SMALL} block_size=64"
    assert taken(judged(tmp_path, rule="far_below", arms=[both], than=SMALL)) == {both: "smallest", SMALL: "small"}
    missing = "1xtp1 max_num_batched_tokens=9"
    assert judged(tmp_path, rule="far_below", arms=[missing], than="1xtp1").missing == [missing]


def test_sizes_of_graphs_alone_make_a_run_that_is_taken_last(tmp_path, with_arguments):
    claim = {"rule": "far_below", "arms": ["1xtp1 performance_mode=interactivity"], "than": "1xtp1"}
    with_arguments("plain", 100)
    with_arguments("fine", 90, compilation_config=sizes(1, 2, 3))
    with_arguments("mode", 10, performance_mode="interactivity")
    assert taken(judged(tmp_path, **claim)) == {claim["arms"][0]: "mode", "1xtp1": "plain"}


def test_no_run_is_two_arms_and_variables_are_no_arguments(tmp_path, with_arguments):
    """A run is found by an argument that all runs have, too."""
    claim = {"rule": "far_below", "arms": ["1xtp1"], "than": SMALL}
    with_arguments("small", 10, {"VLLM_LOGGING_LEVEL": "DEBUG"}, max_num_batched_tokens=512)
    found = judged(tmp_path, **claim)
    assert found.verdict == "no-data" and found.missing == ["1xtp1"]
    with_arguments("debug", 1, {"VLLM_LOGGING_LEVEL": "DEBUG"})
    with_arguments("info", 90, {"VLLM_LOGGING_LEVEL": "INFO"})
    assert taken(judged(tmp_path, **claim)) == {SMALL: "small", "1xtp1": "info"}


def test_a_variable_of_ray_serve_makes_another_arm(tmp_path, arm, make_manifest):
    """The one without it is meant where a claim does not name it, though it is older; so is a router's own way."""
    for name, throughput, own, router in (
        ("plain", 100, {}, "power-of-two"),
        ("asked", 10, {"RAY_SERVE_CACHE_2": "0"}, "power-of-two"),
        ("turns", 1, {}, "round-robin"),
    ):
        path = {"env": {"RAY_SERVE_HAPROXY_MAXCONN": name, "RAY_SERVE_LOG": "1"} | own, "router": router}
        arm(f"2xtp1_{name}", {4: (10, throughput)}, manifest=make_manifest(layout="2xtp1", serving_path=path))
    arm("4xtp1_one", {4: (10, 1000)}, manifest=make_manifest(layout="4xtp1", serving_path=path))
    asked, turns = "2xtp1 RAY_SERVE_CACHE_2=0", "2xtp1 router=round-robin"
    for arms in ([asked], [turns]):
        found = judged(tmp_path, rule="far_below", arms=arms, than="2xtp1")
        assert found.verdict == "holds" and taken(found) == {arms[0]: "asked" if arms == [asked] else "turns", "2xtp1": "plain"}
    assert taken(judged(tmp_path, rule="far_below", arms=["2xtp1"], than="4xtp1"))["2xtp1"] == "plain"
    missing = "2xtp1 RAY_SERVE_CACHE_2=1"
    assert judged(tmp_path, rule="far_below", arms=[missing], than="2xtp1").missing == [missing]


def test_what_a_run_does_not_record_of_ray_serve_says_nothing(tmp_path, arm, make_manifest):
    """Of runs that say nothing else of their own the latest is taken, recorded or not; the port's limit is no setting."""
    for name, path in (("old", None), ("new", {"env": {"RAY_SERVE_LOG": "1"}}), ("newest", {"env": {"RAY_SERVE_LOG": "1"}})):
        path = path and {"env": path["env"] | {"RAY_SERVE_HAPROXY_MAXCONN": name}}
        arm(f"2xtp1_{name}", {4: (10, 100)}, manifest=make_manifest(layout="2xtp1", serving_path=path))
    arm("4xtp1_one", {4: (10, 1000)}, manifest=make_manifest(layout="4xtp1", serving_path={"env": {"RAY_SERVE_LOG": "1"}}))
    assert taken(judged(tmp_path, rule="far_below", arms=["2xtp1"], than="4xtp1"))["2xtp1"] == "newest"


def test_a_variable_of_ray_serve_excuses_no_graphs(tmp_path, arm, make_manifest):
    """Sizes of CUDA graphs follow from arguments of the engines, not from how requests are routed."""
    path = {"env": {"RAY_SERVE_CACHE_2": "0"}, "router": "round-robin"}
    for name, own in (("own", {}), ("fine", {"compilation_config": sizes(1, 2, 3)})):
        config = {"collocated": {"engine_kwargs": {"enable_prefix_caching": False} | own}}
        made = make_manifest(layout="2xtp1", serving_path=path, llm_configs=config)
        arm(f"2xtp1_{name}", {4: (10, 100)}, manifest=made)
    arm("4xtp1_one", {4: (10, 1000)}, manifest=make_manifest(layout="4xtp1", serving_path=path, llm_configs=config))
    for asked in ("2xtp1 RAY_SERVE_CACHE_2=0", "2xtp1 router=round-robin"):
        assert taken(judged(tmp_path, rule="far_below", arms=[asked], than="4xtp1"))[asked] == "own"


def test_the_longest_of_a_latency_is_asked_of_the_details_of_large_folders_too(
    tmp_path, write_folder, level_content, monkeypatch, capsys
):
    monkeypatch.setattr("pdbench.read.folder.SMALL", 0)
    for name in ("1xtp1", "2xtp1"):
        write_folder(tmp_path, MIXED + name, {"conc4.json": level_content(4, detailed=True)})
    claim = {"id": "c", "says": "so", "rule": "about_equal", "arms": ["1xtp1", "2xtp1"], "metric": "max_itl_ms"}
    assert claims.check(claims.Claims(claims=[claim]), read_evidence([tmp_path]))[0].verdict == "no-data"
    (tmp_path / "claims.yaml").write_text(json.dumps({"claims": [claim]}))
    check_claims.main([str(tmp_path / "claims.yaml"), "--results", str(tmp_path)])
    assert "HOLDS c" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked", [{"metric": "max_ttft_ms"}, {"at": "latencies", "latency": "max_itl_ms"}, {"metric": "p99_itl_ms"}]
)
def test_which_claims_need_details(asked):
    claim = {"id": "c", "says": "so", "rule": "order_by", "arms": ["1xtp1", "2xtp1"]} | asked
    assert claims.Claims(claims=[claim]).of_details == ("max_" in str(asked))


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

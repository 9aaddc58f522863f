"""What is said of the engines and the client after a level; real engines are in the e2e tests."""

import pytest

from pdbench.doctor.environment import check_environment
from pdbench.doctor.facts import Facts
from pdbench.measure import level_gates
from pdbench.measure.bench_client import Used
from pdbench.measure.level_gates import Asked, Snapshot, client_gate, judge
from pdbench.model.kv_cache import KVCache
from pdbench.network.ucx import LOUD_LEVELS

# 2 of 4 layers full, 2 with a window of 128; 256 bytes per token and layer.
CACHE = KVCache(heads=2, head_dim=32, layers=4, sliding_layers=2, sliding_window=128)
PD = {"prefill": {"engine_kwargs": {"tensor_parallel_size": 1}}, "decode": {"engine_kwargs": {"tensor_parallel_size": 1}}}
UCX = {"backend": "UCX", "ucx_tls": "tcp", "verbose": False}
MOVED = {"kv_bytes": 10 * 1000 * 1000.0, "kv_transfers": 10.0, "kv_seconds": 0.5, "kv_failed": 0.0}
REPLICAS = {"p1": 11, "d1": 12}


@pytest.fixture
def pd(make_manifest):
    return make_manifest("p1xtp1-d1xtp1", transport=UCX, kv_cache=CACHE.model_dump(), llm_configs=PD).deployment


def gates_of(deployment, prefill=None, decode=None, replicas=None, carried=("tcp/lo",), since=(), compiled=("k",),
             **asked):  # fmt: skip
    """Gates of a level of 10 requests of 1000 tokens; the engines had 5 finished before it."""
    before = {
        "prefill": {"requests": 5.0, "prefix_cache_queries": 500.0, "prefix_cache_hits": 7.0},
        "decode": {"requests": 5.0, **dict.fromkeys(MOVED, 3.0)},
    }
    grew = {"prefill": {"requests": 10.0, "prefix_cache_queries": 10000.0} | (prefill or {}),
            "decode": {"requests": 10.0} | MOVED | (decode or {})}  # fmt: skip
    after = {role: {k: before[role].get(k, 0.0) + grew[role].get(k, 0.0) for k in before[role] | grew[role]} for role in before}
    begun = Snapshot(counters=before, replicas=REPLICAS, since=list(since), compiled={"monitored": 2, "kernels": ["k"]})
    ended = Snapshot(counters=after, replicas=replicas or REPLICAS, compiled={"monitored": 2, "kernels": compiled})
    found = judge(begun, ended, deployment, Asked(requests=10, isl=1000, **asked), list(carried))
    return {gate.name: gate for gate in found}


def failed(gates):
    return [name for name, gate in gates.items() if not gate.passed]


def test_a_clean_level_passes_all(pd):
    gates = gates_of(pd)
    always = ["same-replicas", "requests", "prefix-cache", "no-debug-logging", "no-compilation"]
    assert list(gates) == [*always, "kv-transfer", "transport"]
    assert failed(gates) == []
    assert gates["kv-transfer"].seen == "10 transfers, 9.5 MiB in 0.50 s (0.02 GB/s), 0 failed, 0 expired"
    assert gates["kv-transfer"].value == pytest.approx(0.02) and gates["prefix-cache"].value == 0


def test_where_load_shifts_the_kv_cache_of_each_prompt_is_expected(pd):
    """Five prompts of 1000 tokens and five of 10 weigh about half of ten of 1000."""
    lengths = [1000] * 5 + [10] * 5
    half = {"kv_bytes": MOVED["kv_bytes"] * 0.505}
    assert failed(gates_of(pd, decode=half)) == ["kv-transfer"], "too few for ten of 1000"
    assert failed(gates_of(pd, decode=half, lengths=lengths)) == []
    assert failed(gates_of(pd, lengths=lengths)) == ["kv-transfer"], "too many"


def test_requests_that_haproxy_gave_to_its_fallback_do_not_count(pd):
    engines = {"prefill": {"requests": 5.0, "prefix_cache_queries": 9.0}, "decode": {"requests": 5.0} | MOVED}
    gates = {}
    for after in (3.0, 4.0):
        begun = Snapshot(counters=engines | {"ingress": {"fallback_requests": 3.0}}, replicas=REPLICAS)
        ended = Snapshot(counters=engines | {"ingress": {"fallback_requests": after}}, replicas=REPLICAS)
        gates[after] = {gate.name: gate for gate in judge(begun, ended, pd, Asked(requests=1, isl=1000), None)}
    assert gates[3.0]["serving-path"].passed and not gates[4.0]["serving-path"].passed
    assert gates[4.0]["serving-path"].seen == "1 requests went through the fallback proxy"


def test_every_rank_that_was_launched_to_report_compilations_must(pd):
    """P of TP1 and two replicas of D with TP2: five ranks; two have reported in these snapshots."""
    monitored = {"jit_monitor_verbose": True}
    pd.llm_configs = {
        "prefill": {"engine_kwargs": monitored | {"tensor_parallel_size": 1}, "deployment_config": {"num_replicas": 1}},
        "decode": {"engine_kwargs": monitored | {"tensor_parallel_size": 2}, "deployment_config": {"num_replicas": 2}},
    }
    gate = gates_of(pd)["no-compilation"]
    assert not gate.passed and gate.seen == "2 of 5 ranks report what they compile"


@pytest.mark.parametrize(
    ("change", "gate", "seen"),
    [
        ({"replicas": {"p1": 11, "d2": 13}}, "same-replicas", "new d2; gone d1"),
        ({"replicas": {"p1": 99, "d1": 12}}, "same-replicas", "new p1; gone p1"),
        ({"decode": {"requests": 11.0}}, "requests", "11 requests finished"),
        ({"decode": {"requests": 9.0}}, "requests", "9 requests finished"),
        ({"prefill": {"prefix_cache_hits": 300.0}}, "prefix-cache", "3.0% of 10000 prompt tokens were cached"),
        ({"prefill": {"prefix_cache_queries": 0.0}}, "prefix-cache", "0.0% of 0 prompt tokens were cached"),
        ({"decode": {"kv_transfers": 9.0}}, "kv-transfer", "9 transfers"),
        ({"decode": {"kv_bytes": 0.0}}, "kv-transfer", "0.0 MiB"),
        ({"decode": {"kv_bytes": 3e6}}, "kv-transfer", "2.9 MiB"),
        ({"decode": {"kv_bytes": 2e7}}, "kv-transfer", "19.1 MiB"),
        ({"decode": {"kv_failed": 1.0}}, "kv-transfer", "1 failed"),
        ({"prefill": {"kv_expired": 2.0}}, "kv-transfer", "2 expired"),
        ({"carried": ["cma/memory"]}, "transport", "cma/memory"),
        ({"carried": []}, "transport", "none"),
        ({"transport": ["srd"]}, "transport", "tcp/lo"),
        ({"compiled": ["k", "topk"]}, "no-compilation", "1 compilations on 2 ranks: topk"),
    ],
)
def test_each_gate_fails_for_its_own_reason(pd, change, gate, seen):
    gates = gates_of(pd, **change)
    assert failed(gates) == [gate] and seen in gates[gate].seen
    assert gates[gate].expected and gates[gate].advice


def test_after_an_interrupted_sweep_its_aborted_requests_are_not_blamed_on_others(pd):
    """As after Ctrl-C and the same command again: 4 requests end late, and the blocks of 2 expire."""
    gates = gates_of(pd, decode={"requests": 14.0}, prefill={"kv_expired": 2.0})
    assert failed(gates) == ["requests", "kv-transfer"]
    assert gates["requests"].advice.startswith("requests that an interrupted sweep aborted may end only now: run the same")
    assert gates["kv-transfer"].advice.startswith("KV blocks of requests that were aborted, as by Ctrl-C in a sweep, expire")


def test_where_nothing_was_aborted_nothing_is_said_of_it(pd):
    gates = gates_of(pd, decode={"requests": 9.0, "kv_failed": 1.0})
    assert failed(gates) == ["requests", "kv-transfer"]
    assert "abort" not in gates["requests"].advice + gates["kv-transfer"].advice


def test_hits_within_the_bound_pass(pd):
    hits = {"prefix_cache_hits": 300.0}
    assert failed(gates_of(pd, prefill=hits, max_hit_rate=0.03)) == []


def test_what_checks_sent_before_the_level_is_counted_in(pd):
    """Two prompts, of 20 and 512 tokens: 2 requests and transfers more, and at least 2 x 512 x 256 + 2 x 128 x 256 bytes."""
    assert failed(gates_of(pd, since=[20, 512])) == ["requests", "kv-transfer"]
    gates = gates_of(pd, since=[20, 512], decode={"requests": 12.0, "kv_transfers": 12.0, "kv_bytes": 1.1e7})
    assert failed(gates) == [] and gates["requests"].expected == "12, warm-up and checks included"


def test_hits_save_bytes_but_no_transfer(pd):
    """As in bm_results: 45 transfers of 45 requests with 47% of the prompts' tokens cached, and a third of the bytes."""
    saved = {"kv_transfers": 10.0, "kv_bytes": 3e6}
    assert failed(gates_of(pd, decode=saved)) == ["kv-transfer"]
    assert failed(gates_of(pd, decode=saved, max_hit_rate=0.5)) == []
    for allowed in (0.02, 0.5, 1):
        gates = gates_of(pd, decode=saved | {"kv_transfers": 9.0, "kv_bytes": 9.9e6}, max_hit_rate=allowed)
        assert failed(gates) == ["kv-transfer"]
        assert gates["kv-transfer"].expected.startswith("at least one transfer for each of 10 requests")


def test_a_level_expects_a_transfer_for_each_rank(make_manifest):
    two = PD | {"decode": {"engine_kwargs": {"tensor_parallel_size": 2}}}
    made = {"transport": UCX, "kv_cache": CACHE.model_dump(), "llm_configs": two}
    deployment = make_manifest("p1xtp1-d1xtp2", **made).deployment
    gate = gates_of(deployment)["kv-transfer"]
    assert not gate.passed and gate.expected.startswith("at least 2 transfers for each of 10 requests")
    assert failed(gates_of(deployment, decode={"kv_transfers": 20.0})) == []


def test_without_a_prefix_cache_there_is_nothing_to_count(make_manifest):
    off = {"prefill": {"engine_kwargs": {"enable_prefix_caching": False}}, "decode": PD["decode"]}
    deployment = make_manifest("p1xtp1-d1xtp1", transport=UCX, llm_configs=off).deployment
    assert failed(gates_of(deployment, prefill={"prefix_cache_queries": 0.0})) == []


@pytest.mark.parametrize("variable", LOUD_LEVELS)
@pytest.mark.parametrize("level", ["data", "FUNC", "poll", "req", "async", "Debug", "trace", "info", "warn", ""])
def test_what_the_doctor_calls_loud_fails_a_level(make_manifest, variable, level):
    deployment = make_manifest("p1xtp1-d1xtp1", transport=UCX, kv_cache=CACHE.model_dump(), llm_configs=PD).deployment
    deployment.machines[0].environment[variable] = level
    found = {finding.name: finding for finding in check_environment("n", Facts(environment={variable: level}))}
    assert (failed(gates_of(deployment)) == ["no-debug-logging"]) == (found[variable].status != "ok")


def test_debug_logging_is_seen_in_engines_and_machines(make_manifest):
    loud = PD | {"decode": PD["decode"] | {"runtime_env": {"env_vars": {"NIXL_LOG_LEVEL": "DEBUG", "UCX_LOG_LEVEL": "info"}}}}
    gates = gates_of(make_manifest("p1xtp1-d1xtp1", transport=UCX, llm_configs=loud).deployment)
    assert failed(gates) == ["no-debug-logging"] and gates["no-debug-logging"].seen == "NIXL_LOG_LEVEL=DEBUG"
    deployment = make_manifest("p1xtp1-d1xtp1", transport=UCX, llm_configs=PD).deployment
    deployment.machines[0].environment["UCX_LOG_LEVEL"] = "trace"
    assert gates_of(deployment)["no-debug-logging"].seen == "UCX_LOG_LEVEL=trace"


def test_collocated_arms_move_no_kv_cache(make_manifest):
    counters = {"requests": 10.0, "prefix_cache_queries": 10000.0}
    before = Snapshot(counters={"collocated": {}}, replicas=REPLICAS)
    after = Snapshot(counters={"collocated": counters}, replicas=REPLICAS)
    deployment = make_manifest("2xtp1", "collocated").deployment
    found = judge(before, after, deployment, Asked(requests=10, isl=1000), None)
    names = ["same-replicas", "requests", "prefix-cache", "no-debug-logging", "no-compilation"]
    assert [gate.name for gate in found] == names
    assert all(gate.passed for gate in found)


@pytest.mark.parametrize(("cpu", "passes"), [(1.78, True), (1.82, False)])
def test_a_client_that_uses_a_whole_core_is_in_the_way(cpu, passes):
    gate = client_gate(Used(cpu=cpu, waited=0.5, wall=2.0))
    assert gate.passed is passes
    assert gate.seen == f"the bench client used {cpu / 2:.0%} of a core and waited 25% of the time for one"


def test_more_ranks_than_heads_hold_a_head_twice(pd):
    pd.llm_configs["decode"] = {"engine_kwargs": {"tensor_parallel_size": 4}}
    least, most = level_gates._kv_bounds(pd, [1000, 500])
    assert (least, most) == tuple(2 * (a + b) for a, b in zip(CACHE.bounds(1000), CACHE.bounds(500)))


def test_what_a_prompts_kv_cache_weighs():
    """gpt-oss-120b: 36 layers, 18 of them with a window of 128; 8 heads of 64 in 2 bytes: 2 KiB per token and layer."""
    big = KVCache(heads=8, head_dim=64, layers=36, sliding_layers=18, sliding_window=128)
    assert big.layer_token_bytes == 2048
    # 5000 tokens are 39 blocks of 128 and 8 tokens: full layers 39 blocks, sliding ones 1.
    assert big.bounds(5000) == (18 * (4992 + 128) * 2048, 36 * (4992 + 256) * 2048)
    assert big.bounds(1)[0] == 0 < big.bounds(1)[1]


def test_the_level_is_judged_when_all_that_was_sent_shows(make_manifest, monkeypatch):
    """Counted late, requests rise by one with each look: 10 of the level, 3 of the checks before it."""
    shown = iter(range(100, 200))

    async def look(base_url, since):
        return Snapshot(counters={"collocated": {"requests": next(shown), "prefix_cache_queries": 1}}, replicas={"r": 1})

    async def at_once(seconds):
        pass

    monkeypatch.setattr(level_gates, "_snapshot", look)
    monkeypatch.setattr(level_gates.asyncio, "sleep", at_once)
    before = Snapshot(counters={"collocated": {"requests": 100}}, replicas={"r": 1}, since=[20, 20, 20])
    deployment, used = make_manifest("2xtp1", "collocated").deployment, Used(cpu=0, waited=0, wall=1)
    found, after = level_gates.check("url", before, deployment, Asked(requests=10, isl=1000), used)
    assert all(gate.passed for gate in found) and found[1].seen == "13 requests finished"
    assert after.requests == 113 and after.since == []

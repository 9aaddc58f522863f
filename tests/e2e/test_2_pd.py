"""Prefill/decode for real: the KV cache moves over NIXL, and greedy tokens equal the collocated ones."""

import re

import psutil
import requests

from pdbench.manifest import Manifest
from tests.helpers.commands import BIN, URL, bench, deployment, level, module, run
from tests.helpers.faults import launch_with_other_prefill_weights


def nodes(found: dict) -> dict[str, set[str]]:
    by_role: dict[str, set[str]] = {}
    for replica in found["replicas"]:
        by_role.setdefault(replica["role"], set()).add(replica["node_ip"])
    return by_role


def cores(pid: int) -> set[int]:
    """Cores that the engine rank below a replica's process may use."""
    (worker,) = (p for p in psutil.Process(pid).children(recursive=True) if p.name().startswith("VLLM::Worker"))
    return set(worker.cpu_affinity())


def gate_lines(tokens, check: bool = True):
    return module("gates", "--against", str(tokens), check=check).stdout


def test_pack_tp1_to_tp1(deployed, tokens, tmp_path):
    deployed("--pd-pack", "--layout", "p1xtp1-d1xtp1")
    found = deployment()
    assert nodes(found)["prefill"] == nodes(found)["decode"] == {"127.0.0.3"}
    assert chunks_of_a_stream() > 40, "each token comes by itself"
    lines = gate_lines(tokens)
    assert "ok   token-equality: 36 of 36" in lines
    assert "ok   kv-transfer: 36 transfers" in lines
    bench(tmp_path, "-e", "pack", "--isl", "300", "--osl", "16", "-c", "2,1", "--tokens", str(tokens))
    folder = tmp_path / "gpt-oss-tiny_itl300_otl16_mixed_pack"
    assert level(folder, "conc2.json")["completed"] == 10
    gates = {g.name: g for g in Manifest.read(folder).deployment.gates}
    assert set(gates) == {"readiness", "haproxy", "ports", "core-per-rank", "token-equality", "kv-transfer", "transport"}
    assert gates["core-per-rank"].seen == "2 ranks pinned to a core"
    assert sorted(cores(r["pid"]) for r in found["replicas"] if r["role"] != "ingress") == [{0}, {1}]
    assert all(g.passed for g in gates.values()) and gates["transport"].seen == "cma/memory (zero-copy)"
    first, second = ({g.name: g for g in record.gates} for record in Manifest.read(folder).levels)
    around = {"same-replicas", "requests", "prefix-cache", "no-debug-logging", "no-compilation", "serving-path", "client"}
    around |= {"kv-transfer", "transport"}
    assert set(first) == set(second) == around | {"readiness", "token-equality"}
    assert first["kv-transfer"].seen.startswith("12 transfers") and first["kv-transfer"].value > 0
    # After the first level D's replica and 4 prompts were asked; then came a warm-up and 5 requests.
    assert second["requests"].seen == "11 requests finished" and second["kv-transfer"].seen.startswith("11 transfers")
    assert all(gate["token-equality"].seen.startswith("4 of 4 continuations equal") for gate in (first, second))
    assert re.fullmatch(r"Prefill:gpt-oss-tiny: \w+; Decode:gpt-oss-tiny: \w+", first["readiness"].seen)

    done = bench(tmp_path, "-e", "other", "--isl", "300", "--osl", "16", "-c", "1", "--transport", "srd", check=False)
    assert done.returncode == 1 and "level conc1 does not count: transport: cma/memory (zero-copy); expected srd" in done.stderr


def test_spread_over_tcp(deployed, tokens):
    deployed("--pd-spread", "--p-num", "1", "--p-tp", "1", "--d-num", "1", "--d-tp", "1", "--ucx-tls", "tcp")
    found = deployment()
    placed = nodes(found)
    assert len(placed["prefill"]) == len(placed["decode"]) == 1 and placed["prefill"] != placed["decode"]
    assert found["llm_configs"]["decode"]["runtime_env"]["env_vars"]["UCX_TLS"] == "tcp"
    lines = gate_lines(tokens)
    assert "ok   token-equality: 36 of 36" in lines
    assert "ok   transport: tcp/lo" in lines
    said = run(str(BIN / "python"), "debug/which_transport.py", "--live").stdout
    assert re.search(r"prefill \w+ on 127\.0\.0\.\d -> decode \w+ on 127\.0\.0\.\d: tcp/lo\n", said)
    assert "| software emulation" in said and "0 failed" in said


def chunks_of_a_stream() -> int:
    """In how many pieces 64 streamed tokens arrive."""
    body = {"model": "gpt-oss-tiny", "prompt": list(range(300, 330)), "max_tokens": 64, "ignore_eos": True, "stream": True}
    with requests.post(f"{URL}/v1/completions", json=body, stream=True, timeout=60) as answer:
        pieces = list(answer.iter_content(chunk_size=None))
    assert b"".join(pieces).count(b"data: {") >= 63
    return len(pieces)


# In one node: three ranks that poll for TCP on two cores let transfers outlive P's lease.
def test_decode_of_a_larger_tp_size_and_options_of_ray_serve_llm(deployed, tokens):
    """The options change how tokens come, and where prompts become tokens, but not which; P of a larger size has the test of
    direct streaming."""
    options = ["--llm-option", "stream_batching_interval_ms=1000", "--llm-option", "pd_tokenize_once=false"]
    deployed("--pd-pack", "--layout", "p1xtp1-d1xtp2", *options)
    given = deployment()["llm_configs"]["decode"]["experimental_configs"]
    assert given["pd_tokenize_once"] is False and given["_prewarm_prefill_decode"] is True
    lines = gate_lines(tokens)
    assert "ok   token-equality: 36 of 36" in lines and "ok   kv-transfer" in lines
    assert chunks_of_a_stream() < 20


def test_a_wrong_kv_cache_and_debug_logging_are_noticed(local_cluster, shared, tokens, tmp_path):
    """P with other weights fills D's blocks with another model's keys and values: the gate must fail."""
    with launch_with_other_prefill_weights(shared / "other-weights"):
        lines = gate_lines(tokens, check=False)
        done = bench(tmp_path, "-e", "loud", "--isl", "300", "--osl", "16", "-c", "1", check=False)
    assert done.returncode == 1 and "no-debug-logging: NIXL_LOG_LEVEL=DEBUG" in done.stderr
    assert "FAIL token-equality" in lines and "differs from token" in lines
    assert "ok   kv-transfer" in lines, "the transfer itself works: only its content is wrong"

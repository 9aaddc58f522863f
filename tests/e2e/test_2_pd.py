"""Prefill/decode for real: the KV cache moves over NIXL, and greedy tokens equal the collocated ones."""

import os
import re
import shutil

import psutil
import pytest
import requests

from pdbench.configs import load_model
from pdbench.manifest import Manifest
from pdbench.model.model_folder import ensure_model
from tests.helpers.commands import BIN, ROOT, URL, bench, deployment, launch, level, module, run, stop, wait_for


def nodes(found: dict) -> dict[str, set[str]]:
    by_role: dict[str, set[str]] = {}
    for replica in found["replicas"]:
        by_role.setdefault(replica["role"], set()).add(replica["node_ip"])
    return by_role


def cores(pid: int) -> list[set[int]]:
    """Cores that each engine rank below a replica's process may use."""
    below = psutil.Process(pid).children(recursive=True)
    return [set(process.cpu_affinity()) for process in below if process.name().startswith("VLLM::Worker")]


def gate_lines(tokens, check: bool = True):
    return module("gates", "--against", str(tokens), check=check).stdout


# In one node: three ranks that poll for TCP on two cores let transfers outlive P's lease.
def test_pack_and_decode_of_a_larger_tp_size(deployed, tokens, tmp_path):
    """P of a larger size has the test of direct streaming; packed engines of one size have those of bare servers and pools."""
    deployed("--pd-pack", "--layout", "p1xtp1-d1xtp2")
    found = deployment()
    assert nodes(found)["prefill"] == nodes(found)["decode"] == {"127.0.0.3"}
    assert chunks_of_a_stream() > 40, "each token comes by itself"
    lines = gate_lines(tokens)
    assert "ok   token-equality: 36 of 36" in lines
    assert "ok   kv-transfer: 72 transfers" in lines, "one to each rank of D"
    bench(tmp_path, "-e", "pack", "--isl", "300", "--osl", "16", "-c", "2,1", "--tokens", str(tokens))
    folder = tmp_path / "gpt-oss-tiny_itl300_otl16_mixed_pack"
    assert level(folder, "conc2.json")["completed"] == 10
    gates = {g.name: g for g in Manifest.read(folder).deployment.gates}
    assert set(gates) == {"readiness", "haproxy", "ports", "core-per-rank", "token-equality", "kv-transfer", "transport"}
    assert gates["core-per-rank"].seen == "3 ranks pinned to a core"
    pinned = [core for r in found["replicas"] if r["role"] != "ingress" for core in cores(r["pid"])]
    assert sorted(map(list, pinned)) == sorted([number % os.cpu_count()] for number in range(3))
    assert all(g.passed for g in gates.values()) and gates["transport"].seen == "cma/memory (zero-copy)"
    first, second = ({g.name: g for g in record.gates} for record in Manifest.read(folder).levels)
    around = {"same-replicas", "requests", "prefix-cache", "no-debug-logging", "no-compilation", "serving-path", "client"}
    around |= {"kv-transfer", "transport"}
    assert set(first) == set(second) == around | {"readiness", "token-equality"}
    assert first["kv-transfer"].seen.startswith("24 transfers") and first["kv-transfer"].value > 0
    # After the first level D's replica and 4 prompts were asked; then came a warm-up and 5 requests.
    assert second["requests"].seen == "11 requests finished" and second["kv-transfer"].seen.startswith("22 transfers")
    assert all(gate["token-equality"].seen.startswith("4 of 4 continuations equal") for gate in (first, second))
    assert re.fullmatch(r"Prefill:gpt-oss-tiny: \w+; Decode:gpt-oss-tiny: \w+", first["readiness"].seen)


def chunks_of_a_stream() -> int:
    """In how many pieces 64 streamed tokens arrive."""
    body = {"model": "gpt-oss-tiny", "prompt": list(range(300, 330)), "max_tokens": 64, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    with requests.post(f"{URL}/v1/completions", json=body, stream=True, timeout=60) as answer:
        pieces = list(answer.iter_content(chunk_size=None))
    whole = b"".join(pieces)
    # An engine that waits for a core may hand two tokens over at once; none is missing.
    assert whole.count(b"data: {") > 50 and b'"completion_tokens":64' in whole.replace(b" ", b"")
    return len(pieces)


@pytest.fixture(scope="module")
def model():
    return load_model(ROOT / "configs/models/gpt-oss-tiny.yaml")


@pytest.fixture(scope="module")
def weights_over_tcp(local_cluster, tokens, model, tmp_path_factory):
    """P and D on a node each, over TCP, with debug logs, and with options that change how tokens come, and where prompts become
    tokens, but not which; where their weights are: what is changed there, a replica takes that starts again."""
    weights = tmp_path_factory.mktemp("weights") / "model"
    shutil.copytree(model.source, weights)
    try:
        launch(
            "--pd-spread", "--p-num", "1", "--p-tp", "1", "--d-num", "1", "--d-tp", "1", "--ucx-tls", "tcp", "--verbose",
            "--model-source", str(weights),
            "--llm-option", "stream_batching_interval_ms=500", "--llm-option", "pd_tokenize_once=false",
        )  # fmt: skip
        yield weights
    finally:
        stop()


def test_spread_over_tcp_and_options_of_ray_serve_llm(weights_over_tcp, tokens):
    found = deployment()
    placed = nodes(found)
    assert len(placed["prefill"]) == len(placed["decode"]) == 1 and placed["prefill"] != placed["decode"]
    decode = found["llm_configs"]["decode"]
    assert decode["runtime_env"]["env_vars"]["UCX_TLS"] == "tcp"
    given = decode["experimental_configs"]
    assert given["pd_tokenize_once"] is False and given["_prewarm_prefill_decode"] is True
    lines = gate_lines(tokens)
    assert "ok   token-equality: 36 of 36" in lines and "ok   kv-transfer: 36 transfers" in lines
    assert "ok   transport: tcp/lo" in lines
    said = run(str(BIN / "python"), "debug/which_transport.py", "--live").stdout
    assert re.search(r"prefill \w+ on 127\.0\.0\.\d -> decode \w+ on 127\.0\.0\.\d: tcp/lo\n", said)
    assert "| software emulation" in said and "0 failed" in said
    assert chunks_of_a_stream() < 20


def test_debug_logging_and_another_transport_fail_a_level(weights_over_tcp, tmp_path):
    # Answers of several batches: one that comes in one piece is no level at all.
    load = ("--isl", "300", "--osl", "128", "-c", "1", "-n", "2")
    done = bench(tmp_path, "-e", "x", *load, "--transport", "srd", check=False)
    folder = tmp_path / "gpt-oss-tiny_itl300_otl128_mixed_x"
    assert done.returncode == 1 and not (folder / "conc1.json").exists()
    (record,) = Manifest.read(folder).levels
    assert {"no-debug-logging", "transport"} <= {gate.name for gate in record.gates if not gate.passed}
    assert "level conc1 does not count: no-debug-logging: NIXL_LOG_LEVEL=DEBUG" in done.stderr
    assert "; transport: tcp/lo (software emulation); expected srd" in done.stderr


def test_a_wrong_kv_cache_is_noticed(weights_over_tcp, tokens, model, tmp_path):
    """P with other weights fills D's blocks with another model's keys and values: the gate must fail."""
    ensure_model(tmp_path / "other", model.tiny.model_copy(update={"seed": 1}))
    os.replace(tmp_path / "other/model.safetensors", weights_over_tcp / "model.safetensors")
    (before,) = (replica for replica in deployment()["replicas"] if replica["role"] == "prefill")
    psutil.Process(before["pid"]).kill()
    wait_for(lambda: any(r["role"] == "prefill" and r["pid"] != before["pid"] for r in deployment()["replicas"]), 300)
    lines = gate_lines(tokens, check=False)
    assert "FAIL token-equality" in lines and "differs from token" in lines
    assert "ok   kv-transfer: 36 transfers" in lines, "the transfer itself works: only its content is wrong"

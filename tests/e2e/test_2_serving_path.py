"""Direct streaming for real, with PD of two TP sizes, on a cluster of the head alone, where loopback is enough for it.

The cluster may open few files, and its two engines, of three ranks, start together.
"""

import re

import psutil
import pytest
import requests

from pdbench.manifest import Manifest
from tests.helpers.commands import BIN, URL, bench, deployment, launch, level, module, run

WORKLOAD = ("--isl", "300", "--osl", "16", "-c", "2")
REPLICAS = range(30000, 31001)  # Ray's ports for replicas behind HAProxy


@pytest.fixture
def head_alone(tmp_path, monkeypatch):
    """A cluster of its own beside that of the other tests, if it runs, which has nothing to do meanwhile."""
    monkeypatch.setenv("PDBENCH_STATE_DIR", str(tmp_path / "cluster"))
    few_files = 'ulimit -n 4096; exec "$0" -m pdbench.local_cluster start --workers 0'
    run("sh", "-c", few_files, str(BIN / "python"))
    try:
        yield
        launch("--stop")
    finally:
        module("local_cluster", "stop")


def test_requests_go_from_haproxy_to_decode(head_alone, tokens, tmp_path):
    ours = ("--pd-pack", "--layout", "p1xtp2-d1xtp1", "--direct-streaming")
    too_many = launch(*ours, "--serve-env", "RAY_SERVE_HAPROXY_MAXCONN=1537", check=False)
    assert too_many.returncode == 2 and too_many.stderr == (
        "launch_gptoss.py: error: --serve-env RAY_SERVE_HAPROXY_MAXCONN=1537 needs 4098 open files, the head's hard limit is "
        "4096: give at most 1536, or start Ray after a higher ulimit -n\n"
    )
    assert "launch: HAProxy takes 1536 connections at once instead of 4096" in launch(*ours).stderr
    found = deployment()
    assert {replica["node_ip"] for replica in found["replicas"]} == {"127.0.0.2"}, "all runs on the head"
    path = found["serving_path"]
    assert path["direct_streaming"] and path["ingress_replicas"] == 0
    assert path["env"]["RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"] == "1"
    assert path["env"]["RAY_SERVE_HAPROXY_MAXCONN"] == "1536"
    (ports,) = (gate for gate in found["gates"] if gate["name"] == "ports")
    assert ports["passed"] and re.fullmatch(r"\d{2,} ports of 2 engines, 0 below 1024; side channels 20000, 22000",
                                            ports["seen"])  # fmt: skip
    beyond = bench(tmp_path, "-e", "beyond", "--isl", "300", "--osl", "16", "-c", "1537", check=False)
    assert beyond.returncode == 2 and "1537 requests in flight, but HAProxy takes 1536 connections at once" in beyond.stderr
    listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == "LISTEN"]
    replicas = {address.ip for address in listening if address.port in REPLICAS}
    assert replicas == {a.ip for a in listening if a.port == 8000} == {"127.0.0.1"}, "where requests come in is loopback alone"

    lines = module("gates", "--against", str(tokens)).stdout
    assert "ok   token-equality: 36 of 36" in lines and "ok   kv-transfer: 72 transfers" in lines, "one from each rank of P"
    bench(tmp_path, "-e", "direct", *WORKLOAD, "--tokens", str(tokens))
    folder = tmp_path / "gpt-oss-tiny_itl300_otl16_mixed_direct"
    assert level(folder, "conc2.json")["completed"] == 10
    manifest = Manifest.read(folder)
    assert manifest.deployment.serving_path["direct_streaming"]
    gates = {gate.name: gate for gate in manifest.levels[0].gates}
    assert all(gate.passed for gate in gates.values()) and {"serving-path", "kv-transfer", "token-equality"} <= set(gates)

    servers = requests.get(f"{URL}/pdbench/haproxy", timeout=30).json()
    taken = {kind: sum(server["requests"] for server in servers if kind in server["name"]) for kind in ("Decode_", "fallback")}
    assert taken["Decode_"] > 46, "36 tokens, 10 of the level, and more"
    assert taken["fallback"] == 0

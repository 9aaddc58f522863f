"""Whether engines share a port: real sockets of real processes; engines of vLLM have theirs in the e2e tests."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import ray

from pdbench.serve import engine_ports
from pdbench.serve.engine_ports import NCCL_RAS, Engine, listening, ports_gate

LISTENER = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


def test_a_replicas_ports_are_those_of_its_processes(monkeypatch):
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n1"))
    env = os.environ | {"VLLM_NIXL_SIDE_CHANNEL_PORT": "20001"}
    shell = ["sh", "-c", f'"{sys.executable}" -c "{LISTENER}"; true']  # the engine is a child of its replica
    with subprocess.Popen(shell, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as replica:
        port = int(replica.stdout.readline())
        here = {"replica_id": "here", "node_id": "n1", "pid": replica.pid}
        elsewhere = {"replica_id": "elsewhere", "node_id": "n2", "pid": replica.pid}
        found = listening([here, elsewhere])
        replica.communicate("\n")
    assert [Engine(**reported) for reported in found] == [Engine(name="here", node="n1", ports=[port], side_channel=20001)]


def test_ports_that_nccl_shares_on_purpose_are_no_engines_own(monkeypatch):
    """Its RAS service listens at one port in every process: two ranks of 1xtp2, seen on two H200s."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n1"))
    listeners = [SimpleNamespace(status="LISTEN", pid=pid, laddr=SimpleNamespace(port=port))
                 for pid, port in ((1, NCCL_RAS), (2, NCCL_RAS), (1, 40001), (2, 40002))]  # fmt: skip
    monkeypatch.setattr(psutil, "net_connections", lambda kind: listeners)
    monkeypatch.setattr(engine_ports, "process_tree", lambda pids: pids)
    monkeypatch.setattr(engine_ports, "_side_channel", lambda pids: None)
    ranks = [{"replica_id": f"r{pid}", "node_id": "n1", "pid": pid} for pid in (1, 2)]
    found = [Engine(**reported) for reported in listening(ranks)]
    assert [engine.ports for engine in found] == [[40001], [40002]] and ports_gate(found).passed


def test_engines_with_ports_of_their_own_pass():
    engines = [
        Engine(name="a", node="n1", ports=[20000, 33000], side_channel=20000),
        Engine(name="b", node="n1", ports=[22000, 33001], side_channel=22000),
        Engine(name="c", node="n2", ports=[20000], side_channel=20000),
        Engine(name="rank 7", node="n1", ports=[999]),
    ]
    gate = ports_gate(engines)
    assert gate.passed and gate.seen == "6 ports of 4 engines, 1 below 1024; side channels 20000, 20000, 22000"


def test_engines_of_a_node_that_share_a_port_fail():
    first = Engine(name="a", node="n1", ports=[100, 20000], side_channel=20000)
    gate = ports_gate([first, Engine(name="b", node="n1", ports=[100, 22000], side_channel=22000)])
    assert not gate.passed and gate.seen == "a and b share port 100" and "VLLM_NIXL_SIDE_CHANNEL_PORT" in gate.advice
    gate = ports_gate([first, Engine(name="b", node="n1", ports=[], side_channel=20000)])
    assert not gate.passed and gate.seen == "a and b share port 20000"

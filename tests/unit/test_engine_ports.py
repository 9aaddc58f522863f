"""Whether engines share a port: real sockets of real processes; engines of vLLM have theirs in the e2e tests."""

import os
import subprocess
import sys
from types import SimpleNamespace

import ray

from pdbench.engine_ports import Engine, listening, ports_gate

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

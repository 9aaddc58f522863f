"""Whether engines share a port: real sockets of real processes; engines of vLLM have theirs in the e2e tests."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
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
    assert [Engine(**reported) for reported in found] == [
        Engine(name="here", node="n1", listens=[("127.0.0.1", port)], side_channel=20001)
    ]


def test_ports_that_nccl_shares_on_purpose_are_no_engines_own(monkeypatch):
    """Its RAS service listens at one port in every process: two ranks of 1xtp2, seen on two H200s."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n1"))
    listeners = [SimpleNamespace(status="LISTEN", pid=pid, laddr=SimpleNamespace(ip="::", port=port))
                 for pid, port in ((1, NCCL_RAS), (2, NCCL_RAS), (1, 40001), (2, 40002))]  # fmt: skip
    monkeypatch.setattr(psutil, "net_connections", lambda kind: listeners)
    monkeypatch.setattr(engine_ports, "process_tree", lambda pids: pids)
    monkeypatch.setattr(engine_ports, "_side_channel", lambda pids: None)
    ranks = [{"replica_id": f"r{pid}", "node_id": "n1", "pid": pid} for pid in (1, 2)]
    found = [Engine(**reported) for reported in listening(ranks)]
    assert [engine.listens for engine in found] == [[("::", 40001)], [("::", 40002)]] and ports_gate(found).passed


def at(*ports: int, address: str = "0.0.0.0") -> list[tuple[str, int]]:
    return [(address, port) for port in ports]


def test_engines_with_ports_of_their_own_pass():
    engines = [
        Engine(name="a", node="n1", listens=at(20000, 33000), side_channel=20000),
        Engine(name="b", node="n1", listens=at(22000, 33001), side_channel=22000),
        Engine(name="c", node="n2", listens=at(20000), side_channel=20000),
        Engine(name="rank 7", node="n1", listens=at(999)),
    ]
    gate = ports_gate(engines)
    assert gate.passed and gate.seen == "6 ports of 4 engines, 1 below 1024; side channels 20000, 20000, 22000"


def test_engines_of_a_node_that_share_a_port_fail():
    first = Engine(name="a", node="n1", listens=at(100, 20000), side_channel=20000)
    gate = ports_gate([first, Engine(name="b", node="n1", listens=at(100, 22000), side_channel=22000)])
    assert not gate.passed and gate.seen == "a and b share port 100" and "VLLM_NIXL_SIDE_CHANNEL_PORT" in gate.advice
    gate = ports_gate([first, Engine(name="b", node="n1", listens=[], side_channel=20000)])
    assert not gate.passed and gate.seen == "a and b share port 20000"
    three = [Engine(name=name, node="n1", listens=at(100)) for name in "cba"]
    assert ports_gate(three).seen == "a and b and c share port 100"


BOUND = """
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(({address!r}, {port})); s.listen()
print(s.getsockname()[1], flush=True); input()
"""


@pytest.mark.parametrize(("one", "other", "shared"), [
    ("127.0.0.1", "127.0.0.2", False),  # two of four engines had one number: the launch was refused
    ("127.0.0.1", "127.0.0.1", True),
    ("127.0.0.1", "0.0.0.0", True),
])  # fmt: skip
def test_one_number_is_one_port_where_both_may_answer(monkeypatch, one, other, shared):
    """Real sockets: the system lets two processes listen at one number, and at one address with SO_REUSEPORT."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n1"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", BOUND.format(address=one, port=0)], **pipes) as a:
        port = int(a.stdout.readline())
        with subprocess.Popen([sys.executable, "-c", BOUND.format(address=other, port=port)], **pipes) as b:
            b.stdout.readline()
            found = listening([{"replica_id": name, "node_id": "n1", "pid": p.pid} for name, p in (("a", a), ("b", b))])
            b.communicate("\n")
        a.communicate("\n")
    gate = ports_gate([Engine(**engine) for engine in found])
    assert gate.passed is not shared
    assert gate.seen == (f"a and b share port {port}" if shared else "1 ports of 2 engines, 0 below 1024")

"""What the deployment answers about itself; the counters and transports of real engines are in the e2e tests."""

import asyncio
import json
import os
from types import SimpleNamespace

import pytest
import ray

from pdbench.serve import describe


class Client:
    """Asks a Describe as its HTTP route would."""

    def __init__(self):
        replica = {"role": "decode", "replica_id": "r1", "node_id": "n", "node_ip": "127.0.0.3", "pid": 7}
        running = [replica | {"state": "RUNNING", "deployment": "D"}]
        self.answered = {"Prefill:m": ["p0"], "D": ["d0", "d1"]}
        record = {"layout": "2xtp1", "mode": "collocated", "model_id": "m", "gates": []}
        self.described = describe.Describe(record, started=0.0, running=lambda: running, ask=self.ask)
        self.asked_nodes, self.said = 0, [{}]
        self.described.nodes.run = self.run_on_nodes

    def run_on_nodes(self, ray, function, engines, started):
        assert [engine["replica_id"] for engine in engines] == ["r1"]
        self.asked_nodes += 1
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    async def ask(self, model):
        assert model == "m"
        return {"Prefill:m": 1, "D": 2}, self.answered

    def __call__(self, method, path, body=None):
        async def content():
            return body

        request = SimpleNamespace(method=method, url=SimpleNamespace(path=path), json=content)
        answer = asyncio.run(self.described(request))
        return answer.status_code, json.loads(answer.body)


@pytest.fixture
def ask():
    return Client()


def test_the_deployment_tells_its_replicas_as_they_are_now(ask):
    status, reported = ask("GET", "/pdbench/deployment")
    assert status == 200 and reported["layout"] == "2xtp1"
    assert reported["replicas"] == [{"role": "decode", "replica_id": "r1", "node_id": "n", "node_ip": "127.0.0.3", "pid": 7}]


def test_the_size_of_kv_caches_is_found_once_when_the_engines_have_started(ask):
    assert ask("GET", "/pdbench/deployment")[1]["kv_tokens"] is None
    ask.said = ray.exceptions.NodeDiedError("a node has just died")
    assert ask("GET", "/pdbench/deployment")[1]["kv_tokens"] is None
    ask.said = [{"r1": 4096}]
    assert [ask("GET", "/pdbench/deployment")[1]["kv_tokens"] for _ in range(3)] == [{"decode": 4096}] * 3
    assert ask.asked_nodes == 3


def test_gates_and_seeds_are_kept(ask):
    assert ask("GET", "/pdbench/seeds") == (200, [])
    assert ask("POST", "/pdbench/seeds", [1, 2]) == ask("POST", "/pdbench/seeds/", [3]) == (200, {})
    assert ask("GET", "/pdbench/seeds") == (200, [1, 2, 3])
    ask("POST", "/pdbench/gates", {"name": "readiness"})
    assert ask("GET", "/pdbench/deployment")[1]["gates"] == [{"name": "readiness"}]


def test_every_replica_is_asked(ask):
    reported = {"counts": {"Prefill:m": 1, "D": 2}, "answered": ask.answered, "requests": 2}
    assert ask("POST", "/pdbench/ready") == (200, reported), "answers come from decode"
    ask.answered = None
    assert ask("POST", "/pdbench/ready") == (200, reported | {"answered": None})


def test_compilations_are_those_of_all_nodes_engines(ask, tmp_path, monkeypatch):
    """Both nodes are of one machine and find the same file, which lies where the task's own output is."""
    lines = ["INFO Kernel JIT monitor activated; it will use mode=warn.", "noise",
             "WARNING Triton kernel JIT compilation during inference: topk (key). This causes a latency spike."]  # fmt: skip
    (tmp_path / "worker-a.err").write_text("\n".join(lines))
    monkeypatch.setattr(os, "readlink", lambda path: str(tmp_path / "worker-b.out"))
    ask.described.nodes = SimpleNamespace(run=lambda ray, function, *args: [function(*args)] * 2)
    assert ask("GET", "/pdbench/compilations") == (200, {"monitored": 1, "kernels": ["topk"]})


@pytest.mark.parametrize(("method", "path"), [("GET", "gates"), ("POST", "deployment"), ("GET", "x")])
def test_anything_else_is_unknown(ask, method, path):
    status, reported = ask(method, f"/pdbench/{path}")
    assert status == 404 and "compilations" in reported["error"] and "seeds" in reported["error"]

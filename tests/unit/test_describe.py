"""What the deployment answers about itself; the counters and transports of real engines are in the e2e tests."""

import asyncio
import json
import os
from types import SimpleNamespace

import pytest

from pdbench.serve import describe


class Client:
    """Asks a Describe as its HTTP route would."""

    def __init__(self, monkeypatch):
        replica = {"role": "decode", "replica_id": "r1", "node_id": "n", "node_ip": "127.0.0.3", "pid": 7}
        known = [replica | {"state": "RUNNING", "deployment": "D"}, replica | {"state": "STARTING", "deployment": "D"}]
        monkeypatch.setattr(describe, "replicas", lambda details: known)
        monkeypatch.setattr(describe, "serve_details", dict)
        self.described = describe.Describe({"layout": "2xtp1", "mode": "collocated", "gates": []}, started=0.0)

    def __call__(self, method, path, body=None):
        async def content():
            return body

        request = SimpleNamespace(method=method, url=SimpleNamespace(path=path), json=content)
        answer = asyncio.run(self.described(request))
        return answer.status_code, json.loads(answer.body)


@pytest.fixture
def ask(monkeypatch):
    return Client(monkeypatch)


def test_the_deployment_tells_its_replicas_as_they_are_now(ask):
    status, reported = ask("GET", "/pdbench/deployment")
    assert status == 200 and reported["layout"] == "2xtp1"
    assert reported["replicas"] == [{"role": "decode", "replica_id": "r1", "node_id": "n", "node_ip": "127.0.0.3", "pid": 7}]


def test_gates_and_seeds_are_kept(ask):
    assert ask("GET", "/pdbench/seeds") == (200, [])
    assert ask("POST", "/pdbench/seeds", [1, 2]) == ask("POST", "/pdbench/seeds/", [3]) == (200, {})
    assert ask("GET", "/pdbench/seeds") == (200, [1, 2, 3])
    ask("POST", "/pdbench/gates", {"name": "readiness"})
    assert ask("GET", "/pdbench/deployment")[1]["gates"] == [{"name": "readiness"}]


def test_every_replica_is_asked(ask, monkeypatch):
    async def answer(counts, app, model):
        return {name: [f"{model}{i}" for i in range(count)] for name, count in counts.items()}

    monkeypatch.setattr(describe, "replica_counts", lambda details: {"D": 2})
    monkeypatch.setattr(describe, "ask_each", answer)
    ask.described.record["model_id"] = "m"
    reported = {"counts": {"D": 2}, "answered": {"D": ["m0", "m1"]}, "requests": 2}
    assert ask("POST", "/pdbench/ready") == (200, reported)
    monkeypatch.setattr(describe, "can_address_replicas", lambda: False)
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

"""The two kinds of deployment: each mode has one, and what of them runs on a node needs nothing of this repository there."""

import asyncio
import subprocess
import sys

import pytest

from pdbench.layout import CONTROLS, MODES
from pdbench.serve import bare_servers, deployment, serve_app
from pdbench.serve.kinds import KINDS, kind_of
from pdbench.serve.plan import LaunchError

# On a node, of which nothing but Ray and its packages is assumed.
ON_A_NODE = """
import pickle, sys

sys.modules["pdbench"] = None
describe, *functions = pickle.load(sys.stdin.buffer)
described = describe({"layout": "1xtp1", "mode": "bare", "gates": []}, 0.0, *functions)
print(type(described).__name__, *(function.__name__ for function in functions))
"""


def test_every_mode_has_a_kind():
    assert {mode for mode in MODES if kind_of(mode) is bare_servers} == set(CONTROLS)
    assert {kind_of(mode) for mode in MODES} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_app_that_describes_a_deployment_runs_on_a_node_without_this_repository(kind, tmp_path):
    import ray

    import pdbench
    from pdbench.serve.describe import Describe

    ray.cloudpickle.register_pickle_by_value(pdbench)
    try:
        data = ray.cloudpickle.dumps((Describe, kind.running, kind.ask))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(pdbench)
    done = subprocess.run([sys.executable, "-I", "-c", ON_A_NODE], input=data, capture_output=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (0, b"Describe running ask\n"), done.stderr.decode()


def test_what_runs_is_shown_by_its_own_kind(monkeypatch):
    monkeypatch.setattr(deployment.cluster, "connect", lambda address: None)
    for servers, app, shown in (({"a": 1}, None, {"a": 1}), (None, {"b": 2}, {"b": 2})):
        monkeypatch.setattr(bare_servers, "status", lambda servers=servers: servers)
        monkeypatch.setattr(serve_app, "status", lambda app=app: app)
        assert deployment.status(None) == shown
    monkeypatch.setattr(serve_app, "status", lambda: None)
    nothing = {"running": False, "reason": "no deployment of this repository is on the cluster"}
    assert deployment.status(None) == nothing


@pytest.mark.parametrize("leftover", KINDS, ids=lambda kind: kind.__name__)
def test_a_second_deployment_of_either_kind_is_refused(monkeypatch, leftover):
    for kind in KINDS:
        monkeypatch.setattr(kind, "exists", lambda kind=kind: kind is leftover)
    with pytest.raises(LaunchError, match="a deployment is running already"):
        deployment.refuse_a_second()
    monkeypatch.setattr(leftover, "exists", lambda: False)
    deployment.refuse_a_second()


def test_servers_and_replicas_that_do_not_run_are_left_out(monkeypatch):
    """A server that is starting has no process yet."""
    up, ended, starting = ({"pid": pid, "runs": runs} for pid, runs in ((7, True), (8, False), (None, True)))
    monkeypatch.setattr(bare_servers, "replicas", lambda: [up, ended, starting])
    assert bare_servers.running() == [up]
    monkeypatch.setattr(serve_app, "replicas", lambda: [{"state": "RUNNING"}, {"state": "STARTING"}])
    assert serve_app.running() == [{"state": "RUNNING"}]


def test_replicas_of_an_app_are_asked_where_ray_can_address_them(monkeypatch):
    async def ask_each(counts, app, model):
        return {name: [f"{model}{number}" for number in range(count)] for name, count in counts.items()}

    replicas = [{"role": "ingress", "deployment": "I"}, *[{"role": "decode", "deployment": "D"}] * 2]
    monkeypatch.setattr(serve_app, "replicas", lambda: replicas)
    monkeypatch.setattr(serve_app, "ask_each", ask_each)
    for can, answered in ((True, {"D": ["m0", "m1"]}), (False, None)):
        monkeypatch.setattr(serve_app, "can_address_replicas", lambda can=can: can)
        assert asyncio.run(serve_app.ask("m")) == ({"D": 2}, answered)

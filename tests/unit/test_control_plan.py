"""The control arm: command lines from plans, where servers run, and what is in front of them."""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch_gptoss
from pdbench.configs import ROOT
from pdbench.layout import CONTROLS, Layout
from pdbench.nodes.cluster import Node, planned_nodes
from pdbench.serve.control_plan import serve_command
from pdbench.serve.options import resolve

TINY = ["--model", str(ROOT / "configs/models/gpt-oss-tiny.yaml"), "--hardware", str(ROOT / "configs/hardware/cpu.yaml")]
ALL = {"bare": "2xtp4", "bare-pd": "p2xtp2-d1xtp4", "bare-pd-spread": "p1xtp4-d1xtp4"}


def plan_of(mode, layout, *options, nodes=None):
    args = launch_gptoss.parse_args(["--mode", mode, "--layout", layout, *options])
    return resolve(args, planned_nodes if nodes is None else lambda *_: nodes)[0]


def options_of(command):
    """`{option: [values]}` of a command line."""
    found, last = {}, None
    for word in shlex.split(command):
        if word.startswith("--"):
            last = word
            found.setdefault(word, [])
        elif last:
            found[last].append(word)
    return found


@pytest.mark.parametrize(("mode", "layout"), ALL.items())
def test_a_control_has_what_its_ray_arm_gives_to_the_engines(mode, layout):
    control, ray = plan_of(mode, layout), plan_of(CONTROLS[mode], layout)
    assert (control.mode, control.ingress) == (mode, None)
    assert (control.layout, control.gpus, control.placement, control.transport) == (
        ray.layout, ray.gpus, ray.placement, ray.transport)  # fmt: skip
    assert list(control.llm_configs) == list(ray.llm_configs)
    for role, config in ray.llm_configs.items():
        kept = control.llm_configs[role]
        for name in ("model_loading_config", "engine_kwargs", "placement_group_config", "runtime_env"):
            assert kept[name] == config[name]
        assert kept["deployment_config"] == {"num_replicas": config["deployment_config"]["num_replicas"]}
        assert not {"experimental_configs", "log_engine_metrics"} & set(kept), "these mean nothing without Ray Serve"
        servers = [server for server in control.servers if server.role == role]
        assert len(servers) == config["deployment_config"]["num_replicas"]
        for server in servers:
            assert config["runtime_env"]["env_vars"].items() <= server.environment.items()
            bundles = config["placement_group_config"]["bundles"]
            assert server.resources["num_gpus"] == len(bundles) == config["engine_kwargs"]["tensor_parallel_size"]
            assert server.resources["accelerator_type"] == "H100"
            assert server.resources["resources"] == {k: v for k, v in bundles[0].items() if k.startswith("node:")}


def test_the_command_of_a_collocated_server():
    (server,) = plan_of("bare", "1xtp1", *TINY).servers
    model = ROOT / ".cache/models/gpt-oss-tiny"
    assert server.command == (
        f"vllm serve {model} --served-model-name gpt-oss-tiny --host '<node1>' --port 8010 --enforce-eager "
        "--max-num-batched-tokens 3200 --tensor-parallel-size 1 --max-model-len 8192"
    )
    assert server.environment["OMP_NUM_THREADS"] == "1" and "VLLM_NIXL_SIDE_CHANNEL_PORT" not in server.environment
    assert server.resources == {"num_cpus": 1, "num_gpus": 0, "resources": {"node:<node1>": 0.001}}


def test_one_server_is_asked_directly_and_several_through_the_router():
    one, two = plan_of("bare", "1xtp4"), plan_of("bare", "2xtp4")
    assert [s.name for s in one.servers] == ["collocated-0"] and one.serving_url == one.servers[0].url
    assert [s.name for s in two.servers] == ["collocated-0", "collocated-1", "router"]
    assert two.serving_url == two.servers[-1].url == "http://127.0.0.1:8001"
    options = options_of(two.servers[-1].command)
    assert options["--worker-urls"] == ["http://<node1>:8010", "http://<node1>:8011"]
    assert "--vllm-pd-disaggregation" not in options and "--disable-retries" in options


class Engine(BaseHTTPRequestHandler):
    """Answers everything, as an idle server does."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *args):
        pass


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_router_reaches_its_servers_although_a_proxy_is_set(monkeypatch):
    """The real one: it follows http_proxy, which leads nowhere here."""
    plan = plan_of("bare", "2xtp4", nodes=[Node("127.0.0.1", 8, is_head=True, kind="H100")])
    command, port = plan.servers[-1].command, free_port()
    assert plan.servers[-1].environment == {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    engines = [ThreadingHTTPServer(("127.0.0.1", 0), Engine) for _ in range(2)]
    for old, engine in zip(plan.servers, engines, strict=False):
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        command = command.replace(old.url, f"http://127.0.0.1:{engine.server_port}")
    command = command.replace("--port 8001", f"--port {port}").replace(
        "--prometheus-port 8002", f"--prometheus-port {free_port()}"
    )
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    program, *words = shlex.split(command)
    router = subprocess.Popen([Path(sys.executable).parent / program, *words], env=os.environ | plan.servers[-1].environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        assert answers_within(30, port)
    finally:
        router.terminate()
        router.wait()
        for engine in engines:
            engine.shutdown()
            engine.server_close()


def answers_within(seconds, port):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request(
                "POST", "/v1/completions", b'{"model": "m", "prompt": "x"}', {"Content-Type": "application/json"}
            )
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.2)
    return False


def test_bare_pd_names_every_server_to_the_router_and_gives_each_a_side_channel():
    plan = plan_of("bare-pd-spread", "p2xtp1-d1xtp4", "--port", "9000", "--ucx-tls", "tcp")
    prefill0, prefill1, decode, router = plan.servers
    options = options_of(router.command)
    assert router.command.startswith("vllm-router ") and options["--vllm-pd-disaggregation"] == []
    assert options["--prefill"] == [prefill0.url, prefill1.url] and options["--decode"] == [decode.url]
    assert options["--port"] == ["9001"] and plan.serving_url == "http://127.0.0.1:9001"
    assert (prefill0.node_ip, decode.node_ip) == ("<node2>", "<node1>"), "the larger pool takes the first node"
    channels = [int(s.environment["VLLM_NIXL_SIDE_CHANNEL_PORT"]) for s in plan.servers[:3]]
    assert channels == [10000, 10016, 10032]
    assert decode.environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "<node1>" and decode.environment["UCX_TLS"] == "tcp"
    for server, role in ((prefill0, "kv_producer"), (decode, "kv_consumer")):
        (text,) = options_of(server.command)["--kv-transfer-config"]
        assert json.loads(text) == plan.llm_configs[server.role]["engine_kwargs"]["kv_transfer_config"]
        assert json.loads(text)["kv_role"] == role


@pytest.mark.parametrize(
    ("node", "host", "bound", "url"),
    [
        (Node("10.0.0.1", 8, is_head=True, kind="H100"), "127.0.0.1", "127.0.0.1", "http://127.0.0.1:8010"),
        (Node("10.0.0.1", 8, is_head=True, kind="H100"), "0.0.0.0", "0.0.0.0", "http://10.0.0.1:8010"),
        (Node("10.0.0.2", 8, kind="H100"), "127.0.0.1", "10.0.0.2", "http://10.0.0.2:8010"),
    ],
)
def test_a_server_binds_loopback_on_the_head_and_its_nodes_address_elsewhere(node, host, bound, url):
    plan = plan_of("bare", "1xtp1", "--host", host, nodes=[node, Node("10.0.0.9", 0, is_head=not node.is_head)])
    assert options_of(plan.servers[0].command)["--host"] == [bound] and plan.servers[0].url == url


def test_servers_whose_nodes_ray_chooses_learn_them_when_they_are_placed():
    nodes = [Node("10.0.0.1", 8, kind="H100"), Node("10.0.0.2", 8, kind="H100"), Node("10.0.0.3", 0, is_head=True)]
    plan = plan_of("bare", "2xtp8", nodes=nodes)
    assert [s.url for s in plan.servers] == ["http://<its node>:8010", "http://<its node>:8011", "http://127.0.0.1:8001"]
    placed = plan.placed(["10.0.0.2", "10.0.0.1", "10.0.0.3"])
    assert [s.node_ip for s in placed.servers] == ["10.0.0.2", "10.0.0.1", "10.0.0.3"]
    assert options_of(placed.servers[0].command)["--host"] == ["10.0.0.2"]
    assert placed.serving_url == "http://127.0.0.1:8001"
    assert options_of(placed.servers[2].command)["--worker-urls"] == ["http://10.0.0.2:8010", "http://10.0.0.1:8011"]


def test_decode_bench_reaches_a_control_too():
    plan = plan_of("bare", "1xtp4", "--decode-bench")
    (text,) = options_of(plan.servers[0].command)["--kv-transfer-config"]
    assert plan.decode_bench and json.loads(text)["kv_connector"] == "DecodeBenchConnector"


words = st.from_regex(r"[a-z][a-z0-9]*(_[a-z0-9]+){0,3}", fullmatch=True)
values = st.none() | st.booleans() | st.integers(0) | st.text(min_size=1) | st.dictionaries(st.text(), st.integers())


@given(st.dictionaries(words, values))
def test_any_engine_argument_comes_back_from_its_command_line(arguments):
    """Read as vLLM reads it: an option's name with dashes; `--no-` before it for False; JSON for a mapping."""
    config = {"model_loading_config": {"model_source": "m", "model_id": "m"}, "engine_kwargs": arguments}
    line = iter(shlex.split(shlex.join(serve_command(config, "h", 1)))[9:])
    for name, value in arguments.items():
        if value is None:
            continue
        option = name.replace("_", "-")
        assert next(line) == (f"--no-{option}" if value is False else f"--{option}")
        if not isinstance(value, bool):
            word = next(line)
            assert json.loads(word) == value if isinstance(value, dict) else word == str(value)
    assert next(line, None) is None


pools = st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4])).map("{0[0]}xtp{0[1]}".format)


@given(pools | st.tuples(pools, pools).map("p{0[0]}-d{0[1]}".format), st.integers(1024, 20_000))
def test_no_two_servers_share_a_port(layout, port):
    mode = "bare-pd-spread" if Layout.parse(layout).is_pd else "bare"
    wide = [Node("a", 16, kind="H100"), Node("b", 16, kind="H100"), Node("h", 0, is_head=True)]
    sizes = Layout.parse(layout)
    if sizes.is_pd and sizes.prefill.tp > sizes.decode.tp:
        layout = f"p{sizes.decode}-d{sizes.prefill}"
    plan = plan_of(mode, layout, "--port", str(port), nodes=wide)
    ports = [port] + [int(server.url.rpartition(":")[2]) for server in plan.servers]
    ports += [int(w) for s in plan.servers for w in options_of(s.command).get("--prometheus-port", [])]
    for server in plan.servers:
        if start := server.environment.get("VLLM_NIXL_SIDE_CHANNEL_PORT"):
            ports += range(int(start), int(start) + plan.llm_configs[server.role]["engine_kwargs"]["tensor_parallel_size"])
    assert len(set(ports)) == len(ports)

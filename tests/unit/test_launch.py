"""launch_gptoss.py: options to a plan, and mistakes to one line, without a cluster."""

import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml
from packaging.version import Version

import launch_gptoss
from pdbench.configs import ROOT
from pdbench.doctor import before_launch, examination
from pdbench.doctor.findings import Finding, worst
from pdbench.nodes import cluster, local_cluster, stack
from pdbench.serve import deployment, launch, launch_gates
from pdbench.serve.options import resolve
from pdbench.serve.plan import LaunchError
from pdbench.serve.serving_path import ServingPath

BIG = ["--model", "configs/models/gpt-oss-120b.yaml", "--hardware", "configs/hardware/p5.48xlarge.yaml"]
TINY = ["--model", "configs/models/gpt-oss-tiny.yaml", "--hardware", "configs/hardware/cpu.yaml"]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """No test may touch a cluster that runs on this machine."""

    def refuse(*args, **kwargs):
        raise AssertionError("this test reached for a cluster")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cluster, "connect", refuse)
    monkeypatch.setattr(local_cluster, "start", refuse)
    monkeypatch.setattr(local_cluster, "stop", refuse)
    monkeypatch.setattr(local_cluster, "state", lambda: None)
    monkeypatch.setattr(stack, "vllm_version", lambda: Version("0.29.0"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def run(monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", ["launch_gptoss.py", *map(str, options)])
    capsys.readouterr()
    try:
        status = launch_gptoss.main()
    except SystemExit as left:
        status = left.code
    return status, capsys.readouterr()


def dry_run(monkeypatch, capsys, *options):
    status, said = run(monkeypatch, capsys, "--dry-run", *options)
    assert (status, said.err) == (0, ""), said.err
    return yaml.safe_load(said.out)


def test_the_dry_run_of_the_study_prints_a_right_plan():
    command = [sys.executable, "launch_gptoss.py", "--layout", "p2xtp2-d1xtp4", "--mode", "pd-pack", "--dry-run", *BIG]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "&id" not in done.stdout and "*id" not in done.stdout, "every config is written out"
    plan = yaml.safe_load(done.stdout)
    assert (plan["layout"], plan["mode"], plan["gpus"], plan["gpus_per_node"]) == ("p2xtp2-d1xtp4", "pd-pack", 8, 8)
    assert plan["accelerator"] == "H100" and plan["model_id"] == plan["model_source"] == "openai/gpt-oss-120b"
    assert plan["placement"] == {"prefill": "<node1>", "decode": "<node1>", "ingress": "head"}
    assert plan["transport"] == {"backend": "UCX", "ucx_tls": None, "verbose": False}
    assert plan["ingress"]["num_replicas"] == 8
    assert list(plan["llm_configs"]) == ["prefill", "decode"]
    for role, kv_role, num, tp in (("prefill", "kv_producer", 2, 2), ("decode", "kv_consumer", 1, 4)):
        config = plan["llm_configs"][role]
        engine = config["engine_kwargs"]
        assert (engine["tensor_parallel_size"], engine["max_model_len"]) == (tp, 16000)
        assert engine["kv_transfer_config"]["kv_role"] == kv_role
        assert engine["kv_transfer_config"]["kv_buffer_device"] == "cuda"
        assert config["deployment_config"]["num_replicas"] == num
        bundles = [{"GPU": 1, "node:<node1>": 0.001}] * tp
        assert config["placement_group_config"] == {"bundles": bundles, "strategy": "STRICT_PACK"}
        assert config["experimental_configs"]["stream_batching_interval_ms"] == 0
        assert config["runtime_env"] == {"env_vars": {
            "UCX_PROTO_INFO": "y", "PROMETHEUS_MULTIPROC_DIR": "/dev/shm/pdbench-counters-8000",
            # Else a replica loads what another one's GPU compiled.
            "VLLM_DISABLE_COMPILE_CACHE": "1",
            "TRITON_CACHE_DIR": "${HOME}/.triton/cache",
        }}  # fmt: skip
        assert config["accelerator_type"] == "H100"


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (["--layout", "p2xtp2-d1xtp4", "--mode", "pd-pack"],
         ["--pd-pack", "--p-num", 2, "--p-tp", 2, "--d-num", 1, "--d-tp", 4]),
        (["--layout", "p2xtp2-d1xtp4", "--pd-spread"],
         ["--mode", "pd-spread", "--p-num", 2, "--p-tp", 2, "--d-tp", 4]),  # one replica unless an option says otherwise
        (["--layout", "p1xtp1-d1xtp1", "--pd-pack"], ["--mode", "pd-pack"]),
        (["--layout", "4xtp2", "--mode", "collocated"], ["--collocated", "--num", 4, "--tp", 2]),
        (["--layout", "4xtp2"], ["--mode", "collocated", "--num", 4, "--tensor-parallel-size", 2]),
        (["--layout", "1xtp1"], ["--collocated"]),
    ],
)  # fmt: skip
def test_a_layout_may_be_spelled_in_options(monkeypatch, capsys, short, long):
    plan = dry_run(monkeypatch, capsys, *short, *BIG)
    assert plan == dry_run(monkeypatch, capsys, *long, *BIG)
    assert plan["layout"] == short[1]


def test_the_modes_differ_in_placement(monkeypatch, capsys):
    spread = dry_run(monkeypatch, capsys, "--layout", "p2xtp2-d1xtp4", "--pd-spread", *BIG)
    assert spread["placement"] == {"prefill": "<node1>", "decode": "<node2>", "ingress": "head"}
    collocated = dry_run(monkeypatch, capsys, "--layout", "4xtp2", *BIG)
    assert collocated["placement"] == {"collocated": "<node1>", "ingress": "head"}
    assert list(collocated["llm_configs"]) == ["collocated"] and collocated["transport"] is None
    assert collocated["ingress"] == spread["ingress"], "arms compare fairly"


def test_model_and_hardware_default_to_the_study(monkeypatch, capsys):
    assert dry_run(monkeypatch, capsys, "--layout", "4xtp2") == dry_run(monkeypatch, capsys, "--layout", "4xtp2", *BIG)


def test_a_cpu_plan_takes_its_model_from_this_repository(monkeypatch, capsys):
    plan = dry_run(monkeypatch, capsys, "--layout", "p1xtp1-d1xtp1", "--pd-spread", *TINY)
    assert plan["model_source"].startswith(str(ROOT)) and plan["accelerator"] == "CPU"
    assert plan["ingress"]["num_replicas"] == 1
    assert plan["llm_configs"]["decode"]["accelerator_config"] == {"kind": "cpu"}
    assert plan["llm_configs"]["decode"]["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"


def test_options_go_where_they_belong(monkeypatch, capsys):
    more = ["--model-id", "name", "--model-source", "hub/weights", "--ucx-tls", "tcp,cma"]
    more += ["--ingress-replicas", 3, "--host", "::", "--port", 81]
    plan = dry_run(monkeypatch, capsys, "--layout", "p1xtp1-d1xtp1", "--pd-pack", *TINY, *more)
    assert (plan["model_id"], plan["model_source"]) == ("name", "hub/weights")
    assert plan["ingress"]["num_replicas"] == 3 and plan["http"] == {"host": "::", "port": 81}
    for config in plan["llm_configs"].values():
        assert config["model_loading_config"] == {"model_id": "name", "model_source": "hub/weights"}
        assert config["runtime_env"]["env_vars"]["UCX_TLS"] == "tcp,cma"
        assert config["runtime_env"]["env_vars"]["PROMETHEUS_MULTIPROC_DIR"] == "/dev/shm/pdbench-counters-81"
    fabric = dry_run(monkeypatch, capsys, "--layout", "p1xtp1-d1xtp1", "--pd-pack", "--use-libfabric", *BIG)
    assert fabric["transport"]["backend"] == "LIBFABRIC"
    for config in fabric["llm_configs"].values():
        transfer = config["engine_kwargs"]["kv_transfer_config"]
        assert transfer["kv_connector_extra_config"] == {"backends": ["LIBFABRIC"]}
        assert not [name for name in config["runtime_env"]["env_vars"] if name.startswith("UCX")]


def test_verbose_warns_that_it_distorts(monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, "--dry-run", "--layout", "p1xtp1-d1xtp1", "--pd-pack", "--verbose", *BIG)
    assert status == 0
    assert said.err.startswith("launch: warning: debug logging distorts results") and said.err.count("\n") == 1
    env = yaml.safe_load(said.out)["llm_configs"]["prefill"]["runtime_env"]["env_vars"]
    assert env["VLLM_LOGGING_LEVEL"] == "DEBUG" and env["NIXL_LOG_LEVEL"] == "DEBUG"


PD = ["--layout", "p1xtp1-d1xtp1", "--pd-pack"]
MISTAKES = [
    ([], "name a --mode (collocated, pd-pack, pd-spread, pd-pool, bare, bare-pd, bare-pd-spread) and a --layout such as 4xtp"),
    (["--tp", 2], "name a --mode (collocated, pd-pack, pd-spread, pd-pool, bare, bare-pd, bare-pd-spread) and a --layout"),
    (["--layout", "4xtp2", "--tp", 2], "give either --layout or --tp, not both"),
    (["--layout", "4xtp2", "--p-num", 1, "--d-tp", 2], "give either --layout or --p-num, --d-tp, not both"),
    (["--mode", "collocated", "--p-num", 2], "mode collocated takes --tp and --num, not --p-num"),
    (["--mode", "pd-pack", "--tp", 2], "mode pd-pack takes --p-num, --p-tp, --d-num and --d-tp, not --tp"),
    (["--pd-spread", "--p-tp", 2, "--num", 2], "mode pd-spread takes --p-num, --p-tp, --d-num and --d-tp, not --num"),
    (["--layout", "p1xtp1-d1xtp1"], "layout p1xtp1-d1xtp1 needs --pd-pack, --pd-spread or --pd-pool"),
    (["--pd-pool", "--p-tp", 1, "--d-tp", 2], "layout p1xtp1-d1xtp2: each engine of a pd-pool may prefill and decode: give P "),
    (["--pd-pool", "--router", "round-robin"], "mode pd-pool has a router of its own, which knows who prefills: leave "),
    (["--pd-pool", "--direct-streaming"], "which knows who prefills: leave --direct-streaming out"),
    (["--layout", "nonsense"], "cannot read the layout 'nonsense': write 4xtp2"),
    (["--layout", ""], "cannot read the layout ''"),
    (["--layout", "", "--collocated"], "cannot read the layout ''"),
    (["--layout", "0xtp2"], "cannot read the layout '0xtp2'"),
    (["--layout", "4xtp2", "--pd-pack"], "layout 4xtp2 does not go with mode pd-pack: use collocated"),
    (["--layout", "p1xtp1-d1xtp1", "--collocated"], "does not go with mode collocated: use pd-pack, pd-spread or pd-pool"),
    (["--layout", "4xtp2", "--bare-pd"], "layout 4xtp2 does not go with mode bare-pd: use bare"),
    (["--layout", "p1xtp1-d1xtp1", "--bare"], "does not go with mode bare: use bare-pd or bare-pd-spread"),
    (["--bare", "--p-num", 2], "mode bare takes --tp and --num, not --p-num"),
    (["--bare-pd", "--tp", 2], "mode bare-pd takes --p-num, --p-tp, --d-num and --d-tp, not --tp"),
    (["--bare", "--ingress-replicas", 2], "runs without Ray Serve: leave --ingress-replicas out"),
    (["--bare", "--llm-option", "pd_tokenize_once=true"], "leave --llm-option out"),
    (["--collocated", "--llm-option", "tokenize=1"], "--llm-option tokenize: Ray"),
    (["--bare", "--direct-streaming"], "runs without Ray Serve: leave --direct-streaming out"),
    (["--collocated", "--serve-env", "UCX_TLS=tcp"], "--serve-env UCX_TLS: only RAY_SERVE_* and RAYLLM_*"),
    (["--collocated", "--serve-env", "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1"], "use --direct-streaming"),
    (["--collocated", "--direct-streaming", "--serve-env", "RAY_SERVE_ENABLE_HA_PROXY=0"], "--direct-streaming needs HAProxy"),
    (["--collocated", "--direct-streaming", "--ingress-replicas", 2], "leave --ingress-replicas out, too"),
    (["--collocated", "--env", "PROMETHEUS_MULTIPROC_DIR=/tmp/x"], "PROMETHEUS_MULTIPROC_DIR: engines keep their"),
    (["--collocated", "--engine-arg", "tensor_parallel_size=2"], "--engine-arg tensor_parallel_size cannot be set here"),
    (["--collocated", "--engine-arg", "prefill:max_num_seqs=8"], "engine arguments of one role (prefill) with mode collocated"),
    (["--pd-pool", "--d-num", 2, "--engine-arg", "decode:max_num_seqs=8"], "(decode) with mode pd-pool: each engine takes"),
    (["--pd-pack", "--engine-arg", "prefill:block_size=64"], "--engine-arg block_size must be the same for P and D"),
    (["--pd-pack", "--engine-arg", "ingress:max_num_seqs=8"], "--engine-arg ingress:max_num_seqs: write NAME, prefill"),
    (["--pd-pack", "--engine-arg", "decode:tensor_parallel_size=2"], "--engine-arg tensor_parallel_size cannot be set here"),
    (["--collocated", "--engine-arg", "block_size={64"], "--engine-arg block_size: '{64' is no YAML"),
    (["--collocated", "--env", "VLLM_NIXL_SIDE_CHANNEL_PORT=5600"], "every engine of a node would take this one port"),
    (["--collocated", "--env", "VLLM_NIXL_SIDE_CHANNEL_HOST=10.0.0.1"], "every engine would announce this one address"),
    (["--collocated", "--env", "UCX_TLS=tcp"], "UCX_TLS: --ucx-tls sets it"),
    (["--collocated", "--env", "UCX_PROTO_INFO=n"], "UCX_PROTO_INFO: it is always y"),
    (["--collocated", "--serve-env", "RAY_SERVE_HAPROXY_MAXCONN=many"], "not a number of connections"),
    (["--collocated", "--serve-env", "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=nan"], "not a number of seconds, such as 0"),
    (["--collocated", "--serve-env", "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=-1"], "not a number of seconds, such as 0"),
    (["--collocated", "--host", "10.0.0.5"], "--host 10.0.0.5 does not go with HAProxy"),
    (["--collocated", "--router", "random"], "invalid choice: 'random'"),
    (["--collocated", "--tp", 0], "tensor-parallel size must be a whole number of at least 1, not 0"),
    (["--collocated", "--num", -1], "number of replicas must be a whole number of at least 1, not -1"),
    (["--pd-pack", "--d-num", 0], "number of replicas must be a whole number of at least 1, not 0"),
    (["--collocated", "--tp", "two"], "argument --tp/--tensor-parallel-size: invalid int value: 'two'"),
    (["--mode", "pd"], "argument --mode: invalid choice: 'pd'"),
    (["--mode", "pd-pack", "--pd-spread"], "argument --pd-spread: not allowed with argument --mode"),
    ([*PD, "--use-ucx", "--use-libfabric"], "argument --use-libfabric: not allowed with argument --use-ucx"),
    ([*PD, "--use-libfabric", "--ucx-tls", "tcp"], "--ucx-tls goes with --use-ucx, not with --use-libfabric"),
    ([*PD, "--ingress-replicas", 0], "--ingress-replicas must be at least 1, not 0"),
    ([*PD, "--model", "none.yaml"], "no such file: none.yaml (there are: configs/models/gpt-oss-120b-shape.yaml, "),
    ([*PD, "--hardware", "none.yaml"], "no such file: none.yaml (there are: configs/hardware/cpu.yaml, "),
    ([*PD, "--model", "viz.py"], "viz.py: not valid YAML: "),
    ([*PD, "--model", "configs/hardware/cpu.yaml"], "configs/hardware/cpu.yaml: "),
    ([*PD, "--decode-bench"], "--decode-bench measures decode alone: give a collocated layout, not p1xtp1-d1xtp1 pd-pack"),
    ([*PD, "--surprise"], "unrecognized arguments: --surprise"),
    ([*PD, "--port", "x"], "argument --port: 'x' is not a port: a whole number from 1 to 65535"),
    ([*PD, "--port", "0"], "argument --port: '0' is not a port"),
    ([*PD, "--port", "65536"], "argument --port: '65536' is not a port"),
    ([*PD, "--timeout", "soon"], "argument --timeout: 'soon' is not a number of seconds above 0"),
    ([*PD, "--timeout", "0"], "argument --timeout: '0' is not a number of seconds above 0"),
    ([*PD, "--timeout", "nan"], "argument --timeout: 'nan' is not a number of seconds above 0"),
    ([*PD, "--timeout", "inf"], "argument --timeout: 'inf' is not a number of seconds above 0"),
    ([*PD, "--model-id", ""], "argument --model-id: is empty: leave the option out, or name something"),
    ([*PD, "--model-source", " "], "argument --model-source: is empty"),
    ([*PD, "--ucx-tls", ""], "argument --ucx-tls: is empty"),
    ([*PD, "--host", ""], "argument --host: is empty"),
    (["--layout", "2xtp3"], "2xtp3: TP 3 does not fit the model's 8 KV heads: one must divide the other"),
    (["--layout", "p1xtp3-d1xtp2", "--pd-pack"], "must divide each other, 3 and 2 do not"),
    (["--layout", "1xtp16"], "1xtp16 needs 16 GPUs in groups of 16 on a node; there are <node1>: 8"),
    (["--layout", "p3xtp2-d1xtp4", "--pd-pack"],
     "p3xtp2-d1xtp4 packed needs 10 GPUs on one node; there are <node1>: 8"),
    (["--layout", "p5xtp2-d1xtp4", "--pd-spread"], "p5xtp2-d1xtp4 spread needs 10 GPUs on one node and 4 on another"),
    (["--layout", "p1xtp4-d1xtp1", "--pd-pack", *TINY], "prefill TP 4 > decode TP 1 needs prefill TP <= KV heads, "
     "the model has 2"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), MISTAKES, ids=lambda value: None)
def test_a_mistake_is_reported_in_one_line_before_anything_starts(monkeypatch, capsys, options, words):
    for more in ([], ["--dry-run"]):
        status, said = run(monkeypatch, capsys, *more, *options)
        assert (status, said.out) == (2, "")
        assert said.err.startswith("launch_gptoss.py: error: ") and words in said.err
        assert said.err.count("\n") == 1 and said.err.endswith("\n")


def test_decode_bench_fills_kv_caches_of_collocated_engines(monkeypatch, capsys):
    plan = dry_run(monkeypatch, capsys, "--layout", "2xtp4", "--decode-bench", *BIG)
    assert plan["decode_bench"] is True
    transfer = plan["llm_configs"]["collocated"]["engine_kwargs"]["kv_transfer_config"]
    assert transfer == {"kv_connector": "DecodeBenchConnector", "kv_role": "kv_both"}
    assert dry_run(monkeypatch, capsys, "--layout", "2xtp4", *BIG)["decode_bench"] is False


def test_an_old_vllm_has_no_decode_bench(monkeypatch, capsys):
    monkeypatch.setattr(stack, "vllm_version", lambda: Version("0.11.0"))
    status, said = run(monkeypatch, capsys, "--dry-run", "--layout", "2xtp4", "--decode-bench", *BIG)
    assert status == 2 and "--decode-bench needs vLLM >= 0.11.2, this is 0.11.0" in said.err and "approximation" in said.err


def test_an_old_vllm_cannot_shrink_tp_from_prefill_to_decode(monkeypatch, capsys):
    monkeypatch.setattr(stack, "vllm_version", lambda: Version("0.11.0"))
    dry_run(monkeypatch, capsys, "--layout", "p2xtp2-d1xtp4", "--pd-pack", *BIG)
    status, said = run(monkeypatch, capsys, "--dry-run", "--layout", "p1xtp4-d2xtp2", "--pd-pack", *BIG)
    assert status == 2 and said.err == (
        "launch_gptoss.py: error: p1xtp4-d2xtp2: prefill TP 4 > decode TP 2 needs vLLM >= 0.14 (vllm PR #27274), "
        "this is 0.11.0\n"
    )
    monkeypatch.setattr(stack, "vllm_version", lambda: Version("0.14.0"))
    dry_run(monkeypatch, capsys, "--layout", "p1xtp4-d2xtp2", "--pd-pack", *BIG)


def test_a_wrong_key_in_a_file_is_named(monkeypatch, capsys, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("model_id: m\nmax_model_len: 9\nkv_cach: 3\n")
    status, said = run(monkeypatch, capsys, "--dry-run", *PD, "--model", path)
    expected = f"launch_gptoss.py: error: {path}: unknown key 'kv_cach': did you mean 'kv_cache'?\n"
    assert (status, said.err) == (2, expected)


def test_one_thing_is_done_at_a_time(monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, "--dry-run", "--stop")
    assert status == 2 and "argument --stop: not allowed with argument --dry-run" in said.err
    assert said.err.count("\n") == 1


def no_ray_here(address=None):
    raise ConnectionError("no Ray cluster at this machine: nothing listens")


def test_without_a_cluster_nothing_runs_and_nothing_is_to_stop(monkeypatch, capsys):
    monkeypatch.setattr(cluster, "connect", no_ray_here)
    status, said = run(monkeypatch, capsys, "--status")
    assert status == 3 and json.loads(said.out) == {
        "running": False, "reason": "no Ray cluster at this machine: nothing listens",
    }  # fmt: skip
    status, said = run(monkeypatch, capsys, "--stop")
    assert (status, said.out, said.err) == (0, "", "launch: nothing is running\n")


def test_nodes_are_asked_for_processes_only_where_something_runs(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(cluster, "connect", lambda *_: None)
    monkeypatch.setattr(cluster, "on_every_node", lambda _, function, *args: asked.append((function, *args)) or {"a": []})
    monkeypatch.setattr(deployment.serve_app, "serve_details", lambda: None)
    for pids, ended in ([], False), ([7], True):
        kind = SimpleNamespace(replicas=lambda pids=pids: [{"pid": pid} for pid in pids], stop=lambda _, ended=ended: ended)
        monkeypatch.setattr(deployment, "KINDS", [kind])
        deployment.stop(None, time.monotonic() + 5)
    assert asked == [(cluster.process_tree, [7])]
    assert capsys.readouterr().err == "launch: no deployment was running\nlaunch: stopped\n"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ValueError: no KV cache", "ValueError: no KV cache"),
        ("(EngineCore pid=7) ERROR 11-22 [core.py:700] torch.OutOfMemoryError: CUDA out of memory",
         "torch.OutOfMemoryError: CUDA out of memory"),
        ("INFO all is well", None),
        ("Errors: 0", None),
    ],
)  # fmt: skip
def test_the_engines_own_error_is_found_in_a_line(line, error):
    found = re.search(deployment.ENGINE_ERROR, line)
    assert (found and found[1]) == error


@pytest.mark.parametrize(("accelerator", "options"), [("CPU", ""), ("H100", " --workers 0 --gpus 2")])
def test_without_a_cluster_a_launch_says_how_to_start_one(monkeypatch, accelerator, options):
    def no_cluster(address, env):
        raise ConnectionError("no Ray cluster at this machine: none")

    monkeypatch.setattr(cluster, "connect", no_cluster)
    plan, _ = resolve(launch_gptoss.parse_args(["--bare", *TINY]), cluster.planned_nodes)
    plan = plan.model_copy(update={"accelerator": accelerator, "gpus_per_node": 2})
    said = f"none; to start one on this machine: python -m pdbench.local_cluster start{options}$"
    with pytest.raises(ConnectionError, match=said):
        launch.connect(None, plan)


@pytest.mark.parametrize(("found", "passes"), [(3, True), (2, False)])
def test_ranks_that_share_a_core_end_the_launch(monkeypatch, found, passes):
    """One prefill rank and two decode ranks; `found` is what the nodes say that they pinned."""
    engines = [{"node_id": "n", "role": role, "pid": pid} for pid, role in enumerate(("prefill", "decode"), start=1)]
    asked = []

    def on_every_node(ray, function, replicas):
        asked.extend(replicas)
        return {"node1": found, "node2": 0}

    monkeypatch.setattr(cluster, "on_every_node", on_every_node)
    args = launch_gptoss.parse_args(["--pd-pack", "--p-tp", "1", "--d-tp", "2", *TINY])
    plan, _ = resolve(args, cluster.planned_nodes)
    if passes:
        assert launch_gates.pin_ranks(None, plan, engines).passed
        assert [(r["pid"], r["first"]) for r in asked] == [(1, 0), (2, 1)]
    else:
        with pytest.raises(LaunchError, match="2 of 3 engine ranks were found and pinned"):
            launch_gates.pin_ranks(None, plan, engines)


def test_engines_are_checked_without_what_is_in_front_of_them(monkeypatch):
    async def readiness(plan):
        return "readiness"

    found = [{"role": role} for role in ("ingress", "prefill", "decode")]
    kind = SimpleNamespace(readiness=readiness, replicas=lambda: found)
    monkeypatch.setattr(launch_gates, "own_ports", lambda ray, engines: ("ports", engines))
    monkeypatch.setattr(launch_gates, "pin_ranks", lambda ray, plan, engines: ("core-per-rank", engines))
    plan, _ = resolve(launch_gptoss.parse_args(["--bare-pd", *TINY]), cluster.planned_nodes)
    gates = launch_gates.check(None, kind, plan, time.monotonic() + 5)
    assert gates == ["readiness", ("ports", found[1:]), ("core-per-rank", found[1:])]


def test_haproxys_connections_are_fitted_to_the_heads_limit(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(cluster, "on_head", lambda ray, *call: asked.append(call) or (1024, 4096))
    plan, _ = resolve(launch_gptoss.parse_args(["--collocated", *TINY]), cluster.planned_nodes)
    assert plan.path.connections == 4096, "as a dry run shows it"
    assert launch.fewer_connections(None, plan.serving_path, {}) == ("RAY_SERVE_HAPROXY_MAXCONN", "1536")
    assert capsys.readouterr().err == (
        "launch: HAProxy takes 1536 connections at once instead of 4096: the head's hard limit of open files is 4096\n"
    )
    with pytest.raises(ValueError, match="give at most 1536"):
        launch.fewer_connections(None, plan.serving_path, {"RAY_SERVE_HAPROXY_MAXCONN": "4096"})
    assert len(asked) == 2
    for without in (ServingPath(), plan.serving_path.model_copy(update={"env": {}})):
        assert launch.fewer_connections(None, without, {}) is None
    assert len(asked) == 2, "nothing is asked where HAProxy does not run"


NODES = [cluster.Node("10.0.0.1", 4, is_head=True), cluster.Node("10.0.0.2", 4), cluster.Node("10.0.0.3", 0)]


def consult(monkeypatch, found, *options, nodes=NODES, what=("--layout", "1xtp1", *TINY)):
    """What a launch asked the doctor, with `found` (name, status) planted."""
    asked = {}

    def examine(ray, **how):
        asked.update(how)
        findings = [Finding(name=name, nodes=["n"], status=status, seen="s", fix="m") for name, status in found]
        return examination.Examination(status=worst(findings), nodes={}, findings=findings)

    monkeypatch.setattr(before_launch, "examine", examine)
    monkeypatch.setattr(cluster, "read_nodes", lambda ray, accelerator: nodes)
    args = launch_gptoss.parse_args(["--port", "81", *what, *options])
    before_launch.consult(None, args, resolve(args, lambda *_: nodes)[0])
    return asked


def test_an_ill_node_ends_the_launch_with_a_line_for_each_fault(monkeypatch, capsys):
    with pytest.raises(LaunchError, match="nothing was started: 2 of the doctor's checks failed; --no-doctor"):
        consult(monkeypatch, [("a", "fail"), ("b", "warn"), ("c", "ok"), ("d", "fail")])
    lines = ["launch: warning: b on n: s; fix: m", "launch: doctor: a on n: s; fix: m"]
    assert capsys.readouterr().err.splitlines() == [*lines, "launch: doctor: d on n: s; fix: m"]
    consult(monkeypatch, [("b", "warn"), ("c", "ok")])
    assert capsys.readouterr().err.splitlines() == lines[:1]


def test_the_doctor_does_not_mind_what_was_asked_for(monkeypatch):
    asked = consult(monkeypatch, [])
    assert asked["quick"] and asked["ports"][0] == ("127.0.0.1", {"number": 81})
    assert [port["server"] for _, port in asked["ports"][1:]] == ["HAProxy"] * 2
    assert not asked["ignore"] & {"NIXL_LOG_LEVEL", "UCX_TLS", "slow link"}
    slow = ["--env", "UCX_TCP_PORT_RANGE=31744-32767", "--env", "X=1", "--ucx-tls", "tcp"]
    assert {"UCX_TLS", "slow link", "X"} <= consult(monkeypatch, [], *slow)["ignore"]
    assert {"NIXL_LOG_LEVEL", "UCX_LOG_LEVEL"} <= consult(monkeypatch, [], "--verbose")["ignore"]


@pytest.mark.parametrize(("mode", "matters"), [("pd-spread", True), ("pd-pack", False), ("pd-pool", False)])
def test_rdma_matters_where_kv_caches_cross_nodes(monkeypatch, mode, matters):
    """A warning that says "or pack P and D" to who packs them helps nobody."""
    asked = consult(monkeypatch, [], what=("--mode", mode, "--layout", "p1xtp1-d1xtp1", *TINY))
    assert ("RDMA" not in asked["ignore"]) is matters


@pytest.mark.parametrize(
    ("what", "engines_on"),
    [
        (["--layout", "1xtp4"], {"10.0.0.2"}),
        (["--layout", "2xtp4"], {"10.0.0.1", "10.0.0.2"}),  # Ray chooses, among those that have accelerators
        (["--layout", "p1xtp1-d1xtp1", "--pd-pack"], {"10.0.0.2"}),
        (["--layout", "p1xtp1-d1xtp1", "--pd-spread"], {"10.0.0.1", "10.0.0.2"}),
        (["--layout", "1xtp1", "--bare"], {"10.0.0.2"}),
    ],
)
def test_the_doctor_looks_for_accelerators_where_engines_will_be(monkeypatch, what, engines_on):
    nodes = [cluster.Node(node.ip, node.accelerators, is_head=node.is_head, kind="H100") for node in NODES]
    asked = consult(monkeypatch, [], nodes=nodes, what=[*what, *BIG])
    assert asked["engines_on"] == engines_on and asked["hardware"].name == "p5.48xlarge"
    other = [cluster.Node("10.0.0.9", 8, kind="A100"), *nodes]
    asked = consult(monkeypatch, [], nodes=other, what=[*what, *BIG])
    assert asked["engines_on"] == engines_on and asked["candidates"] == {"10.0.0.1", "10.0.0.2"}


def test_prefill_and_decode_may_have_engine_arguments_of_their_own(monkeypatch, capsys):
    options = ["--engine-arg", "max_num_seqs=64", "--engine-arg", "prefill:max_num_seqs=8", "--engine-arg", "prefill:seed=1"]
    status, said = run(monkeypatch, capsys, "--dry-run", *PD, *options, *BIG)
    engines = {role: config["engine_kwargs"] for role, config in yaml.safe_load(said.out)["llm_configs"].items()}
    assert status == 0 and engines["prefill"]["max_num_seqs"] == 8 and engines["prefill"]["seed"] == 1
    assert engines["decode"]["max_num_seqs"] == 64 and "seed" not in engines["decode"]

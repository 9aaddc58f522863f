"""From a layout to the plan of a launch: LLMConfigs, placement and environment."""

import pytest
from packaging.version import Version
from pydantic import ValidationError

from pdbench.configs import ROOT, load_hardware, load_model, load_serve
from pdbench.layout import Layout
from pdbench.network.transport import Transport
from pdbench.nodes.cluster import Node, Placement, place, planned_nodes
from pdbench.nodes.stack import Stack
from pdbench.serve.compilations import pad_steps
from pdbench.serve.plan import HEAD_RESOURCE, PIN, Plan, make_plan
from pdbench.serve.serving_path import choose

BIG = load_model(ROOT / "configs/models/gpt-oss-120b.yaml")
P5 = load_hardware(ROOT / "configs/hardware/p5.48xlarge.yaml")
TINY = load_model(ROOT / "configs/models/gpt-oss-tiny.yaml")
CPU = load_hardware(ROOT / "configs/hardware/cpu.yaml")
COUNTERS = {"PROMETHEUS_MULTIPROC_DIR": "/dev/shm/pdbench-counters-8000"}
OF_GPUS = COUNTERS | {"VLLM_DISABLE_COMPILE_CACHE": "1", "TRITON_CACHE_DIR": "${HOME}/.triton/cache"}
PATH = choose(load_serve(), {}, {}, False, "power-of-two", Version("2.60.0"))
ARMS = [("4xtp2", "collocated"), ("16xtp1", "collocated"), ("p2xtp2-d1xtp4", "pd-pack"), ("p1xtp8-d2xtp2", "pd-spread")]


def plan_of(layout, mode, model=BIG, hardware=P5, transport=None, ingress=8):
    layout = Layout.parse(layout)
    placement = place(layout, mode, planned_nodes(hardware, layout, mode))
    transport = transport or Transport()
    return make_plan(model, hardware, layout, mode, placement, transport, PATH, ingress, "127.0.0.1", 8000)


def test_prefill_and_decode_are_two_separate_configs():
    configs = plan_of("p2xtp2-d1xtp4", "pd-pack").llm_configs
    assert list(configs) == ["prefill", "decode"]
    prefill, decode = configs["prefill"], configs["decode"]
    assert prefill["engine_kwargs"]["kv_transfer_config"]["kv_role"] == "kv_producer"
    assert decode["engine_kwargs"]["kv_transfer_config"]["kv_role"] == "kv_consumer"
    assert (prefill["engine_kwargs"]["tensor_parallel_size"], prefill["deployment_config"]["num_replicas"]) == (2, 2)
    assert (decode["engine_kwargs"]["tensor_parallel_size"], decode["deployment_config"]["num_replicas"]) == (4, 1)
    # vLLM writes an engine id into it: shared, P and D would be one engine to NIXL.
    prefill["engine_kwargs"]["kv_transfer_config"]["engine_id"] = "p"
    prefill["runtime_env"]["env_vars"]["X"] = "p"
    assert "engine_id" not in decode["engine_kwargs"]["kv_transfer_config"]
    assert "X" not in decode["runtime_env"]["env_vars"]


def test_a_collocated_arm_transfers_nothing():
    plan = plan_of("4xtp2", "collocated", transport=Transport(ucx_tls="tcp"))
    assert list(plan.llm_configs) == ["collocated"] and plan.transport is None
    config = plan.llm_configs["collocated"]
    assert "kv_transfer_config" not in config["engine_kwargs"]
    assert config["runtime_env"] == {"env_vars": OF_GPUS}


@pytest.mark.parametrize(("layout", "mode"), ARMS)
def test_each_rank_has_a_bundle_and_a_replica_never_crosses_nodes(layout, mode):
    for config in plan_of(layout, mode).llm_configs.values():
        group = config["placement_group_config"]
        assert group["strategy"] == "STRICT_PACK"
        assert len(group["bundles"]) == config["engine_kwargs"]["tensor_parallel_size"]
        assert all(bundle["GPU"] == 1 for bundle in group["bundles"])


def pins(config):
    bundles = config["placement_group_config"]["bundles"]
    return {key: amount for bundle in bundles for key, amount in bundle.items() if key != "GPU"}


def test_packed_pools_are_pinned_to_one_node_and_spread_ones_to_two():
    packed = plan_of("p2xtp2-d1xtp4", "pd-pack")
    assert [pins(c) for c in packed.llm_configs.values()] == [{"node:<node1>": PIN}] * 2
    assert packed.placement == {"prefill": "<node1>", "decode": "<node1>", "ingress": "head"}
    spread = plan_of("p1xtp8-d2xtp2", "pd-spread")
    assert pins(spread.llm_configs["prefill"]) == {"node:<node1>": PIN}
    assert pins(spread.llm_configs["decode"]) == {"node:<node2>": PIN}
    assert spread.placement == {"prefill": "<node1>", "decode": "<node2>", "ingress": "head"}


def test_a_collocated_pool_is_pinned_where_one_node_holds_it():
    assert pins(plan_of("4xtp2", "collocated").llm_configs["collocated"]) == {"node:<node1>": PIN}
    wide = plan_of("16xtp1", "collocated")
    assert pins(wide.llm_configs["collocated"]) == {}
    assert wide.placement == {"collocated": "any", "ingress": "head"}


def test_a_pin_leaves_room_for_every_rank_of_a_node():
    assert 0 < PIN * 64 < 1, "Ray gives each node 1.0 of its own resource"


@pytest.mark.parametrize(("layout", "mode"), ARMS)
def test_arms_differ_in_nothing_but_the_layout(layout, mode):
    """Ingress, limits, context and streaming are the same in every arm, or arms would not compare."""
    plan = plan_of(layout, mode)
    assert plan.ingress == {
        "num_replicas": 8, "max_ongoing_requests": 8192, "graceful_shutdown_wait_loop_s": 0.1,
        "ray_actor_options": {"num_cpus": 0, "resources": {HEAD_RESOURCE: PIN}},
    }  # fmt: skip
    for config in plan.llm_configs.values():
        assert config["experimental_configs"] == {
            "stream_batching_interval_ms": 0, "pd_tokenize_once": True, "_prewarm_prefill_decode": True,
        }  # fmt: skip
        assert config["engine_kwargs"]["max_model_len"] == 16000
        assert config["deployment_config"]["max_ongoing_requests"] == 8192
        assert config["deployment_config"]["max_constructor_retry_count"] == 1
        assert config["accelerator_type"] == "H100" and "accelerator_config" not in config
        assert config["model_loading_config"] == {
            "model_id": "openai/gpt-oss-120b", "model_source": "openai/gpt-oss-120b",
        }  # fmt: skip
        assert config["log_engine_metrics"] is False, "counters of engines that count through Ray come late"


@pytest.mark.parametrize(
    ("layout", "mode", "gpus"),
    [("4xtp2", "collocated", 8), ("p2xtp2-d1xtp4", "pd-pack", 8), ("p1xtp8-d2xtp2", "pd-spread", 12)],
)
def test_the_plan_tells_what_per_node_throughput_needs(layout, mode, gpus):
    plan = plan_of(layout, mode)
    assert (plan.layout, plan.mode, plan.gpus, plan.gpus_per_node) == (layout, mode, gpus, 8)
    assert (plan.accelerator, plan.model_id) == ("H100", "openai/gpt-oss-120b")
    assert plan.http == {"host": "127.0.0.1", "port": 8000}


def test_a_cpu_node_has_its_own_engines_and_environment():
    plan = plan_of("p1xtp2-d1xtp1", "pd-pack", TINY, CPU, Transport(ucx_tls="tcp"), ingress=1)
    assert plan.accelerator == "CPU" and plan.ingress["num_replicas"] == 1
    for role, ranks in (("prefill", 2), ("decode", 1)):
        config = plan.llm_configs[role]
        assert config["accelerator_config"] == {"kind": "cpu"} and "accelerator_type" not in config
        assert config["placement_group_config"]["bundles"] == [{"CPU": 1, "node:<node1>": PIN}] * ranks
        # The replica's own actor must not take a slot that an engine rank needs.
        assert config["deployment_config"]["ray_actor_options"] == {"num_cpus": 0}
        assert config["runtime_env"]["env_vars"] == CPU.env | {"UCX_PROTO_INFO": "y", "UCX_TLS": "tcp"} | COUNTERS
        assert config["engine_kwargs"]["enforce_eager"] is True
        assert config["engine_kwargs"]["kv_transfer_config"]["kv_buffer_device"] == "cpu"
        assert config["engine_kwargs"]["kv_transfer_config"]["kv_connector_extra_config"] == {
            "backends": ["UCX"], **CPU.kv_connector_extra_config,
        }  # fmt: skip
    assert CPU.env["OMP_NUM_THREADS"] == "1" and CPU.env["UCX_NET_DEVICES"] == "lo"


def test_the_environment_of_the_hardware_file_is_not_written_to():
    before = dict(CPU.env)
    plan_of("p1xtp1-d1xtp1", "pd-pack", TINY, CPU, Transport(ucx_tls="tcp", verbose=True))
    assert CPU.env == before


def test_the_models_engine_options_win_and_the_layout_wins_over_both():
    model = BIG.model_copy(update={"engine_kwargs": {"gpu_memory_utilization": 0.8, "tensor_parallel_size": 99}})
    hardware = P5.model_copy(update={"engine_kwargs": {"gpu_memory_utilization": 0.5, "block_size": 64}})
    engine = plan_of("4xtp2", "collocated", model, hardware).llm_configs["collocated"]["engine_kwargs"]
    assert engine == {
        "gpu_memory_utilization": 0.8, "block_size": 64, "tensor_parallel_size": 2, "max_model_len": 16000,
        "jit_monitor_verbose": True, "compilation_config": pad_steps({}, 256)["compilation_config"],
    }  # fmt: skip
    quiet = P5.model_copy(update={"engine_kwargs": {"jit_monitor_verbose": False}})
    engine = plan_of("4xtp2", "collocated", BIG, quiet).llm_configs["collocated"]["engine_kwargs"]
    assert engine["jit_monitor_verbose"] is False


def test_steps_are_padded_where_the_hardware_file_says_so_and_vllm_needs_it(monkeypatch):
    def engine(hardware):
        return plan_of("4xtp2", "collocated", BIG, hardware).llm_configs["collocated"]["engine_kwargs"]

    assert "compilation_config" not in engine(P5.model_copy(update={"pad_steps_to": None}))
    assert 8192 in engine(P5)["compilation_config"]["cudagraph_capture_sizes"]
    with pytest.raises(ValueError, match="^engine argument compilation_config: 3 is not a mapping"):
        engine(P5.model_copy(update={"engine_kwargs": {"compilation_config": 3}}))
    monkeypatch.setattr(Stack, "installed", lambda: Stack(Version("2.51.0"), Version("0.11.0")))
    assert "compilation_config" not in engine(P5)


def test_only_gpu_engines_compile_anew_with_one_folder_of_kernels_and_a_hardware_file_decides():
    """A replica would load what another one's GPU compiled; CPU engines have no such thing."""
    chosen = {"VLLM_DISABLE_COMPILE_CACHE": "0", "TRITON_CACHE_DIR": "/shared/triton"}
    cached = P5.model_copy(update={"env": chosen})
    plans = plan_of("2xtp1", "collocated", TINY, CPU), plan_of("2xtp1", "collocated", hardware=cached)
    given = [plan.llm_configs["collocated"]["runtime_env"]["env_vars"] for plan in plans]
    assert [{name: env.get(name) for name in chosen} for env in given] == [dict.fromkeys(chosen), chosen]


def test_verbose_reaches_every_arm_as_far_as_it_applies():
    loud = Transport(verbose=True)
    collocated = plan_of("4xtp2", "collocated", transport=loud).llm_configs["collocated"]
    assert collocated["runtime_env"]["env_vars"] == {"VLLM_LOGGING_LEVEL": "DEBUG"} | OF_GPUS
    prefill = plan_of("p1xtp1-d1xtp1", "pd-pack", transport=loud).llm_configs["prefill"]
    assert {"NIXL_LOG_LEVEL", "UCX_LOG_LEVEL", "VLLM_LOGGING_LEVEL"} <= set(prefill["runtime_env"]["env_vars"])


def test_the_nodes_that_placement_chose_are_those_of_the_plan():
    placement = Placement(prefill=Node("10.0.0.7", 8), decode=Node("10.0.0.9", 8))
    plan = make_plan(BIG, P5, Layout.parse("p1xtp1-d1xtp1"), "pd-spread", placement, Transport(), PATH, 2, "::", 9)
    assert plan.placement == {"prefill": "10.0.0.7", "decode": "10.0.0.9", "ingress": "head"}
    assert pins(plan.llm_configs["decode"]) == {"node:10.0.0.9": PIN}
    assert plan.ingress["num_replicas"] == 2 and plan.http == {"host": "::", "port": 9}


def test_a_plan_knows_all_its_fields():
    with pytest.raises(ValidationError, match="surprise"):
        Plan(**plan_of("1xtp1", "collocated").model_dump(), surprise=1)

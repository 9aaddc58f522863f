"""The bytes of a KV cache: its shape, and what the engine's arguments make of it."""

import pytest

import launch_gptoss
from pdbench.configs import ROOT, load_model
from pdbench.measure import level_gates
from pdbench.model.kv_cache import KVCache, check_transferred
from pdbench.nodes.cluster import planned_nodes
from pdbench.serve.options import resolve

SHAPE = {"heads": 8, "head_dim": 64, "layers": 24}


@pytest.mark.parametrize(
    ("given", "engine", "size"),
    [
        ({}, {}, 2),
        ({}, {"kv_cache_dtype": "auto"}, 2),
        ({}, {"kv_cache_dtype": "fp8"}, 1),
        ({}, {"kv_cache_dtype": "fp8_e4m3", "dtype": "bfloat16"}, 1),
        ({}, {"kv_cache_dtype": "bfloat16", "dtype": "float32"}, 2),
        ({}, {"dtype": "float32"}, 4),
        ({}, {"dtype": "auto"}, 2),
        ({"value_bytes": 1}, {"dtype": "bfloat16"}, 1),  # weights that say fp8 of their KV cache
        ({"value_bytes": 1}, {"kv_cache_dtype": "bfloat16"}, 2),
    ],
)
def test_the_engines_arguments_decide_how_large_a_value_is(given, engine, size):
    cache = KVCache(**SHAPE, **given)
    found = cache.under(engine)
    assert found.value_bytes == size and found.under(engine) == found
    assert found.bounds(1000) == tuple(n * size // cache.value_bytes for n in cache.bounds(1000))


@pytest.mark.parametrize(
    ("given", "engine", "words"),
    [
        (2, {"kv_cache_dtype": "fp8"}, "value_bytes 2, but kv_cache_dtype fp8 has 1"),
        (1, {"kv_cache_dtype": "bfloat16"}, "value_bytes 1, but kv_cache_dtype bfloat16 has 2"),
        (2, {"dtype": "float32"}, "value_bytes 2, but dtype float32 has 4"),
    ],
)
def test_what_contradicts_the_model_file_is_refused(given, engine, words):
    with pytest.raises(ValueError, match=words):
        KVCache(**SHAPE, value_bytes=given).check(engine)
    KVCache(**SHAPE).check(engine)


@pytest.mark.parametrize("name", ["nvfp4", "fp8_per_token_head", "turboquant_4bit_nc", "fp9"])
def test_a_format_of_unknown_size_is_refused_where_it_is_transferred(name):
    with pytest.raises(ValueError, match=f"kv_cache_dtype {name}: how many bytes"):
        check_transferred({"kv_cache_dtype": name})
    check_transferred({"kv_cache_dtype": "fp8"})
    check_transferred({})


def test_the_gate_expects_half_the_bytes_of_an_fp8_cache(make_manifest):
    engine = {"tensor_parallel_size": 1}
    deployment = make_manifest(
        kv_cache=KVCache(**SHAPE).model_dump(), llm_configs={"decode": {"engine_kwargs": engine}}
    ).deployment
    least, most = level_gates._kv_bounds(deployment, [1000])
    engine["kv_cache_dtype"] = "fp8"
    deployment.llm_configs = {"decode": {"engine_kwargs": engine}}
    assert level_gates._kv_bounds(deployment, [1000]) == (least / 2, most / 2)


def test_a_model_file_says_the_size_of_its_own_engine(tmp_path):
    text = "model_id: m\nmax_model_len: 1000\nkv_cache: {heads: 8, head_dim: 64, layers: 2}\n"
    for more, size in (("", 2), ("engine_kwargs: {kv_cache_dtype: fp8}\n", 1)):
        (tmp_path / "m.yaml").write_text(text + more)
        assert load_model(tmp_path / "m.yaml").kv.value_bytes == size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine-arg", "kv_cache_dtype=fp8", "--pd-pack", "--layout", "p1xtp1-d1xtp1"], None),
        (["--engine-arg", "kv_cache_dtype=nvfp4", "--collocated", "--layout", "1xtp1"], None),
        (["--engine-arg", "kv_cache_dtype=nvfp4", "--pd-pack", "--layout", "p1xtp1-d1xtp1"], "kv_cache_dtype nvfp4: how many"),
        (
            ["--engine-arg", "kv_cache_dtype=fp8", "--model", "{}", "--collocated", "--layout", "1xtp1"],
            "has value_bytes 2, but",
        ),
    ],
)
def test_a_launch_refuses_what_no_gate_could_check(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "m.yaml"
    path.write_text("model_id: m\nmax_model_len: 1000\nkv_cache: {heads: 8, head_dim: 64, layers: 2, value_bytes: 2}\n")
    args = launch_gptoss.parse_args([word.format(path) for word in options])
    nodes = planned_nodes
    if words is None:
        resolve(args, nodes)
    else:
        with pytest.raises(ValueError, match=words):
            resolve(args, nodes)

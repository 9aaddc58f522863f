"""Configuration files: those of the repository load, wrong ones are refused in one line."""

import pytest

from pdbench.configs import ROOT, ConfigError, load_hardware, load_model

MODELS = sorted((ROOT / "configs/models").glob("*.yaml"))
HARDWARE = sorted((ROOT / "configs/hardware").glob("*.yaml"))
KV = "kv_cache: {heads: 2, head_dim: 64, layers: 4}\n"
MODEL = f"model_id: m\n{KV}max_model_len: 100\n"
TINY = MODEL.replace(KV, "")


def refusal(load, path, text):
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_model_file_loads(path):
    model = load_model(path)
    assert model.kv.layers == 2 * model.kv.sliding_layers and model.kv.sliding_window == 128


@pytest.mark.parametrize("path", HARDWARE, ids=lambda p: p.stem)
def test_every_hardware_file_loads(path):
    hardware = load_hardware(path)
    assert hardware.name == path.stem
    assert (hardware.accelerator, hardware.kv_buffer_device) in {("GPU", "cuda"), ("CPU", "cpu")}


def test_the_files_that_the_study_needs_are_there():
    sizes = [f"gpt-oss-{size}{kind}" for size in ("120b", "20b") for kind in ("-shape", "")]
    assert [p.stem for p in MODELS] == [*sizes, "gpt-oss-tiny"]
    hosts = [*(f"{kind}-x{count}" for kind in ("h100", "h200") for count in (1, 2, 4)), "h200-x8"]
    assert [p.stem for p in HARDWARE] == ["cpu", *hosts, "p5.48xlarge"]
    big = load_model(ROOT / "configs/models/gpt-oss-120b.yaml")
    assert (big.source, big.kv.heads, big.max_model_len) == ("openai/gpt-oss-120b", 8, 16000)
    node = load_hardware(ROOT / "configs/hardware/p5.48xlarge.yaml")
    assert (node.accelerators_per_node, node.accelerator_type) == (8, "H100")


def test_the_source_is_the_id_a_hub_id_or_a_folder_of_this_repository(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(MODEL)
    assert load_model(path).source == "m"
    path.write_text(MODEL + "model_source: hub/id\n")
    assert load_model(path).source == "hub/id"
    path.write_text(TINY + "model_source: some/folder\ntiny: {}\n")
    assert load_model(path).source == str(ROOT / "some/folder")
    path.write_text(TINY + "model_source: some/folder\nshape: {layers: 2, experts: 4}\n")
    assert load_model(path).source == str(ROOT / "some/folder")
    path.write_text(TINY + "model_source: /some/folder\nshape: {layers: 2, experts: 4}\n")
    assert load_model(path).source == "/some/folder"


def test_what_a_model_is_made_from_tells_the_shape_of_its_kv_cache(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(MODEL)
    given = load_model(path)
    assert given.made is None and given.kv == given.kv_cache
    for made in ("tiny: {num_kv_heads: 4}\n", "shape: {layers: 6, experts: 4, kv_heads: 4, head_dim: 32}\n"):
        path.write_text(TINY + made)
        model = load_model(path)
        assert model.made is (model.tiny or model.shape) and (model.kv.heads, model.kv.head_dim) == (4, 32)


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_a_model_of_a_gpt_osss_shape_fills_kv_caches_as_the_real_one(size):
    made, real = (load_model(ROOT / f"configs/models/gpt-oss-{size}{kind}.yaml") for kind in ("-shape", ""))
    assert made.kv == real.kv and made.max_model_len == real.max_model_len and made.model_id == f"gpt-oss-{size}-shape"
    assert (real.made, made.made) == (None, made.shape)


@pytest.mark.parametrize("path", [p for p in HARDWARE if "-x" in p.stem], ids=lambda p: p.stem)
def test_hosts_of_h100_or_h200_differ_in_what_they_name(path):
    one, host = load_hardware(path.parent / "h100-x1.yaml"), load_hardware(path)
    kind, count = path.stem.split("-x")
    named = {"name": path.stem, "accelerator_type": kind.upper(), "accelerators_per_node": int(count)}
    assert host == one.model_copy(update=named | {"ingress_replicas": 2 * int(count)})


def test_a_hardware_file_wins_over_its_base(tmp_path):
    base = (ROOT / "configs/hardware/cpu.yaml").read_text()
    (tmp_path / "base.yaml").write_text(base)
    path = tmp_path / "h.yaml"
    path.write_text('base: base.yaml\nname: h\nenv: {X: "1"}\n')
    of_base = load_hardware(tmp_path / "base.yaml")
    assert load_hardware(path) == of_base.model_copy(update={"name": "h", "env": {"X": "1"}})
    assert refusal(load_hardware, path, "base: base.yaml\nnmae: x\n") == "unknown key 'nmae': did you mean 'name'?"
    (tmp_path / "base.yaml").write_text("base: other.yaml\n" + base)
    assert refusal(load_hardware, path, "base: base.yaml\n") == "its base has a base itself: name that one"
    with pytest.raises(ConfigError, match=f"no such file: {tmp_path / 'none.yaml'} .there are: configs/hardware/cpu.yaml, "):
        path.write_text("base: none.yaml\n")
        load_hardware(path)
    assert refusal(load_model, tmp_path / "m.yaml", "base: h.yaml\n" + MODEL).startswith("unknown key 'base': allowed: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODEL + "max_modle_len: 5\n", "unknown key 'max_modle_len': did you mean 'max_model_len'?"),
        (TINY + "tiny:\n  num_layer: 2\n", "unknown key 'tiny.num_layer': did you mean 'num_layers'?"),
        (MODEL.replace("heads: 2", "heads: 0"), "kv_cache.heads: Input should be greater than or equal to 1"),
        (MODEL.replace("4}", "4, sliding_layers: 5, sliding_window: 9}"), "kv_cache: Value error, sliding_layers"),
        (MODEL.replace("layers: 4", "layers: 4, sliding_layers: 2"), "kv_cache: Value error, sliding_layers and"),
        (TINY, "Value error, give one of kv_cache, tiny and shape"),
        (MODEL + "tiny: {}\n", "Value error, give one of kv_cache, tiny and shape"),
        (MODEL.replace("m\n", "''\n"), "model_id: String should have at least 1 character"),
        (TINY + "tiny: {}\nshape: {layers: 2, experts: 4}\n", "Value error, give one of kv_cache, tiny and shape"),
        (TINY + "shape: {layers: 2, experts: 3}\n", "shape.experts: Input should be greater than or equal to 4"),
        (TINY + "tiny:\n  num_layers: many\n", "tiny.num_layers: Input should be a valid integer"),
        (TINY + "tiny:\n  num_kv_heads: 3\n", "tiny: Value error, num_heads 8 must be a multiple of num_kv_heads 3"),
        ("- a\n- b\n", "expected keys and values, found list"),
        ("", "expected keys and values, found NoneType"),
        ("just words\n", "expected keys and values, found str"),
        ("model_id: [unclosed\n", "not valid YAML: "),
        ("model_id: m\n\tmax_model_len: 2\n", "not valid YAML: "),
        (b"model_id: \xff\xfe\n", "not valid YAML: "),
        ("model_id: !!python/object:os.system {}\n", "not valid YAML: "),
    ],
)
def test_a_wrong_model_file_is_refused_in_one_line(tmp_path, text, message):
    assert refusal(load_model, tmp_path / "m.yaml", text).startswith(message)


def test_an_unknown_key_like_no_other_lists_those_that_are_allowed(tmp_path):
    message = refusal(load_model, tmp_path / "m.yaml", MODEL + "zzz: 1\n")
    assert message.startswith("unknown key 'zzz': allowed: model_id, model_source, tiny, ")
    message = refusal(load_model, tmp_path / "m.yaml", MODEL + "tiny:\n  zzz: 1\n")
    assert message.startswith("unknown key 'tiny.zzz': allowed: vocab_size, hidden_size, ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("accelerator: CPU", "accelerator: TPU", "accelerator: Input should be 'GPU' or 'CPU'"),
        ("name: cpu", "nmae: x\nname: cpu", "unknown key 'nmae': did you mean 'name'?"),
        ("ingress_replicas: 1", "ingress_replicas: 0", "ingress_replicas: Input should be greater than or equal to 1"),
        # YAML reads a bare 1 as a number; the environment holds strings.
        ('OMP_NUM_THREADS: "1"', "OMP_NUM_THREADS: 1", "env.OMP_NUM_THREADS: Input should be a valid string"),
    ],
)
def test_a_wrong_hardware_file_is_refused_in_one_line(tmp_path, old, new, message):
    text = (ROOT / "configs/hardware/cpu.yaml").read_text()
    assert old in text
    assert refusal(load_hardware, tmp_path / "h.yaml", text.replace(old, new)) == message


def test_a_missing_file_lists_those_that_exist(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path / "none.yaml")
    have = ", ".join(f"configs/models/{p.name}" for p in MODELS)
    assert str(caught.value) == f"no such file: {tmp_path / 'none.yaml'} (there are: {have})"
    with pytest.raises(ConfigError, match=r"there are: configs/hardware/cpu.yaml, configs/hardware/h100-x1"):
        load_hardware(tmp_path)  # a folder is no file


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("tensor_parallel_size: 2", "tensor_parallel_size cannot be set here: the layout decides it"),
        ("max_model_len: 5000", "max_model_len cannot be set here: it is a key of the model file"),
        ("kv_transfer_config: {kv_connector: X}", "kv_transfer_config cannot be set here: the mode and --backend decide it"),
        ("data_parallel_size: 2", "data_parallel_size cannot be set here: layouts know tensor parallelism only"),
        ("pipeline_parallel_size: 2", "pipeline_parallel_size cannot be set here: layouts know"),
        ("enable_expert_parallel: true", "enable_expert_parallel cannot be set here: layouts know"),
    ],
)
def test_engine_arguments_that_are_decided_elsewhere_are_refused(tmp_path, argument, reason):
    """They were dropped without a word, or made engines on GPUs that no number counted."""
    assert reason in refusal(load_model, tmp_path / "m.yaml", MODEL + f"engine_kwargs: {{{argument}}}\n")
    hardware = f"base: {ROOT / 'configs/hardware/cpu.yaml'}\nengine_kwargs: {{{argument}}}\n"
    assert reason in refusal(load_hardware, tmp_path / "h.yaml", hardware)

"""A gpt-oss of the hub's shape with random weights: what transformers itself makes of it, and what it weighs."""

import json
import math
import random
import re

import pytest
from pydantic import ValidationError

from benchmarks import routing
from pdbench import shape as command
from pdbench.configs import ROOT, load_model
from pdbench.model import shape
from pdbench.model.model_folder import BESIDE_WEIGHTS, CHECKSUM_FILE, ensure_model, verified_checksum
from pdbench.model.shape import SPECIALS, ShapeSpec

# The whole vocabulary, and nothing else of size.
SMALL = ShapeSpec(layers=3, experts=4, experts_per_token=2, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=32,
                  sliding_window=16, max_position=4096)  # fmt: skip
NARROW = SMALL.model_copy(update={"vocabulary": 4096, "layers": 2})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for one another compute all the while: with two on busy cores, small products take 20 times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    return folder, ensure_model(folder, SMALL)


@pytest.fixture(scope="module")
def tensors(built):
    from safetensors.torch import load_file

    return {name: tensor for path in built[0].glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"heads": 8, "kv_heads": 3}, "heads 8 must be a multiple of kv_heads 3"),
        ({"experts": 4, "experts_per_token": 5}, "experts_per_token 5 exceeds experts 4"),
        ({"layers": 1}, "layers"),  # sliding and full attention take a layer each
        ({"hidden": 2890}, "hidden"),  # a scale is for 32 values
        ({"intermediate": 48}, "intermediate"),
        ({"vocabulary": 1000}, "vocabulary"),
        ({"expert": 4}, "expert"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(ValidationError, match=words):
        ShapeSpec(**{"layers": 24, "experts": 32} | sizes)


@pytest.mark.parametrize(("size", "layers", "gigabytes"), [("20b", 24, 13.7), ("120b", 36, 65.1)])
def test_the_model_files_weigh_what_the_hubs_models_weigh(size, layers, gigabytes):
    path = ROOT / f"configs/models/gpt-oss-{size}-shape.yaml"
    spec = load_model(path).shape
    assert spec.layers == layers and spec.bytes / 1e9 == pytest.approx(gigabytes, abs=0.05)
    said = re.search(r"([\d.]+) GB, made at the first launch", path.read_text())
    assert float(said[1]) == round((spec.bytes + BESIDE_WEIGHTS) / 1e9, 1), "what the file's comment says"


def test_the_weights_have_the_bytes_that_the_spec_tells(tensors):
    """But for biases, norms and sinks."""
    matrices = {name: t for name, t in tensors.items() if not name.endswith(("bias", "sinks", "norm.weight", "router.weight"))}
    assert sum(t.numel() * t.element_size() for t in matrices.values()) == SMALL.bytes


def test_a_second_making_is_the_same_to_the_byte_and_another_seed_is_not(tmp_path):
    checksum = ensure_model(tmp_path / "a", NARROW)
    assert ensure_model(tmp_path / "b", NARROW) == checksum == verified_checksum(tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes(), path.name
    assert ensure_model(tmp_path / "b", NARROW.model_copy(update={"seed": 1})) != checksum
    listed = [(tmp_path / side / CHECKSUM_FILE).read_text().splitlines() for side in "ab"]
    differ = {a.split()[1] for a, b in zip(*listed, strict=True) if a != b}
    assert differ == {"model-layer-00.safetensors", "model-layer-01.safetensors", "lm_head.weight.safetensors",
                      "model.embed_tokens.weight.safetensors", "shape_spec.json"}  # fmt: skip


def test_names_shapes_and_dtypes_are_those_that_transformers_expects(built, tensors):
    """Its experts take the packed bytes of a row as one dimension, and keep biases in float32."""
    import torch
    from transformers import AutoConfig, GptOssForCausalLM
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts

    config = AutoConfig.from_pretrained(built[0])
    with torch.device("meta"):
        expected = {name: t for name, t in GptOssForCausalLM(config).state_dict().items() if ".experts." not in name}
        experts = Mxfp4GptOssExperts(config).state_dict()
    assert {n: t.shape for n, t in tensors.items() if ".experts." not in n} == {n: t.shape for n, t in expected.items()}
    for number in range(SMALL.layers):
        prefix = f"model.layers.{number}.mlp.experts."
        given = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        assert set(given) == {f"{side}_proj_{part}" for side in ("gate_up", "down") for part in ("blocks", "scales", "bias")}
        for side, blocks in (("gate_up", (4, 192, 2, 16)), ("down", (4, 64, 3, 16))):
            packed, scales = given[f"{side}_proj_blocks"], given[f"{side}_proj_scales"]
            assert packed.shape == blocks and packed.flatten(-2).shape == experts[f"{side}_proj"].shape
            assert scales.shape == blocks[:-1] and packed.dtype == scales.dtype == torch.uint8
            assert given[f"{side}_proj_bias"].shape == experts[f"{side}_proj_bias"].shape
    others = [t.dtype for name, t in tensors.items() if not name.endswith(("_blocks", "_scales"))]
    assert set(others) == {torch.bfloat16}


def test_the_index_names_the_file_of_every_tensor(built, tensors):
    index = json.loads((built[0] / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(tensors) and set(index.values()) == {path.name for path in built[0].glob("*.safetensors")}


@pytest.fixture(scope="module")
def dequantized(built):
    """The model as transformers reads it: every tensor is found, and no other one is missed."""
    from transformers import GptOssForCausalLM, Mxfp4Config

    model, reported = GptOssForCausalLM.from_pretrained(
        built[0], quantization_config=Mxfp4Config(dequantize=True), output_loading_info=True, dtype="bfloat16",
        attn_implementation="eager",
    )  # fmt: skip
    assert not any(reported[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), reported
    return model.eval()


def test_experts_have_the_shares_that_they_should(tensors):
    """Of a hidden size of 2880, for which the scales are chosen."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    for side, share in (("gate_up", 1 / math.sqrt(2880)), ("down", 0.1 / math.sqrt(2880))):
        for number in range(SMALL.layers):
            prefix = f"model.layers.{number}.mlp.experts.{side}_proj_"
            values = convert_moe_packed_tensors(tensors[prefix + "blocks"], tensors[prefix + "scales"]).float()
            assert values.std().item() == pytest.approx(share, rel=0.3) and abs(values.mean().item()) < 0.05 * share


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("model.embed_tokens.weight", 1), ("lm_head.weight", 64**-0.5), ("self_attn.q_proj.weight", 0.3 * 64**-0.5),
        ("self_attn.k_proj.weight", 0.3 * 64**-0.5), ("self_attn.v_proj.weight", 64**-0.5),
        ("self_attn.o_proj.weight", 0.5 * 128**-0.5), ("mlp.router.weight", 4 * 64**-0.5),
        ("self_attn.q_proj.bias", 2.2), ("self_attn.k_proj.bias", 2.2), ("self_attn.v_proj.bias", 0.02),
    ],
)  # fmt: skip
def test_every_other_matrix_has_its_share_too(tensors, name, std):
    found = [tensor.float() for of, tensor in tensors.items() if of.endswith(name)]
    assert len(found) == (SMALL.layers if name.startswith(("self_attn", "mlp")) else 1)
    assert all(tensor.std().item() == pytest.approx(std, rel=0.15) for tensor in found)
    assert len({tensor.sum().item() for tensor in found}) == len(found), "no layer is like another"


def test_the_benchmark_of_routing_dequantizes_as_transformers_does(built, tensors):
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    model = routing.Model(built[0])
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)  # all bytes, with a scale of their own for each block
    cases = [(every, torch.arange(112, 128, dtype=torch.uint8).view(1, 16))]
    prefix = "model.layers.1.mlp.experts.down_proj_"
    cases += [(tensors[prefix + "blocks"][2], tensors[prefix + "scales"][2])]
    for blocks, scales in cases:
        theirs = convert_moe_packed_tensors(blocks[None], scales[None])[0].T
        assert torch.equal(model._weights(blocks, scales), theirs.to(torch.bfloat16))


def test_the_benchmark_of_routing_says_what_transformers_says(built, dequantized):
    import torch

    ids = torch.randint(300, 100_000, (6, 24), generator=torch.Generator().manual_seed(0))
    model = routing.Model(built[0])
    with torch.no_grad():
        ours, theirs = model.logits(ids), dequantized(ids).logits[:, -1].float()
    assert (ours - theirs).abs().max() < 0.15 < theirs.std(), "rounding, and no more"
    assert len(model.counts) == len(model.woken) == SMALL.layers
    assert [sum(layer) for layer in model.counts] == [6 * 24 * 2] * SMALL.layers
    assert len(theirs.argmax(1).unique()) == 6, "different prompts go on differently"


def test_rounding_decides_little_as_deep_as_the_hubs_models_are(tmp_path):
    """What the gate of PD's tokens rests on: a prompt decides what comes next, and no other way to add does."""
    import torch

    spec = SMALL.model_copy(update={"layers": 24, "experts": 8, "hidden": 256, "intermediate": 256, "head_dim": 64,
                                    "vocabulary": 16384})  # fmt: skip
    ensure_model(tmp_path / "deep", spec)
    ids = torch.randint(300, 10_000, (12, 40), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 12:28] = ids[:, 12:28].roll(1, dims=0)  # a block of the KV cache, of another prompt
    exact, rounded = routing.Model(tmp_path / "deep", "float32"), routing.Model(tmp_path / "deep")
    with torch.no_grad():
        logits, ours, theirs = exact.logits(ids), rounded.logits(ids), exact.logits(other)
    pair = logits.topk(2).indices
    apart, rounded_apart, others_apart = (some.gather(1, pair).diff()[:, 0] for some in (logits, ours, theirs))
    assert (apart - rounded_apart).abs().median() < 0.05 < 0.15 < (apart - others_apart).abs().median()
    assert (logits.argmax(1) != theirs.argmax(1)).sum() >= 6, "another block says something else"
    assert len(logits.argmax(1).unique()) == 12


@pytest.fixture(scope="module")
def tokenizer(built):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(built[0])


def test_the_vocabulary_ends_with_the_hubs_special_ids(built, tokenizer):
    assert len(tokenizer) == 201088 == len(tokenizer.get_vocab())
    known = {199998: "<|startoftext|>", 199999: "<|endoftext|>", 200002: "<|return|>", 200003: "<|constrain|>",
             200005: "<|channel|>", 200006: "<|start|>", 200007: "<|end|>", 200008: "<|message|>",
             200012: "<|call|>"}  # fmt: skip
    assert {i: tokenizer.convert_ids_to_tokens(i) for i in known} == known
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (200002, 199999)
    assert sorted(tokenizer.all_special_ids) == list(range(201088 - SPECIALS, 201088))
    config = json.loads((built[0] / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"], config["vocab_size"]) == (200002, 199999, 201088)


def test_random_prompts_keep_their_length_when_they_are_text_in_between(tokenizer):
    words, rng = range(256, 199998), random.Random(0)
    for length in (1, 400):
        ids = rng.choices(words, k=length)
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids


@pytest.mark.parametrize(("size", "experts"), [("20b", 32), ("120b", 128)])
def test_the_configuration_is_the_hubs(size, experts):
    """https://huggingface.co/openai/gpt-oss-20b/blob/main/config.json and its sister's."""
    spec = load_model(ROOT / f"configs/models/gpt-oss-{size}-shape.yaml").shape

    class Tokenizer:
        eos_token_id, pad_token_id = 200002, 199999

    config = shape._config(spec, Tokenizer)
    hub = {"hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
           "num_local_experts": experts, "num_experts_per_tok": 4, "experts_per_token": 4, "sliding_window": 128,
           "max_position_embeddings": 131072, "initial_context_length": 4096, "rope_theta": 150000, "swiglu_limit": 7.0,
           "vocab_size": 201088, "attention_bias": True, "tie_word_embeddings": False, "model_type": "gpt_oss"}  # fmt: skip
    assert config.items() >= hub.items() and config["quantization_config"]["quant_method"] == "mxfp4"
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * (spec.layers // 2)


def test_balance_of_simple_numbers():
    even = routing.balance([[5, 5, 5, 5], [8, 8, 4, 0]], woken=[4, 2], prompts=1, top=2)
    assert even == {
        "experts": 4, "busiest_over_mean": {"median": 1.6, "worst": 1.6}, "experts_without_tokens": 1,
        "woken_by_a_batch": {"batch": 1, "mean": 3.0, "least": 2, "even_draws": 2.0},
    }  # fmt: skip
    two = routing.balance([[1, 1, 1, 1]], woken=[3], prompts=2, top=2)
    assert two["woken_by_a_batch"]["even_draws"] == 3.0 and two["busiest_over_mean"]["worst"] == 1.0


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["shape", *map(str, args)])
    return command.main(), capsys.readouterr()


def test_the_command_makes_the_model_of_a_file(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "made"
    sizes = json.dumps(NARROW.model_dump())
    (tmp_path / "m.yaml").write_text(f"model_id: m\nmodel_source: {folder}\nshape: {sizes}\nmax_model_len: 9\n")
    status, said = run(monkeypatch, capsys, tmp_path / "m.yaml")
    assert (status, said.out) == (0, f"m: {verified_checksum(folder)} in {folder}\n")
    assert [line[:19] for line in said.err.splitlines()] == [f"model: {n} of 4 files" for n in (1, 2, 3, 4)]
    status, said = run(monkeypatch, capsys, tmp_path / "m.yaml")
    assert status == 0 and said.err == "", "it is there already"


@pytest.mark.parametrize(("file", "words"), [
    ("configs/models/gpt-oss-20b.yaml", "its weights come from openai/gpt-oss-20b: there is nothing to make"),
    ("none.yaml", "no such file: none.yaml"),
])  # fmt: skip
def test_a_file_of_which_nothing_is_made_is_reported_in_one_line(monkeypatch, capsys, file, words):
    monkeypatch.chdir(ROOT)
    status, said = run(monkeypatch, capsys, file)
    assert status == 2 and said.err.startswith("python -m pdbench.shape: error: ") and words in said.err
    assert said.err.count("\n") == 1

"""The tiny gpt-oss: reproducible, checked, fixed, and with continuations that depend on the prompt."""

import json
import random
import shutil

import pytest
from pydantic import ValidationError

from pdbench.configs import ROOT, load_model
from pdbench.model import tiny
from pdbench.model.model_folder import ensure_model, verified_checksum
from pdbench.model.tiny import MAX_VOCABULARY, SPECIAL_TOKENS, TinySpec
from pdbench.model.tokenizer import save_tokenizer

SMALL = TinySpec(
    vocab_size=1024, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, num_experts=2, experts_per_token=1,
    intermediate_size=64, sliding_window=16, max_position=1024,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"num_heads": 8, "num_kv_heads": 3}, "num_heads 8 must be a multiple of num_kv_heads 3"),
        ({"num_experts": 2, "experts_per_token": 3}, "experts_per_token 3 exceeds num_experts 2"),
        ({"num_layers": 1}, "num_layers"),  # sliding and full attention take a layer each
        ({"vocab_size": 256}, "vocab_size"),
        ({"vocab_size": MAX_VOCABULARY + 1}, "vocab_size"),  # more ids than words
        ({"num_experts": 1}, "num_experts"),
        ({"dtype": "float99"}, "dtype"),
        ({"layers": 4}, "layers"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(ValidationError, match=words):
        TinySpec(**sizes)


def test_the_model_file_allows_tp_1_and_2():
    spec = load_model(ROOT / "configs/models/gpt-oss-tiny.yaml").tiny
    for size in (spec.num_kv_heads, spec.num_heads, spec.num_experts, spec.intermediate_size, spec.vocab_size):
        assert size % 2 == 0


def test_the_largest_vocabulary_has_a_word_for_every_id(tmp_path):
    tokenizer = save_tokenizer(tmp_path, MAX_VOCABULARY, SPECIAL_TOKENS, 16384)
    assert len(tokenizer) == MAX_VOCABULARY == len(tokenizer.get_vocab())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    checksum = ensure_model(folder, SMALL)
    return folder, checksum


@pytest.fixture
def copy(built, tmp_path):
    """The built model, in a folder that a test may damage."""
    return shutil.copytree(built[0], tmp_path / "copy")


def no_build(*args):
    raise AssertionError("built again")


def test_a_second_build_is_the_same_to_the_byte(built, tmp_path):
    folder, checksum = built
    assert len(checksum) == 64 and verified_checksum(folder) == checksum
    assert ensure_model(tmp_path / "again", SMALL) == checksum
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    assert [path.name for path in tmp_path.iterdir()] == ["again"], "nothing half-built stays"


def test_a_whole_folder_is_left_as_it_is(built, monkeypatch):
    monkeypatch.setattr(tiny, "_save_weights", no_build)
    assert ensure_model(built[0], SMALL) == built[1]


def test_another_seed_gives_another_model(built, tmp_path):
    assert ensure_model(tmp_path / "other", SMALL.model_copy(update={"seed": 1})) != built[1]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tiny_spec.json"])
def test_damage_to_any_file_is_noticed(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert verified_checksum(copy) is None
    (copy / name).unlink()
    assert verified_checksum(copy) is None


def test_a_damaged_folder_is_built_again(built, copy):
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert ensure_model(copy, SMALL) == built[1]
    assert (copy / "model.safetensors").read_bytes() == weights


def test_a_folder_of_other_sizes_is_built_again(copy, monkeypatch):
    monkeypatch.setattr(tiny, "_save_weights", no_build)
    with pytest.raises(AssertionError, match="built again"):
        ensure_model(copy, SMALL.model_copy(update={"seed": 1}))
    assert verified_checksum(copy), "a build that fails leaves what was there"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_the_configuration_is_that_of_gpt_oss(built):
    config = json.loads((built[0] / "config.json").read_text())
    assert config["architectures"] == ["GptOssForCausalLM"]
    assert config["layer_types"] == ["sliding_attention", "full_attention"] and config["sliding_window"] == 16
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (2, 1)
    assert (config["num_key_value_heads"], config["vocab_size"]) == (2, 1024)


@pytest.fixture(scope="module")
def tokenizer(built):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(built[0])


def test_random_prompts_keep_their_length_when_they_are_text_in_between(tokenizer):
    """The bench client decodes random token ids to text, which the server encodes again."""
    words = range(256, len(tokenizer) - len(SPECIAL_TOKENS))
    assert len(words) == 1024 - 256 - 5
    rng = random.Random(0)
    for length in (1, 2, 17, 400):
        ids = rng.choices(words, k=length)
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
    # As the client draws them: consecutive ids from a random offset.
    for offset in rng.sample(words, 20):
        ids = [words[(offset + i) % len(words)] for i in range(300)]
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ("Hello, world", "naïve 東京 🙂", "tabs\tand\nlines", " abc def"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer.encode(" abc def", add_special_tokens=False)) <= 8


def test_special_tokens_and_the_chat_template_are_there(tokenizer):
    assert len(tokenizer) == 1024
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1, token
    chat = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|start|>user<|message|>hi<|end|><|start|>assistant<|message|>"


def test_the_next_token_depends_on_the_whole_prompt(built):
    import torch
    from transformers import GptOssForCausalLM

    model = GptOssForCausalLM.from_pretrained(built[0]).eval()
    prompts = torch.randint(256, 1019, (32, 40), generator=torch.Generator().manual_seed(0))
    early = prompts.clone()
    early[:, :20] = prompts[:, :20].roll(1, dims=0)  # all of it outside the sliding window of the last token
    with torch.no_grad():
        logits, changed = (model(ids).logits[:, -1].float() for ids in (prompts, early))
    assert torch.isfinite(logits).all()
    assert len(logits.argmax(dim=1).unique()) > 16, "different prompts go on differently"
    assert (logits - changed).abs().amax(dim=1).min() > 0.1, "what comes early is heard"
    assert (logits.argmax(dim=1) != changed.argmax(dim=1)).sum() > 8, "and often decides"

"""A tiny gpt-oss, made here: the real architecture with real weights, for machines with no GPU and no model hub.

Everything of gpt-oss is there (alternating sliding and full attention, attention sinks, YaRN,
top-k mixture of experts); only the sizes are small. The weights are random but chosen so that greedy
continuations vary and depend on the whole prompt, which is what the token-equality gate needs:
`load_format=dummy` yields one token repeated, and would call a corrupted KV cache equal.
"""

import hashlib
import itertools
import json
import os
import shutil
import string
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pdbench.kv_cache import KVCache
from pdbench.manifest import Strict

CHECKSUM_FILE = "SHA256SUMS"
END_OF_TEXT = "<|endoftext|>"
RETURN = "<|return|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}<|message|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|message|>{% endif %}"
)
SPECIAL_TOKENS = [END_OF_TEXT, RETURN, "<|start|>", "<|message|>", "<|end|>"]
# They, the bytes, and the words of one to three letters: an id without a word would be no text.
MAX_VOCABULARY = len(SPECIAL_TOKENS) + 256 + 26 + 26**2 + 26**3


class TinySpec(Strict):
    """Sizes of a tiny gpt-oss; the defaults allow TP 1 and 2."""

    vocab_size: int = Field(
        default=16384, ge=1024, le=MAX_VOCABULARY, description="tokens; also the number of different random prompts"
    )
    hidden_size: int = Field(default=128, ge=32)
    num_layers: int = Field(default=4, ge=2)
    num_heads: int = Field(default=8, ge=1)
    num_kv_heads: int = Field(default=2, ge=1)
    head_dim: int = Field(default=32, ge=32)
    num_experts: int = Field(default=4, ge=2)
    experts_per_token: int = Field(default=2, ge=1)
    intermediate_size: int = Field(default=128, ge=32)
    sliding_window: int = Field(default=128, ge=16)
    max_position: int = Field(default=16384, ge=1024)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = 0

    @model_validator(mode="after")
    def _sizes_divide(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.experts_per_token > self.num_experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds num_experts {self.num_experts}")
        return self

    @property
    def kv_cache(self) -> KVCache:
        """Shape of its KV cache: every second layer slides, the first one among them."""
        return KVCache(
            heads=self.num_kv_heads, head_dim=self.head_dim, layers=self.num_layers,
            sliding_layers=(self.num_layers + 1) // 2, sliding_window=self.sliding_window,
            value_bytes=4 if self.dtype == "float32" else 2,
        )  # fmt: skip


def ensure_tiny_model(folder: Path, spec: TinySpec) -> str:
    """Build the model into `folder` unless it is there and whole; return its checksum (hex SHA-256).

    The same spec on the same torch and transformers gives the same bytes. A folder that is damaged
    or was made from another spec is built anew.
    """
    checksum = verified_checksum(folder)
    recorded = folder / "tiny_spec.json"
    if checksum and json.loads(recorded.read_text()) == spec.model_dump():
        return checksum
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        temporary.chmod(0o755)
        tokenizer = _save_tokenizer(temporary, spec)
        _save_weights(temporary, spec, tokenizer)
        (temporary / recorded.name).write_text(spec.model_dump_json(indent=2))
        _write_checksums(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return verified_checksum(folder)


def verified_checksum(folder: Path) -> str | None:
    """SHA-256 over the folder's list of checksums, or None if it is not that of the files that are there."""
    sums = folder / CHECKSUM_FILE
    if not sums.is_file():
        return None
    lines = [line.partition("  ") for line in sums.read_text(errors="replace").splitlines()]
    if {name for _, _, name in lines} != {path.name for path in folder.iterdir()} - {CHECKSUM_FILE}:
        return None
    if any(not (folder / name).is_file() or _sha256(folder / name) != digest for digest, _, name in lines):
        return None
    return _sha256(sums)


def _write_checksums(folder: Path) -> None:
    names = sorted(p.name for p in folder.iterdir())
    (folder / CHECKSUM_FILE).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in names))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save_tokenizer(folder: Path, spec: TinySpec):
    """Byte-level BPE: the 256 bytes, then " abc" words of one token each.

    A vocabulary of bytes alone would give the bench client's random prompts (consecutive token ids
    from a random offset) only 256 different beginnings: most would be replays. Each word is a unit
    of the pre-tokenizer, so decoding and encoding a prompt again gives the same tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    space = "Ġ"  # how byte-level BPE spells the space
    vocab = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    words = itertools.chain.from_iterable(itertools.product(string.ascii_lowercase, repeat=n) for n in (1, 2, 3))
    for letters in itertools.islice(words, spec.vocab_size - len(SPECIAL_TOKENS) - len(vocab)):
        stem, last = space + "".join(letters[:-1]), letters[-1]
        merges.append((stem, last))
        vocab.append(stem + last)
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocab)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=RETURN, pad_token=END_OF_TEXT,
        additional_special_tokens=SPECIAL_TOKENS[2:], model_max_length=spec.max_position,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def _save_weights(folder: Path, spec: TinySpec, tokenizer) -> None:
    import torch
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        num_local_experts=spec.num_experts,
        num_experts_per_tok=spec.experts_per_token,
        intermediate_size=spec.intermediate_size,
        sliding_window=spec.sliding_window,
        max_position_embeddings=spec.max_position,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": False, "original_max_position_embeddings": spec.max_position // 32,
        },
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = GptOssForCausalLM(config).to(getattr(torch, spec.dtype)).eval()
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(_initial(name, parameter.shape, generator, torch))
    model.save_pretrained(folder)


def _initial(name: str, shape, generator, torch):
    """Random values for one parameter.

    Unit embeddings and 1/sqrt(fan-in) projections keep every layer's share of the residual stream
    alike, so that attention over the whole prompt, not the last token alone, decides what comes next.
    Experts have a tenth of a share and routers are sharp: rounding can send a token to another expert,
    and that jump must stay small beside the distance of the two best tokens, or engines that round
    differently (TP 1 and 2) would go on differently. Measured on 2400 positions, bfloat16 against
    float32: the distance moves by up to 1.2 nats with experts of a full share, by 0.11 with these.
    """
    if "norm" in name:
        return torch.ones(shape)
    share = 0.1 if "experts.down_proj" in name else 4.0 if "router.weight" in name else 1.0
    values = share * torch.randn(shape, generator=generator)
    if name.endswith("bias") or name.endswith("sinks"):
        return 0.1 * values
    if "embed_tokens" in name:
        return values
    fan_in = shape[-2] if "experts" in name else shape[-1]
    return values / fan_in**0.5

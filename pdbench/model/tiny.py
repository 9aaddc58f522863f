"""Make a tiny gpt-oss: the real architecture with real weights, for machines with no GPU and no model hub.

Everything of gpt-oss is there (alternating sliding and full attention, attention sinks, YaRN,
top-k mixture of experts); only the sizes are small. The weights are random but chosen so that greedy
continuations vary and depend on the whole prompt, which is what the token-equality gate needs:
`load_format=dummy` yields one token repeated, and would call a corrupted KV cache equal.
"""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pdbench.manifest import Strict
from pdbench.model.kv_cache import KVCache
from pdbench.model.tokenizer import END_OF_TEXT, RETURN, save_tokenizer

SPECIAL_TOKENS = [RETURN, END_OF_TEXT, "<|start|>", "<|message|>", "<|end|>"]
# They, the bytes, and the words of one to three letters: an id without a word would be no text.
MAX_VOCABULARY = len(SPECIAL_TOKENS) + 256 + 26 + 26**2 + 26**3


class TinySpec(Strict):
    """Sizes of a tiny gpt-oss; the defaults allow TP 1 and 2."""

    record: ClassVar[str] = "tiny_spec.json"

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
            **({"value_bytes": 4} if self.dtype == "float32" else {}),
        )  # fmt: skip

    @property
    def bytes(self) -> int:
        """Of the weights, biases and norms left out."""
        attention = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim * self.hidden_size
        experts = 3 * self.num_experts * self.intermediate_size * self.hidden_size
        values = 2 * self.vocab_size * self.hidden_size + self.num_layers * (attention + experts)
        return values * (4 if self.dtype == "float32" else 2)

    def write(self, folder: Path) -> None:
        """Write configuration, tokenizer and weights into `folder`."""
        _save_weights(folder, self, save_tokenizer(folder, self.vocab_size, SPECIAL_TOKENS, self.max_position))


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
    shares = {"experts.down_proj": 0.1, "router.weight": 4.0}
    share = next((share for part, share in shares.items() if part in name), 1.0)
    values = share * torch.randn(shape, generator=generator)
    if name.endswith("bias") or name.endswith("sinks"):
        return 0.1 * values
    if "embed_tokens" in name:
        return values
    fan_in = shape[-2] if "experts" in name else shape[-1]
    return values / fan_in**0.5

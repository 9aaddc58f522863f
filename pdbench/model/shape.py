"""Make a gpt-oss of the hub's exact architecture, sizes and formats with random weights in MXFP4, where no hub is reached.

    python -m pdbench.shape configs/models/gpt-oss-20b-shape.yaml    makes it now, instead of at the first launch

Such weights show speed, which follows from shapes and formats, and never text. Which experts a token goes to follows from the
weights, too: docs/GPU.md has how far that is from balanced.
"""

import json
import math
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pdbench.manifest import Strict
from pdbench.model.kv_cache import KVCache
from pdbench.model.tokenizer import END_OF_TEXT, RETURN, save_tokenizer

# The last ids of gpt-oss' vocabulary, by their offset from the first of them.
SPECIALS = 1090
NAMED = {0: "<|startoftext|>", 1: END_OF_TEXT, 4: RETURN, 5: "<|constrain|>", 7: "<|channel|>", 8: "<|start|>", 9: "<|end|>",
         10: "<|message|>", 14: "<|call|>"}  # fmt: skip
BLOCK = 32  # values that share a scale in MXFP4; two values to a byte
# Random 4-bit floats (E2M1) have a root mean square of 2.93; these powers of two give experts about a unit share of their
# input and a tenth of the residual stream. For the others see `_layer`.
GATE_UP_EXPONENT, DOWN_EXPONENT = -7, -11
CONTENT_SHARE, POSITION_BIAS, OUTPUT_SHARE, ROUTER_SHARE = 0.3, 2.2, 0.5, 4.0
BIAS = 0.02
CHUNK_ROWS = 16384  # of a vocabulary matrix that one process draws at a time


class ShapeSpec(Strict):
    """Sizes of a gpt-oss with random weights; 20b and 120b differ in layers and experts."""

    record: ClassVar[str] = "shape_spec.json"

    layers: int = Field(ge=2)
    experts: int = Field(ge=4)
    experts_per_token: int = Field(default=4, ge=1)
    hidden: int = Field(default=2880, ge=BLOCK, multiple_of=BLOCK)
    intermediate: int = Field(default=2880, ge=BLOCK, multiple_of=BLOCK)
    heads: int = Field(default=64, ge=1)
    kv_heads: int = Field(default=8, ge=1)
    head_dim: int = Field(default=64, ge=32)
    vocabulary: int = Field(default=201088, ge=4096)
    sliding_window: int = Field(default=128, ge=16)
    max_position: int = Field(default=131072, ge=4096)
    drawing: Literal[2] = Field(default=2, description="rises with the way weights are drawn: older folders are made again")
    seed: int = 0

    @model_validator(mode="after")
    def _sizes_divide(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}")
        return self

    @property
    def kv_cache(self) -> KVCache:
        """Shape of its KV cache: every second layer slides, the first one among them."""
        return KVCache(heads=self.kv_heads, head_dim=self.head_dim, layers=self.layers,
                       sliding_layers=(self.layers + 1) // 2, sliding_window=self.sliding_window)  # fmt: skip

    @property
    def bytes(self) -> int:
        """Of the matrices; biases, norms, routers and sinks are left out."""
        attention = 2 * 2 * (self.heads + self.kv_heads) * self.head_dim * self.hidden
        experts = 3 * self.experts * self.intermediate * self.hidden * (BLOCK // 2 + 1) // BLOCK
        return 2 * 2 * self.vocabulary * self.hidden + self.layers * (attention + experts)

    def write(self, folder: Path) -> None:
        """Write configuration, tokenizer and weights into `folder`, a file per layer, on all cores at once."""
        specials = [NAMED.get(i, f"<|reserved_{self.vocabulary - SPECIALS + i}|>") for i in range(SPECIALS)]
        tokenizer = save_tokenizer(folder, self.vocabulary, specials, self.max_position)
        (folder / "config.json").write_text(json.dumps(_config(self, tokenizer), indent=2))
        parts = [("vocabulary", name) for name in ("model.embed_tokens.weight", "lm_head.weight")]
        parts += [("layer", n) for n in range(self.layers)]
        index, total = {}, 0
        # Processes of their own: this one may be connected to Ray, whose threads no fork takes along.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(len(os.sched_getaffinity(0)), len(parts)), mp_context=context) as pool:
            pending = [pool.submit(_write_part, self, folder, *part) for part in parts]
            try:
                for done, future in enumerate(as_completed(pending), start=1):
                    name, sizes = future.result()
                    index |= dict.fromkeys(sizes, name)
                    total += sum(sizes.values())
                    print(f"model: {done} of {len(parts)} files in {folder}", end="\r" if sys.stderr.isatty() else "\n",
                          file=sys.stderr, flush=True)  # fmt: skip
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else all of them would be written first
                raise
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2))


def _config(spec: ShapeSpec, tokenizer) -> dict:
    """config.json, as the hub's but for the sizes."""
    return {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "dtype": "bfloat16",
        "attention_bias": True, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02,
        "hidden_size": spec.hidden, "intermediate_size": spec.intermediate, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim,
        "num_local_experts": spec.experts, "num_experts_per_tok": spec.experts_per_token,
        "experts_per_token": spec.experts_per_token, "output_router_logits": False, "router_aux_loss_coef": 0.9,
        "layer_types": [("sliding_attention", "full_attention")[n % 2] for n in range(spec.layers)],
        "sliding_window": spec.sliding_window, "swiglu_limit": 7.0, "rms_norm_eps": 1e-05, "rope_theta": 150000,
        "max_position_embeddings": spec.max_position, "initial_context_length": 4096,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
            ],
        },
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": False,
        "use_cache": True, "vocab_size": spec.vocabulary,
    }  # fmt: skip


def _write_part(spec: ShapeSpec, folder: Path, kind: str, which) -> tuple[str, dict[str, int]]:
    """Write one file; returns its name and the bytes of each tensor in it."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    if kind == "layer":
        name, tensors = f"model-layer-{which:02d}.safetensors", _layer(spec, which)
    else:
        name, tensors = f"{which}.safetensors", _vocabulary(spec, which)
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return name, {key: tensor.nbytes for key, tensor in tensors.items()}


class _Random:
    """Random tensors from one seed, the same on every machine."""

    def __init__(self, *seeds: int):
        import numpy

        self.generator = numpy.random.Generator(numpy.random.SFC64(numpy.random.SeedSequence(seeds)))

    def normal(self, std: float, *shape: int):
        """Draw bfloat16 values of this standard deviation."""
        import torch

        values = self.generator.standard_normal(shape, dtype="float32")
        return torch.from_numpy(values).mul_(std).to(torch.bfloat16)

    def bytes(self, *shape: int):
        """Draw any bytes: of MXFP4, two random values each."""
        import torch

        # Drawn eight at a time: four times faster.
        words = self.generator.integers(0, 2**64 - 1, math.prod(shape) // 8, dtype="uint64", endpoint=True)
        return torch.from_numpy(words.view("uint8").reshape(shape))


def _vocabulary(spec: ShapeSpec, name: str) -> dict:
    """Embeddings with the last norm, of unit size; or the output matrix."""
    import torch

    is_embedding = name.startswith("model")
    random, std = _Random(spec.seed, 10**6 + is_embedding), 1.0 if is_embedding else spec.hidden**-0.5
    starts = range(0, spec.vocabulary, CHUNK_ROWS)  # in parts, since they are drawn in float32
    found = {name: torch.cat([random.normal(std, min(CHUNK_ROWS, spec.vocabulary - n), spec.hidden) for n in starts])}
    return found | ({"model.norm.weight": torch.ones(spec.hidden, dtype=torch.bfloat16)} if is_embedding else {})


def _layer(spec: ShapeSpec, number: int) -> dict:
    """One layer's tensors by their names on the hub.

    Equal greedy tokens prove something about a KV cache only if continuations vary and depend on the whole prompt, and they are
    equal only if rounding, which differs between a prefill and a decode step, stays small. Both depend on attention:

    - Near uniform, as plain random weights make it, it averages away what a prompt has of its own and adds in each layer what
      all have in common: of 24 layers 40% of the greedy tokens repeat the one before (earlier weights, 20b, one H100).
    - Sharp by content (queries four times as large), each layer amplifies the rounding of the one before: PD agreed with
      collocated in 67% of the decided tokens, over every transport (earlier weights, 20b, two H200s).
    - So it is sharp by position: the biases of queries and keys, which rotary positions turn into a pattern of distances,
      weigh more than their content. Then no token of 20b repeats, and rounding shifts the distance of the two best tokens by
      0.020 nats in the median and 0.115 at most (benchmarks/routing.py, 16 prompts of 64 tokens).

    Experts have a tenth of a share, so that rounding, which can send a token to another expert, moves the best tokens little.
    """
    import torch

    random, prefix = _Random(spec.seed, number), f"model.layers.{number}."
    hidden, inner, experts, width = spec.hidden, spec.intermediate, spec.experts, spec.heads * spec.head_dim
    unit, ones = hidden**-0.5, torch.ones(hidden, dtype=torch.bfloat16)

    def scales(rows: int, columns: int, exponent: int):
        return torch.full((experts, rows, columns // BLOCK), 127 + exponent, dtype=torch.uint8)  # E8M0

    found = {"input_layernorm.weight": ones, "post_attention_layernorm.weight": ones.clone()}
    narrow = spec.kv_heads * spec.head_dim
    for name, rows, share, bias in (("q", width, CONTENT_SHARE, POSITION_BIAS), ("k", narrow, CONTENT_SHARE, POSITION_BIAS),
                                    ("v", narrow, 1.0, BIAS)):  # fmt: skip
        found[f"self_attn.{name}_proj.weight"] = random.normal(share * unit, rows, hidden)
        found[f"self_attn.{name}_proj.bias"] = random.normal(bias, rows)
    found |= {
        "self_attn.o_proj.weight": random.normal(OUTPUT_SHARE * width**-0.5, hidden, width),
        "self_attn.o_proj.bias": random.normal(BIAS, hidden),
        "self_attn.sinks": random.normal(0.1, spec.heads),
        "mlp.router.weight": random.normal(ROUTER_SHARE * unit, experts, hidden),
        "mlp.router.bias": random.normal(BIAS, experts),
        "mlp.experts.gate_up_proj_blocks": random.bytes(experts, 2 * inner, hidden // BLOCK, BLOCK // 2),
        "mlp.experts.gate_up_proj_scales": scales(2 * inner, hidden, GATE_UP_EXPONENT),
        "mlp.experts.gate_up_proj_bias": random.normal(BIAS, experts, 2 * inner),
        "mlp.experts.down_proj_blocks": random.bytes(experts, hidden, inner // BLOCK, BLOCK // 2),
        "mlp.experts.down_proj_scales": scales(hidden, inner, DOWN_EXPONENT),
        "mlp.experts.down_proj_bias": random.normal(BIAS / 10, experts, hidden),
    }
    return {prefix + name: tensor for name, tensor in found.items()}

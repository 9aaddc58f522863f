#!/usr/bin/env python
"""Measure how evenly a gpt-oss with random weights spreads tokens over experts, and whether its text depends on the prompt.

    python benchmarks/routing.py /dev/shm/pdbench-models/gpt-oss-20b-shape --prompts 32 --tokens 512

A plain PyTorch forward pass over the model's own files, without vLLM; on a GPU if there is one. In a balanced model each expert
gets `experts_per_token / experts` of the tokens, and a decode batch wakes as many experts as independent even draws would.
"""

import argparse
import json
import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pdbench import interrupts  # noqa: E402

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="routing.py", description=__doc__, formatter_class=plain)
    parser.add_argument("folder", type=Path, help="a model made by python -m pdbench.shape")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512, help="of each prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=8, help="greedy tokens after each prompt (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


class Model:
    """The forward pass of a gpt-oss in MXFP4 (https://huggingface.co/openai/gpt-oss-20b), a layer's weights at a time."""

    def __init__(self, folder: Path, dtype: str = "bfloat16"):
        import torch
        from safetensors import safe_open
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        self.torch, self.dtype = torch, getattr(torch, dtype)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.config = json.loads((folder / "config.json").read_text())
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        self.files = {name: safe_open(folder / name, "pt", device=self.device) for name in set(index.values())}
        self.index = index
        # YaRN's frequencies, and its factor, which sharpens attention.
        self.frequencies, self.factor = ROPE_INIT_FUNCTIONS["yarn"](AutoConfig.from_pretrained(folder), self.device)
        self.counts: list = []  # by layer: tokens that each expert got
        self.woken: list[int] = []  # by layer: experts that the last tokens of all prompts woke together

    def tensor(self, name: str):
        """Read a tensor of the model; MXFP4's bytes as they are, all others in the type that is computed in."""
        found = self.files[self.index[name]].get_tensor(name)
        return found if found.dtype == self.torch.uint8 else found.to(self.dtype)

    def logits(self, ids):
        """Return logits after the last of each row of token ids: [prompts, vocabulary], float32."""
        c = self.config
        x = self.tensor("model.embed_tokens.weight")[ids]
        self.counts, self.woken = [], []
        for n in range(c["num_hidden_layers"]):
            get = lambda name, n=n: self.tensor(f"model.layers.{n}.{name}")  # noqa: E731
            x = x + self._attention(get, self._norm(x, get("input_layernorm.weight")), c["layer_types"][n])
            x = x + self._experts(get, self._norm(x, get("post_attention_layernorm.weight")))
        return (self._norm(x[:, -1], self.tensor("model.norm.weight")) @ self.tensor("lm_head.weight").T).float()

    def _norm(self, x, weight):
        value = x.float()
        return (value * self.torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight

    def _attention(self, get, x, kind: str):
        torch, c = self.torch, self.config
        rows, length, _ = x.shape
        heads, kv, width = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        q, k, v = (
            (x @ get(f"self_attn.{name}_proj.weight").T + get(f"self_attn.{name}_proj.bias"))
            .view(rows, length, number, width).transpose(1, 2)
            for name, number in (("q", heads), ("k", kv), ("v", kv))
        )  # fmt: skip
        q, k = self._rotate(q), self._rotate(k)
        k, v = (one.repeat_interleave(heads // kv, 1) for one in (k, v))
        at = torch.arange(length, device=x.device)
        seen = at[:, None] >= at
        if kind == "sliding_attention":
            seen &= at[:, None] - at < c["sliding_window"]
        scores = (q @ k.transpose(-1, -2)).float() * width**-0.5
        sinks = get("self_attn.sinks").float().view(1, heads, 1, 1).expand(rows, heads, length, 1)
        share = torch.cat([scores.masked_fill(~seen, -math.inf), sinks], -1).softmax(-1)[..., :-1].to(x.dtype)
        mixed = (share @ v).transpose(1, 2).reshape(rows, length, heads * width)
        return mixed @ get("self_attn.o_proj.weight").T + get("self_attn.o_proj.bias")

    def _rotate(self, x):
        """Rotary positions, stretched by YaRN."""
        half = x.shape[-1] // 2
        angles = self.torch.arange(x.shape[2], device=x.device)[:, None] * self.frequencies
        cos, sin = ((of * self.factor).to(x.dtype) for of in (angles.cos(), angles.sin()))
        a, b = x[..., :half], x[..., half:]
        return self.torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def _experts(self, get, x):
        torch, c = self.torch, self.config
        flat = x.reshape(-1, x.shape[-1])
        best = (flat @ get("mlp.router.weight").T + get("mlp.router.bias")).topk(c["num_experts_per_tok"], -1)
        share = best.values.softmax(-1)
        self.counts.append(torch.bincount(best.indices.flatten(), minlength=c["num_local_experts"]).tolist())
        self.woken.append(best.indices.view(*x.shape[:2], -1)[:, -1].unique().numel())
        found = torch.zeros_like(flat)
        names = [f"mlp.experts.{side}_proj_{part}" for side in ("gate_up", "down") for part in ("blocks", "scales", "bias")]
        up_blocks, up_scales, up_bias, down_blocks, down_scales, down_bias = map(get, names)
        for expert in best.indices.unique().tolist():
            row, place = (best.indices == expert).nonzero(as_tuple=True)
            inner = flat[row] @ self._weights(up_blocks[expert], up_scales[expert]).T + up_bias[expert]
            gate, up = inner[:, ::2].clamp(max=7.0), inner[:, 1::2].clamp(-7.0, 7.0)
            inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
            out = inner @ self._weights(down_blocks[expert], down_scales[expert]).T + down_bias[expert]
            found.index_add_(0, row, out * share[row, place, None])
        return found.view_as(x)

    def _weights(self, blocks, scales):
        """Matrix of one expert: two 4-bit floats to a byte, the low half first, with a power of two for each block."""
        torch = self.torch
        table = torch.tensor([*E2M1, *(-v for v in E2M1)], device=blocks.device, dtype=self.dtype)
        values = torch.stack([table[(blocks & 15).int()], table[(blocks >> 4).int()]], -1).flatten(-2)
        return torch.ldexp(values, (scales.int() - 127)[..., None]).to(self.dtype).flatten(-2)


def balance(counts: list[list[int]], woken: list[int], prompts: int, top: int) -> dict:
    """Sum up all layers: load of the busiest expert over the mean, idle experts, experts woken by a batch."""
    experts = len(counts[0])
    busiest = [max(layer) * experts / sum(layer) for layer in counts]
    even = experts * (1 - (1 - top / experts) ** prompts)
    return {
        "experts": experts, "busiest_over_mean": {"median": sorted(busiest)[len(busiest) // 2], "worst": max(busiest)},
        "experts_without_tokens": max(sum(not n for n in layer) for layer in counts),
        "woken_by_a_batch": {"batch": prompts, "mean": sum(woken) / len(woken), "least": min(woken), "even_draws": even},
    }  # fmt: skip


def greedy(model: Model, ids, new: int) -> tuple[list[list[int]], list[float], object]:
    """Return tokens that follow each row of ids, the distance of the two best at each, in nats, and the first step's logits."""
    torch, said, margins, first = model.torch, [], [], None
    for step in range(new):
        logits = model.logits(ids)
        first = logits if first is None else first
        best = logits.topk(2)
        said.append(best.indices[:, 0].tolist())
        margins += (best.values[:, 0] - best.values[:, 1]).tolist()
        ids = torch.cat([ids, best.indices[:, :1]], 1)
        print(f"greedy tokens: {step + 1} of {new}", file=sys.stderr, flush=True)
    return [list(row) for row in zip(*said)], margins, first


def rounding(exact, rounded) -> dict:
    """Return how far rounding moves the distance of the two best tokens, in nats."""
    pair = exact.topk(2).indices
    apart, rounded_apart = (logits.gather(1, pair).diff()[:, 0] for logits in (exact, rounded))
    moved = (apart - rounded_apart).abs()
    return {"median": moved.median().item(), "worst": moved.max().item()}


def main() -> int:
    args = parse_args()
    exact = Model(args.folder, "float32")
    torch, rng = exact.torch, random.Random(0)
    words = range(300, exact.config["vocab_size"] - 2000)
    ids = torch.tensor([rng.choices(words, k=args.tokens) for _ in range(args.prompts)], device=exact.device)
    with torch.no_grad():
        logits = exact.logits(ids)
        rows, margins, rounded = greedy(Model(args.folder), ids, args.new)
    found = balance(exact.counts, exact.woken, args.prompts, exact.config["num_experts_per_tok"])
    found["greedy"] = {
        "prompts": args.prompts, "tokens": args.prompts * args.new, "distinct_tokens": len({t for row in rows for t in row}),
        "distinct_continuations": len({tuple(row) for row in rows}),
        "repeats_of_the_token_before": sum(a == b for row in rows for a, b in zip(row, row[1:])),
        "margin_median_nats": sorted(margins)[len(margins) // 2],
        "rounding_shifts_the_margin_by_nats": rounding(logits, rounded),
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "routing.py"))

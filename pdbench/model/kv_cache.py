"""Compute the size of a prompt's KV cache."""

from pydantic import Field, model_validator

from pdbench.manifest import Strict

# vLLM's largest default block: a transfer is of whole blocks, and of one more at the window's edge.
BLOCK_TOKENS = 128


class KVCache(Strict):
    """Shape of a model's KV cache, over all tensor-parallel ranks."""

    heads: int = Field(ge=1, description="KV heads; also bounds the prefill TP when it exceeds the decode TP")
    head_dim: int = Field(ge=1)
    layers: int = Field(ge=1, description="all of them")
    sliding_layers: int = Field(default=0, ge=0, description="those that attend to a window only")
    sliding_window: int = Field(default=0, ge=0, description="tokens")
    value_bytes: int = Field(default=2, ge=1, description="2 for bfloat16, 1 for fp8")

    @model_validator(mode="after")
    def _sliding_layers_fit(self):
        if self.sliding_layers > self.layers:
            raise ValueError(f"sliding_layers {self.sliding_layers} exceeds layers {self.layers}")
        if bool(self.sliding_layers) != bool(self.sliding_window):
            raise ValueError("sliding_layers and sliding_window go together")
        return self

    @property
    def layer_token_bytes(self) -> int:
        """Bytes of one token in one layer: a key and a value per head."""
        return 2 * self.heads * self.head_dim * self.value_bytes

    def bounds(self, tokens: int) -> tuple[int, int]:
        """Return the least and most bytes that a transfer of a prompt's KV cache may have.

        Of a sliding layer vLLM moves the window's blocks, or all blocks where its hybrid KV cache manager is
        off; the last, partly filled block may stay behind to be computed by the decode replica.
        """
        full = self.layers - self.sliding_layers
        whole_blocks = tokens - tokens % BLOCK_TOKENS
        least = full * whole_blocks + self.sliding_layers * min(whole_blocks, self.sliding_window)
        most = self.layers * (whole_blocks + 2 * BLOCK_TOKENS)
        return least * self.layer_token_bytes, most * self.layer_token_bytes

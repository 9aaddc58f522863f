"""Compute the size of a prompt's KV cache."""

from typing import Any

from pydantic import Field, model_validator

from pdbench.manifest import Strict

# vLLM's largest default block: a transfer is of whole blocks, and of one more at the window's edge.
BLOCK_TOKENS = 128
# Of a value, by vLLM's `kv_cache_dtype`. Other formats keep scales beside the values, or share bytes among them.
KV_BYTES = {"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1}
# By its `dtype`, which the cache has, too, unless the weights say otherwise.
WEIGHT_BYTES = {"float16": 2, "half": 2, "bfloat16": 2, "float": 4, "float32": 4}


class KVCache(Strict):
    """Shape of a model's KV cache, over all tensor-parallel ranks."""

    heads: int = Field(ge=1, description="KV heads; also bounds the prefill TP when it exceeds the decode TP")
    head_dim: int = Field(ge=1)
    layers: int = Field(ge=1, description="all of them")
    sliding_layers: int = Field(default=0, ge=0, description="those that attend to a window only")
    sliding_window: int = Field(default=0, ge=0, description="tokens")
    value_bytes: int = Field(default=2, ge=1, description="2 for bfloat16, 1 for weights whose KV cache is fp8")

    @model_validator(mode="after")
    def _sliding_layers_fit(self):
        if self.sliding_layers > self.layers:
            raise ValueError(f"sliding_layers {self.sliding_layers} exceeds layers {self.layers}")
        if bool(self.sliding_layers) != bool(self.sliding_window):
            raise ValueError("sliding_layers and sliding_window go together")
        return self

    def under(self, engine_kwargs: dict[str, Any]) -> "KVCache":
        """Return its shape in an engine with these arguments: `kv_cache_dtype` or `dtype` decide on `value_bytes`."""
        named = str(engine_kwargs.get("kv_cache_dtype", "auto"))
        size = KV_BYTES.get(named)
        if named == "auto" and self.value_bytes != 1:
            size = WEIGHT_BYTES.get(str(engine_kwargs.get("dtype", "auto")))
        return self.model_copy(update={"value_bytes": size}) if size not in (None, self.value_bytes) else self

    def check(self, engine_kwargs: dict[str, Any]) -> None:
        """Raise ValueError if `value_bytes` was given, and the engine's arguments say otherwise."""
        named = str(engine_kwargs.get("kv_cache_dtype", "auto"))
        size = self.under(engine_kwargs).value_bytes
        if "value_bytes" in self.model_fields_set and size != self.value_bytes:
            key = "dtype" if named == "auto" else "kv_cache_dtype"
            raise ValueError(
                f"the model file's kv_cache has value_bytes {self.value_bytes}, but {key} {engine_kwargs[key]} has {size}: "
                "leave value_bytes out, it follows from the engine's arguments"
            )

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


def check_transferred(engine_kwargs: dict[str, Any]) -> None:
    """Raise ValueError if nobody here knows how many bytes the transfers of such an engine have: no gate could check them."""
    named = str(engine_kwargs.get("kv_cache_dtype", "auto"))
    if named not in ("auto", *KV_BYTES):
        raise ValueError(f"kv_cache_dtype {named}: how many bytes its transfers have is not known here, so that no gate could "
                         f"check them; with PD use auto, {', '.join(KV_BYTES)}")  # fmt: skip

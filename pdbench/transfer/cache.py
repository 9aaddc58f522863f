"""Describe the shape of a paged KV cache, and which bytes of it a decode rank reads from which prefill rank."""

import math
import random
from dataclasses import dataclass

VALUE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "fp8": 1}
WORD = 8  # the data check compares words of this size, in bytes


@dataclass(frozen=True)
class Cache:
    """A paged KV cache as vLLM lays it out: per layer a region of blocks, in a block one head after the other.

    Keys and values of a head lie together (vLLM's NixlConnector registers one region per layer for both), so that
    a rank's share of a block, which is some of its heads, is contiguous.

    Attributes:
        blocks: in the cache of each rank, per layer.
        block_size: tokens in a block.
        heads: KV heads over all ranks.
        sliding_layers: how many layers attend to `sliding_window` tokens only; of these a transfer has no older blocks.
    """

    layers: int
    blocks: int
    block_size: int
    heads: int
    head_dim: int
    value_bytes: int
    sliding_layers: int = 0
    sliding_window: int = 0

    @property
    def head_bytes(self) -> int:
        """Bytes of one head in one block of one layer: its keys and its values."""
        return 2 * self.block_size * self.head_dim * self.value_bytes

    def block_bytes(self, tp: int) -> int:
        """Return bytes of one block of one layer on one of `tp` ranks."""
        return self.heads // tp * self.head_bytes

    def blocks_of(self, tokens: int) -> int:
        """Return the number of blocks that `tokens` fill."""
        return math.ceil(tokens / self.block_size)

    def moved(self, layer: int, blocks: int) -> int:
        """Return how many of a prompt's `blocks` are moved of `layer`.

        The first layers are the sliding ones here, whatever their order in the model: it does not change the bytes.
        vLLM adds a block for a window that is not aligned (its NIXL scheduler's `blocks_per_sw`).
        """
        if layer >= self.sliding_layers:
            return blocks
        return min(blocks, math.ceil(self.sliding_window / self.block_size) + 1)

    def transfer_bytes(self, blocks: int) -> int:
        """Return bytes of a transfer of `blocks` blocks, over all ranks and layers."""
        return sum(self.moved(layer, blocks) for layer in range(self.layers)) * self.heads * self.head_bytes


def check(cache: Cache, prefill_tp: int, decode_tp: int) -> None:
    """Refuse what cannot be laid out or split.

    Raises:
        ValueError: says which rule is broken.
    """
    if max(prefill_tp, decode_tp) % min(prefill_tp, decode_tp):
        raise ValueError(f"the TP sizes of prefill and decode must divide each other, {prefill_tp} and {decode_tp} do not")
    for name, tp in (("prefill", prefill_tp), ("decode", decode_tp)):
        if cache.heads % tp:
            raise ValueError(f"{name} TP {tp} must divide the {cache.heads} KV heads")
    if cache.head_bytes % WORD:
        raise ValueError(f"a head of a block has {cache.head_bytes} bytes: choose sizes that make it a multiple of {WORD}")


@dataclass(frozen=True)
class Piece:
    """What a decode rank reads of every block from one prefill rank.

    Attributes:
        source: the prefill rank.
        remote_offset, local_offset: bytes from the start of the block on either side.
        length: bytes.
    """

    source: int
    remote_offset: int
    local_offset: int
    length: int


def pieces(cache: Cache, prefill_tp: int, decode_tp: int, rank: int) -> list[Piece]:
    """Return what decode rank `rank` reads of each block; as `compute_tp_mapping` of vLLM's NIXL connector maps ranks."""
    if decode_tp >= prefill_tp:  # a part of one prefill rank's heads
        length, ratio = cache.block_bytes(decode_tp), decode_tp // prefill_tp
        return [Piece(rank // ratio, rank % ratio * length, 0, length)]
    length, ratio = cache.block_bytes(prefill_tp), prefill_tp // decode_tp
    return [Piece(rank * ratio + i, 0, i * length, length) for i in range(ratio)]


@dataclass(frozen=True)
class Request:
    """Blocks of one prompt: the i-th of `remote` is read into the i-th of `local`. All ranks and layers use the same."""

    remote: tuple[int, ...]
    local: tuple[int, ...]

    def of_layer(self, cache: Cache, layer: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return blocks (remote, local) that are moved of `layer`: the last ones, where it slides."""
        moved = cache.moved(layer, len(self.remote))
        return self.remote[len(self.remote) - moved :], self.local[len(self.local) - moved :]


def requests(cache: Cache, blocks: int, concurrent: int, is_random: bool, seed: int) -> list[Request]:
    """Return `concurrent` prompts of `blocks` blocks each, none of which shares a block with another.

    Args:
        is_random: source and destination blocks differ and are scattered, as after some time of serving;
            otherwise both are the first of the cache, in order.
    """
    total = blocks * concurrent
    remote = local = list(range(total))
    if is_random:
        rng = random.Random(seed)
        remote, local = rng.sample(range(cache.blocks), total), rng.sample(range(cache.blocks), total)
    return [Request(tuple(remote[i : i + blocks]), tuple(local[i : i + blocks])) for i in range(0, total, blocks)]

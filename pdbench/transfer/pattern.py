"""Fill caches with bytes that show where they come from: each word depends on its layer, block, head and place.

A constant fill would hide reads from a wrong address; here any two places differ.
"""

import torch

from pdbench.transfer.cache import WORD, Cache

# Odd, as 64-bit two's complement: products with different numbers are different (2**64 / golden ratio; splitmix64).
_KEY = 0x9E3779B97F4A7C15 - 2**64
_PLACE = 0xBF58476D1CE4E5B9 - 2**64


def words(cache: Cache, layer: int, blocks: torch.Tensor, heads: range, generation: int) -> torch.Tensor:
    """Return what `blocks` (1-D, any order) of `layer` hold for `heads`: int64 of [blocks, heads, words of a head].

    Args:
        generation: distinguishes contents of different transfers, and the two sides.
    """
    device = blocks.device
    head = torch.arange(heads.start, heads.stop, device=device, dtype=torch.int64)
    place = torch.arange(cache.head_bytes // WORD, device=device, dtype=torch.int64)
    row = (generation * cache.layers + layer) * cache.blocks + blocks.to(torch.int64)
    key = row[:, None] * cache.heads + head
    return (key * _KEY)[:, :, None] + place * _PLACE


def fill(
    cache: Cache, tensors: list[torch.Tensor], heads: range, generation: int, blocks: list[list[int]] | None = None
) -> None:
    """Write `generation` into a rank's tensors ([blocks, heads, words] of each layer): all, or some blocks of each layer."""
    for layer, tensor in enumerate(tensors):
        for some in _chunks(tensor, range(cache.blocks) if blocks is None else blocks[layer]):
            tensor[some] = words(cache, layer, some, heads, generation)


def differing(
    cache: Cache, tensors: list[torch.Tensor], heads: range, generation: int,
    here: list[list[int]] | None = None, there: list[list[int]] | None = None,
) -> int:  # fmt: skip
    """Return how many bytes of a rank's tensors are not what they should be; whole words of 8 count.

    Args:
        here: blocks to look at, per layer; None looks at all.
        there: blocks whose content they should have; None: their own.
    """
    wrong = 0
    for layer, tensor in enumerate(tensors):
        mine = range(cache.blocks) if here is None else here[layer]
        theirs = mine if there is None else there[layer]
        for some, wanted in zip(_chunks(tensor, mine), _chunks(tensor, theirs), strict=True):
            wrong += int((tensor[some] != words(cache, layer, wanted, heads, generation)).sum()) * WORD
    return wrong


def _chunks(tensor: torch.Tensor, blocks) -> tuple[torch.Tensor, ...]:
    """Block numbers in pieces of some 32 MiB of cache, so that checking a large cache takes little memory besides."""
    block_bytes = tensor[0].numel() * WORD
    numbers = torch.tensor(list(blocks), device=tensor.device, dtype=torch.int64)
    return torch.split(numbers, max(1, 2**25 // block_bytes))

"""Put together what was measured together: the repeats that all of an arm's levels have, and the blocks that arms share."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pdbench.analysis import repeats


@dataclass(frozen=True)
class Sample:
    """What was measured of an arm.

    Attributes:
        levels: all repeats of each level, in order of load, shapes (repeats, columns).
        together: the repeats that every level has, shape (repeats, levels, columns).
        blocks: the block of each of these, with its machines: a block that moved on to another machine is another. Where a
            level was measured outside blocks there is none, and repeats are together in their order.
    """

    levels: list[np.ndarray]
    together: np.ndarray
    blocks: tuple[Hashable, ...]


def samples(table: pd.DataFrame, needed: Sequence[str], others: Sequence[str] = ()) -> dict[str, Sample]:
    """Return by arm what was measured of it; rows that lack what is needed are left out.

    Args:
        table: of `read_results`, of one workload.
        needed, others: its columns, in the order of a sample's last axis.
    """
    known = table.dropna(subset=list(needed))
    values, blocks, found = known[[*needed, *others]].to_numpy(dtype=float), _blocks(known), defaultdict(list)
    for (arm, _), at in sorted(known.groupby(["arm", "level"]).indices.items(), key=lambda item: item[0]):
        found[arm].append(at)
    return {arm: _sample([(values[at], [blocks[row] for row in at]) for at in levels]) for arm, levels in found.items()}


def paired(found: Mapping[str, Sample]) -> bool:
    """Return whether leads among those of these arms that have enough repeats are those within blocks."""
    enough = [sample.blocks for sample in found.values() if len(sample.together) >= repeats.MIN_REPEATS]
    return len(enough) > 1 and repeats.linked(enough)


def _blocks(table: pd.DataFrame) -> list[tuple[int, str] | None]:
    if not table["block"].any():
        return [None] * len(table)
    return [(block, machines) if block else None for block, machines in zip(table["block"], table["machines"], strict=True)]


def _sample(levels: list[tuple[np.ndarray, list[tuple[int, str] | None]]]) -> Sample:
    """Of the values of each level and their blocks."""
    values = [rows for rows, _ in levels]
    if any(None in blocks for _, blocks in levels):
        count = min(map(len, values))
        return Sample(values, np.stack([rows[:count] for rows in values], axis=1), ())
    common = sorted(filter(None, set.intersection(*(set(blocks) for _, blocks in levels))))
    chosen = [rows[[blocks.index(block) for block in common]] for rows, blocks in levels]
    return Sample(values, np.stack(chosen, axis=1), tuple(common))

"""Say how throughput is counted, and from what part of a node that per node is extrapolated."""

from collections.abc import Sequence

import pandas as pd

from pdbench.read.results import node_words


def how_counted(table: pd.DataFrame, normalized: bool) -> str:
    """Explain how throughput is computed, with the GPUs that it is divided by."""
    sizes = " or ".join(map(str, sorted(table["gpus"].unique())))
    if not normalized:
        return f" = tokens / duration, not divided by its size ({sizes})"
    return f" = tokens / duration x {node_words(table)} / those of the layout ({sizes}){_extrapolated(table)}"


def _extrapolated(table: pd.DataFrame) -> str:
    """Say from what part of a node throughput per node is extrapolated: `2 or 4 of a node's 8 GPUs, times 4 or 2`."""
    smaller = table.loc[table["gpus"] < table["gpus_per_node"], ["gpus", "gpus_per_node"]].drop_duplicates()
    if smaller.empty:
        return ""
    smaller = smaller.sort_values(["gpus", "gpus_per_node"])
    parts, times = smaller["gpus"].unique(), (smaller["gpus_per_node"] / smaller["gpus"]).unique()
    return f"; extrapolated: {_ends(parts)} of a node's {node_words(table)}, times {_ends(times)}"


def _ends(numbers: Sequence[float]) -> str:
    """`2`, `2 or 4`, or the first and the last of more."""
    return (" or " if len(numbers) < 3 else " to ").join(f"{number:.3g}" for number in dict.fromkeys((numbers[0], numbers[-1])))

"""Compare what a neighbour's prefill does to decoding requests: p99 inter-token latency, collocated against PD."""

from typing import Any

import numpy as np
import pandas as pd

from pdbench.analysis import repeats
from pdbench.analysis.blocks import shared
from pdbench.analysis.pieces import PIECES_ALIKE
from pdbench.layout import Layout
from pdbench.read.level_file import ResultError
from pdbench.read.results import contenders

# Of the two arms' p99; a single run of a level cannot show smaller differences.
NOTEWORTHY = 1.25


def stall_lines(table: pd.DataFrame) -> list[str]:
    """Write one line per collocated arm, PD arm and level: their median and p99 inter-token latencies.

    Args:
        table: of `read_results`, with at least one collocated and one PD arm; control arms are left out.

    Raises:
        ResultError: there is no arm of one of the two kinds, or nothing that both can be compared in.
    """
    if len(table[["model", "isl", "osl", "phase"]].drop_duplicates()) > 1:
        raise ResultError("stalls compare arms of one model and one workload")
    if table["p99_itl_ms"].isna().any():
        raise ResultError("a single output token has no inter-token latency")
    table = contenders(table)
    is_pd = table["layout"].map(lambda text: Layout.parse(text).is_pd)
    collocated, pd_arms = table[~is_pd], table[is_pd]
    if collocated.empty or pd_arms.empty:
        raise ResultError("stalls compare a collocated arm with PD arms: give folders of both")
    keys, measures = ["arm", "kind", "level"], ["median_itl_ms", "p99_itl_ms", "tokens_per_piece"]
    ours, theirs = (rows.groupby(keys, sort=False)[measures].median().reset_index() for rows in (pd_arms, collocated))
    pairs = ours.merge(theirs, on=["kind", "level"], suffixes=("", "_base"))
    for row in pairs.itertuples():
        few, many = sorted([(row.tokens_per_piece, row.arm), (row.tokens_per_piece_base, row.arm_base)])
        if many[0] > PIECES_ALIKE * few[0]:
            raise ResultError(
                f"level {row.level:g}: {many[1]} sends {many[0]:.1f} tokens a piece, {few[1]} {few[0]:.1f}: the gaps"
                " between them are no stalls that could be compared"
            )
    lines = [
        f"level {row.level:g}: inter-token median/p99 "
        f"{row.median_itl_ms_base:.0f}/{row.p99_itl_ms_base:.0f} ms {row.arm_base}, "
        f"{row.median_itl_ms:.0f}/{row.p99_itl_ms:.0f} ms {row.arm}: "
        f"{_verdict(*(_repeats_of(arm, table, row) for arm in (row.arm_base, row.arm)))}"
        for row in pairs.itertuples()
    ]
    if not lines:
        raise ResultError("no level was measured both collocated and with PD")
    return lines


def _repeats_of(arm: str, table: pd.DataFrame, at: Any) -> pd.DataFrame:
    """The repeats of an arm at a level; `at` has kind and level."""
    return table[(table["arm"] == arm) & (table["kind"] == at.kind) & (table["level"] == at.level)]


def _verdict(collocated: pd.DataFrame, disaggregated: pd.DataFrame) -> str:
    """`verdict` of the repeats of two arms, within blocks where three have both."""
    within = shared(collocated, disaggregated)
    theirs, ours = within or (collocated, disaggregated)
    return verdict(theirs["p99_itl_ms"].to_numpy(), ours["p99_itl_ms"].to_numpy(), bool(within))


def verdict(collocated: np.ndarray, disaggregated: np.ndarray, within: bool = False) -> str:
    """Say in words, with the ratio, whether PD took the stalls away, did not matter, or made them worse.

    Args:
        collocated, disaggregated: the p99 of repeats; from three of both on their ratio has an interval.
        within: whether the two are pairs, each of one block.
    """
    ratios = collocated / disaggregated if within else None
    low, high = repeats.of_geometric_mean(ratios) if ratios is not None else repeats.of_ratio(collocated, disaggregated)
    if low <= 1 <= high:
        return "no difference beyond that of repeats"
    ratio = np.exp(np.mean(np.log(ratios))) if ratios is not None else np.median(collocated) / np.median(disaggregated)
    if ratio >= NOTEWORTHY:
        return f"the worst stalls are {ratio:.1f} times shorter with PD"
    if ratio <= 1 / NOTEWORTHY:
        return f"the worst stalls are {1 / ratio:.1f} times longer with PD"
    return "no difference that one run could show"

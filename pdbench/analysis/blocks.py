"""Compare arms within blocks: what a block's machine and moment do to all of its arms cancels out.

The ratio of two arms in a block is taken as a logarithm; the mean over the blocks has Student's interval. A block counts where
both arms were measured on the same machines.
"""

import math

import numpy as np
import pandas as pd

from pdbench.analysis import repeats
from pdbench.analysis.decision import WORKLOAD, collocated
from pdbench.analysis.pieces import coarser
from pdbench.read.level_file import ResultError
from pdbench.read.results import contenders

MEASURES = ("request_throughput", "median_ttft_ms", "median_tpot_ms", "p99_itl_ms")


def shared(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the rows of two arms, of one level, in the blocks that both have, in one order.

    None where these are fewer than three: then repeats of the two have to be taken as independent.
    """
    first, second = (rows[rows["block"] > 0].set_index(["block", "machines"]) for rows in (ours, theirs))
    common = first.index.intersection(second.index)
    return (first.loc[common], second.loc[common]) if len(common) >= repeats.MIN_REPEATS else None


def paired(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each arm, the first collocated arm of its workload, and level of both.

    Args:
        table: of `read_results`.

    Returns:
        `decision.WORKLOAD`, arm, base, level, blocks (that both have), and for each of MEASURES its ratio of arm to base: the
        geometric mean over blocks, with `_from` and `_to` (95% interval, NaN with fewer than three blocks), `_noise`
        (whether that contains 1) and `_alike` (`repeats.alike`). NaN where a request has a single output token, and of p99 ITL
        where one arm's answers came in coarser pieces (`pieces.coarser`).

    Raises:
        ResultError: no collocated arm shares a block with another.
    """
    rows = []
    for known, alike in contenders(table[table["block"] > 0]).groupby(WORKLOAD, sort=False):
        coarse = coarser(alike)
        bases = [arm for arm in alike["arm"].unique() if arm in collocated(alike)]
        for base, arm in ((bases[0], arm) for arm in alike["arm"].unique() if bases and arm != bases[0]):
            ours, theirs = (alike[alike["arm"] == which] for which in (arm, base))
            both = ours.merge(theirs, on=["level", "block", "machines"], suffixes=("", "_base"))
            for level, of_level in both.groupby("level"):
                row = dict(zip(WORKLOAD, known, strict=True)) | {"arm": arm, "base": base, "level": level}
                without = {"p99_itl_ms": math.nan} if coarse.keys() & {arm, base} else {}
                rows.append(row | {"blocks": len(of_level)} | _ratios(of_level.assign(**without)))
    if not rows:
        raise ResultError(
            "no block has a collocated arm and another of the same workload: experiments with `blocks` measure some"
        )
    return pd.DataFrame(rows)


def _ratios(both: pd.DataFrame) -> dict[str, float | bool]:
    """The ratios at one level; a row for each block."""
    found: dict[str, float | bool] = {}
    for name in MEASURES:
        logs = np.log(both[name] / both[f"{name}_base"]).to_numpy()
        mean, (low, high) = float(np.mean(logs)), repeats.of_mean(logs)
        found |= {name: math.exp(mean), f"{name}_from": math.exp(low), f"{name}_to": math.exp(high)}
        found |= {f"{name}_noise": bool(low <= 0 <= high), f"{name}_alike": repeats.alike(logs)}
    return found

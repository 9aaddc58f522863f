"""Find arms whose answers come in coarser pieces: a time between pieces of 8 tokens is none between tokens."""

from collections.abc import Sequence

import pandas as pd

from pdbench.analysis.sla import Bound

# Of the tokens that come at once: on a busy machine two tokens may come in one piece now and then.
PIECES_ALIKE = 1.5


def coarser(table: pd.DataFrame) -> dict[str, str]:
    """Return by arm what is seen where its pieces hold more tokens than those of the arm with the finest ones.

    Args:
        table: of `read_results`, of arms that are compared; what has no per-request details is unknown.
    """
    pieces = table.dropna(subset="tokens_per_piece").groupby("arm", sort=False)["tokens_per_piece"].median()
    finest = pieces.min()
    return {
        arm: f"{each:.2g} tokens a piece against {finest:.2g}" for arm, each in pieces.items() if each > PIECES_ALIKE * finest
    }


def not_judged(table: pd.DataFrame, bounds: Sequence[Bound]) -> dict[str, str]:
    """Return the arms that bounds on inter-token latency cannot be applied to, as `coarser`; none without such a bound."""
    return coarser(table) if any(bound.metric == "itl" for bound in bounds) else {}

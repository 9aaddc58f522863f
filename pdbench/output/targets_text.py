"""Print which arm has the most throughput within two latencies, and its lead over the other kind."""

from collections.abc import Sequence

import numpy as np

from pdbench.analysis.sla import Bound
from pdbench.analysis.targets import Targets
from pdbench.output.grid import show
from pdbench.output.number_text import number

COUNT = 7  # limits of a side, the least of which is not printed


def print_targets(found: Targets, latencies: Sequence[Bound]) -> None:
    """Print a row for each limit of the second latency, the loosest first; `found` is of `targets.targets`."""
    x, y = (bound.words for bound in latencies)
    headers = [f"{y}, ms", *(f"{x}\n<= {number(limit)} ms" for limit in found.x)]
    best, lead = found.best, found.lead
    rows = [
        [f"<= {number(limit)}", *(_cell(found.arms, *cell) for cell in zip(best[row], lead[row], strict=True))]
        for row, limit in reversed(list(enumerate(found.y)))
    ]
    show(headers, rows)
    print(f"percent: over {found.rival}; alone: no level that was measured of any such arm keeps both; -: no arm does")
    for arm, why in found.out.items():
        print(f"not judged: {arm}: {why}")


def _cell(arms: Sequence[str], best: int, lead: float) -> str:
    if best < 0:
        return "-"
    return f"{arms[best]}\n" + ("alone" if np.isinf(lead) else f"{100 * lead:+.0f}%")

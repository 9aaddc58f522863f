"""Print what arms attain while load shifts."""

from collections.abc import Sequence

import pandas as pd

from pdbench.analysis.repeats import MIN_REPEATS
from pdbench.analysis.shift import Run, attainment
from pdbench.output.grid import show
from pdbench.output.number_text import number, with_interval_text

# Column of `attainment`: its heading, what it is multiplied by, and whether it has a sign.
COLUMNS = {
    "attained": ("within the\nSLA, %", 100, ""), "lead": ("over the best\nfixed, points", 100, "+"),
    "regret": ("regret,\npoints", 100, "+"), "goodput": ("goodput\nreq./s/{unit}", 1, ""), "flips": ("flips", 1, ""),
    "reaction": ("reaction\ns", 1, ""),
}  # fmt: skip
TIMES = {1: "once", 2: "twice"}


def print_shift(runs: Sequence[Run], accelerator: str) -> None:
    """Print two tables, of arms and of their phases, and what they mean."""
    found = attainment(runs)
    unit = "core" if accelerator == "CPU" else "GPU"
    headers = [heading.format(unit=unit) for heading, _, _ in COLUMNS.values()]
    show(["arm", "rep.", *headers], [_row(row) for _, row in found.iterrows()])
    phases = range(len(runs[0].begins))
    show(["within the SLA by phase, %", *(str(phase + 1) for phase in phases)], _by_phase(runs))
    for line in words(found):
        print(line)


def _row(row: pd.Series) -> list[str]:
    cells = [
        with_interval_text(scale * row[name], scale * row[f"{name}_from"], scale * row[f"{name}_to"], sign)
        for name, (_, scale, sign) in COLUMNS.items()
    ]
    return [row["arm"], number(row["repeats"]), *cells]


def _by_phase(runs: Sequence[Run]) -> list[list[str]]:
    """Of each arm the mean over its repeats."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    means = {arm: sum(run.by_phase for run in runs if run.arm == arm) / sum(run.arm == arm for run in runs) for arm in arms}
    return [[arm, *(number(100 * share) for share in means[arm])] for arm in arms]


def words(found: pd.DataFrame) -> list[str]:
    """Return what the columns are, and what has no interval; `found` is of `attainment`."""
    lines = ["goodput: requests within the SLA, per second and accelerator; flips: changes of an engine's role"]
    if not found["reaction"].isna().all():
        lines.append("reaction: from a phase's first request to the first change of a role, mean of the phases that have one")
    if found["fixed"].any():
        lines.append("regret: what the fixed ratio that is best in each phase attains more, on as many accelerators")
    else:
        lines.append("no fixed ratio is among the arms, so there is no regret")
    fewest = int(found["repeats"].min())
    if fewest < MIN_REPEATS:
        lines.append(f"measured {TIMES[fewest]}: no interval with fewer than {MIN_REPEATS} repeats, a difference may be noise")
    else:
        lines.append("[95% interval of the mean over repeats, Student's; of differences repeat by repeat]")
    return lines

"""Compare each arm behind Ray Serve with the control arm that has the same engines without it.

Added latency is the difference of the repeats' means (each a median over requests), Ray's less the control's; the throughput
ratio is that of their geometric means. From three repeats of both on there is Welch's 95% interval; what contains 0, or a ratio
of 1, is noise.
"""

import numpy as np
import pandas as pd

from pdbench.analysis import repeats
from pdbench.analysis.decision import WORKLOAD
from pdbench.read.level_file import ResultError

# What the difference of each column is called.
DIFFERENCES = {"median_ttft_ms": "added_ttft_ms", "median_tpot_ms": "added_tpot_ms"}
RATE, RATIO = "request_throughput", "throughput_ratio"
PAIR = [*WORKLOAD, "layout", "placement", "accelerator"]


def overheads(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each arm behind Ray Serve, control of the same layout, placement and workload, and level of both.

    Args:
        table: of `read_results`.

    Returns:
        `decision.WORKLOAD`, arm, control, level, repeats (of the arm with fewer); {median_ttft_ms, median_tpot_ms,
        request_throughput}_{bare,ray}; added_ttft_ms, added_tpot_ms (ms; NaN where a request has one token) and
        throughput_ratio, each with `_from` and `_to` (95% interval, NaN with fewer than three repeats) and `_noise`.

    Raises:
        ResultError: no control arm has such a partner at a level of both, or its engines were set otherwise.
    """
    rows = []
    for known, alike in table.groupby(PAIR, sort=False):
        is_control = alike["serving"] == "bare"
        for control, bare in alike[is_control].groupby("arm", sort=False):
            for arm, ray in alike[~is_control].groupby("arm", sort=False):
                _check_engines(arm, ray, control, bare)
                for level in sorted(set(bare["level"]) & set(ray["level"])):
                    pair = [side[side["level"] == level] for side in (bare, ray)]
                    row = dict(zip(PAIR, known, strict=True)) | {"arm": arm, "control": control, "level": level}
                    rows.append(row | {"repeats": min(map(len, pair))} | _compare(*pair))
    if not rows:
        raise ResultError("no control arm and arm behind Ray Serve of the same layout, placement, workload and level: "
                          "measure one with launch_gptoss.py --mode bare or bare-pd")  # fmt: skip
    return pd.DataFrame(rows)


def _check_engines(arm: str, ray: pd.DataFrame, control: str, bare: pd.DataFrame) -> None:
    """Where both have manifests, their engines must have been set alike: else the difference is not Ray Serve's."""
    ours, theirs = (set(side["engine"].iloc[0].split("\n")) for side in (ray, bare))
    if ours != theirs and "" not in ours | theirs:
        differs = f"{', '.join(sorted(ours - theirs)) or 'less'} against {', '.join(sorted(theirs - ours)) or 'less'}"
        raise ResultError(f"the engines of {arm} and {control} were set differently: {differs}")


def _compare(bare: pd.DataFrame, ray: pd.DataFrame) -> dict[str, float | bool]:
    """What Ray Serve adds at one level; a row of each arm per repeat."""
    found: dict[str, float | bool] = {}
    for column in (*DIFFERENCES, RATE):
        without, beside = bare[column].to_numpy(), ray[column].to_numpy()
        found |= {f"{column}_bare": float(np.mean(without)), f"{column}_ray": float(np.mean(beside))}
        if column == RATE:
            at, ends, none = (
                float(np.exp(np.mean(np.log(beside)) - np.mean(np.log(without)))),
                repeats.of_ratio(beside, without),
                1.0,
            )
        else:
            at, ends, none = float(np.mean(beside) - np.mean(without)), repeats.of_difference(beside, without), 0.0
        name = DIFFERENCES.get(column, RATIO)
        found |= {name: at, f"{name}_from": ends[0], f"{name}_to": ends[1], f"{name}_noise": bool(ends[0] <= none <= ends[1])}
    return found

"""Compare each arm behind Ray Serve with the control arm that has the same engines without it.

Added latency is the difference of the repeats' means (each a median over requests), Ray's less the control's; the throughput
ratio is that of their geometric means. From three repeats of both on there is Welch's 95% interval, or Student's of the
differences within blocks, where three blocks have both; what contains 0, or a ratio of 1, is noise.
"""

import math

import numpy as np
import pandas as pd

from pdbench.analysis import blocks, repeats
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
        `decision.WORKLOAD`, arm, control, level, repeats (of the arm with fewer), blocks (that are compared within; 0 where
        repeats are taken as independent); {median_ttft_ms, median_tpot_ms,
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
                    without, beside = (side[side["level"] == level] for side in (bare, ray))
                    row = dict(zip(PAIR, known, strict=True)) | {"arm": arm, "control": control, "level": level}
                    row["repeats"] = min(len(without), len(beside))
                    if within := blocks.shared(without, beside):
                        without, beside = within
                    row["blocks"] = len(without) if within else 0
                    rows.append(row | _compare(without, beside, bool(within)))
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


def _compare(bare: pd.DataFrame, ray: pd.DataFrame, within: bool) -> dict[str, float | bool]:
    """What Ray Serve adds at one level; a row of each arm per repeat, `within` blocks one beside the other."""
    found: dict[str, float | bool] = {}
    for column in (*DIFFERENCES, RATE):
        without, beside = bare[column].to_numpy(), ray[column].to_numpy()
        found |= {f"{column}_bare": float(np.mean(without)), f"{column}_ray": float(np.mean(beside))}
        if column == RATE:
            without, beside = np.log(without), np.log(beside)
        at = float(np.mean(beside) - np.mean(without))
        ends = repeats.of_mean(beside - without) if within else repeats.of_difference(beside, without)
        noise = bool(ends[0] <= 0 <= ends[1])
        if column == RATE:
            at, ends = math.exp(at), (math.exp(ends[0]), math.exp(ends[1]))
        name = DIFFERENCES.get(column, RATIO)
        found |= {name: at, f"{name}_from": ends[0], f"{name}_to": ends[1], f"{name}_noise": noise}
    return found

"""Compare each arm behind Ray Serve with the control arm that has the same engines without it.

Added latency is the difference of medians, Ray's less the control's; the throughput ratio is Ray's over the control's.
Repeats are reduced to their median. Their spread is a 95% interval from three repeats of both on, as in
`decision.py`: repeats are drawn with replacement, independently for the two arms. What contains 0, or a ratio of 1, is noise.
"""

import numpy as np
import pandas as pd

from pdbench.analysis.decision import MIN_REPEATS, WORKLOAD
from pdbench.read.level_file import ResultError
from pdbench.read.requests import RESAMPLES, between

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
    for column, name in (*DIFFERENCES.items(), (RATE, RATIO)):
        without, beside = bare[column].to_numpy(), ray[column].to_numpy()
        compare, none = (np.divide, 1.0) if name == RATIO else (np.subtract, 0.0)
        at = float(compare(np.median(beside), np.median(without)))
        low, high = np.nan, np.nan
        if min(len(without), len(beside)) >= MIN_REPEATS and not np.isnan(at):
            low, high = between(compare(_drawn(beside, 1), _drawn(without, 0)))
        found |= {f"{column}_bare": float(np.median(without)), f"{column}_ray": float(np.median(beside))}
        found |= {name: at, f"{name}_from": low, f"{name}_to": high, f"{name}_noise": bool(low <= none <= high)}
    return found


def _drawn(repeats: np.ndarray, seed: int) -> np.ndarray:
    """Medians of repeats drawn with replacement; shape (500,)."""
    # In ascending order, so that the draws do not depend on which repeat was measured first.
    rows = np.random.default_rng(seed).integers(len(repeats), size=(RESAMPLES, len(repeats)))
    return np.median(np.sort(repeats)[rows], axis=1)

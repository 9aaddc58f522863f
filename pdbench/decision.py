"""Which layout for which latency: bands of latency with their best arm, and the answer to a given SLA.

Uncertainty comes from repeats: they are drawn with replacement within each level, 500 times, and what is asked is
computed anew from each draw; 95% intervals lie between its percentiles. An arm with fewer than three repeats of a
level has none. A difference whose interval holds 0 is noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pdbench.frontier import crossovers, curves
from pdbench.layout import Layout
from pdbench.requests import RESAMPLES, between
from pdbench.results import TOKENS
from pdbench.sla import Bound

WORKLOAD = ["model", "isl", "osl", "phase", "kind"]
MIN_REPEATS = 3
RATES = [f"{kind}_throughput_per_node" for kind in (*TOKENS, "request")]


@dataclass(frozen=True)
class Points:
    """Loads between the levels of an arm, one for each draw; shapes (...).

    Attributes:
        throughput: at that load; 0 where no load keeps every bound.
        segment, share: between which neighbouring levels (from 0), and where between them, from 0 to 1.
    """

    throughput: np.ndarray
    segment: np.ndarray
    share: np.ndarray


def workloads(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows that can be compared with each other, with a title: one model, lengths, phase and kind of load."""
    for (model, isl, osl, phase, kind), rows in table.groupby(WORKLOAD, sort=False):
        yield f"{model} · ISL {isl} · OSL {osl} · {phase} · by {kind.replace('-', ' ')}", rows


def collocated(table: pd.DataFrame) -> set[str]:
    """The arms that do not separate prefill from decode."""
    arms = table.drop_duplicates("arm")
    return {arm for arm, layout in zip(arms["arm"], arms["layout"], strict=True) if not Layout.parse(layout).is_pd}


def bands(table: pd.DataFrame, latency: str, throughput: str) -> pd.DataFrame:
    """`frontier.crossovers` of a table of one workload, with intervals of the margins in the middle of each band.

    Returns:
        its columns, and {next,collocated}_margin_from, _to: 95% intervals, NaN without three repeats of every level; and
        gpus, those that the throughput is counted over: of a node for a column per node, else of the best layout.
    """
    found = curves(table, latency, throughput)
    if not found:
        return pd.DataFrame()
    bands = crossovers(found, collocated(table))
    counted = "gpus_per_node" if throughput.endswith("_per_node") else "gpus"
    bands["gpus"] = bands["best"].map(table.drop_duplicates("arm").set_index("arm")[counted])
    for row in bands.itertuples():
        for name, margin in (("next_best", "next_margin"), ("collocated", "collocated_margin")):
            ends = [f"{margin}_from", f"{margin}_to"]
            bands.loc[row.Index, ends] = _margin_interval(table, row.best, getattr(row, name), latency, row.middle, throughput)
    return bands


def _margin_interval(
    table: pd.DataFrame, best: str, other: str, latency: str, at: float, throughput: str
) -> tuple[float, float]:
    ours, theirs = (_drawn(table[table["arm"] == arm], [latency], np.array([at]), throughput) for arm in (best, other))
    if ours is None or theirs is None or best == other or not np.median(theirs):
        return np.nan, np.nan
    return _lead(ours, theirs, np.median(theirs))


def decide(table: pd.DataFrame, bounds: Sequence[Bound], throughput: str = "input_throughput_per_node") -> pd.DataFrame:
    """For each arm the highest throughput at which every bound holds.

    Levels follow each other in order of load, and between neighbours every column is interpolated linearly.

    Args:
        table: of `read_results`, of one workload; repeats are reduced to their median.
        throughput: the column that is to be high.

    Returns:
        One row per arm, the best first (of equal ones a collocated, then by name), those that keep no SLA last: arm,
        layout, collocated, accelerator, gpus, gpus_per_node, repeats (of the level with fewest), holds, throughput, throughput_from,
        throughput_to (95% interval), level (its load), concurrency_per_gpu (all GPUs of the layout; NaN at request
        rates), {input,output,total,request}_throughput_per_node, the bounds' columns (ms), lead (by which share the best
        exceeds this arm: 0.1 is 10%), lead_from, lead_to (95% interval), goodput_per_node (highest of its levels,
        requests/s; NaN without per-request details), and reason (what ends its throughput, or why it fails).
    """
    limits = {bound.column: bound.limit for bound in bounds}
    rows, drawn = [], {}
    for arm, of_arm in table.groupby("arm", sort=False):
        rows.append(_answer(of_arm, bounds, throughput))
        drawn[arm] = _drawn(of_arm, list(limits), np.array(list(limits.values())), throughput)
    rows.sort(key=lambda row: (-np.nan_to_num(row["throughput"]), not row["collocated"], row["arm"]))
    best = rows[0]
    for row in rows:
        low, high = between(drawn[row["arm"]]) if drawn[row["arm"]] is not None and row["holds"] else (np.nan, np.nan)
        lead = _lead(drawn[best["arm"]], drawn[row["arm"]], row["throughput"]) if row is not best else (np.nan, np.nan)
        row |= {"throughput_from": low, "throughput_to": high, "lead": best["throughput"] / row["throughput"] - 1}
        row |= {"lead_from": lead[0], "lead_to": lead[1]}
    return pd.DataFrame(rows)


def highest(throughput: np.ndarray, latencies: np.ndarray, limits: np.ndarray) -> Points:
    """The load between neighbouring levels that gives the highest throughput within all limits.

    Args:
        throughput: of the levels in order of load, any draws in front; shape (..., L).
        latencies: shape (..., L, B); limits: shape (B,), in the same unit.
    """
    if throughput.shape[-1] == 1:  # one level is a segment without length
        throughput, latencies = throughput.repeat(2, axis=-1), latencies.repeat(2, axis=-2)
    start, rise = latencies[..., :-1, :], np.diff(latencies, axis=-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = (limits - start) / rise
    until = np.where(rise > 0, cut, np.where((rise == 0) & (start > limits), -np.inf, np.inf)).min(axis=-1).clip(max=1)
    since = np.where(rise < 0, cut, -np.inf).max(axis=-1).clip(min=0)
    gain = np.diff(throughput, axis=-1)
    share = np.where(gain >= 0, until, since).clip(0, 1)
    values = np.where(since <= until, throughput[..., :-1] + share * gain, 0.0)
    segment = values.argmax(axis=-1)[..., None]
    value, share = (np.take_along_axis(array, segment, axis=-1)[..., 0] for array in (values, share))
    return Points(value, segment[..., 0], share)


def cost(price: float, gpus: float, tokens_per_second: float) -> float:
    """Price of a million tokens, in the currency of `price`, which is of an hour of one GPU.

    Args:
        gpus: that bring forth `tokens_per_second`: those of the layout, or of a node for throughput per node.
    """
    return price * gpus / (tokens_per_second * 3600) * 1e6


def _answer(of_arm: pd.DataFrame, bounds: Sequence[Bound], throughput: str) -> dict[str, object]:
    first, columns = of_arm.iloc[0], [bound.column for bound in bounds]
    row = {name: first[name] for name in ("arm", "layout", "accelerator", "gpus", "gpus_per_node")}
    row["collocated"] = not Layout.parse(first["layout"]).is_pd
    row |= {"repeats": int(of_arm.groupby("level").size().min()), "goodput_per_node": _goodput(of_arm)}
    wanted = list(dict.fromkeys([throughput, *RATES, *columns]))
    row |= {"holds": False} | dict.fromkeys(["throughput", "level", "concurrency_per_gpu", *wanted], np.nan)
    levels = of_arm.dropna(subset=[throughput, *columns]).groupby("level")[wanted].median().reset_index()
    if levels.empty:
        missing = [name for name in (throughput, *columns) if of_arm[name].isna().all()]
        return row | {"reason": f"its results have no {' and no '.join(missing)}"}
    limits = np.array([bound.limit for bound in bounds])
    found = highest(levels[throughput].to_numpy(), levels[columns].to_numpy(), limits)
    if not found.throughput:
        return row | {"reason": _failure(levels, bounds)}
    at = levels.iloc[int(found.segment)]
    to = levels.iloc[min(int(found.segment) + 1, len(levels) - 1)]
    row |= (at + float(found.share) * (to - at)).to_dict()
    per_gpu = row["level"] / row["gpus"] if first["kind"] == "concurrency" else np.nan
    row |= {"holds": True, "throughput": float(found.throughput), "concurrency_per_gpu": per_gpu}
    return row | {"reason": _limit(row, bounds, levels)}


def _limit(row: dict[str, object], bounds: Sequence[Bound], levels: pd.DataFrame) -> str:
    """What keeps the throughput from being higher."""
    tight = [bound.words for bound in bounds if np.isclose(row[bound.column], bound.limit)]
    if tight:
        return f"limited by {' and '.join(tight)}"
    return "no higher load measured" if row["level"] == levels["level"].iloc[-1] else "more load brings no more"


def _failure(levels: pd.DataFrame, bounds: Sequence[Bound]) -> str:
    least = {bound: levels[bound.column].min() for bound in bounds}
    broken = [f"{bound.words} is {value:,.1f} ms at best" for bound, value in least.items() if value > bound.limit]
    return ", ".join(broken) or "each bound holds somewhere, all of them nowhere"


def _goodput(of_arm: pd.DataFrame) -> float:
    if "goodput" not in of_arm:
        return np.nan
    per_node = of_arm["goodput"] * of_arm["gpus_per_node"] / of_arm["gpus"]
    return float(per_node.groupby(of_arm["level"]).median().max())


def _drawn(of_arm: pd.DataFrame, columns: list[str], limits: np.ndarray, throughput: str) -> np.ndarray | None:
    """Throughput within the limits for each draw of repeats, shape (500,); None without three repeats of every level."""
    known = of_arm.dropna(subset=[throughput, *columns])
    levels = [rows.to_numpy() for _, rows in known.groupby("level")[[throughput, *columns]]]
    if not levels or min(map(len, levels)) < MIN_REPEATS:
        return None
    rng = np.random.default_rng(list(known["arm"].iloc[0].encode()))  # independent of other arms and of their order
    medians = [np.median(rows[rng.integers(len(rows), size=(RESAMPLES, len(rows)))], axis=1) for rows in levels]
    values = np.stack(medians, axis=1)  # (draws, levels, columns)
    return highest(values[..., 0], values[..., 1:], limits).throughput


def _lead(ours: np.ndarray | None, theirs: np.ndarray | None, estimate: float) -> tuple[float, float]:
    """95% interval of how much more is ours than theirs, as a share of the estimate of theirs."""
    if ours is None or theirs is None:
        return np.nan, np.nan
    return between((ours - theirs) / estimate)

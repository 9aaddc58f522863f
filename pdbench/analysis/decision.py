"""Decide which layout suits which latency: bands of latency with their best arm, and the answer to a given SLA.

Uncertainty comes from repeats: what is asked is computed from the repeats of all levels that were measured together
(`samples.py`: of one block, else the first ones, the second ones, and so on), and 95% intervals are of these values
(`repeats.py`). An arm with fewer than three has none. Leads are simultaneous over all arms that are compared, and within blocks
where these link the arms. A difference whose interval contains 0 is noise.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

from pdbench.analysis import repeats
from pdbench.analysis.frontier import attainable, crossovers, curves, rests_on_ttft
from pdbench.analysis.pieces import not_judged
from pdbench.analysis.samples import Sample, samples
from pdbench.analysis.sla import Bound
from pdbench.layout import Layout
from pdbench.read.level_file import TOKENS
from pdbench.read.results import contenders, saturated

WORKLOAD = ["model", "isl", "osl", "phase", "kind"]
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
    """Yield rows that can be compared, with a title: one model, lengths, phase and kind of load; no controls."""
    for known, rows in contenders(table).groupby(WORKLOAD, sort=False):
        yield workload_title(*known), rows


def workload_title(model: str, isl: int, osl: int, phase: str, kind: str) -> str:
    """Return `WORKLOAD` in words."""
    return f"{model} · ISL {isl} · OSL {osl} · {phase} · by {kind.replace('-', ' ')}"


def collocated(table: pd.DataFrame) -> set[str]:
    """Return the arms that do not separate prefill from decode."""
    arms = table.drop_duplicates("arm")
    return {arm for arm, layout in zip(arms["arm"], arms["layout"], strict=True) if not Layout.parse(layout).is_pd}


def bands(table: pd.DataFrame, latency: str, throughput: str) -> pd.DataFrame:
    """Compute `frontier.crossovers` of a table of one workload, with intervals of the margins in the middle of each band.

    Of a latency that contains TTFT, `overloaded` levels are left out.

    Returns:
        its columns, and {next,collocated}_margin_from, _to: 95% intervals, simultaneous over all arms and bands, NaN without
        three repeats of every level;
        high_from, high_to: that of the latency where the next band begins, NaN, too, where a repeat has no such change; and
        gpus, those that the throughput is counted over: of a node for a column per node, else of the best layout.
    """
    table = judged(table, [latency])
    attained = curves(table, latency, throughput)
    if not attained:
        return pd.DataFrame()
    bands = crossovers(attained, collocated(table))
    counted = "gpus_per_node" if throughput.endswith("_per_node") else "gpus"
    bands["gpus"] = bands["best"].map(table.drop_duplicates("arm").set_index("arm")[counted])
    measured = samples(table, [throughput, latency])
    measured = {arm: sample for arm, sample in measured.items() if len(sample.together) >= repeats.MIN_REPEATS}
    rows = list(bands.itertuples())
    found = [_intervals(measured, row, after, len(rows)) for row, after in zip_longest(rows, rows[1:])]
    return bands.join(pd.DataFrame(found, index=bands.index))


def _intervals(measured: dict[str, Sample], row: Any, after: Any | None, bands: int) -> dict[str, float]:
    """Those of a row of `bands`, by column; `after` is the next row."""
    leads = _leads(measured, np.array([row.middle]), row.best, bands)
    found: dict[str, float] = {}
    for name, margin in (("next_best", "next_margin"), ("collocated", "collocated_margin")):
        low, high = leads.get((row.best, getattr(row, name)), repeats.NONE)
        found |= {f"{margin}_from": low - 1, f"{margin}_to": high - 1}
    ends = repeats.of_geometric_mean(_changes(measured, row.best, after.best)) if after else repeats.NONE
    return found | dict(zip(("high_from", "high_to"), ends, strict=True))


def _changes(measured: dict[str, Sample], first: str, then: str) -> list[float]:
    """Return the latency (ms) where the better of two arms changes, once from each repeat of all their levels.

    Of several changes in a repeat it is the middle one: the nearest to that of the medians would vary too little. Empty where
    one of them has no such change. `measured` has columns throughput and latency.
    """
    if not {first, then} <= measured.keys():
        return []
    found = []
    for repeat in _side_by_side(measured[first], measured[then]):
        drawn = {arm: attainable(arm, rows[:, 1], rows[:, 0]) for arm, rows in zip((first, then), repeat, strict=True)}
        changes = list(crossovers(drawn, set()).itertuples())[:-1]  # the last band has no end
        if first not in [band.best for band in changes]:
            return []
        found.append(float(np.median([band.high for band in changes])))
    return found


def _side_by_side(one: Sample, other: Sample) -> list[tuple[np.ndarray, np.ndarray]]:
    """The repeats of two arms in pairs, each of shape (levels, columns): of one block where both have blocks, else by order."""
    if not one.blocks or not other.blocks:
        return list(zip(one.together, other.together))
    at = {block: rows for block, rows in zip(other.blocks, other.together, strict=True)}
    return [(rows, at[block]) for block, rows in zip(one.blocks, one.together, strict=True) if block in at]


def decide(table: pd.DataFrame, bounds: Sequence[Bound], throughput: str = "input_throughput_per_node") -> pd.DataFrame:
    """Find for each arm the highest throughput at which every bound holds.

    Levels follow each other in order of load, and between neighbours every column is interpolated linearly, but for a bound
    that `jumps`: it holds at levels that were measured, and between two of these. With a bound on TTFT, or on a latency that
    contains it, `overloaded` levels are left out. With one on ITL an arm with coarser pieces than another keeps none
    (`pieces.not_judged`).

    Args:
        table: of `read_results`, of one workload; repeats are reduced to their median.
        throughput: the column that is to be high.

    Returns:
        One row per arm, the best first (of equal ones a collocated, then by name), those that keep no SLA last: arm,
        layout, collocated, accelerator, gpus, gpus_per_node, repeats (of the level with fewest), holds, throughput,
        throughput_from, throughput_to (95% interval), level (its load), concurrency_per_gpu (all GPUs of the layout; NaN
        at request rates), {input,output,total,request}_throughput_per_node, the bounds' columns (ms), lead (by which
        share the best exceeds this arm: 0.1 is 10%), lead_from, lead_to (95% interval), goodput_per_node (highest of its
        levels, requests/s; NaN without per-request details), and reason (what ends its throughput, or why it fails).
    """
    columns = [bound.column for bound in bounds]
    limits, jumps = np.array([bound.limit for bound in bounds]), np.array([bound.jumps for bound in bounds])
    served = judged(table, columns)
    measured = samples(served, [throughput, *columns], ["level", *RATES])
    out = unjudged(table, served, bounds)
    arms = _arms(table, served, [throughput, *columns])
    levels = {arm: sample.levels for arm, sample in measured.items()}
    rows = [_answer(arm, levels.get(arm.arm, []), bounds, out.get(arm.arm, "")) for arm in arms.itertuples()]
    rows.sort(key=lambda row: (-np.nan_to_num(row["throughput"]), not row["collocated"], row["arm"]))
    holding = {row["arm"]: measured[row["arm"]] for row in rows if row["holds"]}
    best, leads = rows[0], _leads(holding, limits, rows[0]["arm"], jumps=jumps)
    for row in rows:
        low, high = repeats.of_geometric_mean(_each(holding[row["arm"]], limits, jumps) if row["holds"] else [])
        lead = leads.get((best["arm"], row["arm"]), repeats.NONE)
        row |= {"throughput_from": low, "throughput_to": high, "lead": best["throughput"] / row["throughput"] - 1}
        row |= {"lead_from": lead[0] - 1, "lead_to": lead[1] - 1}
    return pd.DataFrame(rows)


def overloaded(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return the levels whose TTFT is not their arm's (`results.saturated`), if one of the columns contains TTFT; else none."""
    return table[saturated(table) & any(map(rests_on_ttft, columns))]


def judged(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return the table without the levels that are `overloaded`: those that these columns can be compared at."""
    if not any(map(rests_on_ttft, columns)):
        return table
    late = saturated(table)
    return table[~late] if late.any() else table


def unjudged(table: pd.DataFrame, served: pd.DataFrame, bounds: Sequence[Bound]) -> dict[str, str]:
    """Return why an arm cannot be judged by these bounds, by arm; `served` is of `judged`."""
    out = {arm: f"not compared by ITL: {seen}" for arm, seen in not_judged(served, bounds).items()}
    return out | dict.fromkeys(set(table["arm"]) - set(served["arm"]), "every level is saturated")


def highest(
    throughput: np.ndarray, latencies: np.ndarray, limits: np.ndarray, jumps: np.ndarray | bool = False
) -> Points:  # fmt: skip
    """Find the load between neighbouring levels that gives the highest throughput within all limits.

    Args:
        throughput: of the levels in order of load, any draws in front; shape (..., L).
        latencies: shape (..., L, B); limits: shape (B,), in the same unit.
        jumps: shape (B,), which latencies may leap anywhere between two levels: only where both keep the limit all between do.
    """
    if throughput.shape[-1] == 1:  # one level is a segment without length
        throughput, latencies = throughput.repeat(2, axis=-1), latencies.repeat(2, axis=-2)
    start, rise = latencies[..., :-1, :], np.diff(latencies, axis=-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = (limits - start) / rise
    cut = np.where(jumps & (cut > 0) & (cut < 1), rise < 0, cut)
    until = np.where(rise > 0, cut, np.where((rise == 0) & (start > limits), -np.inf, np.inf)).min(axis=-1).clip(max=1)
    since = np.where(rise < 0, cut, -np.inf).max(axis=-1).clip(min=0)
    gain = np.diff(throughput, axis=-1)
    share = np.where(gain >= 0, until, since).clip(0, 1)
    values = np.where(since <= until, throughput[..., :-1] + share * gain, 0.0)
    segment = values.argmax(axis=-1)[..., None]
    value, share = (np.take_along_axis(array, segment, axis=-1)[..., 0] for array in (values, share))
    return Points(value, segment[..., 0], share)


def cost(price: float, gpus: float, tokens_per_second: float) -> float:
    """Return the price of a million tokens, in the currency of `price`, which is of an hour of one GPU.

    Args:
        gpus: number of GPUs that produce `tokens_per_second`: the layout's, or a node's for throughput per node.
    """
    return price * gpus / (tokens_per_second * 3600) * 1e6


def _arms(table: pd.DataFrame, served: pd.DataFrame, needed: list[str]) -> pd.DataFrame:
    """A row per arm: its layout, what it lacks of `needed`; of the levels `served` the fewest repeats and highest goodput."""
    arms = table.drop_duplicates("arm")[["arm", "layout", "accelerator", "gpus", "gpus_per_node", "kind"]].set_index("arm")
    levels = served.assign(goodput=served.get("goodput", np.nan)).groupby(["arm", "level"])["goodput"]
    goodput = levels.median().groupby("arm").max() * arms["gpus_per_node"] / arms["gpus"]
    known = table[needed].notna().groupby(table["arm"]).any()
    lacks = known.apply(lambda has: [name for name in needed if not has[name]], axis=1)
    return arms.assign(
        repeats=levels.size().groupby("arm").min().reindex(arms.index, fill_value=0), goodput_per_node=goodput, lacks=lacks
    ).reset_index()


def _answer(arm: Any, repeats: list[np.ndarray], bounds: Sequence[Bound], out: str) -> dict[str, Any]:
    """An arm's row (`arm` of `_arms`, `repeats` by level): throughput, bounds, level, rates; `out`: why it has none."""
    columns = [bound.column for bound in bounds]
    row = {name: getattr(arm, name) for name in ("arm", "layout", "accelerator", "gpus", "gpus_per_node", "repeats")}
    row |= {"goodput_per_node": arm.goodput_per_node, "collocated": not Layout.parse(arm.layout).is_pd, "holds": False}
    row |= dict.fromkeys(["throughput", *columns, "level", *RATES, "concurrency_per_gpu"], np.nan)
    if out or not repeats:
        return row | {"reason": out or f"its results lack {' and '.join(arm.lacks)}"}
    levels = np.array([np.median(rows, axis=0) for rows in repeats])
    latencies = levels[:, 1 : 1 + len(bounds)]
    limits, jumps = np.array([bound.limit for bound in bounds]), np.array([bound.jumps for bound in bounds])
    found = highest(levels[:, 0], latencies, limits, jumps)
    if not found.throughput:
        return row | {"reason": _failure(latencies, bounds)}
    at, to = levels[found.segment], levels[min(found.segment + 1, len(levels) - 1)]
    row |= dict(zip(["throughput", *columns, "level", *RATES], map(float, at + found.share * (to - at)), strict=True))
    if arm.kind == "concurrency":
        row["concurrency_per_gpu"] = row["level"] / arm.gpus
    near = np.abs(np.arange(len(levels)) - found.segment - found.share) <= 1
    broken = (latencies[near & (levels[:, 0] > found.throughput)] > limits).any(axis=0) & jumps
    tight = [bound.words for bound in bounds if np.isclose(row[bound.column], bound.limit)]
    leaps = [bound.words for bound, breaks in zip(bounds, broken, strict=True) if breaks]
    return row | {"holds": True, "reason": _limit(row, tight, leaps, repeats[-1][0, 1 + len(bounds)])}


def _limit(row: dict[str, Any], tight: list[str], leaps: list[str], last_level: float) -> str:
    """What keeps the throughput from being higher: bounds that are met, or leap beyond their limit at a neighbouring level."""
    if leaps:
        return f"limited by {' and '.join([*tight, *leaps])}, which a neighbouring level breaks"
    if tight:
        return f"limited by {' and '.join(tight)}"
    return "no higher load measured" if row["level"] == last_level else "more load gives no more throughput"


def _failure(latencies: np.ndarray, bounds: Sequence[Bound]) -> str:
    least = zip(bounds, latencies.min(axis=0), strict=True)
    broken = [f"{bound.words} is {value:,.1f} ms at best" for bound, value in least if value > bound.limit]
    return ", ".join(broken) or "each bound is met at some level, all of them at none"


def _leads(
    measured: dict[str, Sample], limits: np.ndarray, best: str, answers: int = 1, jumps: np.ndarray | bool = False
) -> dict[tuple[str, str], repeats.Interval]:  # fmt: skip
    """Intervals of the ratios of the best arm's throughput within the limits to that of each other arm.

    They are simultaneous over the arms, and over as many answers (Bonferroni): of many bands one shows a lead by chance.
    """
    each = {arm: _each(sample, limits, jumps) for arm, sample in measured.items()}
    blocks = {arm: sample.blocks for arm, sample in measured.items()}
    return repeats.of_ratios(each, {best}, blocks, 1 - (1 - repeats.CONFIDENCE) / answers)


def _each(sample: Sample, limits: np.ndarray, jumps: np.ndarray | bool) -> np.ndarray:
    """The throughput within the limits, once from each repeat of all levels, shape (repeats,); 0 where none is."""
    values = sample.together
    return highest(values[..., 0], values[..., 1 : 1 + len(limits)], limits, jumps).throughput

"""Check levels of one folder by themselves, for the audit: what kept a level from being what its name says."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from pdbench.analysis.audit_source import Source
from pdbench.read.laws import SERVED, in_one_go
from pdbench.workload import SHIFT

# A first level is cold where a few requests waited for what later ones found ready: their mean is far above their
# median, and above that of the next level although that had more load.
COLD = 1.5
# A p99 of fewer than 100 samples lies between its two largest.
MIN_SAMPLES = 100
# Of the requests asked for, in flight in the mean; of the time, with all of them. Honest levels have 0.88 and 0.77 or more.
HELD, FULL = 0.85, 0.7
# By which the busiest replica's share of the requests in flight may exceed an even one: with two replicas, 60%.
EXCESS = 0.1
# By how much the mean prompt, and of the longest and the shortest each, may differ from the ISL: of it, and in tokens.
LENGTH, TOKENS = 0.01, 2


def listed(words: Iterable[str]) -> str:
    """Return words as an enumeration."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _cold(source: Source) -> Iterator[tuple[str, str]]:
    mean, median = (source.columns[f"{name}_ttft_ms"][0] for name in ("mean", "median"))
    if len(source.columns["stem"]) < 2 or not mean >= COLD * median:
        return
    first, second = source.levels.iloc[0], source.levels.iloc[1]
    if second["level"] > first["level"] and mean > second["mean_ttft_ms"]:
        slow = f"{first['stem']}, the first level measured: TTFT has a median of {median:,.0f}, a mean of {mean:,.0f} and"
        p99, later = f"a p99 of {first['p99_ttft_ms']:,.0f} ms", f"{second['mean_ttft_ms']:,.0f}"
        yield "cold start", f"{slow} {p99}; the mean of {second['stem']} is {later}"


def _overloaded(source: Source) -> Iterator[tuple[str, str]]:
    columns = ("stem", "request_throughput", "level", "served_share", "cap_reached")
    behind = [row[:3] for row in _rows(source, *columns) if row[3] < SERVED and math.isnan(row[4])]
    if seen := [f"{stem} {served:.3g} of {rate:g}" for stem, served, rate in behind]:
        yield "overloaded", f"requests/s served: {', '.join(seen)}"


def _capped(source: Source) -> Iterator[tuple[str, str]]:
    for stem, cap, held, served, rate in _rows(source, "stem", "cap_reached", "in_flight", "request_throughput", "level"):
        if not math.isnan(cap):
            seen = f"{stem}: max_concurrency {cap:g}, {held:.3g} in flight on average"
            yield "capped", f"{seen}, {served:.3g} of {rate:g} requests/s served"


def _at_once(source: Source) -> Iterator[tuple[str, str]]:
    """Levels in which every request spent nearly all of its time before the first token, although many followed."""
    rows = _rows(source, "stem", "ttft_share", "median_tpot_ms")
    if found := [(stem, share) for stem, share, tpot in rows if in_one_go(share, tpot, source.osl)]:
        stems, shares = zip(*found)
        seen = f"TTFT is {min(shares):.1%} or more of each request of {source.osl} output tokens"
        yield "in one go", f"{listed(stems)}: {seen}"


def _few_requests(source: Source) -> Iterator[tuple[str, str]]:
    if few := [f"{stem} {completed}" for stem, completed in _rows(source, "stem", "completed") if completed < MIN_SAMPLES]:
        yield "few requests", f"requests of a level: {', '.join(few)}"


def _concurrency(source: Source) -> Iterator[tuple[str, str]]:
    """Levels during much of which fewer requests were in flight than asked for."""
    for stem, kind, asked, held, full in _rows(source, "stem", "kind", "level", "in_flight", "full_share"):
        if kind == "concurrency" and (held < HELD * asked or full < FULL):
            share = "" if math.isnan(full) else f", all of them for {full:.0%} of the time"
            yield "concurrency not kept", f"{stem}: {held:.3g} in flight in the mean{share}"


def _shared(source: Source) -> Iterator[tuple[str, str]]:
    """Levels of which one replica had many more requests than the others."""
    shares = [(stem, share) for stem, share in _rows(source, "stem", "share") if share]
    if uneven := [f"{stem} {share.least:.0%}" for stem, share in shares if share.least >= share.even + EXCESS]:
        num = source.arm.layout.decode.num
        yield "shared unevenly", f"requests in flight at the busiest of {num} replicas, at the least: {', '.join(uneven)}"


def _prompts(source: Source) -> Iterator[tuple[str, str]]:
    """Levels whose prompts are not of the length that the folder's name says, in the mean or each."""
    isl = source.arm.run.isl
    if source.arm.run.phase == SHIFT:  # each length is compared with its trace's as it is read
        return
    asked = {isl, 1} if source.arm.run.phase == "decode-only" else {isl}
    for stem, tokens, completed, ends in _rows(source, "stem", "input_tokens", "completed", "prompt_lengths"):
        seen = {"mean": tokens / completed} | dict(zip(("shortest", "longest"), ends))
        if off := {which: length for which, length in seen.items() if min(_off(length, n) for n in asked) > 0}:
            lengths = ", ".join(f"{which} {length:.4g}" for which, length in off.items())
            yield "other prompts", f"{stem}: tokens of a prompt: {lengths}; the folder's name says {isl}"


def _rows(source: Source, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The levels, each as a tuple of these columns."""
    return zip(*(source.columns[name] for name in columns))


def _off(length: float, isl: int) -> float:
    return abs(length - isl) - LENGTH * isl - TOKENS


CHECKS = (_prompts, _cold, _overloaded, _capped, _concurrency, _at_once, _shared, _few_requests)

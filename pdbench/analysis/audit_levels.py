"""Check levels of one folder by themselves, for the audit: what kept a level from being what its name says."""

from collections.abc import Iterable, Iterator

from pdbench.analysis.audit_source import Source
from pdbench.read.laws import SERVED

# A first level is cold where a few requests waited for what later ones found ready: their mean is far above their
# median, and above that of the next level although that had more load.
COLD = 1.5
# A p99 of fewer than 100 samples lies between its two largest.
MIN_SAMPLES = 100
# Of each request's time, if it has that many tokens: at 3 ms each they can hardly have come one by one after it.
AT_ONCE, MANY_TOKENS = 0.98, 16
# Of the requests asked for, in flight in the mean; of the time, with all of them. Honest levels have 0.88 and 0.77 or more.
HELD, FULL = 0.85, 0.7
# By how much the mean prompt, and of the longest and the shortest each, may differ from the ISL: of it, and in tokens.
LENGTH, TOKENS = 0.01, 2


def listed(words: Iterable[str]) -> str:
    """Return words as an enumeration."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _cold(source: Source) -> Iterator[tuple[str, str]]:
    mean, median = (source.levels[f"{name}_ttft_ms"].iloc[0] for name in ("mean", "median"))
    if len(source.levels) < 2 or not mean >= COLD * median:
        return
    first, second = source.levels.iloc[0], source.levels.iloc[1]
    if second["level"] > first["level"] and mean > second["mean_ttft_ms"]:
        slow = f"{first['stem']}, the first level measured: TTFT has a median of {median:,.0f}, a mean of {mean:,.0f} and"
        p99, later = f"a p99 of {first['p99_ttft_ms']:,.0f} ms", f"{second['mean_ttft_ms']:,.0f}"
        yield "cold start", f"{slow} {p99}; the mean of {second['stem']} is {later}"


def _overloaded(source: Source) -> Iterator[tuple[str, str]]:
    behind = source.levels[(source.levels["served_share"] < SERVED) & source.levels["cap_reached"].isna()]
    if seen := [f"{row.stem} {row.request_throughput:.3g} of {row.level:g}" for row in behind.itertuples()]:
        yield "overloaded", f"requests/s served: {', '.join(seen)}"


def _capped(source: Source) -> Iterator[tuple[str, str]]:
    for row in source.levels.dropna(subset="cap_reached").itertuples():
        seen = f"{row.stem}: max_concurrency {row.cap_reached:g}, {row.in_flight:.3g} in flight on average"
        yield "capped", f"{seen}, {row.request_throughput:.3g} of {row.level:g} requests/s served"


def _at_once(source: Source) -> Iterator[tuple[str, str]]:
    """Levels in which every request spent nearly all of its time before the first token, although many followed."""
    levels = source.levels[source.levels["ttft_share"] >= AT_ONCE]
    if source.osl >= MANY_TOKENS and len(levels):
        least = levels["ttft_share"].min()
        yield (
            "in one go",
            f"{listed(levels['stem'])}: TTFT is {least:.1%} or more of each request of {source.osl} output tokens",
        )


def _few_requests(source: Source) -> Iterator[tuple[str, str]]:
    requests = zip(source.levels["stem"], source.levels["completed"])
    if few := [f"{stem} {completed}" for stem, completed in requests if completed < MIN_SAMPLES]:
        yield "few requests", f"requests of a level: {', '.join(few)}"


def _concurrency(source: Source) -> Iterator[tuple[str, str]]:
    """Levels during much of which fewer requests were in flight than asked for."""
    levels = source.levels[source.levels["kind"] == "concurrency"]
    for row in levels[(levels["in_flight"] < HELD * levels["level"]) | (levels["full_share"] < FULL)].itertuples():
        share = f", all of them for {row.full_share:.0%} of the time" if row.full_share >= 0 else ""
        yield "concurrency not kept", f"{row.stem}: {row.in_flight:.3g} in flight in the mean{share}"


def _prompts(source: Source) -> Iterator[tuple[str, str]]:
    """Levels whose prompts are not of the length that the folder's name says, in the mean or each."""
    for row in source.levels.itertuples():
        asked = {row.isl, 1} if source.arm.run.phase == "decode-only" else {row.isl}
        seen = {"mean": row.input_tokens / row.completed} | dict(zip(("shortest", "longest"), row.prompt_lengths))
        off = {which: length for which, length in seen.items() if min(_off(length, isl) for isl in asked) > 0}
        if off:
            lengths = ", ".join(f"{which} {length:.4g}" for which, length in off.items())
            yield "other prompts", f"{row.stem}: tokens of a prompt: {lengths}; the folder's name says {row.isl}"


def _off(length: float, isl: int) -> float:
    return abs(length - isl) - LENGTH * isl - TOKENS


CHECKS = (_prompts, _cold, _overloaded, _capped, _concurrency, _at_once, _few_requests)

#!/usr/bin/env python3
"""Simulate how often the intervals of `viz.py` hold what they say, how often one of several equal arms seems to win, overall or
in some band of latency, and how often arms are called alike.

    python benchmarks/coverage.py                       # some minutes
    python benchmarks/coverage.py --spread 0.1 --studies 500

A study has equal arms, each measured several times; repeats are log-normal. Intervals are those of the functions that viz.py
calls: `repeats.of_mean`, `waves.of_run` of a single run (--show-intervals), `of_difference`, `of_ratio` (--show-overhead),
`of_ratios` (leads of a decision) and `decision.bands` (margins, and where the best arm changes). Beside them: the percentile
bootstrap of the repeats' medians, which they replaced.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pdbench import interrupts  # noqa: E402
from pdbench.analysis import decision, repeats, waves  # noqa: E402
from pdbench.cli import Parser, above_zero, positive  # noqa: E402
from pdbench.read.requests import Requests  # noqa: E402

REPEATS, ARMS = (3, 5), (2, 4, 8, 12)
WAVES, WAVE, CORRELATIONS = (3, 5, 10), 8, (0.0, 0.5)
DRAWS = 500
# Of an arm TPOT is the first number + requests in flight / the second, ms; these two are equal at 14.02 ms.
LEVELS, CROSSING = np.array([4, 8, 16, 32, 64, 96, 128]), {"1xtp4": (5, 8), "2xtp2": (8, 12)}
SHARED = (0.0, 0.5)  # of a level's variance, common to all levels of a repeat
LATENCY, THROUGHPUT = "median_tpot_ms", "input_throughput_per_node"
CONSOLE = Console(stderr=True)  # of progress


def bootstrap(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator) -> repeats.Interval:
    """Return the percentile interval of the ratio of two medians."""
    drawn = (np.median(rng.choice(of, size=(DRAWS, len(of))), axis=1) for of in (ours, theirs))
    low, high = np.percentile(np.divide(*drawn), [2.5, 97.5])
    return float(low), float(high)


def study(rng: np.random.Generator, arms: int, count: int, spread: float) -> dict[str, np.ndarray]:
    """Return repeats of equal arms around 1, by arm, shape (count,)."""
    return {str(arm): rng.lognormal(0, spread, count) for arm in range(arms)}


def covered(rng: np.random.Generator, count: int, args: argparse.Namespace) -> dict[str, float]:
    """Return by interval the share of studies in which it holds the true value."""
    mean = float(np.exp(args.spread**2 / 2))
    intervals: dict[str, tuple[Callable[[np.ndarray, np.ndarray], repeats.Interval], float]] = {
        "a level's mean": (lambda a, b: repeats.of_mean(a), mean),
        "a difference of two arms": (repeats.of_difference, 0.0),
        "a ratio of two arms": (repeats.of_ratio, 1.0),
        "a bootstrap of that ratio": (lambda a, b: bootstrap(a, b, rng), 1.0),
    }
    hits = dict.fromkeys(intervals, 0)
    for _ in track(range(args.studies), f"{count} repeats", transient=True, console=CONSOLE):
        ours, theirs = study(rng, 2, count, args.spread).values()
        for name, (interval, true) in intervals.items():
            low, high = interval(ours, theirs)
            hits[name] += low <= true <= high
    return {name: hit / args.studies for name, hit in hits.items()}


def false_winners(rng: np.random.Generator, arms: int, count: int, args: argparse.Namespace) -> tuple[float, float]:
    """Return the share of studies of equal arms in which a lead is not called noise, here and by a bootstrap of pairs."""
    wrong = np.zeros(2)
    for _ in track(range(args.studies), f"{arms} arms", transient=True, console=CONSOLE):
        values = study(rng, arms, count, args.spread)
        best = max(values, key=lambda arm: np.median(values[arm]))
        wrong[0] += any(low > 1 for (arm, _), (low, _) in repeats.of_ratios(values).items() if arm == best)
        pairs: Iterator[tuple[str, str]] = permutations(values, 2)
        wrong[1] += any(bootstrap(values[a], values[b], rng)[0] > 1 for a, b in pairs if a == best)
    first, second = wrong / args.studies
    return float(first), float(second)


def curves(
    rng: np.random.Generator, arms: dict[str, tuple[float, float]], count: int, spread: float, shared: float
) -> pd.DataFrame:  # fmt: skip
    """Return a study of whole curves, as `read_results` does, the columns that `decision.bands` needs.

    A level's speed is log-normal; `shared` is the part of the variance that all levels of a repeat have in common.
    """
    rows = []
    for arm, (least, slope) in arms.items():
        of_repeat, of_level = rng.normal(0, spread, (count, 1)), rng.normal(0, spread, (count, len(LEVELS)))
        tpot = (least + LEVELS / slope) / np.exp(math.sqrt(shared) * of_repeat + math.sqrt(1 - shared) * of_level)
        rows += [(arm, level, time, level / time) for repeat in tpot for level, time in zip(LEVELS, repeat, strict=True)]
    table = pd.DataFrame(rows, columns=["arm", "level", LATENCY, THROUGHPUT])
    return table.assign(layout=table["arm"], gpus=4, gpus_per_node=4, block=0, machines="")


def false_bands(rng: np.random.Generator, arms: int, count: int, shared: float, args: argparse.Namespace) -> float:
    """Return the share of studies of equal arms in which a margin of some band is not called noise."""
    equal, wrong = {f"{arm}xtp1": CROSSING["1xtp4"] for arm in range(1, arms + 1)}, 0
    for _ in track(range(args.studies // 2), f"bands of {arms} arms", transient=True, console=CONSOLE):
        found = decision.bands(curves(rng, equal, count, args.spread, shared), LATENCY, THROUGHPUT)
        wrong += bool((found[["next_margin_from", "collocated_margin_from"]] > 0).any(axis=None))
    return wrong / (args.studies // 2)


def changes(rng: np.random.Generator, count: int, shared: float, args: argparse.Namespace) -> tuple[float, float]:
    """Return which share of intervals of the latency where the best arm changes hold it, and of studies without an interval."""
    true = decision.bands(curves(rng, CROSSING, 1, 0, 0), LATENCY, THROUGHPUT)["high"].iloc[0]
    hits, shown, without = 0, 0, 0
    for _ in track(range(args.studies // 2), f"changes, {count} repeats", transient=True, console=CONSOLE):
        found = decision.bands(curves(rng, CROSSING, count, args.spread, shared), LATENCY, THROUGHPUT)
        found = found[found["high_from"].notna()]
        hits += int(((found["high_from"] <= true) & (true <= found["high_to"])).sum())
        shown, without = shown + len(found), without + found.empty
    return hits / max(shown, 1), without / (args.studies // 2)


def called_alike(rng: np.random.Generator, ratio: float, count: int, args: argparse.Namespace) -> float:
    """Return the share of studies in which an arm and one of so many times its values are called alike."""
    pairs = (study(rng, 2, count, args.spread).values() for _ in range(args.studies))
    return sum(repeats.alike(np.log(a), np.log(b * ratio)) for a, b in pairs) / args.studies


def within_run(rng: np.random.Generator, count: int, correlation: float, args: argparse.Namespace) -> float:
    """Return the share of single runs whose waves' interval of the median TTFT holds its true value, 1 s.

    Requests of a wave have a factor in common, of the spread asked for, that follows from the one before (AR(1)); their own
    has twice that spread.
    """
    hits = 0
    for _ in track(range(args.studies), f"{count} waves", transient=True, console=CONSOLE):
        shared = rng.normal(0, args.spread, count)
        for wave in range(1, count):
            shared[wave] = correlation * shared[wave - 1] + math.sqrt(1 - correlation**2) * shared[wave]
        ttft = np.exp(shared.repeat(WAVE) + rng.normal(0, 2 * args.spread, count * WAVE))
        single = np.ones(count * WAVE)
        requests = Requests(np.arange(count).repeat(WAVE) * 2.0, ttft, [np.array([])] * len(ttft), single, single)
        seen = waves.of_run(requests, WAVE)
        assert seen
        factor = seen.factor["median_ttft_ms"]
        hits += 1 / factor <= np.median(ttft) <= factor
    return hits / args.studies


def main() -> int:
    """Print the tables; return the exit code."""
    parser = Parser(prog="coverage.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--studies", type=positive, default=2000, help="studies to simulate (default: %(default)s)")
    add("--spread", type=above_zero, default=0.05, help="standard deviation of a repeat's logarithm (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    shares = {count: covered(rng, count, args) for count in REPEATS}
    table = Table("interval", *(f"{count} repeats" for count in REPEATS), title="true values within 95% intervals")
    for name in shares[REPEATS[0]]:
        table.add_row(name, *(f"{shares[count][name]:.1%}" for count in REPEATS))
    Console().print(table)
    table = Table("equal arms", "of_ratios", "bootstrap of pairs", title=f"studies with a false winner, {REPEATS[0]} repeats")
    for arms in ARMS:
        table.add_row(str(arms), *(f"{share:.1%}" for share in false_winners(rng, arms, REPEATS[0], args)))
    Console().print(table)
    columns = [
        *(f"a false lead of {arms} equal arms" for arms in ARMS[:2]),
        "intervals of a change that hold it",
        "without one",
    ]
    table = Table("repeats", "of levels, common", *columns, title="bands of latency")
    for count, shared in ((count, shared) for count in REPEATS for shared in SHARED):
        found = *(false_bands(rng, arms, count, shared, args) for arms in ARMS[:2]), *changes(rng, count, shared, args)
        table.add_row(str(count), f"{shared:.0%}", *(f"{share:.1%}" for share in found))
    Console().print(table)
    table = Table("true ratio", *(f"{count} repeats" for count in REPEATS), title=f"called alike, margin {repeats.MARGIN:.0%}")
    for ratio in (1.0, 1 - repeats.MARGIN, 1 - 2 * repeats.MARGIN):
        table.add_row(f"{ratio:.2f}", *(f"{called_alike(rng, ratio, count, args):.1%}" for count in REPEATS))
    Console().print(table)
    table = Table("correlation of waves", *(f"{count} waves" for count in WAVES), title="single runs: within 95% intervals")
    for correlation in CORRELATIONS:
        table.add_row(f"{correlation:g}", *(f"{within_run(rng, count, correlation, args):.1%}" for count in WAVES))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "coverage.py"))

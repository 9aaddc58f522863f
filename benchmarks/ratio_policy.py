#!/usr/bin/env python3
"""Simulate what the policy of the P:D ratio is worth: requests within both bounds, beside every static ratio and an oracle.

    python benchmarks/ratio_policy.py --quick                                   # half a minute
    python benchmarks/ratio_policy.py                                           # more seeds, loads and settings: some minutes
    python benchmarks/ratio_policy.py --record tests/data/ratio_reports.json    # reports and decisions of one run

The policy is the class that serves (pdbench/ratio/policy.py); engines and load are simulated (benchmarks/pool_simulation.py),
so nothing here is a measurement of a GPU. The oracle knows the load: of all plans with one ratio for each kind of phase, which
changes the moment that the load does, it is the best one of these very runs. Intervals are Student's over seeds; differences
are of runs of the same seed, so of the same requests.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.pool_simulation import Phase, Pool, Scenario, World  # noqa: E402
from pdbench import interrupts  # noqa: E402
from pdbench.analysis import repeats  # noqa: E402
from pdbench.cli import Parser, positive  # noqa: E402
from pdbench.ratio.policy import Bounds, Policy, Report, Settings  # noqa: E402

# Four engines of TP2 on eight H100s: rates fitted to the published study, not measured by us.
H100 = Scenario("", 4, 36_800, 0.00643, 0.000232, Bounds(1000, 12), (), 1)
# Three engines with half a core each: assumed rates.
CPU = Scenario("", 3, 2_500, 0.016, 0.0016, Bounds(3000, 60), (), 1)
PROMPTS, ANSWERS = (5000, 50), (500, 500)  # tokens in, out
CONSOLE = Console(stderr=True)  # of progress


def shifting(seconds: float, prompts: float, answers: float, cycles: int) -> Scenario:
    """Return a load on `H100` that turns from prompts (requests/s) to answers, and again."""
    name = f"{prompts:g}/s of 5000:50, {answers:g}/s of 500:500, phases of {seconds:g} s"
    return replace(
        H100, name=name, phases=(Phase(seconds, prompts, *PROMPTS), Phase(seconds, answers, *ANSWERS)), cycles=cycles
    )


MINUTE = shifting(60, 15, 9, 3)
LIGHT = shifting(120, 6, 4, 2)
STEADY = replace(H100, name="4/s of 5000:250, no shift", phases=(Phase(480, 4, 5000, 250),))
BOTH = replace(H100, name="16/s of 5000:250, no shift, too much for any ratio", phases=(Phase(120, 16, 5000, 250),))
CPUS = replace(
    CPU, name="three engines on CPUs: 2/s of 2000:8, 7.5/s of 64:96, 40 s", cycles=2,
    phases=(Phase(40, 2, 2000, 8), Phase(40, 7.5, 64, 96)),
)  # fmt: skip
QUICK = (shifting(120, 15, 9, 2), shifting(30, 15, 9, 4), LIGHT, STEADY)
SCENARIOS = (*QUICK[:2], MINUTE, shifting(600, 13, 8, 1), LIGHT, STEADY, BOTH, CPUS)
RESTARTS = (60.0, 150.0)  # s
SETTINGS: dict[str, tuple[Settings, World]] = {
    "defaults": (Settings(), World()),
    "reaction 2 s": (Settings(reaction_s=2), World()),
    "reaction 4 s": (Settings(reaction_s=4), World()),
    "reaction 9 s": (Settings(reaction_s=9), World()),
    "gain 5%": (Settings(gain=0.05), World()),
    "gain 30%": (Settings(gain=0.3), World()),
    "cooldown 1 s": (Settings(cooldown_s=1), World()),
    "cooldown 5 s": (Settings(cooldown_s=5), World()),
    "window 2 s": (Settings(window_s=2), World()),
    "window 10 s": (Settings(window_s=10), World()),
    "calm 0": (Settings(calm=0), World()),
    "calm 1": (Settings(calm=1), World()),
    "tick 0.5 s": (Settings(tick_s=0.5), World()),
    "tick 2 s": (Settings(tick_s=2), World()),
    "roles after 2 s": (Settings(), World(delay_s=2)),
    "20% of reports lost": (Settings(), World(lost=0.2)),
    "answer lengths unknown": (Settings(), World(lengths_known=False)),
    "priors: twice the speed": (Settings(prefill_rate=40_000, step_alpha_s=0.003, step_beta_s=0.0001), World()),
    "priors: half the speed": (Settings(prefill_rate=10_000, step_alpha_s=0.012, step_beta_s=0.0004), World()),
}


def by_policy(scenario: Scenario, settings: Settings, world: World) -> Callable[[int], Pool]:
    """Return what runs a scenario with a seed: the policy starts from half of the engines."""
    return lambda seed: Pool(scenario, seed, world).follow_policy(Policy(scenario.bounds, settings), scenario.engines // 2)


def runs(scenario: Scenario, seeds: range) -> dict[str, list[Pool]]:
    """Return the runs of each arm: static ratios, oracle, policy, and the policy where a change of roles is a restart."""
    plans = list(product(range(1, scenario.engines), repeat=len(scenario.phases)))
    planned = {
        plan: [Pool(scenario, seed).follow_plan(plan) for seed in seeds]
        for plan in track(plans, scenario.name, transient=True, console=CONSOLE)
    }
    arms = {f"static {plan[0]}:{scenario.engines - plan[0]}": planned[plan] for plan in plans if len(set(plan)) == 1}
    if len(scenario.phases) > 1:
        arms["oracle"] = max(planned.values(), key=attained)
    arms["policy"] = list(map(by_policy(scenario, Settings(), World()), seeds))
    for seconds in RESTARTS:
        run = by_policy(scenario, Settings(cooldown_s=seconds), World(away_s=seconds))
        arms[f"policy, restarts of {seconds:g} s"] = list(map(run, seeds))
    return arms


def attained(pools: list[Pool]) -> float:
    """Return the mean attainment."""
    return float(np.mean([pool.attainment for pool in pools]))


def with_interval(values: np.ndarray, signed: bool = False) -> str:
    """Write a mean of shares with its 95% interval, in %."""
    low, high = (100 * end for end in repeats.of_mean(values))
    if not signed:
        low, high = max(low, 0.0), min(high, 100.0)
    sign = "+" if signed else ""
    return f"{100 * values.mean():{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def table_of(scenario: Scenario, seeds: range) -> Table:
    """Simulate a scenario; return its table."""
    arms = runs(scenario, seeds)
    shares = {arm: np.array([pool.attainment for pool in pools]) for arm, pools in arms.items()}
    best = max((arm for arm in arms if arm.startswith("static")), key=lambda arm: shares[arm].mean())
    table = Table("arm", "within bounds, %", f"minus {best}", "within bounds, 1/s", "changes of roles", title=scenario.name)
    for arm, pools in arms.items():
        goodput = shares[arm] * [len(pool.requests) / scenario.seconds for pool in pools]
        difference = "" if arm.startswith("static") else with_interval(shares[arm] - shares[best], signed=True)
        changes = f"{np.mean([pool.flips for pool in pools]):.1f}" if arm.startswith("policy") else ""
        table.add_row(arm, with_interval(shares[arm]), difference, f"{goodput.mean():.2f}", changes)
    return table


def table_of_settings(seeds: range) -> Table:
    """Simulate the policy with each other setting; return one table."""
    scenarios = {"shift each 60 s, %": MINUTE, "on CPUs, %": CPUS, "steady, %": STEADY}
    table = Table("setting", *scenarios, "changes when steady", title="the policy with other settings, or in another world")
    for label, (settings, world) in track(SETTINGS.items(), "settings", transient=True, console=CONSOLE):
        found = [list(map(by_policy(scenario, settings, world), seeds)) for scenario in scenarios.values()]
        changes = np.mean([pool.flips for pool in found[-1]])
        shares = (with_interval(np.array([pool.attainment for pool in pools])) for pools in found)
        table.add_row(label, *shares, f"{changes:.1f}")
    return table


def record(path: Path) -> None:
    """Write the reports and decisions of one run on simulated CPUs."""
    settings = Settings()
    pool = by_policy(CPUS, settings, World())(1)
    names = [each.name for each in fields(Report)]
    ticks = [
        {"now": now, "prefill": decision.prefill, "reports": [_rounded(report) for report in reports]}
        for now, reports, decision in pool.ticks
    ]
    content = {
        "command": "python benchmarks/ratio_policy.py --record tests/data/ratio_reports.json",
        "what": f"simulated: {CPUS.name}; seed 1, default settings",
        "bounds": {"ttft_ms": CPUS.bounds.ttft_ms, "tpot_ms": CPUS.bounds.tpot_ms},
        "fields": names,
    }
    lines = ",\n".join(json.dumps(tick) for tick in ticks)
    path.write_text(json.dumps(content, indent=1)[:-2] + f',\n "ticks": [\n{lines}\n]}}\n')


def _rounded(report: Report) -> list[str | float]:
    return [value if isinstance(value, str) else round(value, 3) for value in astuple(report)]


def main() -> int:
    """Print the tables, or record a run; return the exit code."""
    parser = Parser(prog="ratio_policy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=positive, default=20, help="runs of each arm (default: %(default)s)")
    add("--quick", action="store_true", help="3 seeds of the first loads, and no other settings")
    add("--record", type=Path, metavar="FILE", help="write the reports and decisions of one run, as JSON, and stop")
    args = parser.parse_args()
    if args.record:
        record(args.record)
        return 0
    seeds = range(1, (3 if args.quick else args.seeds) + 1)
    for scenario in QUICK if args.quick else SCENARIOS:
        Console().print(table_of(scenario, seeds))
    if not args.quick:
        Console().print(table_of_settings(seeds))
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "ratio_policy.py"))

#!/usr/bin/env python3
"""Measure the planner: CPU time of queries as typed, and what picking by its predictions costs on measured layouts.

    python benchmarks/planner.py                      times, with a model of three made-up runs
    python benchmarks/planner.py model.json RUNS...   times with this model, and regret on these runs' layouts

Regret: of the most throughput that any measured layout has within a target, the share that the pick lacks; over a grid of
targets. Picks are those of the model, and of a second measurement of every layout whose numbers differ from the first by
what two runs of one layout differ by in the public study: 4% of throughput, 4% of TPOT and 14% of TTFT in the mean.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pdbench import interrupts  # noqa: E402
from pdbench.planner.calibration import read, runs_of  # noqa: E402
from pdbench.planner.costs import Engine, names_of, start_of  # noqa: E402
from pdbench.planner.model import Errors, Model  # noqa: E402
from pdbench.planner.predicting import check  # noqa: E402
from pdbench.planner.replicas import COLUMNS  # noqa: E402
from pdbench.planner.runs import Run  # noqa: E402

TARGETS = ("tpot=7,ttft=400", "tpot=10,ttft=500", "tpot=15,ttft=2000", "p99_ttft=1500")
FLEETS = (8, 10_000)
TPOT = (6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20)  # ms
TTFT = (200, 250, 300, 400, 500, 700, 1000, 1500, 2000, 4000)  # ms
BETWEEN_RUNS = {"request_throughput": 0.04, "median_tpot_ms": 0.04, "median_ttft_ms": 0.14}  # mean differences
PICKS = (1, 2, 3)
MEASUREMENTS = 20  # made up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="file that plan.py fit wrote")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="measured layouts, for regret")
    parser.add_argument("--as-published", action="store_true", help="these runs replayed prompts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or Path(folder) / "model.json"
        if args.model is None:
            made_up().write(model)
        for gpus in FLEETS:
            for target in TARGETS:
                wall, cpu = waited(["recommend", str(model), "--sla", target, "--gpus", str(gpus)])
                print(f"recommend --sla {target} --gpus {gpus}: {wall:.2f} s (CPU {cpu:.2f} s)", flush=True)
    if args.runs:
        print_regret(Model.read(args.model), runs_of(read(args.runs), args.as_published))


def made_up() -> Model:
    """Return a model with parameters as where a fit begins, for TP 1 to 8 and every kind of layout."""
    layouts = ["8xtp1", "4xtp2", "2xtp4", "1xtp8", "p1xtp1-d1xtp2", "p1xtp2-d1xtp2", "p1xtp8-d1xtp8"]
    errors = [Errors(layout="1xtp2", level=level, ratios=dict.fromkeys(COLUMNS, 0.1)) for level in (4, 64)]
    return Model(
        name="gptoss", accelerator="GPU", gpus_per_node=8, engine=Engine(), runs=layouts, layouts=layouts,
        parameters={name: start_of(name) for name in names_of((1, 2, 4, 8))}, workloads=["5000:250"], as_published=False,
        levels=(4, 64), most_running=64, stack={}, left_out=True, errors=errors,
    )  # fmt: skip


def waited(arguments: list[str]) -> tuple[float, float]:
    """Run plan.py; return its wall time and CPU time (s), the start of Python among them."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "plan.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"plan.py {' '.join(arguments)}: exit code {code}")
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime


def print_regret(model: Model, runs: list[Run]) -> None:
    """Print the mean regret of the first, of the best of two and of three picks."""
    measured = [curve_of(run, run.measured) for run in runs]
    predicted = [curve_of(run, np.array([list(p.values.values()) for p in one.predicted]))
                 for run, one in zip(runs, check(model, runs), strict=True)]  # fmt: skip
    print(f"regret over {len(TPOT) * len(TTFT)} targets (median TPOT and TTFT), {len(runs)} layouts:")
    used = {run.name for run in runs} & set(model.runs)
    print(f"  by prediction ({len(used)} of them in the fit): {words(regret(predicted, measured))}")
    random = np.random.default_rng(1)
    again = [regret([noisy(curve, random) for curve in measured], measured) for _ in range(MEASUREMENTS)]
    print(f"  by a second measurement: {words(np.mean(again, axis=0))}")


def curve_of(run: Run, rows: np.ndarray) -> np.ndarray:
    """Return throughput per GPU, median TPOT and median TTFT, a row per level."""
    rates, tpot, ttft = (rows[:, COLUMNS.index(name)] for name in BETWEEN_RUNS)
    return np.column_stack([rates / run.layout.gpus, tpot, ttft])


def noisy(curve: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return what another run of the layout may give: normal deviations whose mean absolute value is `BETWEEN_RUNS`."""
    deviations = np.array(list(BETWEEN_RUNS.values())) * np.sqrt(np.pi / 2)
    return curve * np.exp(random.normal(0, deviations, curve.shape))


def regret(judged: list[np.ndarray], measured: list[np.ndarray]) -> np.ndarray:
    """Return the mean over targets of the throughput lost by the best of the first 1, 2 and 3 picks, as shares."""
    lost = []
    for tpot in TPOT:
        for ttft in TTFT:
            truth = np.array([within(curve, tpot, ttft) for curve in measured])
            order = np.argsort([-within(curve, tpot, ttft) for curve in judged], kind="stable")
            if truth.max() > 0:
                lost.append([1 - truth[order[:picks]].max() / truth.max() for picks in PICKS])
    return np.mean(lost, axis=0)


def within(curve: np.ndarray, tpot: float, ttft: float) -> float:
    """Return the most throughput per GPU within two limits, linearly between levels; 0 where no level keeps to them."""
    fine = np.column_stack([np.interp(np.linspace(0, len(curve) - 1, 41), range(len(curve)), column) for column in curve.T])
    kept = fine[(fine[:, 1] <= tpot) & (fine[:, 2] <= ttft)]
    return float(kept[:, 0].max()) if len(kept) else 0.0


def words(shares: np.ndarray) -> str:
    return ", ".join(f"{picks} measured {share:.1%}" for picks, share in zip(PICKS, shares, strict=True))


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "planner.py"))

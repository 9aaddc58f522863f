#!/usr/bin/env python3
"""Compare the planner with aiconfigurator, which predicts without any run: errors on the same measured cells, time of each.

    python -m venv ../aic && ../aic/bin/pip install aiconfigurator==0.12.0
    python benchmarks/peer.py model.json RUNS... --peer-python ../aic/bin/python

A cell is a layout with K requests in flight. The planner's errors are those of MODEL: each layout predicted by a fit without
it. The peer's are as it is, and with one constant per metric, PD and collocated apart: the geometric mean of measured over
predicted, and the constant of the least error. Both are found from the cells that they are judged by, in favour of the peer.

How a cell is put to the peer (`cli_estimate`; vLLM; TP only, experts split by TP; nothing cached; all else by default):
    N collocated replicas   one of them at batch size K / N, rounded and at least 1; N times its requests/s
    PD                      decode batch size K / decode replicas, rounded and at least 1; prefill batch size 1
    both                    requests/s at most K / (TTFT + (OSL - 1) TPOT), since the loop is closed; its PD leaves that out
It models kernels, and of PD the rates of both pools: no KV transfer, no prefill queue (its TTFT of PD is the same for all K),
no prompts sent before (half of the study's are; it takes a cached length, the same of all), neither start nor drain of a level.
Its data is of newer versions of vLLM than the study's 0.11; the oldest is taken. The planner was made with this study, the
peer was not.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.peer_cells import PeerError, ask  # noqa: E402
from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser, positive  # noqa: E402
from pdbench.layout import Layout  # noqa: E402
from pdbench.planner.calibration import read, runs_of  # noqa: E402
from pdbench.planner.fitting import predict_run  # noqa: E402
from pdbench.planner.model import Model, PlanError  # noqa: E402
from pdbench.planner.runs import Run  # noqa: E402
from pdbench.read.level_file import ResultError  # noqa: E402

METRICS = {"request_throughput": "requests/s", "mean_tpot_ms": "mean TPOT", "mean_ttft_ms": "mean TTFT"}


class Cell(NamedTuple):
    layout: Layout
    level: int
    asked: dict[str, object]  # of `cli_estimate`
    measured: np.ndarray  # columns `METRICS`
    ours: np.ndarray


def main() -> int:
    parser = Parser(prog="peer.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="file that plan.py fit wrote, with each layout left out in turn")
    add("runs", nargs="+", type=Path, metavar="RUN", help="result folders that it was fitted to")
    add("--peer-python", required=True, metavar="PATH", help="Python that has aiconfigurator")
    add("--peer-model", default="openai/gpt-oss-120b", metavar="NAME", help="the runs' model, as the peer calls it")
    add("--peer-system", default="h100_sxm", metavar="NAME", help="the runs' accelerator, as the peer calls it")
    add("--seconds", type=positive, default=1800, metavar="N", help="most that the peer may take")
    args = parser.parse_args()
    try:
        model = Model.read(args.model)
        runs = runs_of(read(args.runs, sorted({error.level for error in model.errors})), model.as_published)
        cells = cells_of(model, runs)
        asked = {"model": args.peer_model, "system": args.peer_system, "cells": [cell.asked for cell in cells]}
        head, *answers = ask(args.peer_python, asked, args.seconds)
    except (PlanError, ResultError) as error:
        parser.error(str(error))
    except PeerError as error:
        parser.error(f"--peer-python {error}")
    print(f"aiconfigurator {head['package']}, data of vLLM {head['data']} (it has {', '.join(head['known'])})")
    print_errors(cells, answers)
    print_rest(cells, answers, head["import_s"], np.median([seconds_of(model, run) for run in runs], axis=0))
    rest = sorted({str(run.layout) for run in runs} - {str(cell.layout) for cell in cells})
    print(f"not compared, since no fit without them can predict them: {', '.join(rest) or 'none'}")
    return 0 if any("values" in answer for answer in answers) else 1


def cells_of(model: Model, runs: Sequence[Run]) -> list[Cell]:
    """Return the levels of layouts that were left out; the model's file has measured over what the fit without them says."""
    if not model.left_out or len(model.layouts) < len(model.runs):
        raise PlanError("the model needs one run of each layout, and six layouts or more that its fit could leave out")
    if strangers := [run.name for run in runs if run.name not in model.runs]:
        raise PlanError(f"{strangers[0]}: the model was not fitted to it, and has no error of it")
    ratios = {(error.layout, error.level): [error.ratios.get(name, np.nan) for name in METRICS] for error in model.errors}
    found = []
    for run in runs:
        for (level, _), row in zip(run.levels, run.measured[:, : len(METRICS)], strict=True):
            ours = row * np.exp(-np.array(ratios.get((str(run.layout), level), np.nan)))
            if np.isfinite(ours).all():
                asked = options(run.layout, level) | {"isl": run.workload.isl, "osl": run.workload.osl}
                found.append(Cell(run.layout, level, asked, row, ours))
    if not found:
        raise PlanError("no layout of these runs was left out of the model's fit")
    return found


def options(layout: Layout, level: int) -> dict[str, object]:
    decode, batch = layout.decode, max(1, round(level / layout.decode.num))
    if not layout.prefill:
        return {"mode": "agg", "tp_size": decode.tp, "moe_tp_size": decode.tp, "batch_size": batch}
    found: dict[str, object] = {"mode": "disagg", "prefill_batch_size": 1, "decode_batch_size": batch}
    for role, pool in (("prefill", layout.prefill), ("decode", decode)):
        found |= {f"{role}_tp_size": pool.tp, f"{role}_moe_tp_size": pool.tp, f"{role}_num_workers": pool.num}
    return found


def print_errors(cells: Sequence[Cell], answers: Sequence[dict]) -> None:
    """Print both tools' errors on the cells that the peer has an answer for."""
    good = [(cell, closed(cell, *answer["values"])) for cell, answer in zip(cells, answers, strict=True) if "values" in answer]
    for kind in ("PD", "collocated"):
        if not (these := [pair for pair in good if pair[0].layout.is_pd == (kind == "PD")]):
            continue
        measured, ours = (np.array([getattr(cell, name) for cell, _ in these]) for name in ("measured", "ours"))
        peer = np.array([values for _, values in these])
        title = f"{kind}, {len(these)} cells: mean absolute error"
        print(f"\n{title:48}{''.join(f'{name:>12}' for name in METRICS.values())}")
        rows = {
            "aiconfigurator": peer,
            "aiconfigurator, geometric mean of the ratios": peer * mean_ratio(measured, peer),
            "aiconfigurator, constant of the least error": peer * best_ratio(measured, peer),
            "plan.py, left out": ours,
        }
        for name, predicted in rows.items():
            print(f"  {name:46}{''.join(f'{error:12.1%}' for error in errors(measured, predicted))}")


def closed(cell: Cell, rate: float, tpot: float, ttft: float) -> list[float]:
    """Return the peer's requests/s of all replicas, no more than K requests in flight allow; TPOT and TTFT."""
    replicas = 1 if cell.layout.is_pd else cell.layout.decode.num
    return [min(rate * replicas, 1e3 * cell.level / (ttft + (cell.asked["osl"] - 1) * tpot)), tpot, ttft]


def errors(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the mean absolute error of each column, as a share of what was measured."""
    return np.abs(predicted / measured - 1).mean(axis=0)


def mean_ratio(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return np.exp(np.log(measured / predicted).mean(axis=0))


def best_ratio(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the factor of each column that leaves the least error: one that makes some cell right."""
    ratios = measured / predicted
    found = np.array([errors(measured, predicted * row) for row in ratios])
    return ratios[found.argmin(axis=0), range(found.shape[1])]


def print_rest(cells: Sequence[Cell], answers: Sequence[dict], imported: float, ours: np.ndarray) -> None:
    """Print times, and the peer's failures and warnings by cell."""
    print()
    if took := [(1e3 * answer["wall"], 1e3 * answer["cpu"]) for answer in answers if "wall" in answer]:
        times = {"aiconfigurator": np.median(took, axis=0), "plan.py": 1e3 * ours}
        print("a cell, median:", ", ".join(f"{name} {wall:.1f} ms (CPU {cpu:.1f} ms)" for name, (wall, cpu) in times.items()))
        print(f"aiconfigurator until its first cell: {imported + took[0][0] / 1e3:.1f} s")
    for what in ("failed", "warning"):
        named = [f"  {cell.layout} at {cell.level}: {of[what]}" for cell, of in zip(cells, answers) if of.get(what)]
        print("\n".join([f"aiconfigurator's cells with {what!r}: {len(named)}", *named]))


def seconds_of(model: Model, run: Run) -> list[float]:
    """Return wall and CPU time of a level's simulation: of its sweep, since pools are not empty when a level begins."""
    wall, cpu = time.perf_counter(), time.process_time()
    predict_run(run, model.parameters, model.engine)
    return [took / len(run.levels) for took in (time.perf_counter() - wall, time.process_time() - cpu)]


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "peer.py"))

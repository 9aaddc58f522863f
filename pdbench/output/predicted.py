"""Put a planner's predictions beside measured runs: the rows that figures draw and the table of the report."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pdbench.cli import note
from pdbench.output.number_text import number
from pdbench.planner import calibration
from pdbench.planner.model import NOMINAL, Model, PlanError
from pdbench.planner.predicting import Checked, check
from pdbench.planner.replicas import COLUMNS
from pdbench.read.level_file import ResultError
from pdbench.read.results import Study

SHOWN = {"request_throughput": "requests/s", "median_tpot_ms": "median TPOT", "median_ttft_ms": "median TTFT"}


def predicted(path: Path, study: Study) -> pd.DataFrame:
    """Predict each run as it was measured, where the model covers it; what it does not is said on standard error.

    Args:
        path: file that `plan.py fit` wrote.

    Returns:
        A row for each arm and level: `study.table`'s columns with predicted latencies (ms) and throughputs, those of `SHOWN`
        also with `_low`, `_high` (the nominal 90% interval) and `_measured` (the mean of repeats), and `fitted`, whether
        the model was fitted to the run.

    Raises:
        ResultError: the file is no model, or it covers none of the runs.
    """
    try:
        model = Model.read(path)
    except PlanError as error:
        raise ResultError(str(error)) from error
    rows, reasons = [], {}
    for folder, of in study.table.groupby("folder", sort=False):
        try:
            rows.append(_rows(model, study.without(set(study.folders) - {folder}), of))
        except PlanError as error:
            reasons[of["arm"].iloc[0]] = str(error)
    if not rows:
        arm, reason = next(iter(reasons.items()))
        raise ResultError(f"{path} predicts none of these runs: {arm}: {reason}")
    for arm, reason in reasons.items():
        note(f"viz.py: not predicted: {arm}: {reason}")
    return pd.concat(rows, ignore_index=True)


def _rows(model: Model, study: Study, measured: pd.DataFrame) -> pd.DataFrame:
    """The rows of one run."""
    calibration.check_kinds(study.table)
    calibration.check_same(model, study)
    recorded = all(folder.manifest for folder in study.folders.values())
    (checked,) = check(model, calibration.runs_of(study, None if recorded else model.as_published))
    found = measured.drop_duplicates("level").sort_values("level").reset_index(drop=True)
    values = pd.DataFrame([one.values for one in checked.predicted], columns=list(COLUMNS))
    more = values["request_throughput"] / found["request_throughput"]
    scaled = {name: found[name] * more for name in found if "_throughput" in name}
    chunk = values["median_ttft_ms"] + (found["chunk_latency_ms"] - found["median_ttft_ms"]) * (
        values["median_tpot_ms"] / found["median_tpot_ms"]
    )
    return found.assign(**scaled | dict(values.items()) | {"chunk_latency_ms": chunk} | _intervals(checked)).assign(
        fitted=checked.run.name in model.runs
    )


def _intervals(checked: Checked) -> dict[str, np.ndarray]:
    """Ends of the intervals, and what was measured, by column."""
    found: dict[str, np.ndarray] = {}
    for column in SHOWN:
        low, high = np.array([one.intervals[column] for one in checked.predicted]).T
        found |= {f"{column}_low": low, f"{column}_high": high}
        found[f"{column}_measured"] = checked.run.measured[:, COLUMNS.index(column)]
    return found


def prediction_rows(found: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the headers and the rows of a table: measured, predicted [nominal 90% interval], and how many lie within."""
    headers = ["arm", "level", *(f"{words}{part}" for words in SHOWN.values() for part in ("", "\npredicted"))]
    return headers, [[str(row["arm"]), number(row["level"]), *_cells(row)] for _, row in found.iterrows()]


def _cells(row: pd.Series) -> Iterator[str]:
    for name in SHOWN:
        yield number(row[f"{name}_measured"])
        yield f"{number(row[name])} [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]"


def coverage_words(found: pd.DataFrame) -> str:
    """Return how many of the measured numbers lie in their intervals."""
    parts = []
    for name, words in SHOWN.items():
        measured = found[f"{name}_measured"]
        inside = (found[f"{name}_low"] <= measured) & (measured <= found[f"{name}_high"])
        parts.append(f"{words} {inside[measured.notna()].mean():.0%}")
    runs = found.drop_duplicates("folder")["fitted"]
    used = f"fitted to {runs.sum()} of these {len(runs)} runs"
    return f"means of repeats, and plan.py's model, {used}; within the nominal {NOMINAL:.0%} interval: {', '.join(parts)}"

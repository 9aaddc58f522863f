"""Write what viz.py prints as one JSON file of numbers: bands of latency, the answer to an SLA, audit, intervals.

Its keys are in docs/reading-results.md; those of rows are the columns that the functions of `pdbench.analysis` document.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from pdbench.analysis import decision
from pdbench.analysis.audit import Finding
from pdbench.analysis.blocks import paired
from pdbench.analysis.intervals import level_intervals
from pdbench.analysis.overhead import overheads
from pdbench.analysis.sharing import shares
from pdbench.analysis.shift import Run, attainment
from pdbench.analysis.sla import Bound
from pdbench.files import write_atomically
from pdbench.read.level_file import TOKENS, naming
from pdbench.read.results import Study, controls

SCHEMA = 1


def write(
    path: Path, study: Study, findings: Sequence[Finding], left_out: Mapping[str, Sequence[str]], latency: str,
    throughput: str, bounds: Sequence[Bound] = (), price: float | None = None, overhead: bool = False, blocks: bool = False,
    sharing: bool = False,
) -> None:  # fmt: skip
    """Write the file, whole or not at all.

    Args:
        study: without what is left out.
        left_out: folders, with the kinds of findings that refute them.
        latency, throughput: columns of its table, which the bands are of.
        bounds: of the SLA that is to be answered.
        price: of an hour of one GPU.
        overhead, blocks, sharing: what is added of controls, of blocks, and of replicas.

    Raises:
        ResultError: the file cannot be written; or the table lacks what is asked for.
    """
    table = study.table
    folders = dict(zip(table["folder"], table["arm"], strict=True))
    content: dict[str, Any] = {"schema": SCHEMA, "latency": latency, "throughput": throughput}
    content |= {"bounds": [asdict(bound) for bound in bounds], "gpu_hour_price": price, "folders": folders}
    content["workloads"] = [
        dict(zip(decision.WORKLOAD, _plain(rows[decision.WORKLOAD].iloc[0]), strict=True))
        | _answers(rows, latency, throughput, bounds, price)
        for _, rows in decision.workloads(table)
    ]
    content |= {"left_out": dict(left_out), "bare": controls(table), "audit": [asdict(finding) for finding in findings]}
    content["intervals"] = _records(level_intervals(study))
    content |= {"overhead": _records(overheads(table))} if overhead else {}
    content |= {"blocks": _records(paired(table))} if blocks else {}
    content |= {"sharing": _records(shares(study))} if sharing else {}
    with naming(path):
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_shift(path: Path, runs: Sequence[Run], bounds: Sequence[Bound], load: float) -> None:
    """Write what arms attain under a load that shifts; raises ResultError where the file cannot be written."""
    content: dict[str, Any] = {"schema": SCHEMA, "load": load, "bounds": [asdict(bound) for bound in bounds]}
    content["attainment"] = _records(attainment(runs))
    content["runs"] = [
        {"arm": run.arm, "repeat": run.repeat, "attained": run.attained, "by_phase": [float(share) for share in run.by_phase],
         "begins": run.begins, "flips": run.flips, "reactions": run.reactions}
        for run in runs
    ]  # fmt: skip
    with naming(path):
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _answers(
    rows: pd.DataFrame, latency: str, throughput: str, bounds: Sequence[Bound], price: float | None
) -> dict[str, list[dict[str, Any]]]:
    bands = decision.bands(rows, latency, throughput)
    if price and len(bands):
        for end in ("low", "high"):
            bands[f"price_{end}"] = decision.cost(price, bands["gpus"], bands[f"throughput_{end}"])
    columns = [latency, *(bound.column for bound in bounds)]
    late = decision.overloaded(rows, columns)[["arm", "level", "repeat", "request_throughput", "cap_reached"]]
    found = {"bands": _records(bands), "overloaded": _records(late)}
    if bounds:
        answers = decision.decide(rows, bounds, throughput)
        for tokens in TOKENS if price else ():
            answers[f"price_{tokens}"] = decision.cost(
                price, answers["gpus_per_node"], answers[f"{tokens}_throughput_per_node"]
            )
        found |= {"sla": _records(answers)}
    return found


def _plain(row: pd.Series) -> list[Any]:
    """Its values as Python has them."""
    return [value.item() if hasattr(value, "item") else value for value in row]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A dictionary for each row; null where there is no number, or none that is finite."""
    return json.loads(frame.to_json(orient="records", double_precision=15))

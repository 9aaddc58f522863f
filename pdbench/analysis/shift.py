"""Compute what arms attain while load shifts: requests within the SLA, how fast roles follow, and what fixed ratios have.

An arm's repeat is one value, as everywhere (repeats.py). Repeats of two arms with one number had requests at the same times, so
differences are taken between them, repeat by repeat.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pdbench.analysis import repeats
from pdbench.read.level_file import LevelFile, ResultError, naming
from pdbench.read.results import CONTROLLED, Folder, Study
from pdbench.read.trace import Sent, bounds_of
from pdbench.workload import SHIFT, Level

TICKS = ".ticks.jsonl"
# What the columns of `attainment` can be: no interval reaches farther.
WITHIN = {"attained": (0.0, 1.0), "lead": (-1.0, 1.0), "regret": (-1.0, 1.0), "goodput": repeats.POSITIVE,
          "flips": repeats.POSITIVE, "reaction": repeats.POSITIVE}  # fmt: skip


@dataclass(frozen=True)
class Tick:
    """One decision of a controller: when (s since the level began), how many engines prefill from then on, and what changed."""

    at: float
    prefill: int
    engines: int
    changes: int


@dataclass(frozen=True)
class Run:
    """One level of one arm, request by request; arrays of shape (n,), in order of time.

    Attributes:
        start: when each request was sent, s since the level began; `phase` is its phase.
        ttft, tpot: ms.
        kept: whether it was within the SLA.
        begins: when each phase begins, s, with its first request.
        duration: s.
        prefill: of a fixed ratio how many engines prefill; None where a controller decides, and of collocated arms.
        controlled: whether a controller decides.
    """

    arm: str
    repeat: int
    gpus: int
    start: np.ndarray
    phase: np.ndarray
    ttft: np.ndarray
    tpot: np.ndarray
    kept: np.ndarray
    begins: list[float]
    duration: float
    prefill: int | None
    controlled: bool
    ticks: Sequence[Tick]

    @property
    def attained(self) -> float:
        """Share of all requests within the SLA."""
        return float(self.kept.mean())

    @property
    def by_phase(self) -> np.ndarray:
        """The same of each phase's requests, shape (phases,)."""
        return np.array([self.kept[self.phase == phase].mean() for phase in range(len(self.begins))])

    @property
    def weights(self) -> np.ndarray:
        """Share of the requests that each phase has, shape (phases,)."""
        return np.bincount(self.phase, minlength=len(self.begins)) / len(self.phase)

    @property
    def goodput(self) -> float:
        """Requests per second and accelerator within the SLA."""
        return float(self.kept.sum()) / self.duration / self.gpus

    @property
    def flips(self) -> int:
        """How often an engine was given another role."""
        return sum(tick.changes for tick in self.ticks)

    @property
    def reactions(self) -> list[float]:
        """Of each phase in which a role was changed, the seconds from its first request to the first change."""
        ends = [*self.begins[1:], math.inf]
        changed = [tick.at for tick in self.ticks if tick.changes]
        first = [next((at for at in changed if begin <= at < end), None) for begin, end in zip(self.begins, ends, strict=True)]
        return [at - begin for at, begin in zip(first, self.begins, strict=True) if at is not None]


def runs_of(study: Study, table: pd.DataFrame, load: float, sla: dict[str, float]) -> list[Run]:
    """Return the runs of a load, arm by arm and in order of repeats.

    Args:
        table: rows of the study that are asked for.
        sla: bounds in ms by `ttft` and `tpot`, of each request.

    Raises:
        ResultError: a level of them is not of load that shifts, or two arms were not sent the same requests.
    """
    if others := sorted(set(table.loc[table["kind"] != SHIFT, "arm"])):
        raise ResultError(f"{others[0]} has no load that shifts: run_bm.sh --phases or --trace measures some")
    found: list[Run] = []
    loads: dict[str, dict[int, Sequence[Sent]]] = {}
    for (arm, name), _ in table.groupby(["arm", "folder"], sort=False):
        folder = study.folders[name]
        levels = sorted((level for level in folder.levels if level.value == load), key=lambda level: level.repeat)
        found += [_run(arm, folder, level, sla) for level in levels]
        loads[arm] = {level.repeat: folder.levels[level].sent for level in levels}
    first = next(iter(loads))
    for arm, sent in loads.items():
        if wrong := [repeat for repeat in sent.keys() & loads[first].keys() if sent[repeat] != loads[first][repeat]]:
            raise ResultError(
                f"{arm} and {first} were not sent the same requests in repeat {wrong[0]}: compare arms of one load"
            )
    return found


def _run(arm: str, folder: Folder, level: Level, sla: dict[str, float]) -> Run:
    file, layout = folder.levels[level], folder.arm.layout
    requests = file.requests
    assert requests, "the reader refuses load that shifts without them"
    begun = float((requests.start - [one.at for one in file.sent]).min())
    ttft, tpot = requests.values("ttft"), requests.values("tpot")
    kept = (ttft <= sla.get("ttft", math.inf)) & (tpot <= sla.get("tpot", math.inf))
    controlled = folder.arm.placement.startswith(CONTROLLED)
    prefill = layout.prefill.num if layout.prefill and not controlled else None
    return Run(
        arm, level.repeat, layout.gpus, requests.start - begun, np.array([one.phase for one in file.sent]), ttft, tpot, kept,
        bounds_of(file.sent), file.row["duration"], prefill, controlled,
        _ticks(folder.arm.folder / f"{level.stem}{TICKS}", file, begun),
    )  # fmt: skip


def _ticks(path: Path, file: LevelFile, begun: float) -> list[Tick]:
    """A controller's ticks while a level ran; none without its file. `begun` is on the client's clock."""
    if not path.is_file():
        return []
    with naming(path):
        try:
            offset = float(file.summary["clock"]) + begun
            ticks = [json.loads(line) for line in path.read_text().splitlines()]
            return [
                _tick(tick, offset) for tick in ticks if tick["reports"] and 0 <= tick["unix"] - offset <= file.row["duration"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"is not what run_bm.sh keeps of a controller: {type(error).__name__} {error}") from error


def _tick(tick: dict[str, Any], offset: float) -> Tick:
    roles = {report["replica_id"]: report["role"] for report in tick["reports"]} | tick["changed"]
    prefill = sum(role == "prefill" for role in roles.values())
    return Tick(float(tick["unix"]) - offset, prefill, len(roles), len(tick["changed"]))


def attainment(runs: Sequence[Run]) -> pd.DataFrame:
    """Compare arms; each value is the mean over repeats, with `_from` and `_to`, its 95% interval, NaN below three repeats.

    Returns:
        One row per arm: arm, repeats, fixed (whether it is a fixed P:D ratio), attained (share of requests within the SLA),
        goodput (requests/s per accelerator), regret (what the fixed ratios that are best in each phase, on as many
        accelerators, attain more), lead (what it attains more than the one fixed ratio that attains most; NaN of that one),
        flips (changes of an engine's role) and reaction (s, mean of the phases in which roles were changed); NaN without a
        controller.
    """
    arms = {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}
    fixed = {arm: mine for arm, mine in arms.items() if mine[0].prefill is not None}
    rows = []
    for arm, mine in arms.items():
        rivals = {name: their for name, their in fixed.items() if their[0].gpus == mine[0].gpus}
        reactions = [float(np.mean(run.reactions)) for run in mine if run.reactions]
        values = {
            "attained": [run.attained for run in mine], "goodput": [run.goodput for run in mine],
            "regret": _regret(mine, rivals), "lead": _lead(arm, mine, rivals),
            "flips": [float(run.flips) for run in mine if run.controlled], "reaction": reactions,
        }  # fmt: skip
        row: dict[str, Any] = {"arm": arm, "repeats": len(mine), "fixed": arm in fixed}
        for name, of in values.items():
            low, high = repeats.of_mean(of, within=WITHIN[name])
            row |= {name: float(np.mean(of)) if of else math.nan, f"{name}_from": low, f"{name}_to": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _regret(mine: Sequence[Run], rivals: dict[str, list[Run]]) -> list[float]:
    """Of each repeat that the best fixed ratios have, too: what they attain more, phase by phase."""
    if not rivals:
        return []
    means = {arm: np.mean([run.by_phase for run in their], axis=0) for arm, their in rivals.items()}
    best = [max(means, key=lambda arm: means[arm][phase]) for phase in range(len(mine[0].begins))]
    of_rival = {(arm, run.repeat): run.by_phase for arm, their in rivals.items() for run in their}
    found = []
    for run in mine:
        if all((arm, run.repeat) in of_rival for arm in best):
            oracle = np.array([of_rival[arm, run.repeat][phase] for phase, arm in enumerate(best)])
            found.append(float(run.weights @ (oracle - run.by_phase)))
    return found


def _lead(arm: str, mine: Sequence[Run], rivals: dict[str, list[Run]]) -> list[float]:
    """Of each repeat, what the arm attains more than the fixed ratio that attains most in the mean."""
    means = {name: np.mean([run.attained for run in their]) for name, their in rivals.items()}
    best = max(means, key=lambda name: means[name], default=arm)
    theirs = {run.repeat: run.attained for run in rivals.get(best, ())}
    return [run.attained - theirs[run.repeat] for run in mine if run.repeat in theirs] if best != arm else []


def shares(runs: Sequence[Run], width: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of bins of this width (s), and the share of the runs' requests sent in each that were within the SLA.

    Bins without a request are left out.
    """
    start, kept = (np.concatenate([getattr(run, name) for run in runs]) for name in ("start", "kept"))
    at = np.floor(start / width).astype(int)
    number, good = np.bincount(at), np.bincount(at, weights=kept)
    there = number > 0
    return (np.flatnonzero(there) + 0.5) * width, good[there] / number[there]

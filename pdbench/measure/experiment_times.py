"""Account for where the time of an experiment goes: how much of it was loading engines or measuring."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

from rich.table import Table

from pdbench.files import read_json, write_atomically
from pdbench.manifest import Manifest
from pdbench.measure.experiment import Arm, Experiment
from pdbench.measure.experiment_steps import What, folders

Kind = Literal["loading", "measuring", "launching", "checking", "waiting", "stopping"]
KINDS: tuple[Kind, ...] = get_args(Kind)
USEFUL: tuple[Kind, ...] = ("loading", "measuring")
# What a step's time counts as. Of a launch, loading is what engines take from their start until they run. Of a sweep, the bench
# client's own durations are measuring; the rest is waiting: for the client to load, for warm-ups, for checks of levels.
COUNTS_AS: dict[What, Kind] = {
    "launch": "launching",
    "roles": "launching",
    "check": "checking",
    "control": "launching",
    "sweep": "waiting",
    "stop": "stopping",
}
LAUNCHES = "launches"  # beside the kinds: how often an arm was launched in that time


class Times:
    """Adds up the seconds of each arm, by kind, over all runs of an experiment.

    Attributes:
        spent: seconds by kind, and the number of launches, by the arm's label.
    """

    def __init__(self, file: Path):
        """Read what earlier runs have stored in `file`, if it is there.

        Raises:
            ValueError: it is not valid JSON.
        """
        self.file = file
        self.spent: dict[str, dict[str, float]] = read_json(file) if file.exists() else {}

    def launched(self, label: str) -> None:
        """Count a launch of an arm."""
        self._add(label, LAUNCHES, 1)

    def count(self, label: str, kind: Kind, seconds: float, out_of: Kind | None = None) -> None:
        """Add seconds of an arm to a kind; take them away from `out_of`, the kind of the step that they are a part of."""
        self._add(label, kind, seconds)
        if out_of:
            self._add(label, out_of, -seconds)
        write_atomically(self.file, json.dumps(self.spent, indent=2))

    def _add(self, label: str, key: str, amount: float) -> None:
        spent = self.spent.setdefault(label, {})
        spent[key] = round(spent.get(key, 0) + amount, 1)

    def of_one_launch_each(self, labels: Collection[str]) -> float | None:
        """Return the seconds that one launch of each arm takes, by the mean of its earlier ones; None if an arm had none."""
        known = [spent for label in labels if (spent := self.spent.get(label))]
        if len(known) < len(labels):
            return None
        return sum(_total(spent) / spent.get(LAUNCHES, 1) for spent in known)

    def useful_share(self) -> float | None:
        """Return the share of all time that was loading engines or measuring, from 0 to 1; None before any time was spent."""
        useful = sum(spent.get(kind, 0) for spent in self.spent.values() for kind in USEFUL)
        seconds = sum(map(_total, self.spent.values()))
        return useful / seconds if seconds else None

    def table(self, title: str) -> Table:
        """Return a table of the seconds: a row per arm, a column per kind."""
        table = Table(title=title)
        table.add_column("arm", overflow="fold")  # its end distinguishes arms of one layout
        for kind in KINDS:
            table.add_column(kind, justify="right")
        for label, spent in self.spent.items():
            table.add_row(label, *(f"{spent.get(kind, 0):.0f}" for kind in KINDS))
        return table


def _total(spent: dict[str, float]) -> float:
    return sum(spent.get(kind, 0) for kind in KINDS)


def measured_seconds(name: str, arm: Arm, experiment: Experiment, results: Path, since: str) -> float:
    """Return how many seconds the bench client measured the arm's levels that began after `since` (UTC, ISO 8601)."""
    paths = folders(name, arm, experiment, results)
    levels = [
        (path, record) for path in paths for record in Manifest.read(path).levels if record.ok and record.started >= since
    ]
    return sum(read_json(path / f"{record.level}.json")["duration"] for path, record in levels)

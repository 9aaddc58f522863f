"""Account for where the time of an experiment goes."""

from pathlib import Path

from pdbench.manifest import Manifest, read_json
from pdbench.measure.experiment import Arm, Experiment
from pdbench.measure.experiment_steps import folder


def measured_seconds(name: str, arm: Arm, experiment: Experiment, results: Path, since: str) -> float:
    """Return how many seconds the bench client measured the arm's levels that began after `since` (UTC, ISO 8601)."""
    path = results / folder(name, arm, experiment)
    levels = [record.level for record in Manifest.read(path).levels if record.ok and record.started >= since]
    return sum(read_json(path / f"{level}.json")["duration"] for level in levels)

"""A run of an experiment whose commands are recorded, not run."""

import subprocess

from pdbench.measure.experiment_run import Run
from pdbench.measure.experiment_steps import tokens_file


class Recorded(Run):
    """Notes each command; those of `fails` exit with 1. Gates save their tokens."""

    fails: set = set()

    def __init__(self, experiment, results):
        super().__init__("small", experiment, results)
        self.ran = []

    def _step(self, step, title):
        self.ran.append((step.arm, step.what))
        self.drawn = step
        if (step.arm, step.what) in self.fails:
            raise subprocess.CalledProcessError(1, step.command)
        elif "--save" in step.command:
            tokens_file(self.name, self.results).write_text("{}")

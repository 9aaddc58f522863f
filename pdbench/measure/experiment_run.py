"""Run an experiment, step by step: what was measured is left out, what fails does not stop the rest."""

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pdbench.cli import ENGINES_LOADED
from pdbench.configs import ROOT
from pdbench.files import write_atomically
from pdbench.manifest import now
from pdbench.measure.experiment import Arm, Experiment
from pdbench.measure.experiment_plan import Round, left_out, rounds, script, to_measure
from pdbench.measure.experiment_steps import Step, cluster_steps, doctor_step, ends_of_all, figure_steps, tokens_file
from pdbench.measure.experiment_times import COUNTS_AS, Times, measured_seconds
from pdbench.nodes.stack import machine_id, vllm_version
from pdbench.serve.keeper import die_with_parent

LOADED = re.compile(ENGINES_LOADED.format(r"([\d.]+)"))
LEVEL = "run_bm: level "  # begins run_bm.sh's line on each level
console = Console(highlight=False, soft_wrap=True)


class Run:
    """Runs an experiment once, and keeps what failed, what was left out, and where the time went.

    Attributes:
        failed, left_out: the reason, by the arm's label.
        running: a file that is there while a deployment, or the local cluster, may be up.
    """

    def __init__(self, name: str, experiment: Experiment, results: Path, minutes: float | None = None,
                 only: int | None = None, whole: Experiment | None = None):  # fmt: skip
        """Read the times of earlier runs.

        Args:
            name: of the experiment; begins the names of its files and result folders.
            whole: with all its arms and blocks, where `experiment` has a part of them.
            results: folder that gets them.
            minutes: begin no block that would end later.
            only: one block, instead of all.

        Raises:
            ValueError: the file of the times cannot be read.
        """
        self.name, self.experiment, self.results, self.only = name, experiment, results, only
        self.whole = whole or experiment
        self.until = time.monotonic() + 60 * minutes if minutes else math.inf
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.times = Times(results / f"{name}_times.json")
        self.running = results / f".{name}_running"

    def all(self) -> None:
        """Run every round, whatever becomes of the others, then the figures.

        Raises:
            ValueError: the one block that is asked for needs tokens that are not there.
            subprocess.CalledProcessError: a step of no single arm failed: the local cluster, the doctor, a figure.
        """
        every = rounds(self.name, self.experiment, self.results, self.only)
        todo = to_measure(self.name, self.experiment, self.results, machine_id(), vllm_version(), self.only)
        if self.only:
            self._check_tokens(todo)
        self.results.mkdir(parents=True, exist_ok=True)
        console.print(f"{self.name}: {self.experiment.shows.strip()}")
        if len(todo) < len(every):
            console.print(f"{self.name}: {len(every) - len(todo)} of {len(every)} arms are in {self.results} already")
        try:
            if todo:
                self._stop_what_is_left()
                self._on_cluster(todo)
        finally:
            self._write_recipe()
        if not self.failed:
            for step in figure_steps(self.name, self.experiment, self.results, self.left_out):
                self._step(step, f"{self.name}: figure")

    def _write_recipe(self) -> None:
        """Write the commands that reproduce what is in the results, of whichever run."""
        recipe = script(self.name, self.whole, self.results, measured=True)
        if recipe:
            write_atomically(self.results / f"{self.name}.sh", recipe)

    def _check_tokens(self, todo: list[Round]) -> None:
        """In a block after the first, a PD arm may come before the collocated arm that saves the tokens it is compared with."""
        tokens = tokens_file(self.name, self.results)
        first = next((one.arm for one in todo if one.arm.is_pd or one.arm is self.experiment.reference), None)
        if first and first.is_pd and not tokens.exists():
            raise ValueError(
                f"block {self.only} measures {first.label} before any arm that saves {tokens}, which it is compared with: "
                f"copy it from another block, or measure a collocated arm first, such as --arms {self.whole.arms[0].label}"
            )

    def _stop_what_is_left(self) -> None:
        """A run that was killed leaves its deployment, or its cluster."""
        if self.running.exists():
            console.print(f"{self.name}: the last run was interrupted: stopping what it left")
            for step in ends_of_all(self.experiment):
                self._step(step, f"{self.name}: stop")

    def _on_cluster(self, todo: list[Round]) -> None:
        start, stop = cluster_steps(self.experiment)
        self.running.touch()
        if start:
            try:
                self._step(start, f"{self.name}: local cluster")
            except BaseException:
                self.running.unlink()  # what runs, if anything, is somebody else's
                raise
        try:
            if doctor := doctor_step(self.experiment):
                self._step(doctor, f"{self.name}: doctor")
            self._rounds(todo)
        finally:
            if stop:
                self._step(stop, f"{self.name}: local cluster")
            self.running.unlink()

    def _rounds(self, todo: list[Round]) -> None:
        begun, number = time.monotonic(), 0
        for block, group in groupby(todo, key=lambda one: one.block):
            arms = list(group)
            if block and not self._begins(block, [one.arm.label for one in arms]):
                return
            up: Arm | None = None  # whose engines still run
            for one, after in zip(arms, [*arms[1:], None], strict=True):
                minutes = (time.monotonic() - begun) / 60
                left = f", about {minutes / number * (len(todo) - number):.0f} min left" if number else ""
                number += 1
                title = f"{self.name}: arm {number} of {len(todo)}, {one.arm.label}{left}"
                up = self._round(one.after(up) if up else one, title, up, after)

    def _begins(self, block: int, labels: list[str]) -> bool:
        """Print what a block will take; return whether it ends before --minutes are over, as far as that is known."""
        seconds = self.times.of_one_launch_each(labels)
        took = "not known how long" if seconds is None else f"about {seconds / 60:.0f} min, by their launches so far"
        console.print(f"{self.name}: block {block} of {self.experiment.blocks}: {', '.join(labels)}: {took}")
        left = self.until - time.monotonic()
        if seconds is None or seconds <= left:
            return True
        console.print(f"[yellow]{self.name}: block {block} is not begun: {left / 60:.0f} of the --minutes are left[/yellow]")
        return False

    def _round(self, one: Round, title: str, up: Arm | None, after: Round | None) -> Arm | None:
        """Measure an arm, and stop it unless the next one shares its launch.

        Args:
            up: the arm before it, where its engines still run.

        Returns:
            This arm, if its engines still run.
        """
        label, keep, can = one.arm.label, False, self._can_be_measured(one.arm)
        if not can and not up:
            return None
        try:
            if can:
                begun = now()
                self.times.launched(label)
                if all(self._passes(step, label, f"{title}: {step.what}") for step in self._needed(one)):
                    measured = measured_seconds(self.name, one.arm, self.experiment, self.results, begun)
                    self.times.count(label, "measuring", measured, out_of="waiting")
                    keep = after is not None and self.experiment.share_launch(after.arm, one.arm)
        finally:
            if not keep:
                for step in one.ends:
                    self._passes(step, label, f"{title}: stop")
        return one.arm if keep else None

    def _needed(self, one: Round) -> list[Step]:
        """The steps of a round; only the file's own reference replaces tokens with which PD arms may have been compared."""
        tokens = tokens_file(self.name, self.results)
        if one.arm is not self.experiment.reference or one.arm is self.whole.reference or not tokens.exists():
            return one.steps
        console.print(f"{self.name}: {tokens} stays as it is: {one.arm.label} saves no other tokens")
        return [step for step in one.steps if step.what != "check"]

    def _can_be_measured(self, arm: Arm) -> bool:
        """Whether the arm has not failed, can be measured here, and has the tokens it is compared with; prints why not."""
        if arm.label in self.failed or arm.label in self.left_out:
            return False
        if reason := left_out(arm, vllm_version()):
            self.left_out[arm.label] = reason
            console.print(f"[yellow]{self.name}: {arm.label} is left out: {reason}[/yellow]")
            return False
        tokens = tokens_file(self.name, self.results)
        if arm.is_pd and not tokens.exists():
            self._fails(arm.label, f"{tokens} is missing: a collocated arm must be measured first")
            return False
        return True

    def _passes(self, step: Step, label: str, title: str) -> bool:
        """Run a step of an arm; where it fails, so does the arm."""
        try:
            self._step(step, title)
        except subprocess.CalledProcessError as error:
            self._fails(label, f"{step.what} exited with {error.returncode}")
            return False
        return True

    def _fails(self, label: str, why: str) -> None:
        self.failed.setdefault(label, why)
        console.print(f"[red]{self.name}: {label} failed: {why}[/red]")

    def _step(self, step: Step, title: str) -> None:
        """Run a step, pass its lines on, and count its time.

        Raises:
            subprocess.CalledProcessError: it exited with another status than 0.
        """
        command = [sys.executable if word == "python" else word for word in step.command]
        started = time.monotonic()
        console.print(f"[bold]{time.strftime('%H:%M:%S')} {title}[/bold]")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # else lines come late through a pipe
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # After Ctrl-C in the terminal the signal below is then its only one; a second would cut its cleanup off.
            process_group=0,
            preexec_fn=die_with_parent,
        )
        try:
            loading = pass_on(process.stdout or (), title)
            if step.arm and loading:
                self.times.count(step.arm, "loading", loading, out_of="launching")
            if status := process.wait():
                raise subprocess.CalledProcessError(status, command)
        finally:
            process.terminate()  # after an interruption: every command cleans up after itself
            process.wait()
            if step.arm and step.what in COUNTS_AS:
                self.times.count(step.arm, COUNTS_AS[step.what], time.monotonic() - started)

    def report(self) -> None:
        """Print where the time went, what was left out, and what failed."""
        console.print(self.times.table(f"{self.name}: seconds"))
        share = self.times.useful_share()
        if share is not None:
            console.print(f"{self.name}: {share:.0%} of the arms' time was loading engines or measuring")
        for label, why in self.left_out.items():
            console.print(f"[yellow]{self.name}: left out: {label}: {why}[/yellow]")
        for label, why in self.failed.items():
            console.print(f"[red]{self.name}: failed: {label}: {why}[/red]")
        if self.experiment.cannot_show and not self.failed:
            console.print(self.experiment.cannot_show)


def pass_on(lines: Iterable[str], title: str) -> float:
    """Pass a command's lines on; below them, on a terminal, show what is going on and since when.

    Returns:
        Seconds that its engines took to load; 0 where it started none.
    """
    loading = 0.0
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as live:
        task = live.add_task(title)
        for line in lines:
            live.console.print(line.rstrip("\n"), markup=False)
            if line.startswith(LEVEL):
                live.update(task, description=f"{title}, {line.removeprefix(LEVEL).strip()}")
            if said := LOADED.search(line):
                loading = float(said[1])
    return loading

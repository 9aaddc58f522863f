#!/usr/bin/env python
"""Run a whole experiment: for each arm launch, check, sweep and stop; then the figures.

    python run_experiment.py configs/experiments/cpu_demo.yaml
    python run_experiment.py configs/experiments/network.yaml --dry-run > network.sh

It runs the very commands that --dry-run prints, and stores them beside the results. The same command
again continues where the last run ended; nothing that was complete is measured twice.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import viz
from pdbench import interrupts
from pdbench.cli import ENGINES_LOADED, Parser
from pdbench.configs import ROOT
from pdbench.files import write_atomically
from pdbench.manifest import first_line, now, read_json
from pdbench.measure import experiment_plan as plan
from pdbench.measure.experiment import Experiment, load_experiment, select
from pdbench.measure.experiment_steps import Step, cluster_steps, doctor_step, ends_of_all, figure_steps
from pdbench.measure.experiment_times import measured_seconds
from pdbench.nodes.stack import machine_id, vllm_version
from pdbench.serve.keeper import die_with_parent

# What a step's time counts as. Of a launch, loading is what engines take from their start until they run. Of a sweep, the bench
# client's own durations are measuring; the rest is waiting: for the client to load, for warm-ups, for checks of levels.
COUNTS_AS = {"launch": "launching", "check": "checking", "sweep": "waiting", "stop": "stopping"}
KINDS = ("loading", "measuring", "launching", "checking", "waiting", "stopping")
USEFUL = ("loading", "measuring")
LAUNCHES = "launches"  # beside them: how often an arm was launched in that time
LOADED = re.compile(ENGINES_LOADED.format(r"([\d.]+)"))
LEVEL = "run_bm: level "  # begins run_bm.sh's line on each level
console = Console(highlight=False, soft_wrap=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="run_experiment.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="configs/experiments/*.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print the commands as a shell script, run nothing")
    parser.add_argument("--arms", metavar="A,B", help="only these, by their labels, such as 2xtp4,pack_p1xtp4-d1xtp4")
    parser.add_argument("--levels", metavar="4,8", help="only these of the file's levels")
    parser.add_argument("--repeats", type=int, metavar="N", help="measurements of each level, instead of the file's")
    parser.add_argument("--blocks", type=int, metavar="N", help="blocks to have in the end, instead of the file's")
    parser.add_argument("--block", type=int, metavar="K", help="only the K-th: others run elsewhere, at the same time")
    parser.add_argument("--minutes", type=float, metavar="M",
                        help="begin no block that would end later, by the times of earlier launches")  # fmt: skip
    parser.add_argument("--as-published", action="store_true",
                        help="by the public study's procedure: one seed for all levels, no warm-up, one repeat")  # fmt: skip
    parser.add_argument("--no-doctor", action="store_true", help="measure although checks of debug/doctor.py fail")
    parser.add_argument("--results-dir", type=Path, default=Path("bm_results"), metavar="DIR")
    return parser.parse_args(argv)


def read(args: argparse.Namespace) -> Experiment:
    """Read the part of the experiment that the options select.

    Raises:
        ValueError: the file or an option is wrong.
    """
    try:
        levels = [float(text) for text in args.levels.split(",")] if args.levels is not None else None
    except ValueError:
        raise ValueError(f"--levels {args.levels!r} is not a list of numbers such as 4,8") from None
    for option in ("repeats", "blocks", "block", "minutes"):
        if (value := getattr(args, option)) is not None and not value >= 1:
            raise ValueError(f"--{option} must be at least 1, not {value:g}")
    experiment = load_experiment(args.file)
    # What a figure lacks is reported now, not after hours of measuring.
    figures = viz.build_parser()
    figures.prog = f"run_experiment.py: {args.file}: figures"
    for options in experiment.figures:
        figures.parse_args(["--exps", "folder", *options])
    if args.as_published:
        experiment = experiment.model_copy(update={"as_published": True, "repeats": 1, "blocks": None})
    if args.no_doctor:
        experiment = experiment.model_copy(update={"doctor": False})
    return select(experiment, args.arms.split(",") if args.arms is not None else None, levels, args.repeats,
                       args.blocks)  # fmt: skip


class Run:
    """One run of an experiment: its steps, their times and what failed."""

    def __init__(self, name: str, experiment: Experiment, results: Path, minutes: float | None = None,
                 only: int | None = None):  # fmt: skip
        self.name, self.experiment, self.results, self.only = name, experiment, results, only
        self.until = time.monotonic() + 60 * minutes if minutes else math.inf
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.times_file = results / f"{name}_times.json"
        self.times = read_json(self.times_file) if self.times_file.exists() else {}
        # Left by a run that was killed: its deployment, or its cluster, may still be up.
        self.running = results / f".{name}_running"

    def all(self) -> None:
        """Run every round, whatever becomes of the others, then the figures."""
        self.results.mkdir(parents=True, exist_ok=True)
        write_atomically(self.results / f"{self.name}.sh", plan.script(self.name, self.experiment, self.results))
        rounds = plan.rounds(self.name, self.experiment, self.results, self.only)
        todo = plan.to_measure(self.name, self.experiment, self.results, machine_id(), vllm_version(), self.only)
        console.print(f"{self.name}: {self.experiment.shows.strip()}")
        if len(todo) < len(rounds):
            console.print(f"{self.name}: {len(rounds) - len(todo)} of {len(rounds)} launches are in {self.results} already")
        if todo:
            start, stop = cluster_steps(self.experiment)
            if self.running.exists():
                console.print(f"{self.name}: the last run was interrupted: stopping what it left")
                for step in ends_of_all(self.experiment):
                    self._step(step, f"{self.name}: stop")
            self.running.touch()
            self._on_cluster(start, stop, todo)
        if not self.failed:
            for step in figure_steps(self.name, self.experiment, self.results, self.left_out):
                self._step(step, f"{self.name}: figure")

    def _on_cluster(self, start: Step | None, stop: Step | None, todo: list[plan.Round]) -> None:
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

    def _rounds(self, todo: list[plan.Round]) -> None:
        begun, number = time.monotonic(), 0
        for block, group in groupby(todo, key=lambda one: one.block):
            arms = list(group)
            if block and not self._begins(block, [one.arm.label for one in arms]):
                return
            for one in arms:
                minutes = (time.monotonic() - begun) / 60
                left = f", about {minutes / number * (len(todo) - number):.0f} min left" if number else ""
                number += 1
                self._round(one, f"{self.name}: launch {number} of {len(todo)}, {one.arm.label}{left}")

    def _begins(self, block: int, labels: list[str]) -> bool:
        """Print what a block will take; return whether it ends before --minutes are over, as far as that is known."""
        known = [spent for label in labels if (spent := self.times.get(label))]
        seconds = sum(total(spent) / spent.get(LAUNCHES, 1) for spent in known)
        took = f"about {seconds / 60:.0f} min, by their launches so far" if len(known) == len(labels) else "not known how long"
        console.print(f"{self.name}: block {block} of {self.experiment.blocks}: {', '.join(labels)}: {took}")
        if len(known) < len(labels) or time.monotonic() + seconds <= self.until:
            return True
        console.print(f"[yellow]{self.name}: block {block} is not begun: {(self.until - time.monotonic()) / 60:.0f} of the "
                      "--minutes are left[/yellow]")  # fmt: skip
        return False

    def _round(self, one: plan.Round, title: str) -> None:
        label = one.arm.label
        if label in self.failed or label in self.left_out:
            return
        if reason := plan.left_out(one.arm, vllm_version()):
            self.left_out[label] = reason
            console.print(f"[yellow]{self.name}: {label} is left out: {reason}[/yellow]")
            return
        against = next((s.command[s.command.index("--against") + 1] for s in one.steps if "--against" in s.command), None)
        if against and not Path(against).exists():
            self._fails(label, f"{against} is missing: the collocated arm must be measured first")
            return
        try:
            begun = now()
            spent = self.times.setdefault(label, {})
            spent[LAUNCHES] = spent.get(LAUNCHES, 0) + 1
            for step in one.steps:
                self._step(step, f"{title}: {step.what}")
            measured = measured_seconds(self.name, one.arm, self.experiment, self.results, begun)
            self._count(label, "measuring", measured, out_of="waiting")
        except subprocess.CalledProcessError as error:
            self._fails(label, f"{step.what} exited with {error.returncode}")
        finally:
            for step in one.ends:
                try:
                    self._step(step, f"{title}: stop")
                except subprocess.CalledProcessError as error:
                    self._fails(label, f"{step.what} exited with {error.returncode}")

    def _fails(self, label: str, why: str) -> None:
        self.failed.setdefault(label, why)
        console.print(f"[red]{self.name}: {label} failed: {why}[/red]")

    def _step(self, step: Step, title: str) -> None:
        command = [sys.executable if word == "python" else word for word in step.command]
        started = time.monotonic()
        console.print(f"[bold]{time.strftime('%H:%M:%S')} {title}[/bold]")
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}  # else lines come late through a pipe
        # A group of its own: after Ctrl-C in the terminal the signal below is its only one; a second would cut its cleanup off.
        alone = {"stdin": subprocess.DEVNULL, "process_group": 0}
        process = subprocess.Popen(command, cwd=ROOT, env=unbuffered, preexec_fn=die_with_parent, **alone, **output)
        try:
            loading = self._show(process.stdout, title)
            if step.arm and loading:
                self._count(step.arm, "loading", loading, out_of="launching")
            if status := process.wait():
                raise subprocess.CalledProcessError(status, command)
        finally:
            process.terminate()  # after an interruption: every command cleans up after itself
            process.wait()
            if step.arm and step.what in COUNTS_AS:
                self._count(step.arm, COUNTS_AS[step.what], time.monotonic() - started)

    def _count(self, label: str, kind: str, seconds: float, out_of: str | None = None) -> None:
        """Add to a kind of an arm's time what it does not share with `out_of`, a step of which it is a part."""
        spent = self.times.setdefault(label, {})
        spent[kind] = round(spent.get(kind, 0) + seconds, 1)
        if out_of:
            spent[out_of] = round(spent.get(out_of, 0) - seconds, 1)
        write_atomically(self.times_file, json.dumps(self.times, indent=2))

    def _show(self, lines, title: str) -> float:
        """Pass a command's lines on; below them, on a terminal, what is going on and since when.

        Returns how many seconds its engines took to load; 0 where it started none.
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

    def report(self) -> None:
        """Print where the time went, and what failed."""
        table = Table(title=f"{self.name}: seconds")
        table.add_column("arm", overflow="fold")  # its end distinguishes arms of one layout
        for column in KINDS:
            table.add_column(column, justify="right")
        for label, spent in self.times.items():
            table.add_row(label, *(f"{spent.get(kind, 0):.0f}" for kind in KINDS))
        console.print(table)
        if seconds := sum(map(total, self.times.values())):
            useful = sum(spent.get(kind, 0) for spent in self.times.values() for kind in USEFUL)
            console.print(f"{self.name}: {useful / seconds:.0%} of the arms' time was loading engines or measuring")
        for label, why in self.left_out.items():
            console.print(f"[yellow]{self.name}: left out: {label}: {why}[/yellow]")
        for label, why in self.failed.items():
            console.print(f"[red]{self.name}: failed: {label}: {why}[/red]")
        if self.experiment.cannot_show and not self.failed:
            console.print(self.experiment.cannot_show)


def total(spent: dict[str, float]) -> float:
    """Return the seconds of an arm."""
    return sum(spent.get(kind, 0) for kind in KINDS)


def main() -> int:
    args = parse_args()
    name = args.file.stem + ("_as-published" if args.as_published else "")
    try:
        experiment = read(args)
        if args.minutes and not experiment.blocks:
            raise ValueError("--minutes is for experiments with blocks")
        if args.block and args.block > (experiment.blocks or 0):
            raise ValueError(f"--block {args.block}: this experiment has {experiment.blocks or 'no'} blocks")
        if args.dry_run:
            print(plan.script(name, experiment, args.results_dir, args.block), end="")
            return 0
        run = Run(name, experiment, args.results_dir, args.minutes, args.block)
        run.all()
    except (ValueError, OSError) as error:
        print(f"run_experiment.py: error: {first_line(error)}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        console.print(f"[red]{name}: {' '.join(map(str, error.cmd[1:4]))} exited with {error.returncode}[/red]")
        return 1
    except KeyboardInterrupt:
        console.print(f"{name}: interrupted; the same command continues where this one ended")
        return interrupts.STATUS
    run.report()
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "run_experiment.py"))

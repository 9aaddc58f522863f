#!/usr/bin/env python
"""Run a whole experiment: for each arm launch, check, sweep and stop; then the figures.

    python run_experiment.py configs/experiments/cpu_demo.yaml
    python run_experiment.py configs/experiments/network.yaml --dry-run > network.sh

It runs the very commands that --dry-run prints, and stores them beside the results. The same command
again continues where the last run ended; nothing that was complete is measured twice.
"""

import argparse
import functools
import subprocess
import sys
from pathlib import Path

import launch_gptoss
from pdbench import interrupts
from pdbench.cli import Parser
from pdbench.files import first_line
from pdbench.measure.experiment import Experiment, load_experiment, select
from pdbench.measure.experiment_plan import check_unchanged, launch_settings, script
from pdbench.measure.experiment_run import Run, console
from pdbench.nodes import cluster, stack
from pdbench.output.options import build_parser
from pdbench.serve.describe import described, planned_record
from pdbench.serve.options import resolve


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the options of run_experiment.py."""
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


def read(args: argparse.Namespace) -> tuple[Experiment, Experiment]:
    """Read the part of the experiment that the options select, and the same with all arms and blocks.

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
    check_figures(args.file, experiment)
    if args.as_published:
        if experiment.levels.load:
            raise ValueError("--as-published is of requests that are all alike: the load of this experiment shifts")
        experiment = experiment.model_copy(update={"as_published": True, "repeats": 1, "blocks": None})
    if args.no_doctor:
        experiment = experiment.model_copy(update={"doctor": False})
    arms = args.arms.split(",") if args.arms is not None else None
    selected = select(experiment, arms, levels, args.repeats, args.blocks)
    if args.minutes and not selected.blocks:
        raise ValueError("--minutes is for experiments with blocks")
    if args.block and args.block > (selected.blocks or 0):
        more = f", --blocks {args.block} adds more" if selected.blocks else ""
        raise ValueError(f"--block {args.block}: this experiment has {selected.blocks or 'no'} blocks{more}")
    return selected, select(experiment, None, levels, args.repeats)


def check_figures(file: Path, experiment: Experiment) -> None:
    """Refuse options that viz.py does not take now, not after hours of measuring; exits with 2."""
    figures = build_parser()
    figures.prog = f"run_experiment.py: {file}: figures"
    for options in experiment.figures:
        figures.parse_args(["--exps", "folder", *options, "--plot-path", "figure.png"])  # as `figure_steps` has it


installed = functools.cache(stack.versions)  # UCX's takes a process


def launched_as(command: list[str]) -> dict[str, str]:
    """Return what a command line of launch_gptoss.py would launch, as far as that is known before: see `launch_settings`."""
    plan, model = resolve(launch_gptoss.parse_args(command[2:]), cluster.planned_nodes)
    return launch_settings(planned_record(plan) | described(model) | {"machines": [{"versions": installed()}]})


def main() -> int:
    """Run the experiment that the command line names; return the exit code."""
    args = parse_args()
    name = args.file.stem + ("_as-published" if args.as_published else "")
    try:
        experiment, whole = read(args)
        if args.dry_run:
            print(script(name, experiment, args.results_dir, args.block), end="")
            return 0
        check_unchanged(name, experiment, args.results_dir, launched_as)
        run = Run(name, experiment, args.results_dir, args.minutes, args.block, whole)
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

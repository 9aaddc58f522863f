#!/usr/bin/env python3
"""From a few measured runs to predictions of other layouts, and to the three worth measuring. No Ray, no vLLM, no GPU.

    python plan.py fit bm_results/* -o model.json
    python plan.py predict model.json --layouts 4xtp2,p1xtp2-d2xtp2 --levels 8,32
    python plan.py recommend model.json --sla tpot=10,ttft=500 --gpus 16
    python plan.py check model.json more_results/*

How it predicts, and how well: docs/planner.md.
"""

import sys

from pdbench import interrupts
from pdbench.cli import visible_output
from pdbench.output.plan_options import build_parser


@visible_output()
def main(argv: list[str] | None = None) -> None:
    """Carry out the command that the command line names."""
    parser = build_parser(__doc__)
    args = parser.parse_args(argv)
    # Imported only now: --help and a wrong flag answer at once.
    from pdbench.output import planning
    from pdbench.planner.model import PlanError
    from pdbench.read.level_file import ResultError

    try:
        planning.run(args)
    except (PlanError, ResultError) as error:
        parser.error(str(error))


def command() -> int | None:
    """Run as the installed command `plan`; return the exit code."""
    return interrupts.run(main, "plan.py")


if __name__ == "__main__":
    sys.exit(command())

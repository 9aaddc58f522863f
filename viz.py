#!/usr/bin/env python3
"""Draw figures and print tables of result folders. Needs only requirements-viz.txt: no Ray, no vLLM.

    python viz.py --exps bm_results/exp1 bm_results/exp2
    python viz.py --exps bm_results/* --show-tables --plot-path tradeoff.pdf --log-latency
    python viz.py --exps bm_results/* --sla tpot=10,p99_ttft=800 --gpu-hour-price 5

Where nothing else is asked for it draws figure.png. Input tokens are counted by default, as in
the public study, so that its figures compare; where prompts are short, count output or total.
"""

import sys

from pdbench import interrupts
from pdbench.analysis.sla import per_request
from pdbench.cli import visible_output
from pdbench.output.options import (
    COMPARED,
    DEFAULT_PATH,
    OF_REQUESTS,
    build_parser,
    decides,
    is_drawn,
)


@visible_output()
def main(argv: list[str] | None = None) -> None:
    """Read the folders that the command line names, and answer what it asks."""
    parser = build_parser(__doc__)
    args = parser.parse_args(argv)
    if args.include_bare and (args.show_overhead or args.figure == "overhead"):
        parser.error("--include-bare has no control arms left, and overhead is over these: give one of them")
    # Imported only now: --help and a wrong flag answer at once.
    from pdbench.analysis.blocks import paired
    from pdbench.analysis.intervals import level_intervals
    from pdbench.analysis.overhead import overheads
    from pdbench.analysis.pieces import coarser
    from pdbench.analysis.sharing import shares
    from pdbench.analysis.stalls import stall_lines
    from pdbench.output import answers, decision_text, tables
    from pdbench.output.sharing_text import print_shares
    from pdbench.read.export import export
    from pdbench.read.level_file import ResultError

    goodput = per_request(args.sla or ())
    asked = (args.sla, args.export, args.report, args.json, args.audit, args.show_stalls, args.show_intervals, args.show_itl)
    details = any(asked) or args.show_sharing or args.figure in (*OF_REQUESTS, "targets")
    try:
        study = answers.read(args, goodput, details)
        table = study.table
        if args.include_bare:
            study = study.with_bare()
        findings, left_out, compared = answers.audited(study, args)
        if args.export:
            export(table, args.export)
            print(f"{args.export}: {len(table)} rows, {len(table.columns)} columns")
        if args.show_tables:
            tables.print_measurements(table, args.chunk_size, args.use_normalized)
        if args.show_stalls:
            print(*stall_lines(compared.table), sep="\n")
        if args.show_intervals:
            tables.print_intervals(level_intervals(compared))
        if args.show_blocks:
            tables.print_blocks(paired(compared.table))
            for line in decision_text.piece_words(coarser(compared.table)):
                print(line)
        if args.show_overhead:
            tables.print_overheads(overheads(compared.table))
        if args.show_sharing:
            print_shares(shares(compared))
        if args.audit:
            tables.print_findings(findings)
        if decides(args):
            answers.show_decision(compared.table, args)
        if args.json and args.figure != "shift":
            answers.write_json(compared, findings, left_out, args)
        if args.report:
            answers.write_report(study, findings, left_out, args)
        if is_drawn(args):
            drawn = compared if args.figure in COMPARED else study
            answers.plot(drawn, findings, args, args.plot_path or DEFAULT_PATH)
    except ResultError as error:
        parser.error(str(error))


def command() -> int | None:
    """Run as the installed command `viz`; return the exit code."""
    return interrupts.run(main, "viz.py")


if __name__ == "__main__":
    sys.exit(command())

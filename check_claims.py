#!/usr/bin/env python3
"""Check a study's claims against results: which hold, which do not, with the numbers and the rule. No Ray, no vLLM.

python check_claims.py configs/claims/study.yaml --results bm_results
python check_claims.py configs/claims/study.yaml --results study/bm_results study/archive --json claims.json

Exit codes: 0 whatever the verdicts are, also where claims have no data; 1 with --strict if a claim fails; 2 after a mistake,
such as folders of which none can be read.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from pdbench import interrupts
from pdbench.cli import Parser, visible_output


@visible_output()
def main(argv: list[str] | None = None) -> int:
    """Print a verdict on each claim of the file that the command line names; return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    # Imported only now: --help and a wrong flag answer at once.
    from pdbench.analysis import claims
    from pdbench.analysis.claim_evidence import read_evidence
    from pdbench.configs import ConfigError
    from pdbench.files import write_atomically
    from pdbench.output.claim_text import print_verdicts
    from pdbench.read.level_file import ResultError

    try:
        asked = claims.load(args.claims)
        evidence = read_evidence(args.results, args.workload, args.model, asked.of_details)
    except (ConfigError, ResultError) as error:
        parser.error(str(error))
    verdicts = claims.check(asked, evidence)
    print_verdicts(verdicts, evidence)
    if args.json:
        try:
            write_atomically(args.json, json.dumps([v.as_json() for v in verdicts], indent=2) + "\n")
        except OSError as error:
            parser.error(f"--json {args.json}: {error.strerror}")
    return int(args.strict and any(of.verdict == "fails" for of in verdicts))


def build_parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="check_claims.py", description=__doc__, formatter_class=raw, allow_abbrev=False)
    add = parser.add_argument
    add("claims", metavar="CLAIMS", type=Path, help="claims file, such as configs/claims/study.yaml")
    add("--results", nargs="+", action="extend", required=True, metavar="DIR", type=Path,
        help="result folders, or folders that contain some at any depth")  # fmt: skip
    add("--workload", type=lengths, metavar="ISL:OSL", help="one of several workloads in DIR (default: that of most layouts)")
    add("--model", metavar="NAME", help="one of several models in DIR, as folders are called (default: that of most layouts)")
    add("--json", type=Path, metavar="FILE", help="also write the verdicts to this file")
    add("--strict", action="store_true", help="exit with 1 if a claim fails; one that holds partly or has no data does not")
    return parser


def lengths(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 5000:250")
    isl, osl = map(int, text.split(":"))
    return isl, osl


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "check_claims.py"))

"""Parse run_bm.sh's options."""

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from pdbench import workload
from pdbench.cli import Parser, add_base_url, positive, seconds
from pdbench.files import first_line
from pdbench.measure import level_gates
from pdbench.read.trace import SHAPE, Shift, parse_phases, read_trace
from pdbench.serve import client
from pdbench.workload import SHIFT

DESCRIPTION = "Sweep one running deployment with `vllm bench serve` into a result folder, one JSON file per level."
# Options that say what requests are, which a trace says of each one; their values where they are not given.
OF_EQUAL_REQUESTS = {"type": None, "concurrency": "all", "request_rate": "all", "isl": None, "osl": None, "mode": "mixed",
                     "num_prompts": None, "as_published": False}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of run_bm.sh's options."""
    parser = Parser(prog="run_bm", usage="./run_bm.sh -e NAME --isl N --osl N [options]\n"
                    "       ./run_bm.sh -e NAME --phases LIST [options]\n       ./run_bm.sh --smoke [-u URL]",
                    description=DESCRIPTION, allow_abbrev=False)  # fmt: skip
    add = parser.add_argument
    add("-e", "--exp-name", type=_name, metavar="NAME", help="last part of the result folder's name, e.g. pd_p1xtp1-d1xtp1")
    add("-t", "--type", choices=["concurrency", "request-rate"], help="load (default: concurrency)")
    add("-c", "--concurrency", default="all", metavar="LIST", help="requests in flight: 4,8,16 or all (default: 4 to 64)")
    add("-r", "--request-rate", default="all", metavar="LIST", help="requests per second: all (default: 1 to 10) or 1,2,4")
    add("--isl", type=positive, metavar="N", help="input tokens of each request")
    add("--osl", type=positive, metavar="N", help="output tokens of each request")
    # Their names in older recipes.
    add("--itl", dest="isl", type=positive, help=argparse.SUPPRESS)
    add("--otl", dest="osl", type=positive, help=argparse.SUPPRESS)
    add("--mode", choices=workload.PHASES, default="mixed",
        help="mixed (default), prefill-only (N:1) or decode-only (1:N, an approximation)")  # fmt: skip
    shifts = parser.add_mutually_exclusive_group()
    shifts.add_argument("--phases", dest="shift", type=_shift(parse_phases), metavar="LIST",
                        help="load that shifts, instead of requests that are all alike:"
                        f" {SHAPE}, and further phases after commas")  # fmt: skip
    shifts.add_argument("--trace", dest="shift", type=_shift(lambda text: read_trace(Path(text))), metavar="FILE",
                        help="the same, by a file: a line such as {\"timestamp\": 0.7, \"input_length\": 5000,"
                        " \"output_length\": 50} for each request, in order of time (s)")  # fmt: skip
    add("--load", metavar="LIST", help="of load that shifts: how many times as fast, 0.5,1 (default: 1)")
    add_base_url(parser, "-u")
    add("-m", "--served-model-name", dest="model", metavar="NAME", help="default: what the deployment reports")
    add("--tokenizer", metavar="NAME|DIR", help="default: the deployment's model source")
    add("-n", "--num-prompts", type=positive, metavar="N", help="default: 5 x concurrency; 500 at a request rate")
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--repeats", type=positive, default=1, metavar="N", help="measurements of each level (default: 1)")
    times.add_argument("--block", type=positive, metavar="K", help="one measurement of each level, all in one launch: the K-th")
    add("--seed", type=int, default=0, metavar="N", help="base seed (default: 0); each level derives its own")
    add("--results-dir", type=Path, default=Path("bm_results"), metavar="DIR", help="default: bm_results")
    add("--force", action="store_true", help="measure existing levels again")
    add("--transport", metavar="LIST", help="UCX transports that must have carried the KV cache, e.g. cuda_ipc")
    add("--tokens", type=Path, metavar="FILE", help="greedy tokens of the collocated arm, compared after each level")
    add("--max-hit-rate", type=_share, metavar="X",
        help=f"largest share of prompt tokens from the prefix cache (default: {level_gates.MAX_HIT_RATE})")  # fmt: skip
    add("--request-limit", type=seconds, default=client.REQUEST_LIMIT_S, metavar="S",
        help="a level stops, and does not count, when no request has ended for so long (default: %(default)g)")  # fmt: skip
    add("--level-limit", type=seconds, metavar="S", help="or when it takes longer than this (default: 2 hours, and a minute "
        "for each request that a place in flight sends, or the time that sending at a rate takes)")  # fmt: skip
    add("--as-published", action="store_true", help="the public study's procedure: one seed for all levels, no warm-up")
    add("-s", "--smoke", action="store_true", help="stream one completion, print it with its times, and stop")
    return parser


def _shift(read: Callable[[str], Shift]) -> Callable[[str], Shift]:
    def parse(text: str) -> Shift:
        try:
            return read(text)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(first_line(error)) from error

    return parse


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} may hold letters, digits, '.', '_' and '-' only")
    return text


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse run_bm.sh's options.

    Returns:
        Them, with `typed`, the command line as the user gave it. Of load that shifts `shift` says each request; `type` and
        `mode` are its own, `isl` and `osl` the longest.
    """
    parser = build_parser()
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    if not (args.smoke or args.exp_name and (args.shift or args.isl and args.osl)):
        parser.error("--exp-name, --isl and --osl are needed (or --phases, or --trace, for both lengths): see --help")
    if args.shift:
        if given := [name for name, value in OF_EQUAL_REQUESTS.items() if getattr(args, name) != value]:
            parser.error(
                f"--{given[0].replace('_', '-')} is of requests that are all alike: --phases or --trace says each one's"
            )
        args.type, args.mode, (args.isl, args.osl) = SHIFT, SHIFT, args.shift.longest
    elif args.load:
        parser.error("--load is of load that shifts: give --phases or --trace, too")
    args.type, args.load = args.type or "concurrency", args.load or "1"
    if args.max_hit_rate is None:
        args.max_hit_rate = 1.0 if args.as_published else level_gates.MAX_HIT_RATE
    args.typed = shlex.join(["./run_bm.sh", *words])
    return args

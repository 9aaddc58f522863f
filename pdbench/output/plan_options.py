"""Parse plan.py's options."""

import argparse
import re
from pathlib import Path

from pdbench.cli import Parser, positive
from pdbench.layout import Layout
from pdbench.output.options import figure_path, json_path, sla
from pdbench.planner.recommending import UNIT
from pdbench.workload import parse_levels

MOST_OF_A_UNIT = 64


def build_parser(description: str | None = None) -> Parser:
    """Build the parser of plan.py's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="plan.py", description=description, formatter_class=raw, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (what, add) in _COMMANDS.items():
        add(commands.add_parser(name, help=what, description=what, allow_abbrev=False))
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="result folders: one run, or several layouts")
    add("-o", "--output", type=json_path, required=True, metavar="PATH", help="where the model is written, .json")
    add("--kv-tokens", type=kv_tokens, default={}, metavar="1=70000,2=975000",
        help="tokens that the block pool of a PD replica holds, by TP size: 'GPU KV cache size' in the engine's log"
        " (default: as the manifests say; without them pools never fill)")  # fmt: skip
    add("--experts", type=experts, metavar="N:K",
        help="experts of a layer, and of these for each token, 1:1 if it is dense (default: by the manifests, or the model's"
        " name)")  # fmt: skip
    _add_measured(parser)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_asked(parser)
    _add_steps(parser, "each layout with these largest steps of the engines that prefill (tokens; default: the runs')")
    parser.add_argument("--as-published", action="store_true",
                        help="prompts replayed from level to level, nothing warmed up, as in the public study"
                        " (default: prompts that were not seen before)")  # fmt: skip


def _add_recommend(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_model(parser)
    add("--sla", type=sla, required=True, metavar="tpot=MS,max_itl=MS,...",
        help="medians unless a statistic is said: mean, median and p99 of ttft and tpot, p99 and max of itl")  # fmt: skip
    add("--gpus", type=positive, required=True, metavar="N", help="of the whole fleet")
    _add_steps(parser, "collocated layouts with these largest steps, too (tokens); of a layout the best is named")
    add("--unit-gpus", type=unit, default=UNIT, metavar="N", help="most GPUs of one deployment (default: %(default)s)")
    add("--experiment", type=Path, metavar="FILE", help="configs/experiments/*.yaml: name its arms in the command")
    _add_extrapolate(parser, "also kinds of layout that no run had; a line then says so")
    _add_lengths(parser)
    _add_json(parser)
    add("--plot-path", type=figure_path, metavar="PATH", help="draw the named layouts' throughput per GPU against TPOT")


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="result folders; those of the fit are left out")
    _add_measured(parser)
    _add_json(parser)
    parser.add_argument("--plot-path", type=figure_path, metavar="PATH", help="draw predicted against measured")


def _add_asked(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_model(parser)
    add("--layouts", type=layouts, required=True, metavar="A,B", help="such as 4xtp2,p1xtp2-d2xtp2")
    add("--levels", type=levels, required=True, metavar="4,8", help="requests in flight")
    _add_lengths(parser)
    _add_extrapolate(parser, "also where no run was: other levels, kinds of layout; each line then says so")
    _add_json(parser)


def _add_steps(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--steps", type=steps, default=[], metavar="8192,1024", help=what)


def _add_extrapolate(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--extrapolate", action="store_true", help=what)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that plan.py fit wrote")


def _add_measured(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--levels", type=levels, default=[], metavar="4,8", help="only these (default: all)")
    parser.add_argument("--as-published", action=argparse.BooleanOptionalAction, default=None,
                        help="whether folders without manifests replayed prompts from level to level")  # fmt: skip


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    for name, what in (("isl", "input"), ("osl", "output")):
        parser.add_argument(f"--{name}", type=positive, metavar="N", help=f"{what} tokens (default: those of the runs)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=json_path, metavar="PATH", help="write the numbers, too")


_COMMANDS = {
    "fit": ("fit a model to measured runs", _add_fit),
    "predict": ("predict layouts at levels, with intervals", _add_predict),
    "recommend": ("name the layouts worth measuring for a target", _add_recommend),
    "check": ("compare predictions with runs that were not used", _add_check),
    "explain": ("say where the time of a request goes", _add_asked),
}


def unit(text: str) -> int:
    """Parse the most GPUs of one deployment; of more there would be thousands of ratios."""
    if (number := positive(text)) > MOST_OF_A_UNIT:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MOST_OF_A_UNIT}: larger deployments are several of one ratio")
    return number


def layouts(text: str) -> list[Layout]:
    """Parse layouts, separated by commas."""
    try:
        return list(dict.fromkeys(map(Layout.parse, text.split(","))))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def levels(text: str) -> list[int]:
    """Parse requests in flight, separated by commas."""
    try:
        return sorted(int(level.value) for level in parse_levels("concurrency", text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def steps(text: str) -> list[int]:
    """Parse largest steps, vLLM's `max_num_batched_tokens`, separated by commas."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 8192,1024 (tokens of one step)")
    return sorted({*map(int, text.split(","))}, reverse=True)


def kv_tokens(text: str) -> dict[int, int]:
    """Parse block pool sizes by TP size, `1=70000,2=975000`."""
    if not re.fullmatch(r"[1-9]\d*=[1-9]\d*(,[1-9]\d*=[1-9]\d*)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1=70000,2=975000 (TP size = tokens)")
    pairs = [tuple(map(int, part.split("="))) for part in text.split(",")]
    return {size: tokens for size, tokens in pairs}


def experts(text: str) -> tuple[int, int]:
    """Parse the experts of a layer and of a token, `128:4`."""
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text, re.ASCII)
    if not match or int(match[2]) > int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 128:4 (experts of a layer, of these for each token)")
    return int(match[1]), int(match[2])

"""Parse viz.py's options: what is asked of result folders, and where it is written."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pdbench.analysis.sla import Bound, parse
from pdbench.cli import Parser, above_zero, positive

LATENCY_MODES = {"token": "tpot", "first_token": "ttft", "chunk": "chunk"}
THROUGHPUT_METRICS = ("input", "output", "total")
FIGURES = ("classic", "tradeoff", "targets", "heatmap", "lengths", "network", "latencies", "timeline", "overhead", "shift")
MOST_ARMS = 15  # as many runs of one layout have different markers
OF_REQUESTS = ("latencies", "timeline")  # figures that need per-request details
COMPARED = ("targets", "heatmap", "lengths", "overhead", "shift")  # figures of answers, that is of what is compared
OF_TIME = ("latencies", "timeline", "shift")  # figures that have no axis of levels
WITH_FRONTIER = ("classic", "tradeoff")  # figures that show which arm is best at a latency
LIMITED = (*WITH_FRONTIER, "network", "latencies")  # of many arms they show those nearest to the frontier
COUNTING = (*WITH_FRONTIER, "targets", "heatmap", "network")  # figures of tokens/s
FORMATS = (".png", ".pdf", ".svg")
TABLE_FORMATS = (".csv", ".json", ".parquet")
DEFAULT_PATH = Path("figure.png")


class _Parser(Parser):
    """Refuses an option that was given and that nothing asked for uses."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse like `argparse.ArgumentParser.parse_args`."""
        not_given = object()  # a default would hide whether the same value was given
        found = super().parse_args(args, argparse.Namespace(**dict.fromkeys(USED_BY, not_given)))
        given = [name for name in USED_BY if getattr(found, name) is not not_given]
        for name in USED_BY.keys() - given:
            setattr(found, name, self.get_default(name))
        for name in given:
            if not uses(name, found):
                option = f"--{'no-' * (getattr(found, name) is False)}{name.replace('_', '-')}"
                self.error(f"{option} goes with {_in_words(*USED_BY[name])}")
        return found


def build_parser(description: str | None = None) -> Parser:
    """Build the parser of viz.py's options."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="viz.py", description=description, formatter_class=raw, allow_abbrev=False)
    for add in (_add_folders, _add_counting, _add_answers, _add_figures):
        add(parser)
    return parser


def _add_folders(parser: Parser) -> None:
    add = parser.add_argument_group("what is compared").add_argument
    add(
        "--exps",
        nargs="+",
        action="extend",
        required=True,
        metavar="FOLDER",
        help="folders to compare; files that a pattern matches beside them are left out",
    )
    add("--skip-unreadable", action="store_true",
        help="leave out folders that cannot be read, and say why; without it the first one is an error")  # fmt: skip
    add("--include-refuted", action="store_true",
        help="compare also what is not what it is called, by the audit; else it is left out")  # fmt: skip
    add("--include-bare", action="store_true",
        help="compare also control arms (no Ray Serve), as deployments of their own; else decisions omit them")  # fmt: skip
    add("--gpus-per-node", type=positive, metavar="N",
        help="GPUs per node (default: each manifest's number, or 8 without a manifest)")  # fmt: skip


def _add_counting(parser: Parser) -> None:
    add = parser.add_argument_group("what is counted").add_argument
    add("--latency-mode", choices=LATENCY_MODES, default="token",
        help="latency of the trade-off panel, from medians: TPOT, TTFT, or of the first chunk,"
        " TTFT + (chunk-1) x TPOT (default: %(default)s)")  # fmt: skip
    add("--chunk-size", type=positive, default=16, help="tokens of the first chunk (default: %(default)s)")
    add("--use-interactivity", action="store_true", help="show 1000 / latency, per second and user, instead")
    add("--use-normalized", action=argparse.BooleanOptionalAction, default=True,
        help="throughput per node, that is x GPUs per node / GPUs of the layout (default: on)")  # fmt: skip
    add("--throughput-metric", choices=THROUGHPUT_METRICS, default="input",
        help="tokens counted (default: %(default)s)")  # fmt: skip


def _add_answers(parser: Parser) -> None:
    add = parser.add_argument_group("what is printed or written").add_argument
    add("--show-tables", action="store_true", help="print every measurement")
    add("--show-stalls", action="store_true", help="compare each PD arm's p99 inter-token latency with the collocated one")
    add(
        "--show-intervals",
        action="store_true",
        help="95%% confidence intervals of every level, over its repeats, or within its single run",
    )
    add("--show-blocks", action="store_true",
        help="each arm over the first collocated one, within blocks, with 95%% intervals")  # fmt: skip
    add("--show-overhead", action="store_true",
        help="what Ray Serve adds to TTFT and TPOT, and takes from throughput, beside control arms without it")  # fmt: skip
    add("--show-sharing", action="store_true",
        help="how evenly requests are shared out among an arm's replicas, by when their tokens came")  # fmt: skip
    add("--audit", action="store_true", help="print what to know before believing these folders, and what to do about it")
    add("--show-decision", action="store_true", help="which layout is best in which band of latency (see --latency-mode)")
    add("--predicted-by", type=Path, metavar="MODEL",
        help="file that plan.py fit wrote: its predictions beside what was measured, in the figures classic and tradeoff and in"
        " the report")  # fmt: skip
    add("--sla", type=sla, metavar="tpot=MS,p99_ttft=MS,...",
        help="which layout is best within these bounds (medians unless a statistic is said), and what the others lack;"
        " in the tables, goodput: requests/s that keep to it")  # fmt: skip
    add("--gpu-hour-price", type=above_zero, metavar="P", help="price of a million tokens, at P for an hour of a GPU")
    add("--export", type=table_path, metavar="PATH", help=f"write every measurement, {', '.join(TABLE_FORMATS)}")
    add("--json", type=json_path, metavar="PATH",
        help="write the decision, the answer to --sla, the audit and the intervals as numbers; with --show-overhead,"
        " --show-blocks and --show-sharing those too; with --figure shift what that prints")  # fmt: skip
    add("--report", type=html_path, metavar="PATH",
        help="write one self-contained HTML file: decision, crossovers, interactive chart, tables, provenance")  # fmt: skip


def _add_figures(parser: Parser) -> None:
    add = parser.add_argument_group("what is drawn").add_argument
    add("--plot", action="store_true", help="draw the figure; the default where nothing else is asked for")
    add("--plot-path", type=figure_path, metavar="PATH",
        help=f"where to, {', '.join(FORMATS)} (default: {DEFAULT_PATH}); implies --plot")  # fmt: skip
    add("--figure", choices=FIGURES,
        help="classic: TPOT, TTFT and trade-off; the trade-off alone; targets: which arm is best within"
        " which two latencies, see --targets; heatmap: best throughput under --sla by P:D ratio and TP;"
        " lengths: an arm over the collocated one by ISL:OSL; network: one PD layout by placement and transport; latencies:"
        " their distributions at a level; timeline: every request of a level; overhead: what --show-overhead prints;"
        " shift: load that shifts, and what arms attain under --sla"
        f" (default: {FIGURES[0]}); implies --plot")  # fmt: skip
    add("--targets", type=targets, default=targets("tpot,max_itl"), metavar="LATENCY,LATENCY",
        help="the latencies of --figure targets, named as in --sla (default: tpot,max_itl)")  # fmt: skip
    add("--level", type=above_zero, metavar="N",
        help="level of --figure latencies, timeline and shift (default: the highest that all arms have)")  # fmt: skip
    add("--most-arms", type=positive, default=MOST_ARMS, metavar="N",
        help="draw at most N arms: those nearest to the frontier, and the best collocated (default: %(default)s)")  # fmt: skip
    add("--log-latency", action="store_true", help="log scale for latencies")
    add("--log-concurrency", action="store_true", help="log scale for concurrencies or request rates")
    add("--per-gpu", action="store_true",
        help="latencies over the level for each GPU of the layout, where arms have different numbers of them")  # fmt: skip
    add("--show-itl", nargs="?", const="p99", choices=("p99", "max"),
        help="add p99 inter-token latency, or the longest (max): shows decoding stalled by prefill")  # fmt: skip
    # The name in older recipes; in run_bm.sh it is the input length.
    add("--itl", dest="show_itl", action="store_const", const="p99", help=argparse.SUPPRESS)


def decides(args: argparse.Namespace) -> bool:
    """Return whether it is asked which layout is best; to --figure shift, --sla are the bounds of each request."""
    return bool(args.show_decision or args.gpu_hour_price or (args.sla and args.figure != "shift"))


def is_drawn(args: argparse.Namespace) -> bool:
    """Return whether a figure is asked for, or nothing else is."""
    others = (args.show_tables, args.audit, args.export)
    return bool(args.plot or args.plot_path or args.figure or not (compares(args) or any(others)))


def is_by_levels(args: argparse.Namespace) -> bool:
    """Return whether something asked for compares arms level by level, which load that shifts has none of."""
    return compares(args) or (is_drawn(args) and args.figure not in OF_TIME)


def compares(args: argparse.Namespace) -> bool:
    """Return whether arms are compared in print or in a file."""
    shown = (args.show_stalls, args.show_intervals, args.show_blocks, args.show_overhead, args.show_sharing, args.report)
    return any(shown) or bool(args.json and args.figure != "shift") or decides(args)


# What is asked for beside figures, and whether it is.
ANSWERS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "--show-tables": lambda args: bool(args.show_tables),
    "--show-stalls": lambda args: bool(args.show_stalls),
    "--show-blocks": lambda args: bool(args.show_blocks),
    "--show-decision": decides,
    "--sla": decides,
    "--sla chunk=MS": lambda args: any(bound.metric == "chunk" for bound in args.sla or ()),
    "--targets chunk,LATENCY": lambda args: args.figure == "targets" and "chunk" in [bound.metric for bound in args.targets],
    "--latency-mode chunk": lambda args: args.latency_mode == "chunk",
    "--export": lambda args: bool(args.export),
    "--json": lambda args: bool(args.json and args.figure != "shift"),
    "--report": lambda args: bool(args.report),
    "what compares arms, such as --show-decision": compares,
}
_DECISION = ("--show-decision", "--sla", "--json", "--report")
# By which figures, and by which of `ANSWERS`, an option is used; all others are used by whatever is asked for.
USED_BY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "include_refuted": (FIGURES, ("what compares arms, such as --show-decision",)),
    "include_bare": ((*WITH_FRONTIER, "targets", "heatmap", "lengths"), ("--show-stalls", "--show-blocks", *_DECISION)),
    "latency_mode": (LIMITED, _DECISION),
    "chunk_size": (
        (),
        ("--latency-mode chunk", "--targets chunk,LATENCY", "--sla chunk=MS", "--show-tables", "--export", "--report"),
    ),
    "use_interactivity": (WITH_FRONTIER, ("--show-decision", "--sla", "--report")),
    "use_normalized": ((*COUNTING, "latencies"), ("--show-tables", *_DECISION)),
    "throughput_metric": ((*COUNTING, "latencies"), _DECISION),
    "predicted_by": (WITH_FRONTIER, ("--report",)),
    "level": (OF_TIME, ()),
    "most_arms": (LIMITED, ("--report",)),
    "log_latency": ((*WITH_FRONTIER, "latencies"), ("--report",)),
    "log_concurrency": (FIGURES[:1], ()),
    "per_gpu": (FIGURES[:1], ()),
    "targets": (("targets",), ()),
    "show_itl": (FIGURES[:1], ()),
}


def uses(name: str, args: argparse.Namespace) -> bool:
    """Return whether something asked for uses this option of `USED_BY`."""
    figures, answers = USED_BY[name]
    return (is_drawn(args) and (args.figure or FIGURES[0]) in figures) or any(ANSWERS[words](args) for words in answers)


def _in_words(figures: Sequence[str], answers: Sequence[str]) -> str:
    """`--figure classic or tradeoff, and with --report`."""
    parts = ["--plot"] if figures == FIGURES else [f"--figure {_or(figures)}"] if figures else []
    return ", and with ".join([*parts, _or(answers)] if answers else parts)


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def sla(text: str) -> tuple[Bound, ...]:
    """Parse bounds of latencies, such as `tpot=10,p99_ttft=800`, ms."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def targets(text: str) -> tuple[Bound, ...]:
    """Parse the names of two latencies, such as `tpot,p99_ttft`; their limits are of no account."""
    try:
        found = parse(",".join(f"{name}=1" for name in text.split(",")))
    except ValueError:
        found = ()
    if len(found) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not like tpot,max_itl: two latencies, named as in --sla")
    return found


def table_path(text: str) -> Path:
    """Parse the path of a table."""
    path = output_path(text, TABLE_FORMATS)
    if path.suffix == ".parquet" and not find_spec("pyarrow"):
        raise argparse.ArgumentTypeError(f"{text!r} needs pyarrow: pip install pyarrow, or write .csv or .json")
    return path


def figure_path(text: str) -> Path:
    """Parse the path of a figure."""
    return output_path(text, FORMATS)


def html_path(text: str) -> Path:
    """Parse the path of a report."""
    return output_path(text, (".html",))


def json_path(text: str) -> Path:
    """Parse the path of a JSON file."""
    return output_path(text, (".json",))


def output_path(text: str, formats: tuple[str, ...]) -> Path:
    """Parse the path of a file that is to be written: its ending says what it is, and its folder is there."""
    path = Path(text)
    if path.suffix not in formats:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(formats)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder")
    return path

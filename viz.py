#!/usr/bin/env python3
"""Result folders -> figures and tables. Needs only requirements-viz.txt: no Ray, no vLLM.

    python viz.py --exps bm_results/exp1 bm_results/exp2
    python viz.py --exps bm_results/* --show-tables --plot-path tradeoff.pdf --log-latency

With neither --plot nor a --show option it draws figure.png. Input tokens are counted by default, as in
the public study, so that its figures compare; where prompts are short, count output or total.
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from pdbench.cli import Parser

if TYPE_CHECKING:
    import pandas as pd

LATENCY_MODES = ("token", "first_token", "chunk")
THROUGHPUT_METRICS = ("input", "output", "total")
FIGURES = ("classic", "tradeoff", "heatmap", "network", "latencies", "timeline")
FORMATS = (".png", ".pdf", ".svg")
DEFAULT_PATH = Path("figure.png")


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    # Imported only now: --help and a wrong flag answer at once.
    from pdbench import tables
    from pdbench.intervals import level_intervals
    from pdbench.results import ResultError, read_results
    from pdbench.stalls import stall_lines

    try:
        table = read_results(args.exps, gpus_per_node=args.gpus_per_node, chunk_size=args.chunk_size, sla=args.sla)
        if args.show_tables:
            tables.print_measurements(table, args.chunk_size, args.use_normalized)
        if args.show_stalls:
            print(*stall_lines(table), sep="\n")
        if args.show_intervals:
            tables.print_intervals(level_intervals(args.exps))
        if args.plot or args.plot_path or not (args.show_tables or args.show_stalls or args.show_intervals):
            plot(table, args, args.plot_path or DEFAULT_PATH)
    except ResultError as error:
        parser.error(str(error))


def build_parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="viz.py", description=__doc__, formatter_class=raw, allow_abbrev=False)
    add = parser.add_argument
    add("--exps", nargs="+", action="extend", required=True, metavar="FOLDER", help="folders to compare")
    add("--latency-mode", choices=LATENCY_MODES, default="token",
        help="latency of the trade-off panel, from medians: TPOT, TTFT, or of the first chunk,"
        " TTFT + (chunk-1) x TPOT (default: %(default)s)")  # fmt: skip
    add("--chunk-size", type=positive, default=16, help="tokens of the first chunk (default: %(default)s)")
    add("--use-interactivity", action="store_true", help="show 1000 / latency, per second and user, instead")
    add("--use-normalized", action=argparse.BooleanOptionalAction, default=True,
        help="throughput per node, that is x GPUs per node / GPUs of the layout (default: on)")  # fmt: skip
    add("--throughput-metric", choices=THROUGHPUT_METRICS, default="input",
        help="tokens counted (default: %(default)s)")  # fmt: skip
    add("--log-latency", action="store_true", help="log scale for latencies")
    add("--log-concurrency", action="store_true", help="log scale for concurrencies or request rates")
    add("--itl", action="store_true", help="add p99 inter-token latency: shows decoding stalled by prefill")
    add("--show-tables", action="store_true", help="print every measurement")
    add("--show-stalls", action="store_true", help="compare each PD arm's p99 inter-token latency with the collocated one")
    add("--show-intervals", action="store_true", help="95%% confidence intervals over requests and repeats, by bootstrap")
    add("--sla", type=sla, metavar="ttft=MS,tpot=MS", help="in the tables, goodput: requests/s that keep to it")
    add("--plot", action="store_true", help="draw the figure; the default without a --show option")
    add("--plot-path", type=figure_path, metavar="PATH",
        help=f"where to, {', '.join(FORMATS)} (default: {DEFAULT_PATH}); implies --plot")  # fmt: skip
    add("--figure", choices=FIGURES, default="classic",
        help="classic: TPOT, TTFT and trade-off; the trade-off alone; heatmap: best throughput under --sla by P:D ratio and TP;"
        " network: one PD layout by placement and transport; latencies: their distributions at a level; timeline: every"
        " request of a level (default: %(default)s)")  # fmt: skip
    add("--level", type=level, metavar="N", help="of latencies and timeline (default: the highest that all arms have)")
    add("--gpus-per-node", type=positive, metavar="N",
        help="instead of each manifest's number, or 8 where there is no manifest")  # fmt: skip
    return parser


def positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def level(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a concurrency or request rate above 0")
    return number


def sla(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        metric, _, bound = part.partition("=")
        try:
            found[metric] = float(bound)
        except ValueError:
            found[metric] = math.nan
        if metric not in ("ttft", "tpot") or not 0 < found[metric] < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not like ttft=500,tpot=10 (ms)")
    return found


def figure_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder")
    return path


def plot(table: "pd.DataFrame", args: argparse.Namespace, path: Path) -> None:
    from pdbench import figures
    from pdbench.tables import how_counted

    view = figures.View(
        latency_mode=args.latency_mode,
        chunk_size=args.chunk_size,
        interactivity=args.use_interactivity,
        normalized=args.use_normalized,
        throughput=args.throughput_metric,
        log_latency=args.log_latency,
        log_levels=args.log_concurrency,
        itl=args.itl,
        figure=args.figure,
        level=args.level,
        sla=args.sla or {},
    )
    figures.save(figures.draw(table, view), path)
    print(f"{path}: {table['arm'].nunique()} arms, {len(table)} measurements")
    print(f"  y: {figures.throughput_label(table, view)}{how_counted(table, args.use_normalized)}")
    print(f"  x: {figures.latency_label(view)}")
    without = table.loc[table["median_tpot_ms"].isna(), "arm"].unique()
    if len(without):
        print(f"  one output token per request, so no TPOT: {', '.join(without)}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draw figures and print tables of result folders. Needs only requirements-viz.txt: no Ray, no vLLM.

    python viz.py --exps bm_results/exp1 bm_results/exp2
    python viz.py --exps bm_results/* --show-tables --plot-path tradeoff.pdf --log-latency
    python viz.py --exps bm_results/* --sla tpot=10,p99_ttft=800 --gpu-hour-price 5

Where nothing else is asked for it draws figure.png. Input tokens are counted by default, as in
the public study, so that its figures compare; where prompts are short, count output or total.
"""

import argparse
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pdbench import interrupts
from pdbench.analysis.sla import Bound, parse, per_request
from pdbench.cli import Parser, positive

if TYPE_CHECKING:
    import pandas as pd

    from pdbench.analysis.audit import Finding
    from pdbench.output import figures
    from pdbench.read.results import Study

LATENCY_MODES = {"token": "tpot", "first_token": "ttft", "chunk": "chunk"}
THROUGHPUT_METRICS = ("input", "output", "total")
FIGURES = ("classic", "tradeoff", "heatmap", "network", "latencies", "timeline")
OF_REQUESTS = ("latencies", "timeline")  # figures that need per-request details
FORMATS = (".png", ".pdf", ".svg")
TABLE_FORMATS = (".csv", ".json", ".parquet")
DEFAULT_PATH = Path("figure.png")


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    # Imported only now: --help and a wrong flag answer at once.
    from pdbench.analysis.audit import audit
    from pdbench.analysis.intervals import level_intervals
    from pdbench.analysis.overhead import overheads
    from pdbench.analysis.stalls import stall_lines
    from pdbench.output import tables
    from pdbench.read.export import export
    from pdbench.read.level_file import ResultError
    from pdbench.read.results import read_study

    goodput = per_request(args.sla or ())
    details = bool(args.sla or args.export or args.report or args.show_intervals or args.figure in OF_REQUESTS)
    decide = args.show_decision or args.sla or args.gpu_hour_price
    try:
        study = read_study(
            args.exps, gpus_per_node=args.gpus_per_node, chunk_size=args.chunk_size, sla=goodput, details=details
        )
        table = study.table
        findings = audit(study) if args.audit or decide or args.report else []
        if args.export:
            export(table, args.export)
            print(f"{args.export}: {len(table)} rows, {len(table.columns)} columns")
        if args.show_tables:
            tables.print_measurements(table, args.chunk_size, args.use_normalized)
        if args.show_stalls:
            print(*stall_lines(table), sep="\n")
        if args.show_intervals:
            tables.print_intervals(level_intervals(study))
        if args.show_blocks:
            from pdbench.analysis.blocks import paired  # SciPy takes a second

            tables.print_blocks(paired(table))
        if args.show_overhead:
            tables.print_overheads(overheads(table))
        if args.audit:
            tables.print_findings(findings)
        if decide:
            show_decision(table, findings, args)
        if args.report:
            write_report(study, findings, args)
        shown = [args.show_tables, args.show_stalls, args.show_intervals, args.show_overhead, args.audit, decide]
        shown += [args.export, args.report, args.show_blocks]
        if args.plot or args.plot_path or args.figure or not any(shown):
            plot(study, args, args.plot_path or DEFAULT_PATH)
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
    add("--show-itl", action="store_true", help="add p99 inter-token latency: shows decoding stalled by prefill")
    # The name in older recipes; in run_bm.sh it is the input length.
    add("--itl", dest="show_itl", action="store_true", help=argparse.SUPPRESS)
    add("--show-tables", action="store_true", help="print every measurement")
    add("--show-stalls", action="store_true", help="compare each PD arm's p99 inter-token latency with the collocated one")
    add("--show-intervals", action="store_true", help="95%% confidence intervals over requests and repeats, by bootstrap")
    add("--show-blocks", action="store_true",
        help="each arm over the first collocated one, within blocks, with 95%% intervals")  # fmt: skip
    add("--show-overhead", action="store_true",
        help="what Ray Serve adds to TTFT and TPOT, and takes from throughput, beside control arms without it")  # fmt: skip
    add("--audit", action="store_true", help="print what to know before believing these folders, and what to do about it")
    add("--show-decision", action="store_true", help="which layout is best in which band of latency (see --latency-mode)")
    add("--sla", type=sla, metavar="tpot=MS,p99_ttft=MS,...",
        help="which layout is best within these bounds (medians unless a statistic is said), and what the others lack;"
        " in the tables, goodput: requests/s that keep to it")  # fmt: skip
    add("--gpu-hour-price", type=above_zero, metavar="P", help="price of a million tokens, at P for an hour of a GPU")
    add("--export", type=table_path, metavar="PATH", help=f"write every measurement, {', '.join(TABLE_FORMATS)}")
    add("--plot", action="store_true", help="draw the figure; the default where nothing else is asked for")
    add("--plot-path", type=figure_path, metavar="PATH",
        help=f"where to, {', '.join(FORMATS)} (default: {DEFAULT_PATH}); implies --plot")  # fmt: skip
    add("--report", type=html_path, metavar="PATH",
        help="write one self-contained HTML file: decision, crossovers, interactive chart, tables, provenance")  # fmt: skip
    add("--figure", choices=FIGURES,
        help="classic: TPOT, TTFT and trade-off; the trade-off alone; heatmap: best throughput under --sla by P:D ratio and TP;"
        " network: one PD layout by placement and transport; latencies: their distributions at a level; timeline: every"
        f" request of a level (default: {FIGURES[0]}); implies --plot")  # fmt: skip
    add("--level", type=above_zero, metavar="N",
        help="level of --figure latencies and timeline (default: the highest that all arms have)")  # fmt: skip
    add("--gpus-per-node", type=positive, metavar="N",
        help="GPUs per node (default: each manifest's number, or 8 without a manifest)")  # fmt: skip
    return parser


def above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def sla(text: str) -> tuple[Bound, ...]:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def table_path(text: str) -> Path:
    path = output_path(text, TABLE_FORMATS)
    if path.suffix == ".parquet" and not find_spec("pyarrow"):
        raise argparse.ArgumentTypeError(f"{text!r} needs pyarrow: pip install pyarrow, or write .csv or .json")
    return path


def figure_path(text: str) -> Path:
    return output_path(text, FORMATS)


def html_path(text: str) -> Path:
    return output_path(text, (".html",))


def output_path(text: str, formats: tuple[str, ...]) -> Path:
    path = Path(text)
    if path.suffix not in formats:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(formats)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder")
    return path


def show_decision(table: "pd.DataFrame", findings: "list[Finding]", args: argparse.Namespace) -> None:
    from pdbench.analysis import decision
    from pdbench.analysis.audit import doubts
    from pdbench.analysis.frontier import LATENCIES
    from pdbench.output import tables

    mode = LATENCY_MODES[args.latency_mode]
    words = f"first {args.chunk_size}" if mode == "chunk" else f"median {mode.upper()}"
    throughput = f"{args.throughput_metric}_throughput" + "_per_node" * args.use_normalized
    counted = f"{args.throughput_metric}/s\n/{'node' if args.use_normalized else 'layout'}"
    for title, rows in decision.workloads(table):
        print(f"\n{title}")
        bands = decision.bands(rows, LATENCIES[mode], throughput)
        if bands.empty:
            print(f"no arm has both {LATENCIES[mode]} and {throughput}: use --latency-mode or --throughput-metric")
        else:
            tables.print_bands(bands, words, counted, args.use_interactivity, args.gpu_hour_price)
        if args.sla:
            answers = decision.decide(rows, args.sla, throughput)
            tables.print_decision(answers, args.sla, counted, rows["kind"].iloc[0], args.gpu_hour_price)
        print(*tables.uncertainty_words(rows), sep="\n")
    for arm, kinds in doubts(findings, dict(zip(table["folder"], table["arm"], strict=True))).items():
        print(f"whether {arm} is what its name says is in doubt: {', '.join(kinds)} (see --audit)")
    print(f"{args.throughput_metric} tokens/s{tables.how_counted(table, args.use_normalized)}")


def plot(study: "Study", args: argparse.Namespace, path: Path) -> None:
    from pdbench.output import figures
    from pdbench.output.tables import how_counted

    table, view = study.table, view_of(args)
    figures.save(figures.draw(table, view, study), path)
    print(f"{path}: {table['arm'].nunique()} arms, {len(table)} measurements")
    if view.figure not in ("latencies", "timeline"):
        print(f"  y: {figures.throughput_label(table, view)}{how_counted(table, args.use_normalized)}")
    if view.figure in ("classic", "tradeoff"):
        print(f"  x: {figures.latency_label(view)}")
    without = table.loc[table["median_tpot_ms"].isna(), "arm"].unique()
    if len(without):
        print(f"  one output token per request, so no TPOT: {', '.join(without)}")


def write_report(study: "Study", findings: "list[Finding]", args: argparse.Namespace) -> None:
    from pdbench.files import write_atomically
    from pdbench.output.report import render

    table = study.table
    page = render(study, view_of(args), args.gpu_hour_price, findings)
    write_atomically(args.report, page)
    print(f"{args.report}: {table['arm'].nunique()} arms, {len(table)} measurements, {len(page.encode()) / 1e6:.1f} MB")


def view_of(args: argparse.Namespace) -> "figures.View":
    from pdbench.output import figures

    return figures.View(
        latency_mode=args.latency_mode,
        chunk_size=args.chunk_size,
        interactivity=args.use_interactivity,
        normalized=args.use_normalized,
        throughput=args.throughput_metric,
        log_latency=args.log_latency,
        log_levels=args.log_concurrency,
        itl=args.show_itl,
        figure=args.figure or FIGURES[0],
        level=args.level,
        sla=args.sla or (),
    )


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "viz.py"))

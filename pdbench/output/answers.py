"""Answer what viz.py's options ask for that takes more than one call: the decision, the figure and the report."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pdbench.analysis import decision
from pdbench.analysis.audit import MIXED, UNEVEN, Finding, audit, refuted
from pdbench.analysis.frontier import LATENCIES
from pdbench.analysis.pieces import not_judged
from pdbench.analysis.shift import runs_of
from pdbench.analysis.sla import per_request
from pdbench.analysis.targets import targets
from pdbench.cli import note
from pdbench.files import write_atomically
from pdbench.output import decision_text, tables
from pdbench.output.options import COMPARED, COUNTING, FIGURES, LATENCY_MODES, WITH_FRONTIER, compares, is_by_levels, uses
from pdbench.output.shift_text import print_shift
from pdbench.output.targets_text import COUNT, print_targets
from pdbench.output.throughput_text import how_counted
from pdbench.read.folder import are_small, folders_among, left_out_words
from pdbench.read.level_file import ResultError, naming
from pdbench.read.results import GPUS_PER_NODE, Study, controls, read_study
from pdbench.workload import SHIFT

if TYPE_CHECKING:
    from pdbench.output import figures


def read(args: argparse.Namespace, sla: dict[str, float], details: bool) -> Study:
    """Read the folders that the options name; what is left out is said on standard error.

    Args:
        sla: bounds of each request, for goodput.
        details: whether per-request details are needed.

    Raises:
        ResultError: a folder cannot be read, or with --skip-unreadable none can; or only load that shifts is to be compared
            by levels.
    """
    folders, files = folders_among(args.exps)
    if not details and not (details := are_small(folders)):
        note("viz.py: much is to be read, so details of single requests are not checked (--audit does)")
    unreadable: list[str] | None = [] if args.skip_unreadable else None
    study = read_study(folders, args.gpus_per_node, args.chunk_size, sla, details, unreadable)
    for line in [left_out_words(files)] * bool(files) + [f"left out: {reason}" for reason in unreadable or ()]:
        note(f"viz.py: {line}")
    without = [name for name, folder in study.folders.items() if folder.manifest is None]
    if args.gpus_per_node is None and 0 < len(without) < len(study.folders):
        node = f"no manifest: nodes of {GPUS_PER_NODE} GPUs are assumed (--gpus-per-node gives another number)"
        note(f"viz.py: {node}: {some(without)}")
    return _at_levels(study) if is_by_levels(args) else study


def _at_levels(study: Study) -> Study:
    """The study without load that shifts, which has no level that others have, too; says so, and raises if nothing remains."""
    shifting = study.table[study.table["kind"] == SHIFT]
    if len(shifting) == len(study.table):
        raise ResultError("load that shifts is compared by --figure shift --sla ttft=MS,tpot=MS alone, not by levels")
    if len(shifting):
        note(f"viz.py: left out, since its load shifts (see --figure shift): {some(list(shifting['arm'].unique()))}")
    return study.without(set(shifting["folder"]))


def audited(study: Study, args: argparse.Namespace) -> tuple[list[Finding], dict[str, list[str]], Study]:
    """Audit where that is asked for or something is compared; print what comparisons leave out.

    Returns:
        The findings; what is left out, of `audit.refuted`; and the study without it.

    Raises:
        ResultError: nothing remains.
    """
    is_compared = compares(args) or args.figure in COMPARED
    findings = audit(study) if args.audit or is_compared else []
    left_out = refuted(findings) if is_compared and not args.include_refuted else {}
    compared, arms = study.without(left_out), dict(zip(study.table["folder"], study.table["arm"], strict=True))
    for folder, kinds in left_out.items():
        print(f"left out: {arms[folder]}: {', '.join(kinds)} (see --audit; --include-refuted compares it, too)")
    kept = set(compared.folders)
    for finding in findings if is_compared else ():
        if finding.kind in MIXED and kept & set(finding.folders):
            print(tables.wrapped("", f"{finding.kind}: {finding.seen} (see --audit)"))
    uneven = [arms[name] for finding in findings if finding.kind == UNEVEN for name in finding.folders if name in kept]
    if uneven and is_compared:
        print(f"{UNEVEN}: {some(uneven)}: that is the router, not the layout (see --show-sharing)")
    if uses("include_bare", args) and (bare := controls(compared.table)):
        print(f"in no decision and no frontier: {some(bare)}: without Ray Serve (--include-bare compares such arms, too)")
    return findings, left_out, compared


def show_decision(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Print which layout is best, in each band of latency and within the bounds that are given."""
    mode = LATENCY_MODES[args.latency_mode]
    words = f"first {args.chunk_size}" if mode == "chunk" else f"median {mode.upper()}"
    throughput = throughput_column(args)
    counted = f"{args.throughput_metric}/s\n/{'node' if args.use_normalized else 'layout'}"
    several = list(decision.workloads(table))
    if len(several) > 1:
        print(
            f"{len(several)} workloads, which are not compared with each other:", *(title for title, _ in several), sep="\n  "
        )
    for title, rows in several:
        print(f"\n{title}")
        late = decision.overloaded(rows, [LATENCIES[mode], *(bound.column for bound in args.sla or ())])
        for line in decision_text.saturated_words(late):
            print(line)
        bands = decision.bands(rows, LATENCIES[mode], throughput)
        if bands.empty and len(decision.overloaded(rows, [LATENCIES[mode]])) == len(rows):
            print(f"no arm has a {words} that is its own: every level is saturated")
        elif bands.empty:
            print(f"no arm has both {LATENCIES[mode]} and {throughput}: use --latency-mode or --throughput-metric")
        else:
            decision_text.print_bands(bands, words, counted, args.use_interactivity, args.gpu_hour_price)
        if args.sla:
            for line in decision_text.piece_words(not_judged(rows, args.sla)):
                print(line)
            answers = decision.decide(rows, args.sla, throughput)
            decision_text.print_decision(answers, args.sla, counted, rows["kind"].iloc[0], args.gpu_hour_price)
        print(*decision_text.few_words(rows, args.sla or ()), *decision_text.uncertainty_words(rows), sep="\n")
    print(f"{args.throughput_metric} tokens/s{how_counted(table, args.use_normalized)}")


def throughput_column(args: argparse.Namespace) -> str:
    """Return the column of the throughput that the options ask for."""
    return f"{args.throughput_metric}_throughput" + "_per_node" * args.use_normalized


def write_json(
    study: Study, findings: list[Finding], left_out: Mapping[str, Sequence[str]], args: argparse.Namespace
) -> None:  # fmt: skip
    """Write as numbers what other options print."""
    from pdbench.output import json_answers

    latency = LATENCIES[LATENCY_MODES[args.latency_mode]]
    added = {"overhead": args.show_overhead, "blocks": args.show_blocks, "sharing": args.show_sharing}
    json_answers.write(
        args.json, study, findings, left_out, latency, throughput_column(args), args.sla or (), args.gpu_hour_price, **added
    )
    print(f"{args.json}: {study.table['arm'].nunique()} arms, {len(findings)} findings")


def plot(study: Study, findings: Sequence[Finding], args: argparse.Namespace, path: Path) -> None:
    """Draw the figure, and print what its axes are; an arm that the audit refutes is marked, and one line says so.

    Args:
        findings: of `audit.audit`, where it has been asked for; a figure of what is not `audited` yet asks for it else.
    """
    from pdbench.output import figures  # Matplotlib takes a second

    drawn_with = args.predicted_by and (args.figure or FIGURES[0]) in WITH_FRONTIER
    table, view = study.table, view_of(args, _predicted(study, args) if drawn_with else None)
    if view.figure not in COMPARED and not args.include_refuted:
        arms = dict(zip(table["folder"], table["arm"], strict=True))
        found = refuted(findings or audit(study, sharing=False))
        view = replace(view, refuted=tuple((arms[folder], ", ".join(kinds)) for folder, kinds in found.items()))
    left_out = figures.left_out(table, view, args.most_arms)
    table = table[~table["arm"].isin(left_out)]
    drawn = [f"{arm}: {kinds}" for arm, kinds in view.refuted if arm not in left_out]
    if drawn:
        where = f"drawn with a \N{DAGGER}{', in no frontier' * (view.figure in WITH_FRONTIER)} (see --audit; --include-refuted)"
        note(f"viz.py: refuted by the audit, {where}: {'; '.join(drawn)}")
    escaped = replace(view, refuted=tuple((_without_formula(arm), kinds) for arm, kinds in view.refuted))
    if view.predicted is not None:
        escaped = replace(escaped, predicted=_without_formulas(view.predicted))
    figures.save(figures.draw(_without_formulas(table), escaped, study), path)
    print(f"{path}: {table['arm'].nunique()} arms, {len(table)} measurements")
    if left_out:
        print(f"  left out: {some(left_out)}, which are farther from the Pareto frontier;")
        print("  to choose arms give their folders alone, for more give --most-arms")
    if view.figure == "shift":
        _show_shift(study, table, figures.chosen_level(table, view), args)
    if view.figure == "targets":
        for line in decision_text.saturated_words(decision.overloaded(table, [bound.column for bound in args.targets])):
            print(line)
        print_targets(targets(table, args.targets, throughput_column(args), COUNT, rounded=True), args.targets)
    if view.figure in COUNTING:
        print(f"  y: {figures.throughput_label(table, view)}{how_counted(table, args.use_normalized)}")
    if view.figure in WITH_FRONTIER:
        print(f"  x: {figures.latency_label(view)}")
    without = table.loc[table["median_tpot_ms"].isna(), "arm"].unique()
    if len(without):
        print(f"  one output token per request, so no TPOT: {', '.join(without)}")


def _show_shift(study: Study, table: pd.DataFrame, load: float, args: argparse.Namespace) -> None:
    """Print what arms attain under a load that shifts, and write it where --json names a file."""
    runs = runs_of(study, table, load, per_request(args.sla))
    print_shift(runs, table["accelerator"].iloc[0])
    if args.json:
        from pdbench.output import json_answers

        json_answers.write_shift(args.json, runs, args.sla, load)
        print(f"{args.json}: {table['arm'].nunique()} arms")


def _predicted(study: Study, args: argparse.Namespace) -> pd.DataFrame | None:
    """What the model of --predicted-by predicts of these runs; None without one."""
    if not args.predicted_by:
        return None
    from pdbench.output.predicted import predicted

    return predicted(args.predicted_by, study)


def _without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with names that Matplotlib does not set as formulas."""
    return table.assign(**{name: table[name].map(_without_formula) for name in ("arm", "model")})


def _without_formula(name: str) -> str:
    return name.replace("$", r"\$")  # which begins one


def some(names: list[str], most: int = 6) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def write_report(
    study: Study, findings: list[Finding], left_out: Mapping[str, Sequence[str]], args: argparse.Namespace
) -> None:  # fmt: skip
    """Write the page that holds everything; its decisions are not about what is left out."""
    from pdbench.output.report import render

    table = study.table
    page = render(study, view_of(args, _predicted(study, args)), args.gpu_hour_price, findings, left_out, args.most_arms)
    with naming(args.report):
        write_atomically(args.report, page)
    print(f"{args.report}: {table['arm'].nunique()} arms, {len(table)} measurements, {len(page.encode()) / 1e6:.1f} MB")


def view_of(args: argparse.Namespace, predicted: pd.DataFrame | None = None) -> "figures.View":
    """Return what a figure is to show, by the options; `predicted` is of `predicted.predicted`."""
    from pdbench.output import figures

    return figures.View(
        latency_mode=args.latency_mode,
        chunk_size=args.chunk_size,
        interactivity=args.use_interactivity,
        normalized=args.use_normalized,
        throughput=args.throughput_metric,
        log_latency=args.log_latency,
        log_levels=args.log_concurrency,
        per_gpu=args.per_gpu,
        targets=args.targets,
        itl=args.show_itl,
        figure=args.figure or FIGURES[0],
        level=args.level,
        sla=args.sla or (),
        predicted=predicted,
    )

"""Print tables in a terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import fill

import pandas as pd

from pdbench.analysis.audit import Finding
from pdbench.analysis.decision import WORKLOAD, cost, workload_title
from pdbench.analysis.repeats import MARGIN, MIN_REPEATS
from pdbench.analysis.samples import paired, samples
from pdbench.analysis.sla import Bound
from pdbench.output.grid import show
from pdbench.output.number_text import band_text, interval_text, number, share_text, with_interval_text
from pdbench.output.throughput_text import how_counted
from pdbench.read.level_file import TOKENS
from pdbench.read.results import node_words, unit_words

KINDS = {"concurrency": "conc.", "request-rate": "rate", "shift": "load"}
INTERVALS = {
    "median_ttft_ms": "TTFT median\nms", "median_tpot_ms": "TPOT median\nms", "p99_itl_ms": "ITL p99\nms",
    "request_throughput": "requests/s",
}  # fmt: skip
BANDS_READ = (
    "an arm attains at a latency what it reaches at that latency or a lower one, linearly between its levels;",
    "over: in the middle of the band, the last up to the last level; alone: the other attains nothing there",
)


def print_measurements(table: pd.DataFrame, chunk_size: int, normalized: bool) -> None:
    """Print every measurement, one table for each kind of load.

    Args:
        table: of `read_results`.
        chunk_size: that `table` was read with.
        normalized: throughput per node.
    """
    for kind, rows in table.groupby("kind"):
        show(*measurement_rows(rows, kind, chunk_size, normalized))
    where = f"per node of {node_words(table)}" if normalized else "of the layout"
    print(f"ms over the requests of a level; from medians: first {chunk_size} = TTFT +", end=" ")
    print(f"{chunk_size - 1} x TPOT, tokens/s/user = 1000 / TPOT")
    print(f"input, output and total tokens/s {where}{how_counted(table, normalized)}")


def measurement_rows(table: pd.DataFrame, kind: str, chunk_size: int, normalized: bool) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of `print_measurements`; `kind` is that of the levels."""
    columns = {"gpus": unit_words(table).split()[-1], "level": KINDS[kind], "repeat": "rep.", "completed": "done"}
    columns |= {"median_ttft_ms": "TTFT\nmedian", "p99_ttft_ms": "TTFT\np99"}
    columns |= {"median_tpot_ms": "TPOT\nmedian", "p99_tpot_ms": "TPOT\np99", "p99_itl_ms": "ITL\np99"}
    columns |= {"chunk_latency_ms": f"first\n{chunk_size}", "interactivity": "tokens/s\n/user"}
    suffix, per = ("_per_node", "node") if normalized else ("", "layout")
    columns |= {f"{tokens}_throughput{suffix}": f"{tokens}/s\n/{per}" for tokens in TOKENS}
    columns |= {"goodput": "goodput\nreq./s"} if "goodput" in table else {}
    cells = [table["arm"], *(map(number, table[name]) for name in columns)]
    return ["arm", *columns.values()], [list(row) for row in zip(*cells, strict=True)]


def print_intervals(intervals: pd.DataFrame) -> None:
    """Print estimates with their 95% confidence intervals; `intervals` is of `level_intervals`."""
    for kind, rows in intervals.groupby("kind"):
        names = [name for name in INTERVALS if name in set(rows["statistic"])]
        lines = []
        for (arm, level), of_level in rows.groupby(["arm", "level"], sort=False):
            first, by_name = of_level.iloc[0], of_level.set_index("statistic").reindex(names)
            ends = ("(", ")") if first["waves"] else ("[", "]")
            cells = (f"{number(r.estimate)} {ends[0]}{number(r.low)}, {number(r.high)}{ends[1]}" for r in by_name.itertuples())
            waves = [number(first["waves"] or math.nan), number(round(first["effective"], 1))]
            lines.append([arm, number(level), number(first["repeats"]), *waves, *cells])
        show(["arm", KINDS[kind], "rep.", "waves", "eff.\nreq.", *(INTERVALS[name] for name in names)], lines)
    print(f"mean over repeats [Student's 95% interval, from {MIN_REPEATS} repeats on]")
    print("one run (how well it determines its own numbers, by waves of requests); another launch may lie outside")
    print("eff. req.: so many independent requests would determine the mean TTFT and TPOT as well")


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what the audit found, by kind; `findings` is of `audit`."""
    for kind, of_kind in groupby(findings, key=lambda finding: finding.kind):
        several = list(of_kind)
        print(f"{kind}: {several[0].why}", f"  to do: {several[0].fix}", sep="\n")
        for finding in several:
            print(wrapped("  - ", finding.where), wrapped("    ", finding.seen), sep="\n")
        print()
    folders = {folder for finding in findings for folder in finding.folders}
    print(f"findings: {len(findings)}, on {len(folders)} folders")


def wrapped(indent: str, text: str) -> str:
    """Wrap to lines of at most 118 characters, the later ones indented by 4 more than none; names are not cut."""
    return fill(text, 118, initial_indent=indent, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def print_bands(bands: pd.DataFrame, latency: str, counted: str, interactivity: bool, price: float | None) -> None:
    """Print which arm is best in which band; `bands` is of `decision.bands`, the words say what its numbers are."""
    show(*band_rows(bands, latency, counted, interactivity, price))
    print(*BANDS_READ, sep="\n")


def band_rows(
    bands: pd.DataFrame, latency: str, counted: str, interactivity: bool, price: float | None
) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of `print_bands`."""
    unit = "per s\nand user" if interactivity else "ms"
    # The price is beside what it is of: the last columns of a wide table lie outside most windows.
    headers = [f"{latency}\n{unit}", "best", counted, *["price\nof 1M"] * bool(price)]
    headers += ["over the\nnext best", "least to\nmost", "next best", "over\ncollocated", "least to\nmost", "collocated"]
    lines = []
    for row in bands.itertuples():
        line = [band_text(row.low, row.high, interactivity, (row.high_from, row.high_to)), row.best]
        line += [f"{number(row.throughput_low)} to {number(row.throughput_high)}"]
        if price:
            line += [" to ".join(f"{cost(price, row.gpus, rate):.3f}" for rate in (row.throughput_low, row.throughput_high))]
        for name, margin in (("next_best", "next_margin"), ("collocated", "collocated_margin")):
            other, at, *ends = (getattr(row, column) for column in (name, margin, f"{margin}_low", f"{margin}_high"))
            interval = (getattr(row, f"{margin}_{end}") for end in ("from", "to"))
            if other == row.best:
                line += ["-", "-", "is the best"]
            else:
                line += [share_text(at, *interval), " to ".join(map(share_text, ends)) if ends[0] >= 0 else "-", other or "-"]
        lines.append(line)
    return headers, lines[::-1] if interactivity else lines


def print_decision(answers: pd.DataFrame, bounds: Sequence[Bound], counted: str, kind: str, price: float | None) -> None:
    """Print the best arm under an SLA, and why each other arm falls short.

    Args:
        answers: of `decision.decide`, of one workload.
        counted: the words of its throughput.
        kind: of its load.
        price: of an hour of one GPU.
    """
    print(f"SLA: {', '.join(map(str, bounds))}")
    print(*answer_words(answers, bounds, counted), sep="\n")
    show(*decision_rows(answers, bounds, counted, kind, price), prose=1)
    if answers["goodput_per_node"].notna().any():
        print("goodput: requests/s that each keep to the bounds on TTFT, TPOT and E2E, of the level where they are most")
    if price:
        print(f"price: {price:g} per GPU and hour, for all GPUs of the layout; each kind of token is charged the whole price")


def decision_rows(
    answers: pd.DataFrame, bounds: Sequence[Bound], counted: str, kind: str, price: float | None
) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of `print_decision`: each arm under the SLA."""
    answers = answers.assign(
        interval=[interval_text(row.throughput_from, row.throughput_to) for row in answers.itertuples()],
        lead=["-"] + [share_text(row.lead, row.lead_from, row.lead_to) for row in answers[1:].itertuples()],
    )
    # What is asked first of an arm that falls short comes first: a row of numbers is wider than most windows.
    columns = {"reason": "why not more", "gpus": unit_words(answers).split()[-1], "throughput": counted}
    columns |= {"interval": "95%\ninterval"} if answers["interval"].any() else {}
    for tokens in TOKENS if price else ():
        columns[f"price_{tokens}"] = f"price of 1M\n{tokens}"
        rates = answers[f"{tokens}_throughput_per_node"].where(lambda rate: rate > 0)
        answers[f"price_{tokens}"] = [f"{p:.3f}" if p > 0 else "-" for p in cost(price, answers["gpus_per_node"], rates)]
    columns |= {"lead": "best is\nbetter by", "request_throughput_per_node": "requests/s\n/node", "level": KINDS[kind]}
    columns |= {"concurrency_per_gpu": "conc.\n/GPU"} if kind == "concurrency" else {}
    columns |= {bound.column: f"{bound.words}\nms".replace(" ", "\n", 1) for bound in bounds}
    columns |= {"goodput_per_node": "goodput\n/node"} if answers["goodput_per_node"].notna().any() else {}
    cells = answers.reindex(columns=columns).map(lambda cell: cell if isinstance(cell, str) else number(cell))
    return ["arm", *columns.values()], [[arm, *row] for arm, row in zip(answers["arm"], cells.to_numpy(), strict=True)]


def answer_words(answers: pd.DataFrame, bounds: Sequence[Bound], counted: str) -> Iterator[str]:
    """Describe the best arm in words: what it does, its margins, and by how much it is ahead."""
    best, others = answers.iloc[0], answers[1:]
    if not best["holds"]:
        yield "no arm is seen to keep it"
        return
    load = f", {number(best['concurrency_per_gpu'])} requests in flight per GPU" if best["concurrency_per_gpu"] > 0 else ""
    rates = f"{number(best['throughput'])} {''.join(counted.split())}"
    rates += f", {number(best['request_throughput_per_node'])} requests/s/node"
    yield f"best: {best['arm']}, {rates}{load}; {best['reason']}"
    yield "  " + "; ".join(f"{b.words} {number(best[b.column])} ms, {1 - best[b.column] / b.limit:.0%} under" for b in bounds)
    second, base = others[others["holds"]], others[others["holds"] & others["collocated"]]
    for what, rows in (("the next best", second), ("the best collocated", base)):
        if what.endswith("collocated") and best["collocated"]:
            yield "  it is collocated itself"
        elif rows.empty:
            yield f"  {what}: none keeps it"
        else:
            row = rows.iloc[0]
            yield f"  {share_text(row['lead'], row['lead_from'], row['lead_to'])} over {what}, {row['arm']}"


def saturated_words(late: pd.DataFrame) -> Iterator[str]:
    """Say how many levels are left out where TTFT counts, which, and where their requests waited.

    Args:
        late: rows of the tidy table, of `decision.overloaded`.
    """
    if late.empty:
        return
    what = f"{len(late)} level{'s' * (len(late) > 1)} of {late['arm'].nunique()} arm{'s' * (late['arm'].nunique() > 1)}"
    yield f"left out as saturated, of what contains TTFT: {what}"
    for row in late.itertuples():
        served = f"{row.request_throughput:.3g} of {row.level:g} requests/s served"
        yield f"  {row.arm}, {served}: {queue_words(row.cap_reached)}"


def piece_words(coarse: Mapping[str, str]) -> Iterator[str]:
    """Say which arms' inter-token latency is not compared; `coarse` is of `pieces.coarser` or `not_judged`."""
    for arm, seen in coarse.items():
        yield f"not compared by ITL: {arm}, {seen}: a time between pieces is none between tokens"


def queue_words(cap: float) -> str:
    """Say where requests waited at a rate that was not served, or that the client's cap held back; `cap` is NaN without."""
    return f"the queue is in the client, at its cap of {cap:g} in flight" if cap > 0 else "its TTFT is that of a queue"


def print_overheads(overheads: pd.DataFrame) -> None:
    """Print what Ray Serve adds; `overheads` is of `overhead.overheads`."""
    for title, headers, lines in overhead_grids(overheads):
        print(f"\n{title}")
        show(headers, lines)
    print(*overhead_words(overheads), sep="\n")


def overhead_grids(overheads: pd.DataFrame) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, headings and rows of `print_overheads`, by workload."""
    headers = ["behind Ray Serve", "control", "", "rep.", "TTFT, ms\nbare", "added", "TPOT, ms\nbare", "added"]
    headers += ["requests/s\nbare", "Ray / bare"]
    for known, rows in overheads.groupby(WORKLOAD, sort=False):
        lines = []
        for row in rows.itertuples():
            line = [row.arm, row.control, number(row.level), number(row.repeats)]
            for column, name, sign in (("median_ttft_ms", "added_ttft_ms", "+"), ("median_tpot_ms", "added_tpot_ms", "+"),
                                       ("request_throughput", "throughput_ratio", "")):  # fmt: skip
                at, low, high, noise = (getattr(row, name + end) for end in ("", "_from", "_to", "_noise"))
                line += [number(getattr(row, f"{column}_bare")), with_interval_text(at, low, high, sign) + " noise" * noise]
            lines.append(line)
        yield workload_title(*known), [*headers[:2], KINDS[rows["kind"].iloc[0]], *headers[3:]], lines


def overhead_words(overheads: pd.DataFrame) -> Iterator[str]:
    """Explain how to read `print_overheads`."""
    yield "means of the repeats' medians: added = behind Ray Serve less bare, the same engines under plain vllm serve"
    if (overheads["repeats"] < MIN_REPEATS).any():
        yield f"no interval with fewer than {MIN_REPEATS} repeats of a level in both arms: a small difference may be noise"
    if (overheads["repeats"] >= MIN_REPEATS).any():
        kinds = {"Student's, within blocks": overheads["blocks"] > 0, "Welch's, over the repeats of both arms":
                 (overheads["blocks"] == 0) & (overheads["repeats"] >= MIN_REPEATS)}  # fmt: skip
        which = " or, where three blocks do not have both, ".join(words for words, of in kinds.items() if of.any())
        yield f"[95% interval: {which}]; one that contains 0, or a ratio of 1, is noise"


def print_blocks(ratios: pd.DataFrame) -> None:
    """Print each arm against the collocated one, within blocks; `ratios` is of `blocks.paired`."""
    names = {"request_throughput": "requests/s"} | {
        name: words for name, words in INTERVALS.items() if name != "request_throughput"
    }
    headers = [words.removesuffix("\nms") for words in names.values()]
    for (*known, base), rows in ratios.groupby([*WORKLOAD, "base"], sort=False):
        lines = []
        for row in rows.itertuples():
            ends = ((getattr(row, name + end) for end in ("", "_from", "_to", "_noise", "_alike")) for name in names)
            cells = (
                with_interval_text(at, low, high, "") + (" alike" if alike else " noise" * noise)
                for at, low, high, noise, alike in ends
            )
            lines.append([row.arm, number(row.level), number(row.blocks), *cells])
        print(f"\n{workload_title(*known)}: over {base}, in the same block")
        show(["arm", KINDS[rows["kind"].iloc[0]], "blocks", *headers], lines)
    print("ratios, below 1: less than the collocated arm; the geometric mean over blocks [Student's 95% interval]")
    print(
        f"alike: shown to differ by at most {MARGIN:.0%}, by two one-sided tests; noise: a difference is not shown, nor is that"
    )
    if (ratios["blocks"] < MIN_REPEATS).any():
        print(f"no interval with fewer than {MIN_REPEATS} blocks: a small difference may be noise")


def uncertainty_words(table: pd.DataFrame) -> Iterator[str]:
    """Explain where intervals come from, or why there is none."""
    fewest = table.groupby(["arm", "kind", "level"]).size().groupby("arm").min()
    if (without := fewest[fewest < MIN_REPEATS]).size:
        which = "every arm" if without.size == fewest.size else ", ".join(without.index)
        yield f"no interval for {which}: fewer than {MIN_REPEATS} repeats of a level, so a small difference may be noise"
    if without.size < fewest.size:
        repeated = table[~table["arm"].isin(without.index)]
        within = " within blocks," * paired(samples(repeated, ()))
        yield f"[95% interval] over repeats, of leads{within} at once over all arms (Tukey-Kramer); noise: 0 is in it"
        if not repeated["block"].all():
            yield "repeats without blocks may be of one launch: what another launch would change is then not in them"

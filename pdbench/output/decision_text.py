"""Put decisions in words and tables: bands of latency with their best arm, and the answer to an SLA."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from pdbench.analysis.audit_levels import MIN_SAMPLES
from pdbench.analysis.decision import cost
from pdbench.analysis.repeats import MIN_REPEATS
from pdbench.analysis.samples import paired, samples
from pdbench.analysis.sla import Bound
from pdbench.output.grid import show
from pdbench.output.number_text import band_text, interval_text, number, share_text
from pdbench.output.tables import KINDS
from pdbench.read.level_file import TOKENS
from pdbench.read.results import unit_words

BANDS_READ = (
    "an arm attains at a latency what it reaches at that latency or a lower one, linearly between its levels;",
    "over: in the middle of the band, the last up to the last level; alone: the other attains nothing there",
)


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
    most = answers.loc[answers["goodput_per_node"].idxmax()] if answers["goodput_per_node"].notna().any() else best
    if most["goodput_per_node"] > best["goodput_per_node"]:
        rates = " against ".join(number(row["goodput_per_node"]) for row in (most, best))
        yield f"  by goodput {most['arm']} is ahead: {rates} requests/s/node"


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


def few_words(table: pd.DataFrame, bounds: Sequence[Bound]) -> Iterator[str]:
    """Say which bounds rest on the slowest requests of a level; of ITL there are as many values as tokens."""
    tails = [bound.words for bound in bounds if bound.statistic in ("p99", "max") and bound.metric != "itl"]
    few = sorted(table.loc[table["completed"] < MIN_SAMPLES, "level"].unique())
    if tails and few:
        levels = ", ".join(f"{level:g}" for level in few)
        yield f"fewer than {MIN_SAMPLES} requests at {levels}: {' and '.join(tails)} there rests on one or two of them"


def queue_words(cap: float) -> str:
    """Say where requests waited at a rate that was not served, or that the client's cap held back; `cap` is NaN without."""
    return f"the queue is in the client, at its cap of {cap:g} in flight" if cap > 0 else "its TTFT is that of a queue"


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

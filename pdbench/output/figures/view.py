"""Describe what a figure shows, and the words on its axes."""

from dataclasses import dataclass, field

import pandas as pd

from pdbench.analysis.decision import judged
from pdbench.analysis.sla import Bound
from pdbench.read.level_file import ResultError
from pdbench.read.results import CHUNK_SIZE, Study, contenders, node_words
from pdbench.workload import SHIFT, Level

LATENCIES = {"token": "median_tpot_ms", "first_token": "median_ttft_ms", "chunk": "chunk_latency_ms"}

REFUTED_MARK = "†"
MOST_NAMED = 3  # models, lengths or phases in a title
NAMES = {"CPU": "CPU cores", "GPU": "GPUs"}  # of accelerators that have no better one


@dataclass(frozen=True)
class View:
    """Which figure, the axes of its trade-off and the scales; `level`, `sla`, `targets` and `itl` (p99 or
    max) where a figure is of one.

    With `per_gpu` latencies are drawn over the level for each GPU of a layout. `refuted` are the arms that the audit
    refutes, with the kinds of findings: drawn and marked, but in no frontier. `predicted` has rows of `predicted.predicted`.
    """

    latency_mode: str = "token"
    chunk_size: int = CHUNK_SIZE
    interactivity: bool = False
    normalized: bool = True
    throughput: str = "input"
    log_latency: bool = False
    log_levels: bool = False
    itl: str | None = None
    figure: str = "classic"
    level: float | None = None
    sla: tuple[Bound, ...] = ()
    refuted: tuple[tuple[str, str], ...] = ()
    per_gpu: bool = False
    targets: tuple[Bound, ...] = ()
    predicted: pd.DataFrame | None = field(default=None, compare=False)

    def compared(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that a frontier is of: no controls, nothing refuted, and no saturated level of what contains TTFT."""
        believed = table[~table["arm"].isin([arm for arm, _ in self.refuted])]
        return judged(contenders(believed), [LATENCIES[self.latency_mode]])

    def named(self, arm: str) -> str:
        """Return an arm's name, with a mark where the audit refutes it."""
        return f"{arm} {REFUTED_MARK}" if arm in dict(self.refuted) else arm

    def refuted_key(self, table: pd.DataFrame, where: str = "") -> list[str]:
        """Return what the mark means, where one of the table's arms has it; `where` says what such an arm is not in."""
        kinds = dict.fromkeys(kinds for arm, kinds in self.refuted if arm in set(table["arm"]))
        return [f"{REFUTED_MARK} refuted by the audit{where}: {', '.join(kinds)}"] if kinds else []


def with_axes(table: pd.DataFrame, view: View) -> pd.DataFrame:
    """Return the table with the trade-off's `latency` (ms), `x`, that or interactivity (1/s), and `y`, tokens/s."""
    latency = table[LATENCIES[view.latency_mode]]
    if latency.isna().all():
        raise ResultError(
            f"--latency-mode {view.latency_mode} needs a TPOT, and requests with one output token have none: "
            "use --latency-mode first_token"
        )
    x = 1000 / latency if view.interactivity else latency
    return table.assign(latency=latency, x=x, y=table[throughput_column(table, view)])


def throughput_column(table: pd.DataFrame, view: View) -> str:
    """Return the column of the throughput asked for."""
    column = f"{view.throughput}_throughput" + ("_per_node" if view.normalized else "")
    if table[column].isna().all():
        raise ResultError(f"decode alone has no {view.throughput} throughput: use --throughput-metric output")
    return column


def latency_label(view: View) -> str:
    """Return what the trade-off panel's x is, with its unit and the statistic it rests on."""
    chunk = f"TTFT + {view.chunk_size - 1} x TPOT"
    if view.interactivity:
        rate = {
            "token": "1000 / median TPOT (tokens/s/user)",
            "first_token": "1000 / median TTFT (first tokens/s/user)",
            "chunk": f"1000 / ({chunk}), medians (chunks/s/user)",
        }
        return f"Interactivity: {rate[view.latency_mode]}"
    return {
        "token": "Median TPOT (ms)",
        "first_token": "Median TTFT (ms)",
        "chunk": f"Latency of the first {view.chunk_size} tokens: {chunk}, medians (ms)",
    }[view.latency_mode]


def throughput_label(table: pd.DataFrame, view: View) -> str:
    """Return which tokens are counted, over what: `Input tokens/s per node of 8 GPUs`."""
    words = f"{view.throughput.capitalize()} tokens/s"
    return f"{words} per node of {node_words(table)}" if view.normalized else f"{words} of the whole layout"


def title(table: pd.DataFrame) -> str:
    """Return the models, of several the first ones, and the lengths that the arms share; each arm's label says its own."""
    words, up_to = [], "up to " * bool((table["phase"] == SHIFT).all())
    for column, form in (("model", "{}"), ("isl", f"ISL {up_to}{{}}"), ("osl", f"OSL {up_to}{{}}"), ("phase", "{}")):
        values = [str(value) for value in table[column].unique()]
        more = [f"{len(values) - MOST_NAMED} more"] * (len(values) > MOST_NAMED)
        if len(values) == 1 or column == "model":
            words.append(form.format(" or ".join([*values[:MOST_NAMED], *more])))
    return " · ".join(words)


def heading(table: pd.DataFrame, study: Study | None, *more: str) -> str:
    """Return the title in two lines: the workload and `more`; then hardware, runs, and launches where manifests record them."""
    per_node = table[["gpus_per_node", "accelerator"]].drop_duplicates().itertuples(index=False)
    nodes = (f"{number} {NAMES.get(accelerator, accelerator)}" for number, accelerator in per_node)
    runs = table.groupby(["arm", "level"]).size()
    words = [f"nodes of {' or '.join(nodes)}", f"{_counted(runs, 'run')} of each level"]
    if study and (launches := _launches(table, study)):
        words[-1] += f", in {_counted(pd.Series(launches), 'launch')}"
    if study and (every := study.table["arm"].nunique()) > (shown := table["arm"].nunique()):
        words.append(f"{shown} of {every} arms")
    return f"{' · '.join(filter(None, [title(table), *more]))}\n{' · '.join(words)}"


def _counted(numbers: pd.Series, noun: str) -> str:
    """`1 run`, `3 runs` or `1 to 3 runs`."""
    low, high = numbers.min(), numbers.max()
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{low} to {high} {plural}" if low < high else f"{high} {plural if high > 1 else noun}"


def _launches(table: pd.DataFrame, study: Study) -> list[int]:
    """How often each folder's deployment was launched for these levels; none where a manifest is missing, or does not say."""
    counts = []
    for folder, rows in table.groupby("folder", sort=False):
        manifest = study.folders[folder].manifest
        shown = {Level(row.kind, row.level, row.repeat).stem for row in rows.itertuples()}
        launched = {record.launched for record in manifest.levels if record.level in shown} if manifest else {None}
        if None in launched or not launched:
            return []
        counts.append(len(launched))
    return counts


def one_workload(table: pd.DataFrame) -> bool:
    """Return whether all arms did the same work, so that one can be better than another."""
    return len(table[["model", "isl", "osl", "phase"]].drop_duplicates()) == 1


def one_kind(table: pd.DataFrame) -> str:
    """Return the kind of load that all rows share.

    Raises:
        ResultError: some were measured at a concurrency and some at a request rate, or with load that shifts.
    """
    first = table.drop_duplicates("kind").set_index("kind")["folder"]
    if len(first) > 1:
        where = " and ".join(f"{kind} levels ({folder})" for kind, folder in first.items())
        raise ResultError(f"{where} cannot share one figure: plot them apart")
    return first.index[0]


def level_words(kind: str, level: float) -> str:
    """Return a level in words: `concurrency 8`, `2 requests/s`, `load 0.5`."""
    return {"concurrency": f"concurrency {level:g}", "request-rate": f"{level:g} requests/s"}.get(kind, f"load {level:g}")

"""Check result folders for the audit, one function each: what was seen in which folders. What it means is in `audit.py`."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import pandas as pd

from pdbench.analysis import audit_levels
from pdbench.analysis.audit_levels import listed
from pdbench.analysis.audit_mixed import mixed, mixed_pieces, mixed_within
from pdbench.analysis.audit_source import Source, model_name
from pdbench.layout import Layout
from pdbench.read.results import CONTROLLED
from pdbench.workload import SHIFT

# Prompt tokens that vLLM caches or does not cache together; a shorter prompt is never found in the cache.
CACHE_BLOCK = 16
# Requests in flight per replica from which on a prefill-only level is taken to have kept every replica busy.
SATURATING = 4
# By how much a single run of a level may differ from another for no reason that matters here.
NOISE = 0.05
DECODE_ONLY = "decode-only"
# By how much a TPOT may lie outside those of the arms with fewer and with more prefill replicas.
ODD = 0.2

Seen = Iterator[tuple[str, Iterable[Source], str]]  # kind, folders, what


def checked(sources: list[Source]) -> Seen:
    """Yield all that the checks see: (kind of finding, the folders concerned, what was seen there)."""
    yield from _same_results(sources)
    yield from _above_prefill(sources)
    for source in sources:
        for check in (
            _name_and_manifest,
            _origin,
            _files,
            _launch_gates,
            _tokenizer,
            _replayed,
            mixed_within,
            *audit_levels.CHECKS,
            _transport,
        ):
            yield from ((kind, [source], seen) for kind, seen in check(source))
    by_workload = defaultdict(list)
    for source in sources:
        by_workload[source.workload].append(source)
    for compared in by_workload.values():
        for check in (_odd_decode, _decode_bench, mixed, mixed_pieces, _mixed_prompts, _no_manifest, _missing_levels):
            yield from check(compared)


def _same_results(sources: list[Source]) -> Seen:
    holders, stems = defaultdict(list), defaultdict(dict)
    for source in sources:
        for digest, stem in zip(source.columns["digest"], source.columns["stem"]):
            holders[digest].append((source, stem))
    for several in holders.values():
        if len(several) > 1:
            copies, of_copies = zip(*several)
            stems[tuple(dict.fromkeys(copies))] |= dict.fromkeys(of_copies)
    for copies, of_copies in stems.items():
        seen = f"{listed(of_copies)} are the same measurement"
        layouts = dict.fromkeys(source.arm.layout for source in copies)
        if len(layouts) > 1:
            sizes = (f"{layout} ({layout.gpus} GPUs)" for layout in layouts)
            yield "two layouts", copies, f"{seen}, called {listed(sizes)}{_other_runs(sources, copies)}"
        else:
            yield "same results", copies, f"{seen}, called {listed(dict.fromkeys(source.arm.run.name for source in copies))}"


def _other_runs(sources: list[Source], copies: tuple[Source, ...]) -> str:
    """How another run of one of the copies' layouts compares, which shows which name is right."""
    layouts, ours = {source.arm.layout for source in copies}, _tpot(copies[0])
    compared = ""
    for other in sources:
        if other in copies or other.arm.layout not in layouts or other.workload != copies[0].workload:
            continue
        if other.arm.serving != copies[0].arm.serving:
            continue
        times = (_tpot(other) / ours).dropna()
        if len(times):
            compared += f"; another run of {other.arm.layout}, {other.arm.folder.name}, has {times.min():.2f} to "
            compared += f"{times.max():.2f} times their median TPOT"
    return compared


def _tpot(source: Source) -> pd.Series:
    """Median TPOT (ms) by level."""
    return pd.Series(source.columns["median_tpot_ms"]).groupby(source.columns["level"]).median()


def _name_and_manifest(source: Source) -> Iterator[tuple[str, str]]:
    if not (source.manifest and source.manifest.deployment):
        return
    try:
        named, _ = Layout.parse_published(source.arm.run.name)
    except ValueError:  # the name says no layout
        return
    ran = source.manifest.deployment
    if named != source.arm.layout or ran.gpus != named.gpus:
        yield (
            "name and manifest",
            f"the name says {named} ({named.gpus} GPUs), the manifest {ran.layout} ({ran.gpus} GPUs)",
        )


def _decode_bench(compared: list[Source]) -> Seen:
    """Decode-only folders whose deployment computed prompts, and others whose deployment filled their KV caches."""
    known = [(source, source.manifest.deployment) for source in compared if source.manifest and source.manifest.deployment]
    filled = [source for source, ran in known if ran.decode_bench]
    for source, ran in known:
        decode_only = DECODE_ONLY in (source.arm.run.phase, *source.arm.run.name.split("_"))
        if ran.decode_bench and source.arm.run.phase != DECODE_ONLY:
            seen = f"{source.arm.run.phase}, but the manifest's deployment has decode_bench true"
            yield "prompts not computed", [source], seen
        elif decode_only and not ran.decode_bench:
            seen = f"{DECODE_ONLY} in the folder's name, but the manifest's deployment has decode_bench false"
            yield "mixed contexts" if filled else "short context", [source], seen


def _origin(source: Source) -> Iterator[tuple[str, str]]:
    stems = defaultdict(list)
    for stem, seen in zip(source.columns["stem"], source.columns["elsewhere"]):
        stems[seen].append(stem)
    for seen, of_level in stems.items():
        if seen:
            yield "another folder's level", f"{listed(of_level)}: {seen}"


def _files(source: Source) -> Iterator[tuple[str, str]]:
    """Level files that are not those of the manifest; one without any records, of an older version, says nothing of files."""
    if not (source.manifest and source.manifest.levels):
        return
    levels = list(zip(source.columns["stem"], source.columns["recorded"], source.columns["digest"]))
    if unknown := [stem for stem, recorded, _ in levels if recorded is None]:
        yield "not in the manifest", f"levels: {listed(unknown)}"
    if changed := [stem for stem, recorded, digest in levels if recorded not in (None, digest)]:
        yield "changed file", f"the client's summary is not the one that was recorded: {listed(changed)}"
    for record in source.manifest.levels:
        if failed := [gate for gate in record.gates if not gate.passed] if record.ok else []:
            yield "failed gate", f"{record.level}: {failed[0].name}: {failed[0].seen}, expected {failed[0].expected}"


def _launch_gates(source: Source) -> Iterator[tuple[str, str]]:
    """Gates of a deployment before it was measured, of each the last result; `_transport` has its own words."""
    deployment = source.manifest and source.manifest.deployment
    last = {gate.name: gate for gate in deployment.gates} if deployment else {}
    for name, gate in last.items():
        if not gate.passed and name != "transport":
            yield "failed gate", f"before measuring: {name}: {gate.seen}, expected {gate.expected}"


def _tokenizer(source: Source) -> Iterator[tuple[str, str]]:
    """Levels whose prompts were made with a tokenizer of another name than the deployment's model has, by source or id."""
    deployment = source.manifest and source.manifest.deployment
    if not deployment:
        return
    others, model = defaultdict(list), model_name(deployment.model_source)
    for stem, asked in zip(source.columns["stem"], source.columns["asked"], strict=True):
        if asked["tokenizer_id"] not in (None, model, model_name(deployment.model_id)):
            others[f"the client's tokenizer is {asked['tokenizer_id']}, the model is {model}"].append(stem)
    for seen, stems in others.items():
        yield "another tokenizer", f"{listed(stems)}: {seen}"


def _mixed_prompts(compared: list[Source]) -> Seen:
    """Folders whose prompts were replayed for sure, beside such with several levels, or a manifest, whose were not."""
    replays = [(source, *_replays(source)) for source in compared]
    replayed = [source for source, known, _ in replays if known]
    unseen = [s for s, known, likely in replays if not known and not likely and (s.manifest or len(s.columns["stem"]) > 1)]
    if replayed and unseen:
        yield "mixed prompts", replayed, f"prompts were replayed in {len(replayed)} of {len(compared)} folders"


def _no_manifest(compared: list[Source]) -> Seen:
    without = [source for source in compared if not source.manifest]
    if without and len(without) < len(compared):
        yield "no manifest", without, f"{len(without)} of {len(compared)} folders have no manifest.json"


def _replayed(source: Source) -> Iterator[tuple[str, str]]:
    known, likely = _replays(source)
    if known:
        yield "replayed prompts", f"prompts that an earlier level had sent: {', '.join(known)}"
    if likely:
        unknown = "prompts that an earlier level had sent, unless each had a --seed of its own, which is not recorded"
        yield "replayed prompts", f"{unknown}: {', '.join(likely)}"


def _replays(source: Source) -> tuple[list[str], list[str]]:
    """The levels with prompts that an earlier one had sent, and their share: where seeds are recorded, and where it is likely.

    With one seed the client's random prompts are the same from the first on, however many it sends; by default it has one.
    """
    deployment = source.manifest and source.manifest.deployment
    sent, known, likely = defaultdict(int), [], []
    if source.arm.run.isl < CACHE_BLOCK or (deployment and deployment.prefix_caching_off):
        return known, likely
    columns = (source.columns[name] for name in ("stem", "launched", "seed", "completed"))
    for stem, launched, seed, completed in zip(*columns):
        if earlier := sent[launched, seed]:
            (known if seed else likely).append(f"{stem} {min(earlier, completed) / completed:.0%}")
        sent[launched, seed] = max(earlier, completed)
    return known, likely


def _transport(source: Source) -> Iterator[tuple[str, str]]:
    if not source.arm.layout.is_pd:
        return
    gates = source.manifest.transport_gates if source.manifest else []
    if not (source.manifest and source.manifest.deployment):
        yield "transport not proved", "PD without a manifest"
    elif not gates:
        yield "transport not proved", "PD, and no transport gate in the manifest"
    elif not gates[-1].passed:
        yield "transport not proved", f"the transport gate failed: it saw {gates[-1].seen}, expected {gates[-1].expected}"


def _above_prefill(sources: list[Source]) -> Seen:
    """Input throughput per prefill GPU above that of prefill alone, of the same TP size, model and prompt length."""
    bounds, mixed = defaultdict(float), []
    for source in sources:
        run, pool, levels = source.arm.run, source.prefill, source.columns
        key = run.model, source.arm.accelerator, run.isl, pool.tp
        if source.arm.is_control:  # the difference would be what Ray Serve adds
            continue
        if source.osl > 1:
            mixed += [(key, source)] if run.phase == "mixed" else []
        elif levels["kind"][0] == "concurrency" and not source.arm.layout.is_pd:
            busy = levels["input_throughput"][levels["level"] >= SATURATING * pool.num]
            bounds[key] = max([bounds[key], *(busy / pool.gpus)])
    for key, source in mixed:
        rate = source.columns["input_throughput"] / source.prefill.gpus
        high = rate > (1 + NOISE) * bounds[key]
        if bounds[key] and high.any():
            rates = f"{listed(source.columns['stem'][high])}: up to {rate.max():,.0f} input tokens/s per prefill GPU"
            yield "above prefill", [source], f"{rates}; prefill alone at TP{key[-1]} saturates at {bounds[key]:,.0f}"


def _odd_decode(compared: list[Source]) -> Seen:
    """An arm whose TPOT lies outside those of the arms with fewer and with more of the same prefill replicas."""
    groups = defaultdict(list)
    for source in compared:
        # TPOT of requests of several shapes is of whichever are in the middle; a controller's layout is one of many.
        of_one = source.arm.run.phase != SHIFT and not source.arm.placement.startswith(CONTROLLED)
        if source.arm.layout.is_pd and not source.arm.is_control and of_one:
            groups[source.arm.layout.decode, source.arm.layout.prefill.tp].append(source)
    for group in groups.values():
        if len({source.arm.layout.prefill.num for source in group}) < 3:
            continue
        tpot = pd.DataFrame({s.name: _tpot(s) for s in group})
        for source in group:
            num = source.arm.layout.prefill.num
            others = [s for s in group if s.arm.layout.prefill.num != num]
            if {s.arm.layout.prefill.num > num for s in others} != {True, False}:
                continue
            around = tpot[[s.name for s in others]].dropna()
            ours = tpot[source.name].reindex(around.index)
            below, above = ours < (1 - ODD) * around.min(axis=1), ours > (1 + ODD) * around.max(axis=1)
            odd = ours[below | above]
            if 2 * len(odd) >= len(ours.dropna()) > 0:
                times = ", ".join(
                    f"{level:g}: {ours[level]:.1f} against {around.loc[level].min():.1f} to {around.loc[level].max():.1f}"
                    for level in odd.index
                )
                yield "odd decode", [source], f"median TPOT (ms) by level, against arms with fewer and more prefill: {times}"


def _missing_levels(compared: list[Source]) -> Seen:
    """Levels that most of the other arms have."""
    have = [set(source.columns["level"]) for source in compared]
    count = Counter(itertools.chain(*have))
    for source, levels in zip(compared, have):
        missing = sorted(level for level in count.keys() - levels if 2 * count[level] > len(compared) - 1)
        if missing:
            lacks = ", ".join(f"{level:g}" for level in missing)
            yield "missing levels", [source], f"most of the other arms have {lacks} ({source.columns['kind'][0]})"

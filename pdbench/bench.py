"""The bookkeeping of `run_bm.sh`: what to measure, whether a level counts, and the manifest.

    python -m pdbench.bench begin FOLDER ...     prints one line per level that is still to be measured
    python -m pdbench.bench note FOLDER ...      notes the engines' counters before the first level
    python -m pdbench.bench finish FOLDER ...    checks a level; it gets its name only if it counts
"""

import argparse
import asyncio
import itertools
import os
import random
import reprlib
import sys
from dataclasses import replace
from pathlib import Path

from pdbench import client, gates, level_gates, serving_path, stack, warm_up, workload
from pdbench.cli import Parser, positive
from pdbench.configs import ROOT
from pdbench.manifest import FILENAME, Deployment, Gate, LevelRecord, Machine, Manifest, first_line, now, read_json

# The bench client writes here; only a level that counts gets a name that plots read.
PARTIAL = ".part"
BAD = ".bad"
SNAPSHOT = "counters.part"
AGAIN = 3  # exit code: the level is to be measured once more
COUNTS = ("completed", "failed", "total_output_tokens", "duration")
SUMMARY = ("request_throughput", "median_ttft_ms", "median_tpot_ms", "p99_itl_ms")


class BenchError(ValueError):
    """The sweep cannot begin, or a level does not count; one line."""


class MeasureAgain(BenchError):
    """The level is to be measured once more; one line."""


def problems_of(result: object, asked: int, osl: int) -> list[str]:
    """Why a level's result does not count; empty if it does.

    Args:
        result: what `vllm bench serve --save-result --save-detailed` wrote.
        asked: requests that were to be sent.
        osl: output tokens of each request.
    """
    if not isinstance(result, dict):
        return [f"the result is {reprlib.repr(result)}, not a JSON object"]
    numbers = {}
    for key in (*COUNTS, *SUMMARY):
        value = result.get(key)
        # The bound keeps out NaN, infinity and what is too long to print.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
            return [f"{key} is {reprlib.repr(value)}, not a number of at least 0"]
        numbers[key] = value
    found = []
    if numbers["completed"] != asked:
        found.append(f"{numbers['completed']} of {asked} requests completed")
    if numbers["failed"]:
        errors = result.get("errors")
        reason = next((e for e in errors if e), "") if isinstance(errors, list) else ""
        reason = reason or "the client gives no reason"
        found.append(f"{numbers['failed']} requests failed: {' '.join(str(reason).split())[-300:]}")
    expected = numbers["completed"] * osl
    if numbers["total_output_tokens"] != expected:
        found.append(f"{numbers['total_output_tokens']} output tokens instead of {expected}")
    return found


def describe_deployment(base_url: str) -> Deployment | None:
    """What runs at `base_url` by its own account; None if the server was not launched by this repository.

    Raises:
        client.ServerError: nothing answers there.
    """

    async def ask():
        async with client.session(base_url, total_s=30) as opened:
            try:
                return await client.get(opened, "/pdbench/deployment")
            except client.ServerError:
                await client.first_model(opened)  # a dead server is told from one of another kind
                return None

    answer = asyncio.run(ask())
    return Deployment.model_validate(answer) if answer else None


def begin(args: argparse.Namespace) -> None:
    """Check server and folder, write the manifest, print the levels to measure.

    Prints the folder; model, tokenizer, ISL, OSL and where requests go; then for each level `stem value num_prompts seed
    warmup_seed again_seed`, where no warm-up is `-`. Tabs are between the words of a line.
    """
    named = workload.parse_levels(args.type, args.levels)
    # All levels once, then again: drift of the machine does not pass for a difference between levels.
    levels = [replace(level, repeat=repeat) for repeat in range(1, args.repeats + 1) for level in named]
    deployment = describe_deployment(args.base_url)
    model, tokenizer = args.model, args.tokenizer
    if deployment:
        model, tokenizer = model or deployment.model_id, tokenizer or deployment.model_source
    elif not model:
        raise BenchError(f"{args.base_url} does not describe itself: name the model with -m")
    else:
        warn(f"{args.base_url} was not launched by launch_gptoss.py: the manifest will not say what ran there, "
             "and no gate is checked")  # fmt: skip
    if deployment and args.tokens:
        gates.read_tokens(args.tokens, deployment)  # what is wrong with them is told before a level is measured
    if deployment:
        in_flight = max(level.value if level.kind == "concurrency" else 0 for level in levels)
        serving_path.check_load(deployment.serving_path, in_flight)
    name = workload.RunName(model.rsplit("/", 1)[-1], args.isl, args.osl, args.mode, args.exp_name)
    folder = Path(args.results_dir) / str(name)
    decode_bench = _check_phase(args, deployment)
    manifest = _manifest(folder, name, args, deployment)
    todo = [
        level for level in levels
        if args.force or not manifest.has(folder, level, args.num_prompts or level.num_prompts(decode_bench))
    ]  # fmt: skip
    serving_url = deployment.takes_requests(args.base_url) if deployment else args.base_url
    asyncio.run(client.smoke(serving_url, model, max_tokens=4))
    manifest.write(folder)
    for path in folder.glob("*.json"):
        # What this manifest does not vouch for, such as levels of another layout, must not be plotted with it.
        if path.name != FILENAME and path.stem not in {r.level for r in manifest.levels}:
            os.replace(path, f"{path}{BAD}")
    if args.as_published:
        seeds = {level: [args.seed, "-", args.seed] for level in todo}
    else:
        seeds = unseen_seeds(args.base_url, args.seed, todo, deployment is not None)
    warn(f"{folder}: {len(todo)} of {len(levels)} levels to measure")
    print(folder)
    print(model, tokenizer or model, *manifest.lengths, serving_url, sep="\t")
    for level in todo:
        prompts = args.num_prompts or level.num_prompts(decode_bench)
        print(level.stem, f"{level.value:g}", prompts, *seeds[level], sep="\t")


def _check_phase(args: argparse.Namespace, deployment: Deployment | None) -> bool:
    """Whether the deployment fills KV caches instead of computing them.

    Raises:
        BenchError: it does, but that is not what is to be measured.
    """
    decode_bench = bool(deployment and deployment.decode_bench)
    if decode_bench and (args.mode, args.type) != ("decode-only", "concurrency"):
        raise BenchError("the deployment was launched with --decode-bench: measure --mode decode-only at a concurrency")
    if args.mode == "decode-only" and not decode_bench:
        warn("prompts of one token leave out what a long context costs: launch with --decode-bench to have it counted")
    return decode_bench


def unseen_seeds(base_url: str, base_seed: int, levels: list[workload.Level], described: bool) -> dict:
    """Three seeds for each level that the running deployment has not been given before: of its measurement, its warm-up, and
    of a second measurement if kernels were compiled during the first.

    A level that is measured again, or under another name, would otherwise replay prompts into a live
    prefix cache. A server that does not describe itself cannot be asked: it gets each level's first seeds.
    """

    async def ask() -> dict:
        async with client.session(base_url, total_s=30) as opened:
            seen = set(await client.get(opened, "/pdbench/seeds")) if described else set()
            fresh = {level: _first_unseen(base_seed, level, seen) for level in levels}
            if described:
                await client.post(opened, "/pdbench/seeds", [seed for of_level in fresh.values() for seed in of_level])
            return fresh

    return asyncio.run(ask())


def _first_unseen(base_seed: int, level: workload.Level, seen: set[int]) -> list[int]:
    for attempt in itertools.count(1):
        seeds = [workload.level_seed(base_seed, level, purpose, attempt) for purpose in ("measure", "warm-up", "again")]
        if not seen.intersection(seeds):
            return seeds


def _manifest(folder: Path, name: workload.RunName, args: argparse.Namespace, deployment: Deployment | None) -> Manifest:
    fields = {
        "name": name.name, "model": name.model, "phase": name.phase, "isl": name.isl, "osl": name.osl,
        "base_seed": args.seed, "as_published": args.as_published, "deployment": deployment,
        "client": Machine(**stack.machine()), "repository": stack.repository(ROOT),
    }  # fmt: skip
    if not (folder / FILENAME).exists():
        return Manifest(**fields, commands=[args.typed])
    old = Manifest.read(folder)
    changed = [c for c in _identity(old, deployment, args) if c[1] != c[2]]
    if changed and not args.force:
        what, was, is_now = changed[0]
        raise BenchError(f"{folder} holds results of {what} {was}, but this is {what} {is_now}: "
                         "choose another --exp-name, or --force to measure anew")  # fmt: skip
    levels = [] if changed else old.levels
    return Manifest(**fields, commands=[*old.commands, args.typed], levels=levels)


def _identity(old: Manifest, deployment: Deployment | None, args: argparse.Namespace):
    yield "base seed", old.base_seed, args.seed
    yield "as_published", old.as_published, args.as_published
    for what in ("layout", "mode", "model_checksum", "transport"):
        yield what, getattr(old.deployment, what, None), getattr(deployment, what, None)
    paths = (serving_path.compared(getattr(which, "serving_path", None)) for which in (old.deployment, deployment))
    yield "serving_path", *paths


def note(args: argparse.Namespace) -> None:
    """Note the engines' counters, so that what the first level adds to them can be told."""
    if Manifest.read(Path(args.folder)).deployment:
        level_gates.note_counters(args.base_url, Path(args.folder) / SNAPSHOT)


def warm(args: argparse.Namespace) -> None:
    """Warm a level up with prompts of its own.

    Raises:
        ServerError: a request was not answered.
    """
    manifest = Manifest.read(Path(args.folder))
    isl, osl = manifest.lengths
    load = client.Load(args.serving_url, args.model, isl, osl, args.requests, random.Random(args.seed))
    if manifest.deployment:
        warm_up.warm_up(args.base_url, Path(args.folder) / SNAPSHOT, load)
    else:
        asyncio.run(client.warm_up(load))


def finish(args: argparse.Namespace) -> None:
    """Check a level's result file and name it: `conc8.json` if it counts, else `conc8.json.bad`.

    Raises:
        MeasureAgain: kernels were compiled while it was measured for the first time; nothing of it is kept.
        BenchError: the level does not count.
    """
    folder = Path(args.folder)
    level = workload.Level.from_filename(f"{args.level}.json")
    partial = folder / (level.filename + PARTIAL)
    manifest = Manifest.read(folder)
    isl, osl = manifest.lengths
    if args.status:
        problems = [f"the bench client exited with code {args.status}"]
    else:
        try:
            problems = problems_of(read_json(partial), args.num_prompts, osl)
        except ValueError as error:
            problems = [str(error)]
    found = []
    if manifest.deployment and not problems:
        try:
            found = _engine_gates(args, folder, manifest.deployment, isl)
        except client.ServerError as error:
            problems = [str(error)]
        failed = [gate for gate in found if not gate.passed]
        if args.attempt == 1 and [gate.name for gate in failed] == ["no-compilation"] and failed[0].value:
            partial.unlink()
            raise MeasureAgain(f"level {level.stem}: {failed[0].seen}: measuring it again, now that it is warm")
        problems += [f"{g.name}: {g.seen}; expected {g.expected}; {g.advice}" for g in failed]
    record = LevelRecord(
        level=level.stem, command=args.command, seed=args.seed, warmup_seed=args.warmup_seed,
        num_prompts=args.num_prompts, attempt=args.attempt, started=args.started, ended=now(), ok=not problems,
        problems=problems, gates=found, launched=manifest.deployment.launched if manifest.deployment else None,
    )  # fmt: skip
    manifest.levels = [r for r in manifest.levels if r.level != level.stem] + [record]
    # Only now does an older measurement of this level go: until here an interruption would have lost it.
    for old in (folder / level.filename, folder / (level.filename + BAD)):
        old.unlink(missing_ok=True)
    manifest.write(folder)
    if partial.exists():
        os.replace(partial, folder / (level.filename + (BAD if problems else "")))
    if problems:
        raise BenchError(f"level {level.stem} does not count: {'; '.join(problems)}")
    print(_summary(read_json(folder / level.filename)))


def _engine_gates(args: argparse.Namespace, folder: Path, deployment: Deployment, isl: int) -> list[Gate]:
    asked = level_gates.Asked(
        requests=args.num_prompts, isl=isl, max_hit_rate=args.max_hit_rate, cold=args.warmup_seed is None,
        transport=args.transport.split(",") if args.transport else None,
    )  # fmt: skip
    used = level_gates.ClientUse(cpu=args.client[0], waited=args.client[1], wall=args.client[2])
    found = level_gates.check(args.base_url, folder / SNAPSHOT, deployment, asked, used)
    if all(gate.passed for gate in found):
        found += level_gates.between(args.base_url, folder / SNAPSHOT, deployment, args.tokens)
    return found


def _summary(result: dict) -> str:
    return (f"{result['request_throughput']:.2f} requests/s, TTFT {result['median_ttft_ms']:.0f} ms, "
            f"TPOT {result['median_tpot_ms']:.1f} ms, inter-token p99 {result['p99_itl_ms']:.1f} ms")  # fmt: skip


def warn(line: str) -> None:
    print(f"run_bm: {line}", file=sys.stderr, flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="run_bm", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    first = actions.add_parser("begin", prog="run_bm")
    first.add_argument("--exp-name", required=True)
    first.add_argument("--type", choices=["concurrency", "request-rate"], default="concurrency")
    first.add_argument("--levels", default="all")
    first.add_argument("--isl", type=positive, required=True)
    first.add_argument("--osl", type=positive, required=True)
    first.add_argument("--mode", choices=workload.PHASES, default="mixed")
    first.add_argument("--base-url", required=True)
    first.add_argument("--model")
    first.add_argument("--tokenizer")
    first.add_argument("--num-prompts", type=positive)
    first.add_argument("--repeats", type=positive, default=1)
    first.add_argument("--seed", type=int, default=0)
    first.add_argument("--results-dir", required=True)
    first.add_argument("--typed", required=True, help="run_bm.sh's own command line")
    first.add_argument("--force", action="store_true")
    first.add_argument("--as-published", action="store_true")
    _add_checks(first)
    middle = actions.add_parser("note", prog="run_bm")
    middle.add_argument("folder")
    middle.add_argument("--base-url", required=True)
    warming = actions.add_parser("warm", prog="run_bm")
    warming.add_argument("folder")
    for name in ("base-url", "serving-url", "model"):
        warming.add_argument(f"--{name}", required=True)
    warming.add_argument("--requests", type=int, required=True, help="in flight at a time")
    warming.add_argument("--seed", type=int, required=True)
    last = actions.add_parser("finish", prog="run_bm")
    last.add_argument("folder")
    last.add_argument("level")
    last.add_argument("--status", type=int, required=True, help="exit status of the bench client")
    last.add_argument("--command", required=True)
    last.add_argument("--started", required=True)
    last.add_argument("--base-url", required=True)
    for number in ("num-prompts", "seed", "attempt"):
        last.add_argument(f"--{number}", type=int, required=True)
    last.add_argument("--warmup-seed", type=lambda text: None if text == "-" else int(text))
    last.add_argument("--client", type=float, nargs=3, required=True, help="CPU, waiting and wall seconds of the bench client")
    _add_checks(last)
    return parser.parse_args(argv)


def _add_checks(parser: argparse.ArgumentParser) -> None:
    """What levels are held against; `begin` takes it, too, so that a mistake does not cost a level."""
    parser.add_argument("--transport", metavar="LIST")
    parser.add_argument("--tokens", type=Path, metavar="FILE")
    parser.add_argument("--max-hit-rate", type=_share, default=level_gates.MAX_HIT_RATE)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def main() -> int:
    args = parse_args()
    try:
        {"begin": begin, "note": note, "warm": warm, "finish": finish}[args.action](args)
    except MeasureAgain as reason:
        warn(first_line(reason))
        return AGAIN
    except (BenchError, client.ServerError, ValueError, OSError) as error:
        warn(f"error: {first_line(error)}")
        return 2 if args.action in ("begin", "note") else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

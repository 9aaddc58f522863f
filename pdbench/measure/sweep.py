"""Sweep one running deployment with `vllm bench serve` into a result folder, one JSON file per level: run_bm.sh.

A level counts only if its file can be read as viz.py reads it and every gate passes; only then does it get its name.
"""

import argparse
import asyncio
import json
import math
import os
import random
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from pdbench import interrupts, workload
from pdbench.cli import Parser, add_base_url, positive, seconds
from pdbench.files import first_line, write_atomically
from pdbench.manifest import Gate, LevelRecord, now
from pdbench.measure import level_gates
from pdbench.measure.bench_client import BenchClient, Hangs, Used, arguments
from pdbench.measure.sweep_plan import BAD, SweepError, Target, Task, limits, plan
from pdbench.measure.warm_up import warm_up
from pdbench.read.level_file import LevelFile, ResultError, digest_of, falls_behind, read_level
from pdbench.serve import client
from pdbench.workload import Level

# The bench client writes here; only a level that counts gets a name that plots read.
PARTIAL = ".part"
# Requests in flight while a request rate is warmed up.
RATE_WARM_UP = 4


class LevelError(SweepError):
    """A level does not count; one line."""


class MeasureAgain(LevelError):
    """The level is to be measured once more; one line."""


class Sweep:
    """Measures the levels of a plan, one after the other, with one bench client."""

    def __init__(self, args: argparse.Namespace, target: Target):
        self.args, self.target = args, target
        self.snapshot: level_gates.Snapshot | None = None  # of engines that describe themselves

    def run(self, tasks: list[Task]) -> None:
        """Measure every level; returns at the end.

        Raises:
            LevelError: a level does not count; those before it stay.
            ServerError: the deployment does not answer.
        """
        log, begun = self.target.folder / ".client.log", time.monotonic()
        try:
            past = client.past_proxies(self.target.serving_url)
            if past:
                warn(f"a proxy is set, but requests to the deployment do not go through it: no_proxy={past['no_proxy']}")
            with BenchClient(log, past) as bench:
                if self.target.deployment:
                    self.snapshot = level_gates.snapshot(self.args.base_url)
                for done, task in enumerate(tasks):
                    self._announce(task, done, len(tasks), begun)
                    self._measure(bench, task)
        finally:
            for partial in self.target.folder.glob(f"*{PARTIAL}"):
                partial.unlink()
        log.unlink(missing_ok=True)  # it is kept where a level fails
        print(f"run_bm: {len(tasks)} levels in {time.monotonic() - begun:.0f} s: {self.target.folder}", flush=True)

    def _announce(self, task: Task, done: int, levels: int, begun: float) -> None:
        isl, osl = self.target.lengths
        left = f", about {(time.monotonic() - begun) * (levels - done) / done:.0f} s left" if done else ""
        print(f"run_bm: level {task.level.stem} ({done + 1} of {levels}): {task.num_prompts} requests of "
              f"{isl}:{osl} tokens{left}", flush=True)  # fmt: skip

    def _measure(self, bench: BenchClient, task: Task) -> None:
        if task.warmup_seed is not None:
            self._warm_up(task)
        try:
            self._attempt(bench, task, task.seed, 1)
        except MeasureAgain as reason:
            warn(str(reason))
            self._attempt(bench, task, task.again_seed, 2)

    def _warm_up(self, task: Task) -> None:
        isl, osl = self.target.lengths
        in_flight = int(task.level.value) if task.level.kind == "concurrency" else RATE_WARM_UP
        load = client.Load(self.target.serving_url, self.target.model, isl, osl, in_flight, random.Random(task.warmup_seed),
                           self.args.request_limit)  # fmt: skip
        try:
            if self.snapshot:
                self.snapshot = warm_up(self.args.base_url, load, self.snapshot)
            else:
                asyncio.run(client.warm_up(load))
        except client.ServerError as error:
            raise LevelError(f"level {task.level.stem} was not measured: its warm-up failed: {error}") from None

    def _attempt(self, bench: BenchClient, task: Task, seed: int, attempt: int) -> None:
        """Measure a level, check it and name its file: `conc8.json` if it counts, else `conc8.json.bad`.

        Raises:
            MeasureAgain: kernels were compiled while it was measured for the first time; nothing of it is kept.
            LevelError: the level does not count.
        """
        level, folder, target = task.level, self.target.folder, self.target
        partial, started = folder / (level.filename + PARTIAL), now()
        words = arguments(
            level, partial, url=target.serving_url, model=target.model, tokenizer=target.tokenizer, lengths=target.lengths,
            num_prompts=task.num_prompts, seed=seed, prefix=8 if task.warmup_seed is not None else 0,
            metadata=(f"seed={seed}", f"level={level.stem}", f"exp_name={target.manifest.name}"),
        )  # fmt: skip
        row: dict[str, Any] = {}
        digest: str | None = None
        gates: list[Gate] = []
        try:
            status, used = bench.run(words, task.num_prompts, limits(self.args, task))
            if status:
                print(client.without_key(bench.last_words()), file=sys.stderr, flush=True)
                raise LevelError(f"the bench client exited with code {status}")
            file = read_partial(partial, level, target, task.num_prompts)
            row, digest = file.row, digest_of(file.summary)
            gates = self._gates(task, used, attempt)
            problems = [f"{g.name}: {g.seen}; expected {g.expected}; {g.advice}" for g in gates if not g.passed]
        except MeasureAgain:
            partial.unlink()
            raise
        except (LevelError, Hangs, client.ServerError) as error:
            if isinstance(error, Hangs):  # the client has written nothing
                partial.write_text(json.dumps({"problem": str(error), "ended": error.ended, "num_prompts": task.num_prompts}))
            problems = [client.without_key(first_line(error))]
        target.record(LevelRecord(
            level=level.stem, command=f"vllm bench serve {shlex.join(words)}", seed=seed, warmup_seed=task.warmup_seed,
            num_prompts=task.num_prompts, attempt=attempt, started=started, ended=now(), digest=digest,
            ok=not problems, problems=problems, gates=gates, block=self.args.block, commit=target.manifest.repository.words,
            **target.launch,
        ))  # fmt: skip
        if partial.exists():
            os.replace(partial, folder / (level.filename + (BAD if problems else "")))
        if problems:
            raise LevelError(f"level {level.stem} does not count: {'; '.join(problems)}")
        print(summary(row), flush=True)
        if falls_behind(row):
            served = f"{row['request_throughput']:.3g} of {level.value:g} requests/s were served"
            warn(f"level {level.stem}: {served}: latencies are those of a queue, which grows with the number of requests")

    def _gates(self, task: Task, used: Used, attempt: int) -> list[Gate]:
        """Check the engines and the client after a level; those between levels only where all of these pass.

        Raises:
            MeasureAgain, ServerError.
        """
        args, deployment = self.args, self.target.deployment
        if not deployment:
            return []
        assert self.snapshot, "run() takes the first one"
        asked = level_gates.Asked(
            requests=task.num_prompts, isl=self.target.lengths[0], max_hit_rate=args.max_hit_rate,
            cold=task.warmup_seed is None, transport=args.transport.split(",") if args.transport else None,
        )  # fmt: skip
        found, self.snapshot = level_gates.check(args.base_url, self.snapshot, deployment, asked, used)
        if ticks := self.snapshot.ticks:
            lines = "".join(f"{tick.model_dump_json()}\n" for tick in ticks)
            write_atomically(self.target.folder / f"{task.level.stem}.ticks.jsonl", lines)
        failed = [gate for gate in found if not gate.passed]
        if attempt == 1 and [gate.name for gate in failed] == ["no-compilation"] and failed[0].value:
            raise MeasureAgain(f"level {task.level.stem}: {failed[0].seen}: measuring it again, now that it is warm")
        if not failed:
            more, sent = level_gates.between(args.base_url, deployment, args.tokens)
            found, self.snapshot = found + more, self.snapshot.model_copy(update={"since": sent})
        return found


def read_partial(partial: Path, level: Level, target: Target, num_prompts: int) -> LevelFile:
    """Read a level's file before it has its name, by the rules by which viz.py will read it.

    Raises:
        LevelError: it cannot be read, or holds another number of requests than `num_prompts`.
    """
    try:
        decode_bench = bool(target.deployment and target.deployment.decode_bench)
        file = read_level(partial, level, target.name, decode_bench=decode_bench)
    except ResultError as error:
        raise LevelError(str(error).removeprefix(f"{partial}: ")) from error
    if file.row["completed"] != num_prompts:
        raise LevelError(f"{file.row['completed']} requests instead of {num_prompts}")
    return file


def summary(row: dict[str, Any]) -> str:
    """Put a level's main numbers in one line; those that its workload does not have are left out."""
    known = (
        ("{:.2f} requests/s", "request_throughput"), ("TTFT {:.0f} ms", "median_ttft_ms"), ("TPOT {:.1f} ms", "median_tpot_ms"),
        ("inter-token p99 {:.1f} ms", "p99_itl_ms"),
    )  # fmt: skip
    return ", ".join(form.format(row[key]) for form, key in known if math.isfinite(row[key]))


def warn(line: str) -> None:
    """Print a line on stderr."""
    print(f"run_bm: {line}", file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of run_bm.sh's options."""
    parser = Parser(prog="run_bm", usage="./run_bm.sh -e NAME --isl N --osl N [options]\n       ./run_bm.sh --smoke [-u URL]",
                    description=__doc__.splitlines()[0], allow_abbrev=False)  # fmt: skip
    add = parser.add_argument
    add("-e", "--exp-name", type=_name, metavar="NAME", help="last part of the result folder's name, e.g. pd_p1xtp1-d1xtp1")
    add("-t", "--type", choices=["concurrency", "request-rate"], default="concurrency", help="load (default: concurrency)")
    add("-c", "--concurrency", default="all", metavar="LIST", help="requests in flight: 4,8,16 or all (default: 4 to 64)")
    add("-r", "--request-rate", default="all", metavar="LIST", help="requests per second: all (default: 1 to 10) or 1,2,4")
    add("--isl", type=positive, metavar="N", help="input tokens of each request")
    add("--osl", type=positive, metavar="N", help="output tokens of each request")
    # Their names in older recipes.
    add("--itl", dest="isl", type=positive, help=argparse.SUPPRESS)
    add("--otl", dest="osl", type=positive, help=argparse.SUPPRESS)
    add("--mode", choices=workload.PHASES, default="mixed",
        help="mixed (default), prefill-only (N:1) or decode-only (1:N, an approximation)")  # fmt: skip
    add_base_url(parser, "-u")
    add("-m", "--served-model-name", dest="model", metavar="NAME", help="default: what the deployment reports")
    add("--tokenizer", metavar="NAME|DIR", help="default: the deployment's model source")
    add("-n", "--num-prompts", type=positive, metavar="N", help="default: 5 x concurrency; 500 at a request rate")
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--repeats", type=positive, default=1, metavar="N", help="measurements of each level (default: 1)")
    times.add_argument("--block", type=positive, metavar="K", help="one measurement of each level, all in one launch: the K-th")
    add("--seed", type=int, default=0, metavar="N", help="base seed (default: 0); each level derives its own")
    add("--results-dir", type=Path, default=Path("bm_results"), metavar="DIR", help="default: bm_results")
    add("--force", action="store_true", help="measure existing levels again")
    add("--transport", metavar="LIST", help="UCX transports that must have carried the KV cache, e.g. cuda_ipc")
    add("--tokens", type=Path, metavar="FILE", help="greedy tokens of the collocated arm, compared after each level")
    add("--max-hit-rate", type=_share, metavar="X",
        help=f"largest share of prompt tokens from the prefix cache (default: {level_gates.MAX_HIT_RATE})")  # fmt: skip
    add("--request-limit", type=seconds, default=client.REQUEST_LIMIT_S, metavar="S",
        help="a level stops, and does not count, when no request has ended for so long (default: %(default)g)")  # fmt: skip
    add("--level-limit", type=seconds, metavar="S", help="or when it takes longer than this (default: 2 hours, and a minute "
        "for each request that a place in flight sends, or the time that sending at a rate takes)")  # fmt: skip
    add("--as-published", action="store_true", help="the public study's procedure: one seed for all levels, no warm-up")
    add("-s", "--smoke", action="store_true", help="stream one completion, print it with its times, and stop")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} may hold letters, digits, '.', '_' and '-' only")
    return text


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse run_bm.sh's options; `typed` is the command line as the user gave it."""
    parser = build_parser()
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    if not (args.smoke or args.exp_name and args.isl and args.osl):
        parser.error("--exp-name, --isl and --osl are needed: see --help")
    if args.max_hit_rate is None:
        args.max_hit_rate = 1.0 if args.as_published else level_gates.MAX_HIT_RATE
    args.typed = shlex.join(["./run_bm.sh", *words])
    return args


def main() -> int:
    args = parse_args()
    interrupts.interruptible()
    measuring = False
    try:
        if args.smoke:
            return client.print_smoke(args.base_url, args.model)
        target, tasks = plan(args, warn)
        if not tasks:
            print("run_bm: nothing to do: all levels are measured (--force measures again)")
            return 0
        measuring = True
        Sweep(args, target).run(tasks)
    except (SweepError, client.ServerError, ValueError, OSError) as error:
        warn(f"error: {first_line(error)}")
        return 1 if measuring else 2
    except KeyboardInterrupt:
        warn("interrupted; the same command continues at this level" if measuring else "interrupted")
        return interrupts.STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())

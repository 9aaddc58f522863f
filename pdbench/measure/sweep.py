"""Sweep one running deployment with `vllm bench serve` into a result folder, one JSON file per level: run_bm.sh.

A level counts only if its file can be read as viz.py reads it and every gate passes; only then does it get its name.
"""

import argparse
import asyncio
import json
import math
import os
import random
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from pdbench import interrupts
from pdbench.files import first_line, write_atomically
from pdbench.manifest import Gate, LevelRecord, now
from pdbench.measure import level_gates, shifting
from pdbench.measure.bench_client import BenchClient, Hangs, Used, arguments
from pdbench.measure.sweep_options import parse_args
from pdbench.measure.sweep_plan import BAD, SweepError, Target, Task, limits, plan
from pdbench.measure.warm_up import warm_up
from pdbench.read.level_file import LevelFile, ResultError, came_in_one_go, digest_of, falls_behind, read_level
from pdbench.read.trace import trace_path
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
                    self._measure(bench, task, done == 0)
        finally:
            for partial in self.target.folder.glob(f"*{PARTIAL}"):
                partial.unlink()
        log.unlink(missing_ok=True)  # it is kept where a level fails
        print(f"run_bm: {len(tasks)} levels in {time.monotonic() - begun:.0f} s: {self.target.folder}", flush=True)

    def _announce(self, task: Task, done: int, levels: int, begun: float) -> None:
        left = f", about {(time.monotonic() - begun) * (levels - done) / done:.0f} s left" if done else ""
        print(f"run_bm: level {task.level.stem} ({done + 1} of {levels}): {task.num_prompts} requests of "
              f"{shifting.words(task.sent, self.target.lengths)}{left}", flush=True)  # fmt: skip

    def _measure(self, bench: BenchClient, task: Task, first: bool) -> None:
        if task.warmup_seed is not None:
            self._warm_up(task, first)
        try:
            self._attempt(bench, task, task.seed, 1)
        except MeasureAgain as reason:
            warn(str(reason))
            self._attempt(bench, task, task.again_seed, 2)

    def _warm_up(self, task: Task, first: bool) -> None:
        in_flight = int(task.level.value) if task.level.kind == "concurrency" else RATE_WARM_UP
        rng = random.Random(task.warmup_seed)
        try:
            for isl, osl in shifting.shapes(task.sent) or [self.target.lengths]:
                load = client.Load(
                    self.target.serving_url, self.target.model, isl, osl, in_flight, rng, self.args.request_limit
                )
                if self.snapshot:
                    self.snapshot = warm_up(self.args.base_url, load, self.snapshot, first)
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
        trace, more = shifting.write(partial, task.sent, seed) if task.sent else (None, ())
        words = arguments(
            level, partial, url=target.serving_url, model=target.model, tokenizer=target.tokenizer, lengths=target.lengths,
            num_prompts=task.num_prompts, seed=seed, prefix=8 if task.warmup_seed is not None else 0, trace=trace,
            metadata=(f"seed={seed}", f"level={level.stem}", f"exp_name={target.manifest.name}", *more),
        )  # fmt: skip
        row: dict[str, Any] = {}
        gates: list[Gate] = []
        try:
            status, used = bench.run(words, task.num_prompts, limits(self.args, task))
            if status:
                print(client.without_key(bench.last_words()), file=sys.stderr, flush=True)
                raise LevelError(f"the bench client exited with code {status}")
            gates = [shifting.lost(partial, task.sent)] if task.sent else []
            if failed := _problems(gates):
                raise LevelError(failed[0])
            file = read_partial(partial, level, target, task.num_prompts)
            row = file.row | {"digest": digest_of(file.summary)}
            gates += self._gates(task, used, attempt)
            problems = _problems(gates)
        except MeasureAgain:
            partial.unlink()
            raise
        except (LevelError, Hangs, client.ServerError) as error:
            if isinstance(error, Hangs):  # the client has written nothing
                partial.write_text(json.dumps({"problem": str(error), "ended": error.ended, "num_prompts": task.num_prompts}))
            problems = [client.without_key(first_line(error))]
        target.record(LevelRecord(
            level=level.stem, command=f"vllm bench serve {shlex.join(words)}", seed=seed, warmup_seed=task.warmup_seed,
            num_prompts=task.num_prompts, attempt=attempt, started=started, ended=now(), digest=row.get("digest"),
            ok=not problems, problems=problems, gates=gates, block=self.args.block, commit=target.manifest.repository.words,
            **target.launch,
        ))  # fmt: skip
        for written in filter(Path.exists, (partial, trace_path(partial))):
            os.replace(written, folder / (written.name.removesuffix(PARTIAL) + (BAD if problems else "")))
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
            requests=task.num_prompts, isl=self.target.lengths[0], lengths=[one.isl for one in task.sent],
            max_hit_rate=args.max_hit_rate,
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


def _problems(gates: list[Gate]) -> list[str]:
    return [f"{gate.name}: {gate.seen}; expected {gate.expected}; {gate.advice}" for gate in gates if not gate.passed]


def read_partial(partial: Path, level: Level, target: Target, num_prompts: int) -> LevelFile:
    """Read a level's file before it has its name, by the rules by which viz.py will read it.

    Raises:
        LevelError: it cannot be read, holds another number of requests than `num_prompts`, or answers came in one go.
    """
    try:
        file = read_level(partial, level, target.name, decode_bench=bool(target.deployment and target.deployment.decode_bench))
    except ResultError as error:
        raise LevelError(str(error).removeprefix(f"{partial}: ")) from error
    if (completed := file.row["completed"]) != num_prompts:
        raise LevelError(f"{completed} requests instead of {num_prompts}")
    if came_in_one_go(file.row, target.lengths[1]):
        raise LevelError("answers came in one go: turn off what buffers on the way (--smoke shows a stream's times)")
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

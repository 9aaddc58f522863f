"""Run vLLM's bench client: its arguments, and its process, which loads it once for all levels of a sweep.

Loading takes 10 s of CPU, more than a short level. Run as a program (`python -m pdbench.measure.bench_client LOG`) it is that
process: it reads the arguments of one run per line, quoted as a shell quotes them, reports how many requests have ended
(`at 12 20`), and answers with the exit status and what its main thread did while it measured (`end 0 1.2 0.1 9.8`). What the
client itself prints goes to LOG, the latest run's only.
"""

import collections
import contextlib
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pdbench import garbage
from pdbench.serve.keeper import die_with_parent
from pdbench.workload import Level

SAMPLE_S = 0.2
REPORT_S = 0.5  # between two looks at how many requests have ended
# The client may load, draw prompts and compute its summary for so long: neither is a request.
PREPARE_S = 600.0
LOG_LINES = 5  # of the client's log, shown where it fails


class Limits(NamedTuple):
    """Seconds that a level may take once it sends requests, and that may pass without the end of one."""

    level: float
    request: float


class Hangs(RuntimeError):
    """A level did not end within its limits, and was stopped; one line.

    Attributes:
        ended: requests that had.
    """

    def __init__(self, text: str, ended: int):
        super().__init__(text)
        self.ended = ended


class Used(NamedTuple):
    """What the client's main thread did while it measured, in seconds."""

    cpu: float
    waited: float
    wall: float


def arguments(
    level: Level, result: Path, *, url: str, model: str, tokenizer: str, lengths: tuple[int, int], num_prompts: int, seed: int,
    prefix: int = 8, metadata: tuple[str, ...] = (), trace: Path | None = None,
) -> list[str]:  # fmt: skip
    """Build the options of `vllm bench serve` for one level of random prompts, greedy, whose result goes to the file `result`.

    Args:
        lengths: tokens of each prompt and of each answer; of the longest, where load shifts.
        prefix: random tokens in front of a level's prompts. vLLM's random prompts are runs of consecutive tokens, as many
            different ones as the vocabulary has words, so that levels meet by chance; a few tokens, fewer than a block,
            distinguish them.
        trace: where load shifts, its requests (read/trace.py).
    """
    sends = _of_trace(trace, lengths[0]) if trace else _random(level, lengths, prefix)
    return [
        "--backend", "vllm", "--base-url", url, "--endpoint", "/v1/completions", "--model", model, "--tokenizer", tokenizer,
        *sends, "--ignore-eos", "--temperature", "0", "--num-prompts", str(num_prompts), "--seed", str(seed),
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99",
        "--save-result", "--save-detailed", "--result-dir", str(result.parent), "--result-filename", result.name,
        *(["--metadata", *metadata] if metadata else []),
    ]  # fmt: skip


def _random(level: Level, lengths: tuple[int, int], prefix: int) -> list[str]:
    prompt, answer = lengths
    prefix = prefix if prompt > 2 * prefix else 0
    load = "--max-concurrency" if level.kind == "concurrency" else "--request-rate"
    return [
        "--dataset-name", "random", "--random-prefix-len", str(prefix), "--random-input-len", str(prompt - prefix),
        "--random-output-len", str(answer), load, f"{level.value:g}",
    ]  # fmt: skip


def _of_trace(trace: Path, longest: int) -> list[str]:
    """A prompt is as long as its request says where one hash id makes up no less than that many tokens."""
    return ["--dataset-name", "timed_trace", "--dataset-path", str(trace), "--timed-trace-chunk-hash-size", str(longest)]


class BenchClient:
    """The client's process; loading goes on while other things are done. Use as a context manager: it ends with the block.

    Args:
        environment: further variables of the process.
    """

    def __init__(self, log: Path, environment: dict[str, str]):
        self.log = log
        command = [sys.executable, "-m", "pdbench.measure.bench_client", str(log)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent,
            env=inherited() | environment,
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout  # both are pipes
        self._questions, self._pipe = self.process.stdin, self.process.stdout
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._pipe:
            self._answers.put(line)
        self._answers.put("end 1 0 0 0")  # its process died

    def __enter__(self) -> "BenchClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._listener.join(timeout=10)
        for pipe in (self._questions, *(() if self._listener.is_alive() else (self._pipe,))):
            with contextlib.suppress(OSError):
                pipe.close()

    def stop(self) -> None:
        """End the client's process, and with it its requests."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def run(self, words: list[str], requests: int, limits: Limits) -> tuple[int, Used]:
        """Measure one level of that many requests.

        Returns:
            The client's exit status, 1 where its process died, and what it used.

        Raises:
            Hangs: it did not end within its limits; the client is stopped.
        """
        with contextlib.suppress(BrokenPipeError):
            self._questions.write(shlex.join(words) + "\n")
            self._questions.flush()
        watch = Watch(requests, limits, time.monotonic())
        while True:
            with contextlib.suppress(queue.Empty):
                kind, *fields = self._answers.get(timeout=REPORT_S).split()
                if kind == "end":
                    status, *used = fields
                    return int(status), Used(*map(float, used))
                ended, of = map(int, fields)
                watch.report(ended, of, time.monotonic())
            if why := watch.complaint(time.monotonic()):
                self.stop()
                raise Hangs(why, watch.ended or 0)

    def last_words(self) -> str:
        """Return the end of the client's log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_LINES:])


class Watch:
    """Compares what the client reports of one level with the level's limits."""

    def __init__(self, requests: int, limits: Limits, now: float):
        self.requests, self.limits = requests, limits
        self.ended: int | None = None  # until it sends the first one
        self.changed = self.began = now

    def report(self, ended: int, requests: int, now: float) -> None:
        """Note that `ended` of `requests` have ended; bars of other things than this level's requests are left out."""
        if requests != self.requests or ended == self.ended:
            return
        if self.ended is None:
            self.began = now
        self.ended, self.changed = ended, now

    def complaint(self, now: float) -> str | None:
        """Say what hangs, if something does."""
        level, request = self.limits
        if self.ended is None or self.ended == self.requests:
            what = "sent no request" if self.ended is None else f"did not end after the last of {self.requests} requests"
            longest = max(PREPARE_S, request)
            return f"the bench client {what} within {longest:g} s" if now - self.changed > longest else None
        ended = f"{self.ended} of {self.requests} requests ended"
        if now - self.changed > request:
            return f"{ended}, then none for {request:g} s (--request-limit): the others hang, see the engines' logs"
        return f"{ended} within {level:g} s (--level-limit)" if now - self.began > level else None


def inherited() -> dict[str, str]:
    """Return this process's variables for the client: without one that hides progress (see `report`), with no file of logins,
    of which aiohttp would send an entry for the server's host in place of the key, and with a fixed hash of strings, from
    which its traces draw prompts."""
    fixed = {"NETRC": os.devnull, "PYTHONHASHSEED": "0"}
    return {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | fixed


class Clock:
    """Samples the main thread's CPU time, so that the time of measuring can be cut out afterwards."""

    def __init__(self) -> None:
        self.samples: collections.deque[tuple[float, float, float]] = collections.deque(maxlen=100_000)
        self.sample()
        threading.Thread(target=self._run, daemon=True).start()

    def sample(self) -> None:
        # /proc/PID/schedstat: ns on a core, ns runnable but waiting (kernel: scheduler/sched-stats).
        with open("/proc/self/schedstat") as file:
            cpu, waited, _ = file.read().split()
        self.samples.append((time.monotonic(), int(cpu) / 1e9, int(waited) / 1e9))

    def _run(self) -> None:
        while True:
            time.sleep(SAMPLE_S)
            self.sample()

    def last(self, seconds: float) -> Used:
        """Return what was used over about the last `seconds`."""
        self.sample()
        end = self.samples[-1]
        start = next((s for s in reversed(self.samples) if s[0] <= end[0] - seconds), self.samples[0])
        return Used(end[1] - start[1], end[2] - start[2], end[0] - start[0])


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # What the command `vllm bench serve` calls: https://docs.vllm.ai/en/latest/cli/bench/serve.html
    with garbage.collector_off():
        from vllm.benchmarks.serve import add_cli_args
        from vllm.benchmarks.serve import main as bench
        from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    clock, writing = Clock(), threading.Lock()

    def answer(*words: object) -> None:
        with writing:
            answers.write(" ".join(map(str, words)) + "\n")

    threading.Thread(target=report, args=(answer,), daemon=True).start()
    for line in sys.stdin:
        os.ftruncate(log, 0)
        status, duration = 0, 0.0
        try:
            duration = bench(parser.parse_args(shlex.split(line)))["duration"]
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except Exception:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        answer("end", status, *(f"{seconds:.3f}" for seconds in clock.last(duration)))
    return 0


def report(answer: Callable[..., None]) -> None:
    """Report at each change how far the client's progress bar is; it is in the client's own process, and costs it nothing."""
    from tqdm import tqdm

    last: tuple[float, float] | None = None
    while True:
        time.sleep(REPORT_S)
        with contextlib.suppress(RuntimeError):  # bars came and went while they were listed
            for bar in list(getattr(tqdm, "_instances", ())):
                if bar.total and last != (bar.n, bar.total):
                    last = bar.n, bar.total
                    answer("at", int(bar.n), int(bar.total))


if __name__ == "__main__":
    sys.exit(main())

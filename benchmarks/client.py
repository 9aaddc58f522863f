"""vLLM's bench client, as the benchmarks of this folder ask it: random prompts, greedy, of the tiny model."""

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import ROOT


def options(url: str, level: int, requests: int, isl: int, osl: int, result: Path) -> list[str]:
    """Options of `vllm bench serve` for so many requests, `level` of them at a time."""
    words = ["--backend", "vllm", "--base-url", url, "--endpoint", "/v1/completions", "--model", "gpt-oss-tiny"]
    words += ["--tokenizer", str(ROOT / ".cache/models/gpt-oss-tiny"), "--dataset-name", "random", "--ignore-eos"]
    words += ["--random-prefix-len", "8", "--random-input-len", str(isl - 8), "--random-output-len", str(osl)]
    words += ["--temperature", "0", "--num-prompts", str(requests), "--max-concurrency", str(level)]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el"]
    return [*words, "--save-result", "--result-dir", str(result.parent), "--result-filename", result.name]


@contextlib.contextmanager
def client():
    """The client in a process of its own, loaded once; yields what runs it and returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        log, saved = Path(folder) / "log", Path(folder) / "result.json"
        command = [sys.executable, "-m", "pdbench.bench_client", str(log)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, **pipes) as process:

            def ask(url: str, level: int, requests: int, isl: int, osl: int) -> dict[str, Any]:
                # Never the same prompts twice.
                seed = ["--seed", str(time.time_ns() % 2**31)]
                process.stdin.write(shlex.join([*options(url, level, requests, isl, osl, saved), *seed]) + "\n")
                process.stdin.flush()
                status, *_ = process.stdout.readline().split() or ["its end"]
                result = json.loads(saved.read_text()) if status == "0" else {"completed": 0}
                if result["completed"] != requests:
                    done = f"{result['completed']} of {requests}"
                    raise SystemExit(f"the bench client ended with {status}, {done}:\n{log.read_text()[-2000:]}")
                return result

            ask.pid = process.pid
            yield ask  # the client ends with its input, which is closed here, also after an error

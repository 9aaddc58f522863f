"""vLLM's bench client, as the benchmarks of this folder ask it: random prompts, greedy, of the tiny model."""

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import ROOT
from pdbench.measure.bench_client import BenchClient, arguments
from pdbench.workload import Level


def options(url: str, level: int, requests: int, isl: int, osl: int, result: Path, seed: int = 0) -> list[str]:
    """Build the options of `vllm bench serve` for `requests` requests, `level` of them at a time."""
    return arguments(
        Level("concurrency", float(level)), result, url=url, model="gpt-oss-tiny", lengths=(isl, osl), num_prompts=requests,
        tokenizer=str(ROOT / ".cache/models/gpt-oss-tiny"), seed=seed,
    )  # fmt: skip


@contextlib.contextmanager
def client():
    """Start the client, loaded once; yields what runs it and returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "result.json"
        with BenchClient(Path(folder) / "log") as bench:

            def ask(url: str, level: int, requests: int, isl: int, osl: int) -> dict[str, Any]:
                # Never the same prompts twice.
                status, _ = bench.run(options(url, level, requests, isl, osl, saved, seed=time.time_ns() % 2**31))
                result = json.loads(saved.read_text()) if status == 0 else {"completed": 0}
                if result["completed"] != requests:
                    done = f"{result['completed']} of {requests}"
                    raise SystemExit(f"the bench client exited with {status}, {done} requests:\n{bench.last_words()}")
                return result

            ask.pid = bench.process.pid
            yield ask

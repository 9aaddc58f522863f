"""Ask aiconfigurator for cells in a Python that has it and nothing of this repository; both ends of that pipe.

That Python runs this file. It takes JSON: model, system, and for each cell what `cli_estimate` is asked. It answers a line of
JSON with its versions, then one for each cell: what it predicts and how long that took, or how it failed.
"""

import contextlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

BACKEND = "vllm"


class PeerError(Exception):
    """Why the peer gives no answers; one line."""


def ask(python: str, asked: dict, seconds: float) -> Iterator[dict]:
    """Yield the peer's versions and its answer for each cell; show how far it is where somebody looks.

    Raises:
        PeerError: there is no such Python, it lacks the peer, or does not answer all in time.
    """
    begin, count, cells = time.monotonic(), 0, len(asked["cells"])
    with tempfile.TemporaryFile("w+") as question, tempfile.TemporaryFile("w+", errors="replace") as said:
        json.dump(asked, question)
        question.seek(0)
        try:
            child = subprocess.Popen([python, "-I", __file__], stdin=question, stdout=subprocess.PIPE, stderr=said, text=True)
        except OSError as error:
            raise PeerError(f"{python}: {error.strerror}") from error
        late = threading.Timer(seconds, child.kill)
        late.start()
        try:
            for count, line in enumerate(child.stdout, 1):
                if sys.stderr.isatty():
                    end = "\n" if count > cells else ""
                    print(f"\raiconfigurator: {count - 1} of {cells} cells", end=end, file=sys.stderr, flush=True)
                yield json.loads(line)
        except ValueError:
            raise PeerError(f"{python}: answers no JSON, but {line.strip()[:60]!r}") from None
        finally:
            late.cancel()
            if count <= cells:
                child.kill()
            code = child.wait()
        if count <= cells:
            said.seek(0)
            why = [f"ended with {code} after {count} lines", *said.read().strip().splitlines()][-1]
            raise PeerError(f"{python}: {why if time.monotonic() < begin + seconds else f'not done within {seconds} s'}")


def answer_all() -> None:
    lines = sys.stdout
    # What the package prints on its own goes where its warnings go.
    with contextlib.redirect_stdout(sys.stderr):
        asked, begin = json.load(sys.stdin), time.perf_counter()
        try:
            from aiconfigurator.cli.api import cli_estimate
            from aiconfigurator.sdk.perf_database import get_supported_databases
        except ImportError as error:
            sys.exit(f"{error}: install aiconfigurator there")
        known = get_supported_databases().get(asked["system"], {}).get(BACKEND, [])
        if not known:
            sys.exit(f"aiconfigurator has no data of {BACKEND} on {asked['system']}")
        # The study's vLLM is older than all that it has: the oldest is the nearest.
        version = min(known, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
        common = {"model_path": asked["model"], "system_name": asked["system"], "backend_name": BACKEND}
        head = {"package": importlib.metadata.version("aiconfigurator"), "known": known, "data": version}
        print(json.dumps(head | {"import_s": time.perf_counter() - begin}), file=lines, flush=True)
        for cell in asked["cells"]:
            answer = answered(cli_estimate, common | {"backend_version": version} | cell)
            print(json.dumps(answer), file=lines, flush=True)


def answered(estimate: Callable, options: dict[str, object]) -> dict[str, object]:
    """Return requests/s, TPOT and TTFT (ms), and how long it took (s); or why there are none."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        found = estimate(**options)
    except Exception as error:  # whatever it is: peer.py counts it
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())}
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    values = [float(found.seq_per_second), float(found.tpot), float(found.ttft)]
    if not all(0 < value < float("inf") for value in values):
        return {"failed": f"requests/s, TPOT and TTFT are {values}"}
    return {"values": values, "warning": found.kv_cache_warning} | took


if __name__ == "__main__":
    answer_all()

"""Whose code a process on a token's way runs: py-spy's samples, by library (https://github.com/benfred/py-spy)."""

import contextlib
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

# Not the ranks, which compute, nor proxies: HAProxy is not in Python, and Ray's own does nothing but pass tokens on.
SAMPLED = ("client", "ingress", "frontend", "engine core")
PROGRAM = str(Path(sys.executable).with_name("py-spy"))
PER_SECOND = 100
WAIT_S = 60.0
MOST = 6  # libraries of a stage that are printed
BEGUN = "py-spy> Sampling"  # what it says first
FRAME = re.compile(r" \((?P<path>[^():]+)(?::\d+)?\)$")


@contextlib.contextmanager
def recorded(stage_of: dict[int, str], folder: Path):
    """Record collapsed stacks, as flame graphs and speedscope.app read them, into a file for each process in `folder`.

    Samples are of the thread that holds the interpreter's lock: whether another one runs or waits, py-spy cannot know for sure.

    Args:
        stage_of: a process's stage, by its id.

    Raises:
        RuntimeError: py-spy could not, because it lacks rights for instance; its message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.txt"):
        old.unlink()
    spies = {}
    try:
        for pid, stage in stage_of.items():
            if stage in SAMPLED:
                out = folder / f"{stage.replace(' ', '-')}_{pid}.txt"
                command = [PROGRAM, "record", "--gil", "-f", "raw", "-r", str(PER_SECOND), "-o", str(out), "-p", str(pid)]
                spies[out] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for out, spy in spies.items():
            if not (said := spy.stdout.readline()).startswith(BEGUN):
                raise RuntimeError(f"py-spy could not sample {out.stem}: {said.strip() or 'nothing was said'}")
        yield
    finally:
        for spy in spies.values():
            spy.send_signal(signal.SIGINT)  # then it writes what it has
        said = {out: _end(spy) for out, spy in spies.items()}
    if failed := next((out for out, spy in spies.items() if spy.returncode), None):
        raise RuntimeError(f"py-spy could not sample {failed.stem}: {said[failed]}")


def _end(spy: subprocess.Popen) -> str:
    """Wait for it; returns the last line that it said."""
    try:
        said = spy.communicate(timeout=WAIT_S)[0]
    except subprocess.TimeoutExpired:
        spy.kill()
        said = spy.communicate()[0]
    return (said.strip().splitlines() or ["nothing"])[-1]


def shares(folder: Path) -> dict[str, dict[str, float]]:
    """Return the part of a stage's samples whose innermost frame is a library's: {stage: {library: share}}, the largest first.

    What a library in C, C++ or Rust does counts as that of the Python function that calls it.
    """
    found: dict[str, Counter] = {}
    for file in sorted(folder.glob("*.txt")):
        counts = found.setdefault(file.stem.split("_")[0].replace("-", " "), Counter())
        for line in file.read_text().splitlines():
            stack, samples = line.rsplit(" ", 1)
            counts[library(stack.split(";")[-1])] += int(samples)
    return {stage: {name: n / counts.total() for name, n in counts.most_common()} for stage, counts in found.items() if counts}


def library(frame: str) -> str:
    """Name the library of a frame: `route (ray/serve/_private/router.py:9)` -> ray.serve; what has no file -> its name.

    A thread whose loop is in C, as uvloop's and gRPC's are, has no frame below `Thread.run`, or none: its code is `native`.
    """
    if not frame or frame.startswith("Thread.run (threading.py"):
        return "native"
    if not (found := FRAME.search(frame)):
        return frame
    first, *more = found["path"].removesuffix(".py").split("/")
    return f"{first}.{more[0]}" if first == "ray" and more[0] in ("serve", "llm") else first

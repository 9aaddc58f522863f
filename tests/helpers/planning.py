"""A stand-in for what runs, and sweeps that are planned without a server: for the tests of plans and of levels."""

import json

from pdbench.manifest import FILENAME
from pdbench.measure.bench_client import Used
from pdbench.measure.level_gates import Snapshot
from pdbench.measure.sweep import Sweep, parse_args
from pdbench.measure.sweep_plan import plan

URL = "http://127.0.0.1:1"
NAME = "tiny_itl100_otl11_mixed_x"


def options(results, *more, levels="4,8", name="x"):
    words = ["-e", name, "-c", levels, "--isl", "100", "--osl", "11", "-u", URL, "--results-dir", str(results)]
    return parse_args([*words, *more])


def planned(results, *more, warned=None, **change):
    """The target and {level's stem: its task}."""
    target, tasks = plan(options(results, *more, **change), (warned if warned is not None else []).append)
    return target, {task.level.stem: task for task in tasks}


class Bench:
    """A bench client that writes what it is given, and exits with `status`."""

    def __init__(self, content=b"", status=0):
        self.content, self.status, self.words = content, status, []

    def run(self, words, requests, limits):
        self.words = words
        given = dict(zip(words, words[1:], strict=False))
        if self.content is not None:
            with open(f"{given['--result-dir']}/{given['--result-filename']}", "wb") as file:
                file.write(self.content)
        return self.status, Used(1, 0, 2)

    def last_words(self):
        return "its last words"


def measure(results, content, *more, level="conc4", status=0):
    """Plan one level and measure it; the content is JSON or bytes, or None where nothing is written."""
    data = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    args = options(results, *more, levels=level.removeprefix("conc"))
    target, (task,) = plan(args, lambda line: None)
    bench = Bench(data, status)
    sweep = Sweep(args, target)
    sweep.snapshot = Snapshot(counters={}, replicas={})
    sweep._attempt(bench, task, task.seed, 1)
    return bench


def files(folder):
    return sorted(path.name for path in folder.iterdir())


__all__ = ["FILENAME", "NAME", "URL", "Bench", "files", "measure", "options", "planned"]

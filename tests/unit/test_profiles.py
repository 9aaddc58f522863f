"""Samples of py-spy, by library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.profiles import library, recorded, shares


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("route (ray/serve/_private/router.py:9)", "ray.serve"),
        ("generate (ray/llm/_internal/serve/engine.py:9)", "ray.llm"),
        ("get (ray/_private/worker.py:9)", "ray"),
        ("_run_once (asyncio/base_events.py:1922)", "asyncio"),
        ("<listcomp> (typing.py:1)", "typing"),
        ("Thread.run (threading.py:982)", "native"),
        ("", "native"),
        ("poll", "poll"),
    ],
)
def test_a_frame_is_its_librarys(frame, expected):
    assert library(frame) == expected


def test_samples_of_a_stages_processes_are_added_up(tmp_path):
    (tmp_path / "engine-core_1.txt").write_text("main (vllm/a.py:1);dumps (json/encoder.py:2) 3\nmain (vllm/a.py:1) 1\n")
    (tmp_path / "engine-core_2.txt").write_text("main (vllm/a.py:1);f (vllm/b.py:7) 4\n")
    (tmp_path / "ingress_3.txt").write_text("")
    assert shares(tmp_path) == {"engine core": {"vllm": 5 / 8, "json": 3 / 8}}


PTRACE = Path("/proc/sys/kernel/yama/ptrace_scope")
MAY_LOOK = os.geteuid() == 0 or not PTRACE.exists() or PTRACE.read_text().strip() == "0"


@pytest.mark.skipif(not MAY_LOOK, reason="py-spy may look at other processes as root, or with kernel.yama.ptrace_scope=0")
def test_a_process_is_sampled_for_real(tmp_path):
    (tmp_path / "ingress_1.txt").write_text("main (of/an/earlier_run.py:1) 3\n")
    code = "import json\nwhile True: print(len(json.dumps(list(range(3000)), indent=1)), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as busy, \
         subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as rank:  # fmt: skip
        try:
            busy.stdout.readline()
            with recorded({busy.pid: "frontend", rank.pid: "engine rank"}, tmp_path):
                for _ in range(1500):  # about a second of work
                    busy.stdout.readline()
        finally:
            busy.kill()
            rank.kill()
    assert [file.name for file in tmp_path.iterdir()] == [f"frontend_{busy.pid}.txt"]
    found = shares(tmp_path)["frontend"]
    assert next(iter(found)) == "json" and sum(found.values()) == pytest.approx(1)


def test_a_process_that_is_gone_is_reported_before_anything_is_measured(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(RuntimeError, match=f"py-spy could not sample frontend_{gone.pid}: .+"), \
         recorded({gone.pid: "frontend"}, tmp_path):  # fmt: skip
        pytest.fail("nothing is sampled")

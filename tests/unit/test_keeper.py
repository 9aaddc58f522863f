"""The process between Ray and a server, with real processes: when either ends, none of the server's stays."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pdbench.serve import keeper

# A server with a child of its own that ignores SIGTERM, as an engine may that computes; it prints both pids.
SERVER = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"])
print(os.getpid(), child.pid, flush=True)
sys.exit(7) if sys.argv[1:] else time.sleep(300)
"""
# As one starts the keeper as an actor: its text through a pipe, since the node may lack this repository.
ACTOR = """
import subprocess, sys, time
process = subprocess.Popen([sys.executable, "-", sys.executable, "-c", sys.argv[2]], stdin=subprocess.PIPE)
process.stdin.write(open(sys.argv[1], "rb").read())
process.stdin.close()
time.sleep(300)
"""


def wait_until_gone(pids):
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture
def start(monkeypatch):
    started = []

    def start(*command, **options):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        pids = [int(word) for word in process.stdout.readline().split()]
        return process, pids

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_server_that_ends_takes_its_children_along_and_its_status_is_reported(start):
    process, pids = start(sys.executable, keeper.__file__, sys.executable, "-c", SERVER, "ends")
    assert process.wait(20) == 7
    wait_until_gone(pids)


def test_a_server_that_is_killed_leaves_no_child(start):
    process, pids = start(sys.executable, keeper.__file__, sys.executable, "-c", SERVER)
    psutil.Process(pids[0]).kill()
    assert process.wait(20) == -signal.SIGKILL % 256
    wait_until_gone(pids)


@pytest.mark.parametrize("number", keeper.SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_server_and_children(start, number):
    """Where Ray's processes were started with SIGINT ignored, too."""
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    process, pids = start(sys.executable, keeper.__file__, sys.executable, "-c", SERVER, **ignored)
    mask = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pids[0]}/status").read_text())[1]
    assert not int(mask, 16) & 1 << signal.SIGINT - 1, "the server has the default action back"
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    wait_until_gone(pids)


def test_an_actor_that_is_killed_leaves_nothing(start):
    actor, pids = start(sys.executable, "-c", ACTOR, str(Path(keeper.__file__)), SERVER)
    above = psutil.Process(pids[0]).parent()
    assert above.parent().pid == actor.pid
    actor.kill()
    wait_until_gone([*pids, above.pid])

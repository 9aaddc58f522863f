"""Scripts react to SIGINT and SIGTERM, also where a shell script put them into the background: there SIGINT is ignored."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdbench import interrupts
from pdbench.configs import ROOT
from tests.helpers.small_experiment import small_experiment

WAITS = """
import subprocess, sys, time
from pdbench import interrupts

def main():
    child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)"
    subprocess.run([sys.executable, "-c", child])
    time.sleep(60)

sys.exit(interrupts.run(main, "waits"))
"""
# Commands that ask a server something.
ASKS = {
    "gates": ["-m", "pdbench.gates", "--save", "tokens.json"],
    "run_bm": ["-m", "pdbench.measure.sweep", "--smoke"],
    "which_transport.py": ["debug/which_transport.py", "--live"],
}
SIGNALS = pytest.mark.parametrize("number", interrupts.SIGNALS, ids=lambda number: number.name)


@pytest.fixture
def start():
    """Start Python with these arguments where SIGINT is ignored; what is left of it in the end is killed."""
    started = []

    def start(*words, **env):
        command = [sys.executable, *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | env, preexec_fn=ignore, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def server():
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.settimeout(60)
        yield opened


@SIGNALS
def test_a_script_ends_with_one_line_and_its_children_have_the_default_actions(start, number):
    process = start("-c", WAITS)
    assert process.stdout.readline() == "True\n"
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("", "waits: interrupted\n") and process.returncode == 130


@SIGNALS
@pytest.mark.parametrize("name", ASKS)
def test_a_command_that_waits_for_a_server(start, server, name, number):
    process = start(*ASKS[name], "--base-url", f"http://127.0.0.1:{server.getsockname()[1]}")
    with server.accept()[0]:
        process.send_signal(number)
        assert process.communicate(timeout=10) == ("", f"{name}: interrupted\n") and process.returncode == 130


@SIGNALS
def test_an_experiment_whose_step_waits_ends_and_so_does_the_step(start, tmp_path, number):
    """Its local cluster cannot start while another command holds the lock."""
    state = tmp_path / "state"
    state.mkdir()
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = small_experiment(tmp_path, local_workers=1)
        process = start("run_experiment.py", file, "--results-dir", tmp_path / "results", PDBENCH_STATE_DIR=str(state))
        wait_for(lambda: waiting_for(state / "lock"))
        (step,) = waiting_for(state / "lock")
        process.send_signal(number)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and errors == ""
    assert out.splitlines()[-1] == "small: interrupted; the same command continues where this one ended"
    assert not Path(f"/proc/{step}").exists()
    assert not list((tmp_path / "results").glob(".*")), "nothing runs that the next run would have to stop"


def waiting_for(path: Path) -> list[int]:
    """Processes that wait for a lock on a file: proc_locks(5)."""
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(row[5]) for row in rows if row[1] == "->" and int(row[6].split(":")[2]) == path.stat().st_ino]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_handlers_that_a_library_replaces_come_back():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with pytest.raises(RuntimeError), interrupts.handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RuntimeError
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before


@pytest.mark.parametrize("lines", [1, 100_000], ids=["in the buffer", "while it writes"])
def test_a_reader_that_goes_away_is_no_error(lines):
    code = f"import sys; from pdbench import interrupts; sys.exit(interrupts.run(lambda: print('x\\n' * {lines}), 'x'))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # before it prints: Python takes longer to start
    assert (process.stderr.read(), process.wait()) == (b"", interrupts.UNREAD)


def test_another_pipe_that_breaks_is_an_error():
    def main():
        raise BrokenPipeError("an engine's")

    with pytest.raises(BrokenPipeError, match="an engine's"):
        interrupts.run(main, "x")

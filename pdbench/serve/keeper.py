"""Runs between a Ray actor and a server: when one of them ends, however it ends, so do all processes of the server.

    python keeper.py COMMAND ...

vLLM's engine outlives an API server that was killed (0.29), and Ray knows nothing of its workers' grandchildren.
Needs only what Ray itself needs, since its text travels to nodes that do not have this repository.
"""

import contextlib
import ctypes
import signal
import subprocess
import sys

import psutil

# <linux/prctl.h>
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
GRACE_S = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def die_with_parent() -> None:
    """Have Linux end this process, politely, when its parent ends."""
    ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGTERM)


def run(command: list[str]) -> int:
    """Run `command` until it ends or SIGTERM or SIGINT comes; returns its exit status once no process of it is left."""
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)  # what loses its parent comes to us
    for number in SIGNALS:  # a handler also where Ray's processes were started with SIGINT ignored; the server then has it back
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        return server.wait()
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
        while left := psutil.Process().children(recursive=True):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(run(sys.argv[1:]))

"""The slow link, for real where the machine allows it: in a network of its own, so that nothing here changes."""

import subprocess
import sys

import pytest

from pdbench.configs import ROOT
from pdbench.network import slow_link

# The receiver's clock: from the first byte to the last.
SCRIPT = """
import socket, sys, threading, time
from pdbench.network import slow_link

def mbit(port, size):
    with socket.create_server(("127.0.0.1", port)) as server:
        sender = threading.Thread(target=lambda: socket.create_connection(("127.0.0.1", port)).sendall(bytes(size)))
        sender.start()
        receiver, _ = server.accept()
        got, begun = len(receiver.recv(1)), time.monotonic()
        while got < size:
            got += len(receiver.recv(1 << 20))
        sender.join()
        return 8e-6 * size / (time.monotonic() - begun)

slow_link.start(20)
print(mbit(31744, 2_000_000), mbit(32767, 2_000_000), mbit(31743, 2_000_000), slow_link.is_slow())
try:
    slow_link.start(20)
except slow_link.LinkError as error:
    print(error)
print(slow_link.stop(), slow_link.is_slow(), slow_link.stop(), mbit(31744, 2_000_000))
"""


def alone(command):
    """Run a command in a network of its own."""
    whole = ["unshare", "-n", "bash", "-c", 'ip link set lo up && exec "$@"', "bash", *command]
    return subprocess.run(whole, capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.fixture
def allowed():
    if reason := slow_link.why_not():
        pytest.skip(reason)


def test_only_the_kv_transfers_ports_are_slow(allowed):
    done = alone([sys.executable, "-c", SCRIPT])
    assert done.returncode == 0, done.stderr
    slow, again, ended = done.stdout.splitlines()
    first, last, other, is_slow = slow.split()
    assert 5 < float(first) < 24 and 5 < float(last) < 24 and float(other) > 40 and is_slow == "True"
    assert "lo has a queue already" in again
    assert ended.split()[:3] == ["True", "False", "False"] and float(ended.split()[3]) > 40


def test_the_ports_are_those_that_the_mask_covers():
    low, high = map(int, slow_link.UCX_ENV["UCX_TCP_PORT_RANGE"].split("-"))
    covered = [port for port in range(65536) if port & slow_link.PORT_MASK == slow_link.FIRST_PORT]
    assert (low, high) == (covered[0], covered[-1]) == (31744, 32767)


def test_without_tc_it_says_what_is_needed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert slow_link.why_not() == "a slow link needs tc: install iproute2"
    assert not slow_link.is_slow()
    with pytest.raises(slow_link.LinkError, match="install iproute2"):
        slow_link.start(5)


@pytest.mark.parametrize(("rate", "words"), [("0", "'0' is not a whole number of at least 1"), ("x", "'x' is not")])
def test_a_wrong_rate_is_reported_in_one_line(rate, words):
    command = [sys.executable, "-m", "pdbench.slow_link", "start", "--mbit", rate]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1

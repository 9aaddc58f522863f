"""Measure what the machine can do without NIXL: a copy in memory, a plain TCP stream, the line rate of a network card."""

import re
import socket
import time
from pathlib import Path

import torch

from pdbench.network.ucx import DEVICE, NETWORK, SHARED

CHUNK = 2**20
INFINIBAND = Path("/sys/class/infiniband")
# Beginnings of UCX's names, and what bounds each.
BOUNDS = {
    "memory copy": (*SHARED, "self", "memory"),
    "device copy": DEVICE,
    "TCP stream": ("tcp",),
    "line rate": NETWORK,
}


def bound_of(transports: list[str]) -> str | None:
    """Return which limit holds for what UCX named (`cma/memory` -> `memory copy`); None if that is not known."""
    kinds = {kind for name in transports for kind, starts in BOUNDS.items() if name.startswith(starts)}
    return kinds.pop() if len(kinds) == 1 else None


class Scratch:
    """Two buffers to copy between, made once."""

    def __init__(self, source, target):
        """`source` and `target` are the torch devices between which it copies."""
        self.devices = (source, target)
        self.source = self.target = None

    def copy_seconds(self, size: int) -> float:
        """Measure the seconds to copy `size` bytes with one thread, or on the GPU; both buffers were touched before."""
        if self.source is None or len(self.source) < size:
            self.source, self.target = (torch.ones(size, dtype=torch.uint8, device=device) for device in self.devices)
        synchronize = torch.cuda.synchronize if self.target.is_cuda else lambda: None
        synchronize()
        begun = time.perf_counter()
        self.target[:size].copy_(self.source[:size])
        synchronize()
        return time.perf_counter() - begun


def listen(host: str) -> socket.socket:
    listener = socket.socket()
    listener.bind((host, 0))
    listener.listen(1)
    listener.settimeout(30)
    return listener


def send(listener: socket.socket, size: int) -> None:
    """Send `size` bytes to the next peer that connects; no other can afterwards."""
    with listener:
        connection, _ = listener.accept()
    with connection:
        data, left = memoryview(bytearray(CHUNK)), size
        while left:
            left -= connection.send(data[: min(left, CHUNK)])


def receive_seconds(host: str, port: int, size: int) -> float:
    """Measure the seconds from the first byte to the last of `size` bytes.

    Raises:
        ConnectionError: the stream ends before.
    """
    data = memoryview(bytearray(CHUNK))
    with socket.create_connection((host, port), timeout=30) as connection:
        left = size - connection.recv_into(data[:1])
        begun = time.perf_counter()
        while left:
            if not (got := connection.recv_into(data[: min(left, CHUNK)])):
                raise ConnectionError(f"the stream ended {left} bytes early")
            left -= got
    return time.perf_counter() - begun


def line_rate(transports: list[str], root: Path = INFINIBAND) -> float | None:
    """Return the summed GB/s of the network cards in UCX's names (`srd/rdmap85s0:1`) by the kernel; None if it reports none."""
    devices = {match.groups() for name in transports if (match := re.fullmatch(r"\w+/([^:]+):(\d+)", name))}
    total = 0.0
    for device, port in devices:
        path = root / device / "ports" / port / "rate"
        found = re.match(r"([\d.]+) Gb/sec", path.read_text()) if path.is_file() else None
        if not found:
            return None
        total += float(found[1]) / 8
    return total or None

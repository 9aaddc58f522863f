"""Read what UCX reports about the transports that it chose: the tables that UCX_PROTO_INFO=y prints.

UCX prints one for each operation of a connection: a title, then a row for each range of sizes,
`sizes | how | transport/device`. Neither Ray nor pydantic is needed to read them.
"""

import math
import re
from dataclasses import dataclass

from pdbench.network.ucx import NETWORK

TABLE = r"\|.*\|"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# `[1795498152.253178] [host:8282 :1]`, with whatever Ray or vLLM put before it.
_PROCESS = re.compile(r"\[\d+\.\d+\] \[(\S+?:\d+)\s*:(\d+)\]")
_TITLE = re.compile(r"\| ([^|]*?) \| ([^|]* by ucp_[^|]*?)\s*\|")
_ROW = re.compile(r"\|\s*([\w.]+)\s*\|\s*([^|]*?)\s*\|\s*(\S[^|]*?)\s*\|")
_READ = "remote memory read by ucp_get"
# Several rails read `50% on srd/rdmap85s0:1 and 50% on srd/rdmap86s0:1`.
_TRANSPORT = re.compile(r"\w+/[^\s,]+")
EMULATED = "software emulation"  # in active messages, which the other end's processor must answer
# From here on a read is large: UCX may have other ways for a few bytes, and the KV cache is not moved in them.
LARGE = 64 * 2**10
SMALL_ONLY = "small reads only"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Read:
    """How one process reads remote memory over one connection, for a range of sizes.

    Attributes:
        process: `host:pid` of the reader; empty where the line does not say.
        connection: UCX's own name, such as `ucp_context_0 intra-node cfg#1`.
        low, high: bytes of one read; `high` may be infinite.
        how: `zero-copy`, `software emulation`, ...
        transports: `cma/memory`, `tcp/lo`, `srd/rdmap85s0:1`, ...: one for each rail.
        line: the row as it was printed, without colours: the proof.
    """

    process: str
    connection: str
    low: float
    high: float
    how: str
    transports: tuple[str, ...]
    line: str

    @property
    def is_large(self) -> bool:
        """Whether large reads are among these sizes."""
        return self.high >= LARGE

    @property
    def emulated(self) -> tuple[str, ...]:
        """The RDMA transports that are named for large reads, which the card does not do: they are emulated in messages."""
        is_so = self.is_large and EMULATED in self.how
        return tuple(name for name in self.transports if is_so and is_rdma(name))


def read_tables(lines: list[str]) -> list[Read]:
    """Read the rows of remote reads, which is how decode fetches the KV cache, in the order in which they were printed.

    Args:
        lines: output of processes with UCX_PROTO_INFO=y. Lines of several may be mixed, since ranks share a log.
    """
    found, reading = [], {}
    for line in map(plain, lines):
        process = _PROCESS.search(line)
        speaker = process.groups() if process else ("", "")
        if title := _TITLE.search(line):
            reading[speaker] = title[1].strip() if _READ in title[2] else None
        elif (connection := reading.get(speaker)) and (row := _ROW.search(line)):
            transports = tuple(_TRANSPORT.findall(row[3]))
            low, high = _sizes(row[1])
            if transports and high > 0:  # what carries nothing proves nothing
                found.append(Read(speaker[0], connection, low, high, row[2], transports, line))
    return found


def transports_of(reads: list[Read], size: float | None = None) -> list[str]:
    """Return names of the transports in `reads`, sorted; with `size`, of those that carry reads of that many bytes."""
    fitting = (read for read in reads if size is None or read.low <= size <= read.high)
    return sorted({name for read in fitting for name in read.transports})


def ways_of(reads: list[Read]) -> list[str]:
    """Return what carries `reads` and how large ones are done, sorted: `srd/rdmap85s0:1 (zero-copy)`."""
    ways: dict[str, dict[str, bool]] = {}
    for read in reads:
        for name in read.transports:
            ways.setdefault(name, {})[read.how] = read.is_large or ways.get(name, {}).get(read.how, False)
    found = []
    for name, hows in ways.items():
        large = [how for how, is_large in hows.items() if is_large]
        found.append(f"{name} ({', '.join(sorted(large) or [*sorted(hows), SMALL_ONLY])})")
    return sorted(found)


def emulated_in(ways: list[str]) -> list[str]:
    """Return names of RDMA transports in `ways` (of `ways_of`) whose large reads are emulated."""
    return [way.partition(" ")[0] for way in ways if EMULATED in way and SMALL_ONLY not in way and is_rdma(way)]


def is_rdma(name: str) -> bool:
    """Return whether a transport, by UCX's name (`srd/rdmap85s0:1`), is one of RDMA, which is there to read by itself."""
    return name.startswith(NETWORK)


def plain(line: str) -> str:
    """Return the line without terminal colours."""
    return _COLOUR.sub("", line).rstrip()


def _sizes(text: str) -> tuple[float, float]:
    low, _, high = text.partition("..")
    return _bytes(low), _bytes(high or low)


def _bytes(text: str) -> float:
    if text == "inf":
        return math.inf
    number = re.match(r"\d+", text)
    return int(number[0]) * _UNITS.get(text[number.end() :], 1) if number else 0

"""Read what UCX reports about the transports that it chose: the tables that UCX_PROTO_INFO=y prints.

UCX prints one for each operation of a connection: a title, then a row for each range of sizes,
`sizes | how | transport/device`. Neither Ray nor pydantic is needed to read them.
"""

import math
import re
from dataclasses import dataclass

TABLE = r"\|.*\|"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# `[1795498152.253178] [host:8282 :1]`, with whatever Ray or vLLM put before it.
_PROCESS = re.compile(r"\[\d+\.\d+\] \[(\S+?:\d+)\s*:(\d+)\]")
_TITLE = re.compile(r"\| ([^|]*?) \| ([^|]* by ucp_[^|]*?)\s*\|")
_ROW = re.compile(r"\|\s*([\w.]+)\s*\|\s*([^|]*?)\s*\|\s*(\S[^|]*?)\s*\|")
_READ = "remote memory read by ucp_get"
# Several rails read `50% on srd/rdmap85s0:1 and 50% on srd/rdmap86s0:1`.
_TRANSPORT = re.compile(r"\w+/[^\s,]+")
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

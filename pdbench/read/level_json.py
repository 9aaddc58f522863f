"""Read the JSON of a level's file: whole, or without its per-request lists, which are most of it."""

import json
import mmap
import os
import reprlib
import stat
from pathlib import Path
from typing import Any

from pdbench.files import first_line
from pdbench.read import foreign

DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")  # in the client's order
# Bytes at the beginning and at the end of a level's file that hold all that is not a detail.
EDGE = 1 << 14
DETAILS_BEGIN = b'"input_lens": ['


def load_level(path: Path, details: bool = True) -> dict[str, Any]:
    """Load a level's file in the client's words, or all of it but per-request details; ValueError if it is not whole."""
    check_regular(path)
    data = path.read_bytes() if details else _without_details(path)
    try:
        content = json.loads(data, object_pairs_hook=_unique)
    except KeyTwice:
        raise
    except (ValueError, RecursionError) as error:
        if several := _several(path.read_bytes()):
            raise ValueError(several) from error
        raise ValueError(f"not whole JSON: {first_line(error)}") from error
    content = foreign.in_clients_words(content)
    if not isinstance(content, dict):
        raise ValueError(f"must hold a JSON object, not {reprlib.repr(content)}")
    return content


class KeyTwice(ValueError):
    """A JSON object has one key twice, and only one of its values would be read."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyTwice(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def check_regular(path: Path) -> None:
    """Refuse what is no file, and would be waited for or never end.

    Raises:
        OSError: there is no such file, or it may not be looked at.
        ValueError: it is a folder, a pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
        raise ValueError(f"is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file")


def _several(data: bytes) -> str:
    """What a file is that holds several JSON objects; nothing where it holds no second one."""
    try:
        text, decoder = data.decode(json.detect_encoding(data)), json.JSONDecoder()
        first, end = decoder.raw_decode(text.lstrip("\ufeff"))
        count, rest = 1, text.lstrip("\ufeff")[end:].lstrip()
        while rest.startswith("{") and isinstance(first, dict):
            _, end = decoder.raw_decode(rest)
            count, rest = count + 1, rest[end:].lstrip()
    except (ValueError, RecursionError):
        return ""
    if count == 1:
        return ""
    tool = next((tool for tool in foreign.TOOLS if tool.knows(first)), None)
    of = f"; the first {foreign.in_words(tool)}" if tool else ""
    return f"holds {count} JSON objects, one after another, as --append-result writes them: give each a file of its own{of}"


def _without_details(path: Path) -> bytes:
    """A level's file less its per-request lists but `errors`; whole where these are not as the client writes them.

    A quote within a text is escaped in JSON, so no text can hold what the lists are found by.
    """
    with path.open("rb") as file:
        head = file.read(EDGE)
        begin = head.find(DETAILS_BEGIN)
        if begin < 0:
            return head + file.read()
        file.seek(max(begin, os.fstat(file.fileno()).st_size - EDGE))
        tail = file.read()
        end = tail.rfind(b'"errors": [')
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            # Another object may follow. A brace is found ten times faster, and trimmed files have no further one.
            if end < 0 or (whole.find(b"{", begin) >= 0 and whole.find(DETAILS_BEGIN, begin + 1) >= 0):
                return whole[:]
    return head[:begin] + tail[end:]

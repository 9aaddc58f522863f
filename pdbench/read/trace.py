"""Define load that shifts, as phases or as a trace, and the file beside a level that says when each of its requests is sent.

`vllm bench serve --dataset-name timed_trace` replays `shift1.trace.jsonl` for `shift1.json`. A line for each request, in order
of time: {"timestamp": 0.71, "input_length": 5000, "output_length": 50, "phase": 0, "hash_ids": [7340032]}.
A trace that somebody brings is the same less what it may leave out: its phase (0) and hash_ids, which are replaced.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from pdbench.files import first_line
from pdbench.manifest import Strict

ENDING = ".trace.jsonl"
SHAPE = "5000:50:4:30 (ISL:OSL:requests/s:seconds)"
LEAST_OSL = 2  # tokens: a single one has no TPOT, and needs no decode engine
# Requests of one seed for which the ids of prompts never meet those of another seed.
MOST = 1 << 20


class Phase(NamedTuple):
    """Requests of one shape, sent at random times within so many seconds, `rate` a second in the mean."""

    isl: int
    osl: int
    rate: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.isl}:{self.osl}:{self.rate:g}:{self.seconds:g}"


class Sent(NamedTuple):
    """One request: when it is sent (s since the beginning), its tokens in and out, and its phase, from 0."""

    at: float
    isl: int
    osl: int
    phase: int


class _Line(Strict):
    """A request in a file."""

    timestamp: float = Field(ge=0, allow_inf_nan=False)
    input_length: int = Field(ge=1, strict=True)
    output_length: int = Field(ge=LEAST_OSL, strict=True)
    phase: int = Field(default=0, ge=0, strict=True)
    hash_ids: list[int] = []

    @property
    def sent(self) -> Sent:
        return Sent(self.timestamp, self.input_length, self.output_length, self.phase)


@dataclass(frozen=True)
class Shift:
    """Load that shifts: phases, else the requests of a trace. A level of it, its *load*, sends them that many times as fast."""

    phases: tuple[Phase, ...] = ()
    trace: tuple[Sent, ...] = ()

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest answer."""
        every = self.phases or self.trace
        return max(one.isl for one in every), max(one.osl for one in every)

    @property
    def identity(self) -> str:
        """What it is, as the user wrote phases; a trace by its digest."""
        digest = hashlib.sha256(repr(self.trace).encode()).hexdigest()
        return ",".join(map(str, self.phases)) or f"trace of {len(self.trace)} requests, {digest[:16]}"

    def sent(self, load: float, seed: int) -> list[Sent]:
        """Return the requests of a level in order of time; how many does not depend on the seed.

        The rates of phases are multiplied by the load, and a phase's requests come at uniformly random times: those of a
        Poisson process whose number is given. The times of a trace are divided by the load.

        Raises:
            ValueError: a phase has no request at this load, or a level has too many.
        """
        if self.trace:
            return [one._replace(at=(one.at - self.trace[0].at) / load) for one in self.trace]
        rng, begin = random.Random(seed), 0.0
        found: list[Sent] = []
        for number, phase in enumerate(self.phases):
            if not (count := round(phase.rate * load * phase.seconds)):
                raise ValueError(f"phase {phase} has no request at load {load:g}: give more seconds or a higher rate")
            if count + len(found) > MOST:
                raise ValueError(f"phase {phase} makes more than {MOST:,} requests at load {load:g}")
            at = sorted(round(begin + rng.uniform(0, phase.seconds), 4) for _ in range(count))
            found += [Sent(one, phase.isl, phase.osl, number) for one in at]
            begin += phase.seconds
        return found


def parse_phases(text: str) -> Shift:
    """Read phases as they are typed: `5000:50:4:30,500:500:4:30`.

    Raises:
        ValueError: one line that names the phase and what it may be.
    """
    return Shift(phases=tuple(map(_phase, text.split(","))))


def _phase(text: str) -> Phase:
    parts = text.strip().split(":")
    try:
        isl, osl, rate, seconds = int(parts[0]), int(parts[1]), float(parts[2]), float(parts[3])
        if len(parts) > 4:
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(f"phase {text.strip()!r} is not like {SHAPE}") from None
    return checked(Phase(isl, osl, rate, seconds))


def checked(phase: Phase) -> Phase:
    """Return a phase that can be sent.

    Raises:
        ValueError: it has no length, no request, or a single output token.
    """
    for name, value, least in (("ISL", phase.isl, 1), ("OSL", phase.osl, LEAST_OSL)):
        if value < least:
            why = ": where load shifts, every request is decoded, too" if name == "OSL" else ""
            raise ValueError(f"phase {phase}: {name} is {value}, and must be at least {least}{why}")
    for name, number in (("requests/s", phase.rate), ("seconds", phase.seconds)):
        if not 0 < number < float("inf"):
            raise ValueError(f"phase {phase}: {name} must be above 0 and finite, not {number:g}")
    return phase


def read_trace(path: Path) -> Shift:
    """Read a trace that somebody brings: see the module's first lines.

    Raises:
        OSError: the file cannot be read.
        ValueError: one line that names the file, the line in it and what is wrong.
    """
    return Shift(trace=tuple(read_sent(path.read_bytes(), path)))


def read_sent(data: bytes, path: Path) -> list[Sent]:
    """Read the requests of a trace, `data`, whose file is called `path`; raises ValueError as `read_trace` does."""
    found: list[Sent] = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            found.append(_Line.model_validate_json(line).sent)
        except ValidationError as error:
            (first, *_) = error.errors()
            name = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path}: line {number}: {f'{name}: ' if name else ''}{first_line(first['msg'])}") from None
    if not found:
        raise ValueError(f"{path}: holds no request")
    if len(found) > MOST:
        raise ValueError(f"{path}: holds more than {MOST:,} requests")
    for number, (one, after) in enumerate(pairwise(found), start=2):
        if after.at < one.at:
            raise ValueError(f"{path}: line {number}: timestamp {after.at:g} is before {one.at:g}: sort the requests by time")
        if after.phase not in (one.phase, one.phase + 1):
            raise ValueError(
                f"{path}: line {number}: phase {after.phase} after {one.phase}: phases follow each other as 0, 1, 2"
            )
    if found[0].phase:
        raise ValueError(f"{path}: line 1: phase {found[0].phase}: the first is 0")
    return found


def trace_text(sent: Sequence[Sent], seed: int) -> str:
    """Return the file of a level: requests with prompts of their own, which the seed decides.

    The client draws a prompt's tokens from its only hash id, so that no two requests share a prefix.
    """
    names = ("timestamp", "input_length", "output_length", "phase")
    lines = (dict(zip(names, one, strict=True)) | {"hash_ids": [seed * MOST + i]} for i, one in enumerate(sent))
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def trace_path(level_file: Path) -> Path:
    """Return the file of requests beside a level's file, whatever follows its `.json`."""
    return level_file.with_name(level_file.name.replace(".json", ENDING, 1))


def digest_of_trace(data: bytes) -> str:
    """Return what ties such a file to its level, whose `trace` it is: its SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sent_of(level_file: Path, digest: object) -> list[Sent]:
    """Read the file beside a level, whose summary says its `digest`.

    Raises:
        OSError, ValueError: it is missing, or is not the one that was replayed.
    """
    path = trace_path(level_file)
    if not path.is_file():
        raise ValueError(f"{path.name} is missing, which says when each of its requests was sent")
    data = path.read_bytes()
    if digest_of_trace(data) != digest:
        raise ValueError(f"{path.name} is not the trace that was replayed: the level's digest of it is {digest}")
    return read_sent(data, path)


def bounds_of(sent: Sequence[Sent]) -> list[float]:
    """Return when each phase begins, with its first request (s), in order of the phases."""
    return [one.at for before, one in zip([None, *sent], sent, strict=False) if before is None or before.phase != one.phase]


def longest_gap(sent: Sequence[Sent]) -> float:
    """Return the longest time without a request, in s, from the beginning on."""
    return max(after - one for one, after in pairwise([0.0, *(one.at for one in sent)]))

"""Define what is asked of a deployment: lengths, phase, levels and seeds, and the folder that holds the answers."""

import hashlib
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

ALL_AT_ONCE = "decode alone sends as many requests as are in flight, all at once: leave it out"
Phase = Literal["mixed", "prefill-only", "decode-only", "shift"]
SHIFT: Phase = "shift"  # load that shifts: requests of several shapes, by a trace
PHASES: tuple[Phase, ...] = tuple(phase for phase in get_args(Phase) if phase != SHIFT)  # of requests that are all alike
CONCURRENCIES = (4, 8, 16, 32, 48, 64)
REQUEST_RATES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
REQUESTS_PER_CONCURRENCY = 5
REQUESTS_PER_RATE_LEVEL = 500

_FOLDER = re.compile(
    r"(?P<model>.+?)_itl(?P<isl>[1-9]\d*)_otl(?P<osl>[1-9]\d*)"
    r"(?:_(?P<phase>mixed|prefill-only|decode-only|shift))?_(?P<name>.+)",
    re.ASCII,
)
# The published request-rate folders spell a level conc128_rr4: rate 4, at most 128 in flight.
_PREFIXES = {"concurrency": "conc", "request-rate": "rr", SHIFT: "shift"}
_LEVEL_FILE = re.compile(
    r"(?:conc(?P<cap>[1-9]\d*)_)?(?P<kind>conc|rr|shift)(?P<value>\d+(?:\.\d+)?)"
    r"(?:_rep(?P<repeat>[1-9]\d*))?\.json",
    re.ASCII,
)


@dataclass(frozen=True)
class Level:
    """One load of a sweep: `concurrency` requests in flight, `request-rate` per second, or `shift`, of load that shifts.

    Args:
        kind: "concurrency", "request-rate" or "shift".
        value: requests in flight (whole), requests per second, or how many times as fast as the phases or the trace say.
        repeat: which measurement of this level, from 1.
    """

    kind: str
    value: float
    repeat: int = 1

    @property
    def stem(self) -> str:
        """`conc8`, `rr2.5`, `shift1`, or `conc8_rep2` for later repeats."""
        return f"{_PREFIXES[self.kind]}{_plain(self.value)}" + (f"_rep{self.repeat}" if self.repeat > 1 else "")

    @property
    def filename(self) -> str:
        return f"{self.stem}.json"

    @classmethod
    def from_filename(cls, filename: str) -> "Level":
        """Read `conc8.json`, `rr2.json`, `conc8_rep2.json` or the published `conc128_rr4.json`.

        Raises:
            ValueError: the name is none of these.
        """
        match = _LEVEL_FILE.fullmatch(filename)
        capped, broken = (match["cap"], "." in match["value"]) if match else (None, False)
        if match and not (capped and match["kind"] != "rr") and not (broken and match["kind"] == "conc"):
            kind = {prefix: kind for kind, prefix in _PREFIXES.items()}[match["kind"]]
            level = cls(kind, float(match["value"]), int(match["repeat"] or 1))
            # rr4.0.json and conc4_rep1.json would be second names for rr4.json and conc4.json.
            if level.value and filename == (f"conc{match['cap']}_" if match["cap"] else "") + level.filename:
                return level
        raise ValueError(f"{filename!r} is not a level: expected conc<K>.json, rr<R>.json or shift<X>.json")

    @staticmethod
    def cap_of(filename: str) -> int | None:
        """Return the most requests in flight that the name of a level's file says (128 of `conc128_rr4.json`), if it does."""
        match = _LEVEL_FILE.fullmatch(filename)
        return int(match["cap"]) if match and match["cap"] else None

    def num_prompts(self, at_once: bool = False) -> int:
        """Return requests to send: 5 per request in flight, or 500 at a request rate.

        Args:
            at_once: one per request in flight, so that all are admitted before any decode step that counts.
        """
        if at_once:
            return int(self.value)
        if self.kind == "concurrency":
            return int(self.value) * REQUESTS_PER_CONCURRENCY
        return REQUESTS_PER_RATE_LEVEL


@dataclass(frozen=True)
class RunName:
    """A result folder's name: `{model}_itl{ISL}_otl{OSL}_{phase}_{name}`."""

    model: str
    isl: int
    osl: int
    phase: str
    name: str

    def __str__(self) -> str:
        return f"{self.model}_itl{self.isl}_otl{self.osl}_{self.phase}_{self.name}"

    @classmethod
    def parse(cls, folder: str) -> "RunName":
        """Read a folder's name; published names without a phase are `mixed`.

        Raises:
            ValueError: the name does not have this shape.
        """
        match = _FOLDER.fullmatch(folder)
        if not match:
            expected = "{model}_itl{ISL}_otl{OSL}_{phase}_{name}"
            raise ValueError(f"{folder!r} is not a result folder: expected {expected}")
        phase = match["phase"] or "mixed"
        return cls(match["model"], int(match["isl"]), int(match["osl"]), phase, match["name"])


def _plain(value: float) -> str:
    """All digits of a number and no exponent, which `:g` would round or write."""
    return f"{Decimal(repr(float(value))).normalize():f}"


def parse_levels(kind: str, text: str) -> list[Level]:
    """Parse levels from a comma-separated list such as `4,8,16`, or `all` where the load does not shift.

    Raises:
        ValueError: a part is not a positive number (whole, for concurrency), or is named twice.
    """
    if text == "all" and kind != SHIFT:
        return [Level(kind, float(v)) for v in (CONCURRENCIES if kind == "concurrency" else REQUEST_RATES)]
    pattern = r"[1-9]\d*" if kind == "concurrency" else r"[1-9]\d*(\.\d+)?|0\.\d*[1-9]\d*"
    what = "whole numbers" if kind == "concurrency" else "positive numbers"
    values = []
    for part in text.split(","):
        if not re.fullmatch(pattern, part.strip()):
            every, name = ("", "load") if kind == SHIFT else ("'all' or ", kind)
            raise ValueError(f"{name} {part.strip()!r} is not allowed: give {every}{what} like 4,8,16")
        values.append(float(part))
    if len(set(values)) != len(values):
        raise ValueError(f"{'load' if kind == SHIFT else kind} {text!r} names a level twice")
    return [Level(kind, v) for v in values]


def level_seed(base_seed: int, level: Level, purpose: str = "measure", attempt: int = 1) -> int:
    """Derive the seed for one level's prompts, different for every (base seed, level, repeat, purpose, attempt).

    `vllm bench serve --seed` is 0 at every call, so without this each level would replay the
    prompts of the one before into a live prefix cache. 31 bits: numpy's legacy seed takes 32.
    """
    key = f"{base_seed}/{level.kind}/{_plain(level.value)}/{level.repeat}/{purpose}" + (f"/{attempt}" if attempt > 1 else "")
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def phase_lengths(phase: str, isl: int, osl: int, decode_bench: bool = False) -> tuple[int, int]:
    """Return tokens (in, out) that a phase really sends: prefill-only is ISL:1, decode-only 1:OSL.

    1:OSL ignores what a long context costs each decode step, so it is an approximation. Where the
    deployment fills KV caches instead of computing them (`decode_bench`), decode-only is ISL:OSL. Where load shifts these
    are the longest.
    """
    only = {"prefill-only": (isl, 1), "decode-only": (isl if decode_bench else 1, osl)}
    return only.get(phase, (isl, osl))

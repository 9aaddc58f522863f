"""Measure load that shifts: the trace that the client replays, what warms up for it, and whether a request was lost."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pdbench.files import write_atomically
from pdbench.manifest import Gate, now
from pdbench.read.trace import Sent, digest_of_trace, trace_path, trace_text


def words(sent: Sequence[Sent], lengths: tuple[int, int]) -> str:
    """Return the tokens of a level's requests in words; `lengths` where they are all alike."""
    known = list(dict.fromkeys((one.isl, one.osl) for one in sent)) or [lengths]
    if len(known) > 4:
        return f"up to {lengths[0]}:{lengths[1]} tokens, in {sent[-1].at:.0f} s"
    shapes = " and ".join(f"{isl}:{osl}" for isl, osl in known)
    return f"{shapes} tokens" + (f", in {sent[-1].at:.0f} s" if sent else "")


def shapes(sent: Sequence[Sent]) -> list[tuple[int, int]]:
    """Return the tokens (in, out) that a warm-up must have sent: of each phase the longest and the shortest."""
    found: dict[tuple[int, int], None] = {}
    for phase in dict.fromkeys(one.phase for one in sent):
        isl, osl = zip(*((one.isl, one.osl) for one in sent if one.phase == phase), strict=True)
        found |= {(max(isl), max(osl)): None, (min(isl), min(osl)): None}
    return list(found)


def write(level_file: Path, sent: Sequence[Sent], seed: int) -> tuple[Path, tuple[str, str]]:
    """Write the trace beside a level's file; the seed decides its prompts.

    Returns:
        Its path, and what the level's file must say of it: its digest, and what the client's clock lacks to Unix time (s).
    """
    path, text = trace_path(level_file), trace_text(sent, seed)
    write_atomically(path, text)
    # The client takes times with perf_counter, which on Linux counts the same in every process of a machine.
    return path, (f"trace={digest_of_trace(text.encode())}", f"clock={time.time() - time.perf_counter():.6f}")


def lost(level_file: Path, sent: Sequence[Sent]) -> Gate:
    """Check that every request that was sent came back with all of its tokens, by the client's file."""
    try:
        content = json.loads(level_file.read_bytes())
        came, errors = content["output_lens"], [error for error in content["errors"] if error]
        failed = len(sent) - content["completed"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        came, errors, failed = [], [f"the client's file cannot be read: {error}"], len(sent)
    short = sum(0 < tokens != one.osl for tokens, one in zip(came, sent, strict=False))
    first = f"; the first: {' '.join(str(errors[0]).split())[-300:]}" if errors else ""
    seen = f"{failed} of {len(sent)} requests did not complete, {short} ended before all of their tokens came{first}"
    whole = not (failed or short) and len(came) == len(sent)
    return Gate(
        name="lost", passed=whole, time=now(), value=float(failed + short),
        seen=f"{len(sent)} requests sent, all completed with {sum(one.osl for one in sent)} tokens" if whole else seen,
        expected="each request completes with all of its tokens",
        advice="find the reason in the engines' logs, then measure the level again",
    )  # fmt: skip

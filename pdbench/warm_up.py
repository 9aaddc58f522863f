"""Warm up a running deployment for a level, until its engines compile nothing more."""

import asyncio
from pathlib import Path

from pdbench import client
from pdbench.compilations import Compilations
from pdbench.level_gates import Snapshot, compilations_now

MAX_ROUNDS = 4  # while kernels are still compiled


def warm_up(base_url: str, path: Path, load: client.Load) -> None:
    """Send prompts of the level's shape until the engines compile nothing more, and note in `path` what was sent.

    Args:
        path: the snapshot before the level.
        load: as many requests in flight as the level has, with prompts of their own.
    """
    sent, compiled = asyncio.run(_send(base_url, load))
    before = Snapshot.read(path)
    before.model_copy(update={"since": before.since + sent, "compiled": compiled}).write(path)


async def _send(base_url: str, load: client.Load) -> tuple[list[int], Compilations]:
    """Prompt tokens of what was sent, and what is compiled after it."""
    sent = [load.isl] * await client.warm_up(load)
    seen = await compilations_now(base_url)
    for _ in range(MAX_ROUNDS if seen.monitored else 0):
        before = len(seen.kernels)
        # One request after the other ends and the next one comes, as in the level: prefills of all sizes among decodes.
        sent += [load.isl] * await client.warm_up(load, staggered=True)
        seen = await compilations_now(base_url)
        if len(seen.kernels) == before:
            break
    return sent, seen

"""Warm up a running deployment for a level, until its engines compile nothing more."""

import asyncio

from pdbench.measure.level_gates import Snapshot, compilations_now
from pdbench.serve import client

MAX_ROUNDS = 4  # while kernels are still compiled


def warm_up(base_url: str, load: client.Load, before: Snapshot, first: bool = True) -> Snapshot:
    """Send prompts of the level's shape until the engines compile nothing more.

    Args:
        load: as many requests in flight as the level has, with prompts of their own.
        before: the snapshot before the level.
        first: whether it is the first of a sweep. If nothing has been compiled since the launch, later ones are shorter.

    Returns:
        That snapshot, with the requests that were sent and with what is compiled now.

    Raises:
        ServerError: a request was not answered.
    """
    return asyncio.run(_send(base_url, load, before, first))


async def _send(base_url: str, load: client.Load, before: Snapshot, first: bool) -> Snapshot:
    sent = await client.warm_up(load)
    seen = await compilations_now(base_url)
    # Engines that compile all while they start (`pad_steps_to`) are warm after a sweep's first level has shown it.
    can_be_cold = seen.monitored and (first or seen.kernels)
    for _ in range(MAX_ROUNDS if can_be_cold else 0):
        compiled = len(seen.kernels)
        # One request after the other ends and the next one comes, as in the level: prefills of all sizes among decodes.
        sent += await client.warm_up(load, staggered=True)
        seen = await compilations_now(base_url)
        if len(seen.kernels) == compiled:
            break
    return before.model_copy(update={"since": before.since + [load.isl] * sent, "compiled": seen})

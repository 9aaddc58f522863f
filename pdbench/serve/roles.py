"""Change the P:D ratio of a running pool (`launch_gptoss.py --roles p2-d1`), or have a controller do it (`--control`)."""

import asyncio
import re
import time

from pdbench.layout import POOL, Layout, Pool
from pdbench.manifest import Deployment
from pdbench.serve.api import Deployed, deployed
from pdbench.serve.client import ServerError, post, session
from pdbench.serve.controller import Bounds
from pdbench.serve.pool import REPORTS_S, Report
from pdbench.serve.readiness import short_completion

RATIO = re.compile(r"p([1-9]\d*)-d([1-9]\d*)", re.ASCII)
OFF = "off"
FOLLOWED_S = 60.0  # for the first request in a new role to end
REQUEST_S = 60.0


def change(base_url: str, ratio: str) -> list[str]:
    """Give the engines of the pool at `base_url` other roles, and return lines about it, when each changed one has followed.

    It sends requests of its own, since an idle engine proves nothing: a sweep that runs meanwhile does not count.

    Raises:
        ValueError: not a ratio, one that this pool cannot have, or no pool runs there.
        ServerError: nothing answers there.
        TimeoutError: an engine ended no request in its new role in time.
    """
    return asyncio.run(_change(base_url, ratio))


def control(base_url: str, text: str) -> str:
    """Have a controller move the roles of the pool at `base_url`, or none (`off`); returns a line about it.

    Args:
        text: bounds in ms, as `ttft=1000,tpot=12`; `tick=0.5` (s) is how often it decides.

    Raises:
        ValueError: not such bounds, or no pool runs there.
        ServerError: nothing answers there.
    """
    bounds = None if text == OFF else bounds_of(text)

    async def ask() -> list[Report]:
        async with deployed(base_url) as running:
            deployment = await running.deployment()
        _check_pool(deployment, "--control")
        async with deployed(base_url) as running:
            return await running.control(bounds)

    found = asyncio.run(ask())
    roles = [one.role for one in found]
    now = f"p{roles.count('prefill')}-d{roles.count('decode')}"
    if bounds is None:
        return f"no controller: {now} stays"
    kept = f"TTFT {bounds.ttft_ms:g} ms, TPOT {bounds.tpot_ms:g} ms"
    return f"a controller moves the roles every {bounds.tick_s:g} s to keep {kept}; now {now}"


def bounds_of(text: str) -> Bounds:
    """Read what a controller is to keep: `ttft=1000,tpot=12`, see `control`."""
    names = {"ttft": "ttft_ms", "tpot": "tpot_ms", "tick": "tick_s"}
    given = [part.partition("=") for part in text.split(",")]
    try:
        found = {names[name.strip()]: float(value) for name, _, value in given}
        if len(found) < len(given):
            raise ValueError
        return Bounds.model_validate(found)
    except (KeyError, ValueError):
        raise ValueError(
            f"--control {text}: give both bounds in ms once, above 0, as in ttft=1000,tpot=12 (and tick=0.1 to 60, s), or off"
        ) from None


def new_layout(deployment: Deployment, ratio: str) -> Layout:
    """Return the layout of a pool with this ratio, such as `p2-d1`.

    Raises:
        ValueError: not a ratio, one that this pool cannot have, or the deployment is no pool.
    """
    if not (match := RATIO.fullmatch(ratio)):
        raise ValueError(f"--roles {ratio}: write p2-d1 (2 engines prefill, 1 decodes)")
    _check_pool(deployment, "--roles")
    prefill, decode, tp = int(match[1]), int(match[2]), Layout.parse(deployment.layout).decode.tp
    layout = Layout(prefill=Pool(prefill, tp), decode=Pool(decode, tp))
    if layout.gpus != deployment.gpus:
        engines = deployment.gpus // tp
        raise ValueError(f"--roles {ratio}: the pool has {engines} engines, so p1-d{engines - 1} to p{engines - 1}-d1")
    return layout


def _check_pool(deployment: Deployment, option: str) -> None:
    if deployment.mode != POOL:
        raise ValueError(f"{option}: mode {deployment.mode} has no table of roles; launch with --{POOL}")


async def _change(base_url: str, ratio: str) -> list[str]:
    async with deployed(base_url) as running:
        deployment = await running.deployment()
    layout = new_layout(deployment, ratio)  # outside: a session takes a ValueError for an answer that cannot be read
    async with deployed(base_url) as running:
        before = {one.replica_id: one.role for one in await running.roles()}
        begun = time.monotonic()
        after = await running.set_roles(layout)
        took = time.monotonic() - begun
        changed = [one for one in after if before.get(one.replica_id, "new") != one.role]
        lines = [f"layout {deployment.layout} -> {layout}: table changed in {took * 1000:.0f} ms"]
        url = deployment.takes_requests(base_url)
        for one, seconds in await _followed(running, url, deployment.model_id, changed, begun):
            was = before.get(one.replica_id, "new")
            lines.append(f"{one.replica_id}: {was} -> {one.role}; its first request there ended after {seconds:.1f} s")
        await asyncio.sleep(2 * REPORTS_S)  # until the other routers have read the table, too
    return lines if changed else [f"layout {layout}: nothing to change"]


async def _followed(running: Deployed, url: str, model: str, changed: list[Report], begun: float) -> list[tuple[Report, float]]:
    """Each changed engine, and the seconds until it had ended a request in its new role."""
    found: list[tuple[Report, float]] = []
    async with session(url, REQUEST_S) as opened:
        while len(found) < len(changed):
            await asyncio.gather(*(post(opened, "/v1/completions", short_completion(model) | {"stream": False})
                                   for _ in range(2 * len(changed))))  # fmt: skip
            now = {one.replica_id: one for one in await running.roles()}
            done = [one.replica_id for one, _ in found]
            for one in changed:
                is_new = one.replica_id not in done
                if one.replica_id not in now:
                    raise ServerError(
                        f"{one.replica_id} is gone; the engine that comes for it takes the role of one that is missing"
                    )
                if is_new and now[one.replica_id].ended[one.role] > one.ended[one.role]:
                    found.append((one, time.monotonic() - begun))
            if len(found) < len(changed) and time.monotonic() - begun > FOLLOWED_S:
                idle = ", ".join(one.replica_id for one in changed if one.replica_id not in done)
                raise TimeoutError(f"{idle}: no request ended in the new role within {FOLLOWED_S:.0f} s")
    return found

#!/usr/bin/env python
"""Measure how evenly a pool's router shares requests out, beside Ray Serve's own: real Ray Serve, replicas that only wait.

    python benchmarks/pool_sharing.py
    python benchmarks/pool_sharing.py --replicas 4 --in-flight 32 --router pool
    python benchmarks/pool_sharing.py --ingress 4 --in-flight 32 --seconds 2 --spread 0.01 --router ray

Requests go to the ingress replica that has the fewest, as HAProxy hands them out. With a small --spread those that came at
once end at once, and the next ones come as a burst.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pdbench import interrupts  # noqa: E402
from pdbench.analysis.sharing import in_flight, share_in_time  # noqa: E402
from pdbench.cli import Parser  # noqa: E402

ROUTERS = ("pool", "ray")


class Engine:
    """Reports as an engine of a pool does, and waits."""

    def __init__(self) -> None:
        from ray import serve

        self.running, self.replica_id = 0, serve.get_replica_context().replica_id.unique_id

    async def __call__(self, seconds: float) -> tuple[str, float, float]:
        """Return who waited, from when until when."""
        self.running, begun = self.running + 1, time.time()
        await asyncio.sleep(seconds)
        self.running -= 1
        return self.replica_id, begun, time.time()

    async def record_routing_stats(self) -> dict:
        """Return what RoleRouter reads."""
        return {"role": "decode", "at": time.time(), "decode": self.running, "prefill": 0}


class Ingress:
    """Hands requests on, with a router of its own."""

    def __init__(self, engines) -> None:
        self.engines = engines

    async def __call__(self, seconds: float) -> tuple[str, float, float]:
        """Return what an engine returned."""
        return await self.engines.remote(seconds)


class All:
    """Holds the ingress replicas together."""

    def __init__(self, *ingress) -> None:
        self.ingress = ingress


def deploy(router: str, args: argparse.Namespace) -> list:
    """Start the replicas; returns a handle of each ingress replica."""
    from ray import serve

    from pdbench.serve.pool import REPORTS_S
    from pdbench.serve.pool_router import RoleRouter

    routing = {"request_router_class": RoleRouter, "request_routing_stats_period_s": REPORTS_S} if router == "pool" else {}
    free = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": 8192}
    engines = serve.deployment(Engine).options(num_replicas=args.replicas, request_router_config=routing, **free).bind()
    names = [f"ingress-{number}" for number in range(args.ingress)]  # deployments of their own, so that each can be chosen
    ingress = [serve.deployment(Ingress).options(name=name, **free).bind(engines) for name in names]
    serve.run(serve.deployment(All).options(**free).bind(*ingress), name="pool", route_prefix=None)
    return [serve.get_deployment_handle(name, "pool") for name in names]


async def closed_loop(ingress: list, args: argparse.Namespace, rng: random.Random) -> list[tuple[str, float, float]]:
    """Send five requests for each in flight; returns what each was answered."""
    todo = [args.seconds * rng.uniform(1 - args.spread, 1 + args.spread) for _ in range(5 * args.in_flight)]
    under_way, turns, done = [0] * len(ingress), [0] * len(ingress), []

    async def one() -> None:
        while todo:
            seconds = todo.pop()
            at = min(range(len(ingress)), key=lambda number: (under_way[number], turns[number]))
            under_way[at], turns[at] = under_way[at] + 1, turns[at] + 1
            done.append(await ingress[at].remote(seconds))
            under_way[at] -= 1

    await asyncio.gather(*(one() for _ in range(args.in_flight)))
    return done


def busiest(done: list[tuple[str, float, float]]) -> float:
    """The busiest replica's share of the requests in flight, the mean over time until the last one is sent."""
    who = np.unique([replica for replica, _, _ in done], return_inverse=True)[1]
    begun, ended = np.array([(begin, end) for _, begin, end in done]).T
    there, lasting = in_flight(begun, ended, who, begun.max())
    return share_in_time(there.max(axis=1), there, lasting)


def main(argv: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="benchmarks/pool_sharing.py", description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--replicas", type=int, choices=range(2, 17), default=2, metavar="N", help="engines (default: %(default)s)"
    )
    parser.add_argument("--ingress", type=int, choices=range(1, 33), default=8, metavar="N",
                        help="ingress replicas (default: %(default)s)")  # fmt: skip
    parser.add_argument("--in-flight", type=int, choices=range(1, 257), default=16, metavar="N",
                        help="requests in flight (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=1.5, help="that a request takes (default: %(default)s)")
    parser.add_argument("--spread", type=float, default=0.2, metavar="SHARE",
                        help="of --seconds, by which requests differ at most (default: %(default)s)")  # fmt: skip
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--router", choices=ROUTERS, help="only this one")
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 60:
        parser.error(f"--seconds must be above 0 and at most 60, not {args.seconds:g}")
    if not 0 <= args.spread < 1:
        parser.error(f"--spread must be from 0 to less than 1, not {args.spread:g}")
    import ray
    from ray import serve

    for router in [args.router] if args.router else ROUTERS:
        ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
                 runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})  # fmt: skip
        try:
            ingress, rng, shares = deploy(router, args), random.Random(0), []
            for number in range(args.rounds):
                shares.append(busiest(asyncio.run(closed_loop(ingress, args, rng))))
                print(f"{router}: round {number + 1} of {args.rounds}: {shares[-1]:.0%}", file=sys.stderr, flush=True)
        finally:
            serve.shutdown()
            ray.shutdown()
        had = f"{min(shares):.0%} to {max(shares):.0%} of the requests in flight, in the mean {np.mean(shares):.0%}"
        print(f"{router}: the busiest of {args.replicas} had {had} ({args.in_flight} in flight)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "pool_sharing.py"))

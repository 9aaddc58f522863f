"""Route a pool's requests by its replicas' roles and work: see pool.py."""

import random
from collections import Counter
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.request_router import RequestRouter

from pdbench.serve.pool import DECODE, PREFILL


def in_replica() -> bool:
    """Return whether this process is a replica of Ray Serve; a launch is not."""
    try:
        return serve.get_replica_context() is not None
    except RayServeException:
        return False


class RoleRouter(RequestRouter):
    """Chooses, of the replicas with a request's role, the one with the fewest of its own requests, then with the least work.

    Its own requests it knows; of the others' it knows reports, which are up to a second old. By these alone all routers send
    to one replica until the next report: benchmarks/pool_sharing.py. Ray's own choice, by the lengths of queues that it
    remembers, would also count a changed engine's decodes as prefill work.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Begin with nothing sent."""
        self.own: dict[str, tuple[Any, str]] = {}  # under way: replica and work, by request
        self.here = serve.get_replica_context().replica_id.unique_id if in_replica() else ""

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        """Rank the replicas that have the request's role; all, where none has it yet.

        A replica that orchestrates a request never computes its prompt, too: its own router may not know the new table yet.
        """
        work = work_of(pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            if work == PREFILL:
                candidate_replicas = [r for r in candidate_replicas if r.replica_id.unique_id != self.here]
        fitting = [r for r in candidate_replicas if (r.routing_stats or {}).get("role") == work] or candidate_replicas
        own = Counter(self.own.values())

        def rank(replica: Any) -> tuple[int, int, float]:
            return own[replica.replica_id, work], (replica.routing_stats or {}).get(work, 0), random.random()

        return [[replica] for replica in sorted(fitting, key=rank)]

    def on_request_routed(self, pending_request: Any, replica_id: Any, result: Any) -> None:
        """Count a request that was sent."""
        self.own[pending_request.metadata.internal_request_id] = replica_id, work_of(pending_request)

    def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
        """Count it no more, whatever came of it; one that was refused was not counted."""
        self.own.pop(internal_request_id, None)


def work_of(pending_request: Any) -> str:
    """Return what a request asks of a replica: to compute a prompt for another one, or to answer."""
    asked = pending_request.args[0] if pending_request is not None and pending_request.args else None
    return PREFILL if getattr(asked, "kv_transfer_params", None) else DECODE

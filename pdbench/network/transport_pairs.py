"""Find which transport moves the KV cache between each pair of a prefill and a decode replica, as UCX reports it."""

from dataclasses import dataclass

from pdbench.manifest import Replica
from pdbench.network.ucx_log import Read, transports_of


@dataclass(frozen=True)
class Pair:
    """One prefill replica, one decode replica that reads from it, and what UCX printed in the latter.

    Attributes:
        reads: rows of all of the decode replica's connections: UCX does not name the other end, but all prefill
            replicas of a layout are on the same node, so that their connections are of one kind.
    """

    prefill: Replica
    decode: Replica
    reads: tuple[Read, ...]

    @property
    def transports(self) -> list[str]:
        return transports_of(list(self.reads))


def pairs(replicas: list[Replica], ranks: dict[int, list[int]], reads: list[Read]) -> list[Pair]:
    """Return every pair of the deployment.

    Args:
        replicas: all of the running deployment.
        ranks: process ids below each decode replica's own: its engine's ranks, which are what reads.
        reads: what UCX printed in any process of the cluster.
    """
    found = []
    for decode in (r for r in replicas if r.role == "decode"):
        own = {decode.pid, *ranks.get(decode.pid, [])}
        mine = tuple(dict.fromkeys(read for read in reads if read.process and int(read.process.rsplit(":", 1)[1]) in own))
        found += [Pair(prefill, decode, mine) for prefill in replicas if prefill.role == "prefill"]
    return found

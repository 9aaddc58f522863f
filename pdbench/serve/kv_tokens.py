"""Find how many tokens the KV cache of each engine holds, as vLLM logs it when an engine has started."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Names, not modules: this travels to the nodes by value.
from pdbench.nodes.cluster import engine_lines, process_tree

# vLLM 0.29 (older ones name the core EngineCore_DP0): the core's process id, tokens. Groups of layers that share blocks
# (sliding windows) count in it.
SIZE = r"pid=(\d+)\).*GPU KV cache size: ([\d,]+) tokens"


def of_node(engines: list[dict[str, Any]], since: float) -> dict[str, int]:
    """Return tokens by replica_id for those of `engines` on this node whose line is there; runs as a Ray task.

    Args:
        engines: each with replica_id, node_id and pid.
        since: Unix time of the launch; older lines are of other engines.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    lines = [line for of_file in engine_lines(SIZE, since).values() for line in of_file]
    trees = {engine["replica_id"]: process_tree([engine["pid"]]) for engine in engines if engine["node_id"] == here}
    return {name: tokens for name, tree in trees.items() if (tokens := least(lines, tree)) is not None}


def least(lines: Iterable[str], pids: Iterable[int]) -> int | None:
    """Return the fewest tokens that lines of these processes name; None where none does."""
    own = set(pids)
    found = (match for line in lines if (match := re.search(SIZE, line)))
    return min((int(match[2].replace(",", "")) for match in found if int(match[1]) in own), default=None)


def by_role(engines: list[dict[str, Any]], of_nodes: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return by role what its smallest engine holds; empty as long as one has not said it."""
    tokens = {name: value for of_node in of_nodes for name, value in of_node.items()}
    if not all(engine["replica_id"] in tokens for engine in engines):
        return {}
    roles = sorted({engine["role"] for engine in engines})
    return {role: min(tokens[engine["replica_id"]] for engine in engines if engine["role"] == role) for role in roles}

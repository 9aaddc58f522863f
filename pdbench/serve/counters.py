"""Read what the engines have counted so far: vLLM's own counters, in files of their node that show every request at once.

The files are of prometheus_client's multiprocess mode (https://prometheus.github.io/client_python/multiprocess/). Through Ray
the same counters come up to 10 s late, for which each level would have to wait, and exporting them oftener costs throughput.
"""

from collections.abc import Iterable
from typing import Any

ENV = "PROMETHEUS_MULTIPROC_DIR"
# By the names under which vLLM keeps them.
NAMES = {
    "vllm:nixl_bytes_transferred_sum": "kv_bytes",
    "vllm:nixl_bytes_transferred_count": "kv_transfers",
    "vllm:nixl_xfer_time_seconds_sum": "kv_seconds",
    "vllm:nixl_num_failed_transfers_total": "kv_failed",
    "vllm:nixl_num_kv_expired_reqs_total": "kv_expired",
    "vllm:request_success_total": "requests",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:time_to_first_token_seconds_sum": "first_token_seconds",  # from a request's arrival at vLLM's frontend
    "vllm:request_decode_time_seconds_sum": "decode_seconds",  # from its first token to its last
}


def folder(port: int) -> str:
    """Return where the engines of the deployment at `port` keep them; in memory, since a disk could hold an engine up."""
    return f"/dev/shm/pdbench-counters-{port}"


def prepare(path: str) -> None:
    """Make the folder on this node, without what an earlier deployment may have left in it."""
    import pathlib

    pathlib.Path(path).mkdir(exist_ok=True)
    # Nodes of a local cluster share it.
    for old in pathlib.Path(path).glob("*.db"):
        old.unlink(missing_ok=True)


def remove(path: str) -> None:
    """Remove the folder from this node."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)  # nodes of a local cluster remove the same one


def of_node(path: str, replicas: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """Return counters of this node's engines since their start: role, name, value.

    Args:
        replicas: engines of all nodes, each with role, node_id and pid.
    """
    import pathlib

    import ray
    from prometheus_client.multiprocess import MultiProcessCollector

    here, found = ray.get_runtime_context().get_node_id(), []
    for replica in (r for r in replicas if r["node_id"] == here):
        files = [str(f) for kind in ("counter", "histogram") for f in pathlib.Path(path).glob(f"{kind}_{replica['pid']}.db")]
        for metric in MultiProcessCollector.merge(files):
            found += [(replica["role"], NAMES[s.name], s.value) for s in metric.samples if s.name in NAMES]
    return found


def by_role(replicas: list[dict[str, Any]], of_nodes: Iterable[list[tuple[str, str, float]]]) -> dict[str, dict[str, float]]:
    """Return sums over the engines of each role: {role: {name: value}}; what none has counted yet is absent."""
    total: dict[str, dict[str, float]] = {replica["role"]: {} for replica in replicas}
    for role, name, value in (one for of_node in of_nodes for one in of_node):
        total[role][name] = total[role].get(name, 0.0) + value
    return total


def grown(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return what each role has counted between two looks at its counters."""
    return {role: {name: now - before.get(role, {}).get(name, 0) for name, now in of_role.items()}
            for role, of_role in after.items()}  # fmt: skip


def summed(counters: dict[str, dict[str, float]], *roles: str) -> dict[str, float]:
    """Return the sums of some roles' counters."""
    names = {name for role in roles for name in counters.get(role, {})}
    return {name: sum(counters.get(role, {}).get(name, 0.0) for role in roles) for name in sorted(names)}


def finished(counters: dict[str, dict[str, float]]) -> float:
    """Return requests that ended at the engines from which answers come."""
    return sum(counters.get(role, {}).get("requests", 0) for role in ("collocated", "decode"))

"""What engines have counted, read from files that real processes have written."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pdbench.serve import counters

# As vLLM counts, in a process of its own: prometheus_client reads its environment when it is imported.
ENGINE = """
from prometheus_client import Counter, Gauge, Histogram
done = Counter("vllm:request_success", "finished", ["reason"])
done.labels("stop").inc()
done.labels("length").inc(2)
Counter("vllm:prompt_tokens", "not used").inc(0)
Counter("vllm:external_prefix_cache_hits", "of another cache").inc(20)
Gauge("vllm:num_requests_running", "now", multiprocess_mode="mostrecent").set(7)
moved = Histogram("vllm:nixl_bytes_transferred", "bytes", buckets=[1e5, 1e6])
moved.observe(131072)
moved.observe(5)
import os
print(os.getpid())
"""


@pytest.fixture
def engine(tmp_path):
    """Let an engine count in `tmp_path`; returns its process id."""

    def engine():
        env = os.environ | {counters.ENV: str(tmp_path)}
        return int(subprocess.run([sys.executable, "-c", ENGINE], env=env, check=True, stdout=subprocess.PIPE).stdout)

    return engine


@pytest.fixture
def here(monkeypatch):
    """This process as a task on node `n`."""
    import ray

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n"))


def test_counters_add_up_over_the_engines_of_a_role(engine, here, tmp_path):
    roles = {"prefill": [engine()], "decode": [engine(), engine()]}
    engine()  # of a replica that is gone
    replicas = [{"role": role, "node_id": "n", "pid": pid} for role, pids in roles.items() for pid in pids]
    replicas += [{"role": "decode", "node_id": "another", "pid": roles["prefill"][0]}]
    one = {"requests": 3.0, "kv_bytes": 131077.0, "kv_transfers": 2.0, "prompt_tokens": 0.0}
    found = counters.by_role(replicas, [counters.of_node(str(tmp_path), replicas), []])
    assert found == {"prefill": one, "decode": {name: 2 * value for name, value in one.items()}}


def test_engines_that_have_counted_nothing_have_a_role(here, tmp_path):
    replicas = [{"role": "collocated", "node_id": "n", "pid": 1}]
    assert counters.by_role(replicas, [counters.of_node(str(tmp_path), replicas)]) == {"collocated": {}}


def test_a_deployment_finds_nothing_of_an_earlier_one(engine, tmp_path):
    engine()
    counters.prepare(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    counters.remove(str(tmp_path))
    counters.remove(str(tmp_path))
    assert not tmp_path.exists()

"""CPU time by stage: which process counts as what, and what is printed of it."""

import os
import subprocess
import sys

import pytest

from benchmarks import stages
from benchmarks.stages import Used
from pdbench.manifest import Replica
from pdbench.nodes import local_cluster, marked

BUSY = """
import time
end = time.process_time() + 0.4
while time.process_time() < end:
    pass
print("done", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start():
    """Start a Python process that computes for 0.4 s, then sleeps, with the mark of a cluster and words of a command line."""
    started = []

    def begin(*words, mark="of-this-test"):
        env = os.environ | {marked.MARK: mark}
        process = subprocess.Popen([sys.executable, "-c", BUSY, *words], stdout=subprocess.PIPE, text=True, env=env)
        started.append(process)
        assert process.stdout.readline() == "done\n"
        return process.pid

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_processes_of_the_cluster_and_bench_clients_are_counted_by_stage(start):
    replica = {"replica_id": "r", "node_id": "n", "node_ip": "127.0.0.1"}
    frontend, ingress = start(), start()
    expected = {
        frontend: "frontend", ingress: "ingress", start("/x/haproxy", "-f"): "proxy", start("raylet"): "Ray",
        start("VLLM::EngineCore"): "engine core", start("VLLM::Worker_TP0"): "engine rank",
        start("pdbench.measure.bench_client", mark="another"): "client",
    }  # fmt: skip
    foreign = start("VLLM::EngineCore", mark="another")
    replicas = [Replica(role="decode", pid=frontend, **replica), Replica(role="ingress", pid=ingress, **replica)]
    found = stages.used("of-this-test", replicas)
    assert foreign not in found
    assert {pid: found[pid].stage for pid in expected} == expected
    assert all(0.3 <= found[pid].seconds < 5 for pid in expected)


def test_what_each_stage_used_is_printed_in_cores_and_per_request(capsys):
    before = {1: Used("client", 1.0), 2: Used("engine core", 5.0), 3: Used("engine core", 5.0), 4: Used("proxy", 1.0)}
    after = {1: Used("client", 2.0), 2: Used("engine core", 10.0), 3: Used("engine core", 9.0), 5: Used("proxy", 7.0)}
    stages.show(before, after, 20, 10.0)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert ["client", "1", "0.10", "50.0"] in rows and ["engine core", "2", "0.90", "450.0"] in rows
    assert ["proxy", "1", "0.00", "0.0"] in rows, "one that began or ended meanwhile has no two readings"


def test_where_no_cluster_runs_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(local_cluster, "state", lambda: None)
    monkeypatch.setattr(sys, "argv", ["stages.py"])
    assert stages.main() == 2
    assert capsys.readouterr().err == "stages.py: error: no local cluster runs here: its processes are what is counted\n"

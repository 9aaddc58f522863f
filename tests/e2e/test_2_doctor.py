"""The doctor on the real cluster: green as it is, red where a node or the shell was made ill. Before the engines' tests."""

import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest

from pdbench.nodes import local_cluster as cluster
from tests.helpers.commands import BIN, ROOT, launch, run

NODES = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


def doctor(*options: str, check: bool = True, **env: str) -> tuple[int, dict[str, list[dict]], dict]:
    """Exit code, findings by name, and all that it reported as JSON."""
    done = run(str(BIN / "python"), "debug/doctor.py", "--json", "-", *options, check=check, **env)
    reported = json.loads(done.stdout)
    findings: dict[str, list[dict]] = {}
    for finding in reported["findings"]:
        findings.setdefault(finding["name"], []).append(finding)
    return done.returncode, findings, reported


@pytest.fixture
def odd_node(local_cluster, tmp_path):
    """A further node whose Python finds another NIXL first, and whose engines would log at DEBUG."""
    other = tmp_path / "nixl-1.0.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: nixl\nVersion: 1.0.0\n")
    found = cluster.state()
    env = os.environ | {
        cluster.MARK: found["mark"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": found["token_path"],
        "PYTHONPATH": str(tmp_path), "NIXL_LOG_LEVEL": "DEBUG",
    }  # fmt: skip
    ip = "127.0.0.9"
    command = [str(BIN / "ray"), "start", "--block", f"--address={found['address']}", f"--node-ip-address={ip}",
               "--num-cpus=0", "--num-gpus=0", "--object-store-memory=100000000", "--min-worker-port=0",
               "--max-worker-port=0", "--disable-usage-stats"]  # fmt: skip
    with (tmp_path / "ray.log").open("wb") as log:
        node = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, process_group=0)
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in (tmp_path / "ray.log").read_text():
            assert node.poll() is None and time.monotonic() < deadline, (tmp_path / "ray.log").read_text()
            time.sleep(0.2)
        yield ip, next(p for p in psutil.Process(node.pid).children() if p.name() == "raylet")
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(30)
        deadline = time.monotonic() + 30
        while ip in doctor("--quick", check=False)[2]["nodes"]:
            assert time.monotonic() < deadline, "later tests would meet a dying node"


def test_a_healthy_cluster_is_green(local_cluster):
    status, findings, reported = doctor()
    assert status == 0 and reported["status"] == "ok"
    assert sorted(reported["nodes"]) == NODES and reported["nodes"][NODES[0]]["is_head"]
    assert [f["status"] for f in findings["NIXL UCX"]] == ["ok"] and findings["NIXL UCX"][0]["nodes"] == NODES
    assert findings["Ray"][0]["seen"].startswith("2.60.0 (")
    assert re.match(r"all \d+ of ", findings["pins"][0]["seen"])
    assert findings["GPUs"][0]["status"] == findings["EFA"][0]["status"] == "n/a"
    assert [f["nodes"] for f in findings["port 8000"]] == [NODES[:1]], "the head alone serves HTTP"
    assert [f["nodes"] for f in findings["port 8404"]] == [f["nodes"] for f in findings["port 9101"]] == [NODES[:1]]


def test_a_wrong_pin_and_a_loud_shell_are_reported(local_cluster, tmp_path):
    (tmp_path / "pins.txt").write_text("ray==2.51.0\nnixl==1.3.2\n")
    pins = ("--quick", "--requirements", str(tmp_path / "pins.txt"))
    status, findings, _ = doctor(*pins, check=False, NIXL_LOG_LEVEL="DEBUG")
    assert status == 1 and "pin nixl" not in findings
    (pin,) = findings["pin ray"]
    assert (pin["status"], pin["seen"], pin["nodes"]) == ("fail", "2.60.0", NODES)
    shell = [f for f in findings["NIXL_LOG_LEVEL"] if f["status"] != "ok"]
    assert [(f["status"], f["nodes"]) for f in shell] == [("warn", ["this shell"])], "engines do not inherit it"


def test_a_node_with_another_version_stops_the_launch(odd_node):
    odd_node, raylet = odd_node
    status, findings, reported = doctor("--quick", check=False)
    assert status == 1 and sorted(reported["nodes"]) == [*NODES, odd_node]
    (nixl,) = findings["NIXL"]
    assert nixl["seen"] == f"1.3.2 on {', '.join(NODES)}; 1.0.0 on {odd_node}" and odd_node in nixl["fix"]
    assert [f["nodes"] for f in findings["NIXL_LOG_LEVEL"] if f["status"] == "fail"] == [[odd_node]]
    done = launch("--collocated", "--verbose", check=False)
    assert done.returncode == 1 and "nothing was started: 1 of the doctor's checks failed" in done.stderr
    assert f"launch: doctor: NIXL on {', '.join([*NODES, odd_node])}: 1.3.2 on" in done.stderr
    assert "NIXL_LOG_LEVEL" not in done.stderr, "loud nodes are what --verbose asks for"
    raylet.suspend()
    try:
        status, findings, _ = doctor("--quick", "--timeout", "5", check=False)
    finally:
        raylet.resume()
    assert status == 1 and findings["NIXL"][0]["nodes"] == NODES
    assert [(f["nodes"], f["seen"]) for f in findings["answer"]] == [([odd_node], "no answer within 5 s")]

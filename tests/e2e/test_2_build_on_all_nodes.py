"""debug/build_on_all_nodes.py on a real cluster: every node runs it, into a log of its own."""

import importlib.metadata
import os
import signal
import subprocess
import time

import psutil

from tests.helpers.commands import BIN, ROOT, environment, run

SCRIPT = "debug/build_on_all_nodes.py"
NODES = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


def test_a_wheel_that_is_there_already_is_left_alone_on_every_node(local_cluster, tmp_path):
    wheel = f"nixl=={importlib.metadata.version('nixl')}"
    done = run(str(BIN / "python"), SCRIPT, "--wheel", wheel, "--logs", str(tmp_path))
    assert f"pip install {wheel} on 3 nodes" in done.stdout
    assert f"logs in {tmp_path}" in done.stdout
    for node in NODES:
        assert f"Requirement already satisfied: {wheel}" in (tmp_path / f"{node}.log").read_text()
        assert any(node in line and " ok " in line and f"{node}.log" in line for line in done.stdout.splitlines())


def test_a_node_that_fails_is_in_the_table_and_the_exit_code(local_cluster, tmp_path):
    done = run(str(BIN / "python"), SCRIPT, "--logs", str(tmp_path), "--", "--prefix", "/proc/nixl", "--ucx-only", check=False)
    assert done.returncode == 1 and done.stdout.count("failed (code 2)") == 6
    for node in NODES:
        assert "error: " in (tmp_path / f"{node}.log").read_text()


def test_ctrl_c_stops_the_builds_on_all_nodes(local_cluster, tmp_path):
    """One builds, the others wait for it: all must end, and the prefix stays empty."""
    source = tmp_path / "ucx"
    source.mkdir()
    (source / "configure").write_text("#!/bin/sh\nexec sleep 321\n")
    (source / "configure").chmod(0o755)
    begun = time.monotonic()
    command = [str(BIN / "python"), SCRIPT, "--logs", str(tmp_path / "logs"), "--", "--ucx-only", "--unpinned",
               "--source-ucx", str(source), "--prefix", str(tmp_path / "prefix")]  # fmt: skip
    driver = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    logs = [tmp_path / f"logs/{node}.log" for node in NODES]
    while not all(log.exists() for log in logs) or sum("under way: waiting" in log.read_text() for log in logs) < 2:
        assert driver.poll() is None and time.monotonic() < begun + 60
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGINT)
    output, _ = driver.communicate(timeout=30)
    assert driver.returncode == 130 and output.count("stopped") == 3
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert {path.name for path in (tmp_path / "prefix").iterdir()} == {".build", ".lock"}

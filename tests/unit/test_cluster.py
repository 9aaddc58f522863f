"""Placement: which nodes a layout is put on, and what is said where it does not fit."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench.configs import ROOT, load_hardware
from pdbench.layout import Layout, Pool
from pdbench.nodes import local_cluster
from pdbench.nodes.cluster import (
    Node,
    Placement,
    PlacementError,
    connect,
    each_file_once,
    engine_lines,
    place,
    planned_nodes,
    process_tree,
    read_nodes,
)

P5 = load_hardware(ROOT / "configs/hardware/p5.48xlarge.yaml")


def cluster_of(*sizes):
    """Nodes a, b, c, ... with this number of accelerators each."""
    return [Node("abcdefgh"[i], size) for i, size in enumerate(sizes)]


def placed(layout, mode, *sizes):
    return place(Layout.parse(layout), mode, cluster_of(*sizes))


def test_a_collocated_layout_takes_one_node_where_it_fits():
    assert placed("2xtp4", "collocated", 8, 8) == Placement(decode=Node("a", 8))
    assert placed("1xtp2", "collocated", 2, 4, 3).decode.ip == "b", "the largest node comes first"


def test_a_collocated_layout_that_no_node_holds_is_left_to_ray():
    assert placed("4xtp4", "collocated", 8, 8) == Placement(decode=None)
    assert placed("3xtp2", "collocated", 5, 3) == Placement(decode=None)


def test_packed_means_both_pools_on_one_node():
    node = Node("b", 8)
    assert placed("p2xtp2-d1xtp4", "pd-pack", 7, 8) == Placement(decode=node, prefill=node)


@pytest.mark.parametrize(
    ("layout", "sizes", "prefill", "decode"),
    [
        ("p1xtp1-d1xtp1", (4, 4), "a", "b"),
        ("p1xtp4-d1xtp8", (4, 8), "a", "b"),  # the larger pool gets the larger node, whichever it is
        ("p1xtp8-d1xtp4", (4, 8), "b", "a"),
        ("p4xtp1-d1xtp2", (1, 2, 3, 4), "d", "c"),
    ],
)
def test_spread_means_a_node_for_each_pool(layout, sizes, prefill, decode):
    placement = placed(layout, "pd-spread", *sizes)
    assert (placement.prefill.ip, placement.decode.ip) == (prefill, decode)


def test_among_equal_nodes_the_head_comes_last():
    nodes = [Node("a", 4, is_head=True), Node("b", 4)]
    assert place(Layout.parse("1xtp4"), "collocated", nodes).decode.ip == "b"
    placement = place(Layout.parse("p1xtp1-d1xtp1"), "pd-spread", nodes)
    assert (placement.prefill.ip, placement.decode.ip) == ("b", "a")


@pytest.mark.parametrize(
    ("layout", "mode", "sizes", "message"),
    [
        ("p2xtp2-d1xtp4", "collocated", (8,), "layout p2xtp2-d1xtp4 does not go with mode collocated: "
         "use pd-pack, pd-spread or pd-pool"),
        ("4xtp2", "pd-pack", (8,), "layout 4xtp2 does not go with mode pd-pack: use collocated"),
        ("4xtp2", "pd-spread", (8, 8), "layout 4xtp2 does not go with mode pd-spread: use collocated"),
        ("2xtp8", "collocated", (8, 4), "2xtp8 needs 16 GPUs in groups of 8 on a node; there are a: 8, b: 4"),
        # 12 of 12, but a replica never crosses nodes.
        ("3xtp4", "collocated", (6, 6), "3xtp4 needs 12 GPUs in groups of 4 on a node; there are a: 6, b: 6"),
        ("1xtp1", "collocated", (), "1xtp1 needs 1 GPUs in groups of 1 on a node; there are no nodes"),
        ("p2xtp2-d1xtp4", "pd-pack", (4, 7), "p2xtp2-d1xtp4 packed needs 8 GPUs on one node; there are b: 7, a: 4"),
        ("p1xtp1-d1xtp1", "pd-pack", (), "p1xtp1-d1xtp1 packed needs 2 GPUs on one node; there are no nodes"),
        ("p2xtp2-d1xtp2", "pd-spread", (8,), "p2xtp2-d1xtp2 spread needs 4 GPUs on one node and 2 on another; "
         "there is one node (a: 8)"),
        ("p2xtp2-d1xtp2", "pd-spread", (), "p2xtp2-d1xtp2 spread needs 4 GPUs on one node and 2 on another; "
         "there are no nodes (no nodes)"),
        ("p1xtp8-d1xtp4", "pd-spread", (2, 8), "p1xtp8-d1xtp4 spread needs 8 GPUs on one node and 4 on another; "
         "there are b: 8, a: 2"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_needed_and_what_there_is(layout, mode, sizes, message):
    with pytest.raises(PlacementError) as caught:
        placed(layout, mode, *sizes)
    assert str(caught.value) == message


def test_a_refusal_names_the_accelerator():
    with pytest.raises(PlacementError, match="needs 2 CPUs on one node; there are a: 1"):
        place(Layout.parse("p1xtp1-d1xtp1"), "pd-pack", cluster_of(1), "CPU")


pools = st.builds(Pool, st.integers(1, 4), st.integers(1, 4))
sizes = st.lists(st.integers(0, 12), max_size=4)


@given(pools, pools, sizes)
def test_packed_is_placed_exactly_where_it_fits(prefill, decode, sizes):
    layout, nodes = Layout(prefill=prefill, decode=decode), cluster_of(*sizes)
    fits = any(size >= layout.gpus for size in sizes)
    try:
        placement = place(layout, "pd-pack", nodes)
    except PlacementError:
        assert not fits
    else:
        assert fits and placement.prefill is placement.decode in nodes
        assert placement.decode.accelerators >= layout.gpus


@given(pools, pools, sizes)
def test_spread_is_placed_exactly_where_it_fits(prefill, decode, sizes):
    layout, nodes = Layout(prefill=prefill, decode=decode), cluster_of(*sizes)
    pairs = [(a, b) for a in nodes for b in nodes if a is not b]
    fits = any(a.accelerators >= prefill.gpus and b.accelerators >= decode.gpus for a, b in pairs)
    try:
        placement = place(layout, "pd-spread", nodes)
    except PlacementError:
        assert not fits
    else:
        assert fits and (placement.prefill, placement.decode) in pairs
        assert placement.prefill.accelerators >= prefill.gpus and placement.decode.accelerators >= decode.gpus


@given(pools, sizes)
def test_collocated_is_placed_exactly_where_whole_replicas_fit(pool, sizes):
    layout, nodes = Layout(pool), cluster_of(*sizes)
    fits = sum(size // pool.tp for size in sizes) >= pool.num
    try:
        placement = place(layout, "collocated", nodes)
    except PlacementError:
        assert not fits
    else:
        assert fits and placement.prefill is None
        one_node = max(sizes) >= layout.gpus
        assert (placement.decode is not None) == one_node, "one node if one is enough"


@pytest.mark.parametrize(
    ("layout", "mode", "count"),
    [
        ("8xtp1", "collocated", 1),
        ("9xtp1", "collocated", 2),
        ("3xtp8", "collocated", 3),
        ("3xtp5", "collocated", 3),  # one replica of TP5 to a node of 8
        ("p2xtp2-d1xtp4", "pd-pack", 1),
        ("p8xtp2-d1xtp4", "pd-pack", 1),
        ("p2xtp2-d1xtp4", "pd-spread", 2),
    ],
)
def test_a_dry_run_plans_with_as_many_nodes_as_are_needed(layout, mode, count):
    nodes = planned_nodes(P5, Layout.parse(layout), mode)
    assert [node.ip for node in nodes] == [f"<node{i + 1}>" for i in range(count)]
    assert {(node.accelerators, node.kind) for node in nodes} == {(8, "H100")}


@given(st.integers(1, 40), st.integers(1, 8))
def test_a_collocated_layout_of_node_sized_replicas_always_fits_the_planned_nodes(num, tp):
    layout = Layout(Pool(num, tp))
    assert place(layout, "collocated", planned_nodes(P5, layout, "collocated")).prefill is None


@pytest.mark.parametrize(
    ("layout", "mode", "message"),
    [
        ("1xtp16", "collocated", "1xtp16 needs 16 GPUs in groups of 16 on a node; there are <node1>: 8"),
        ("p4xtp2-d1xtp4", "pd-pack", "p4xtp2-d1xtp4 packed needs 12 GPUs on one node; there are <node1>: 8"),
        ("p9xtp1-d1xtp4", "pd-spread", "p9xtp1-d1xtp4 spread needs 9 GPUs on one node and 4 on another; "
         "there are <node1>: 8, <node2>: 8"),
    ],
)  # fmt: skip
def test_a_layout_that_no_such_cluster_holds_is_refused_without_one(layout, mode, message):
    layout = Layout.parse(layout)
    with pytest.raises(PlacementError) as caught:
        place(layout, mode, planned_nodes(P5, layout, mode))
    assert str(caught.value) == message


def test_dead_nodes_are_not_counted_and_absent_resources_are_none():
    def ray_node(ip, alive, **resources):
        return {"NodeManagerAddress": ip, "NodeID": f"id-{ip}", "Alive": alive, "Resources": resources}

    ray = SimpleNamespace(nodes=lambda: [
        ray_node("a", True, **{"CPU": 2.0, "node:__internal_head__": 1.0}),
        ray_node("b", False, GPU=8.0),
        ray_node("c", True, **{"GPU": 8.0, "CPU": 96.0, "accelerator_type:H100": 1.0}),
    ])  # fmt: skip
    assert read_nodes(ray, "GPU") == [Node("a", 0, "id-a", is_head=True), Node("c", 8, "id-c", kind="H100")]
    assert [node.accelerators for node in read_nodes(ray, "CPU")] == [2, 96]


def test_engine_lines_are_those_that_match_in_logs_touched_since(tmp_path, monkeypatch):
    for name, text, time in (
        ("worker-old.out", "| stale |\n", 50),
        ("worker-b.err", "| second |\nnoise\n", 200),
        ("worker-a.out", "noise\n| first |\n\xff", 100),
        ("raylet.out", "| not a worker |\n", 100),
    ):
        (tmp_path / name).write_text(text, encoding="latin-1")
        os.utime(tmp_path / name, (time, time))
    monkeypatch.setattr(os, "readlink", lambda path: str(tmp_path / "worker-a.out"))
    found = engine_lines(r"\|.*\|", since=100)
    assert found == {"worker-a.out": ["| first |"], "worker-b.err": ["| second |"]}
    other = {"worker-c.out": ["| first |"]}
    lines = [["| first |"], ["| second |"], ["| first |"]]
    assert each_file_once([found, other, found]) == lines, "of a machine with two nodes, and of another one"


def test_the_process_tree_holds_grandchildren_and_not_the_dead():
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    grandchild = int(child.stdout.readline())
    try:
        assert process_tree([child.pid]) == sorted([child.pid, grandchild])
        assert {os.getpid(), child.pid, grandchild} <= set(process_tree([os.getpid()]))
    finally:
        child.kill()  # first: a shell whose child is gone ends by itself, and would be waited for here
        os.kill(grandchild, signal.SIGKILL)
        child.stdout.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_tree([child.pid]) == [], "a zombie is dead"
    child.wait()
    assert process_tree([child.pid]) == []


@pytest.fixture
def ray(monkeypatch):
    """A stand-in for the module: `ray.asked` is where a driver wanted to connect to."""

    def init(address, **options):
        ray.asked.append(address)
        ray.options = options
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as the real one does
        if ray.refuses:
            raise RuntimeError(ray.refuses)

    ray = SimpleNamespace(asked=[], refuses=None, init=init, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(local_cluster, "state", lambda: None)
    # An environment of the test's own: `connect` writes to it.
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    monkeypatch.setattr(os, "environ", kept)
    return ray


def test_a_driver_connects_where_it_is_asked_to_else_to_the_local_cluster_else_to_any(ray, monkeypatch):
    assert connect() is ray and ray.asked == ["auto"] and "RAY_AUTH_MODE" not in os.environ
    local = {"address": "127.0.0.2:5", "token_path": "t"}
    monkeypatch.setattr(local_cluster, "state", lambda: local)
    connect("10.0.0.1:6379")
    assert ray.asked[-1] == "10.0.0.1:6379" and "RAY_AUTH_MODE" not in os.environ
    os.environ["RAY_ADDRESS"] = "10.0.0.2:6379"
    connect()
    assert ray.asked[-1] == "auto" and "RAY_AUTH_MODE" not in os.environ, "Ray itself reads RAY_ADDRESS"
    del os.environ["RAY_ADDRESS"]
    connect()
    assert ray.asked[-1] == "127.0.0.2:5"
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", "t")
    ray.is_initialized = lambda: True
    assert connect() is ray and len(ray.asked) == 4, "a driver that is connected stays so"


def test_a_connected_driver_reacts_to_sigterm_as_before(ray):
    before = signal.getsignal(signal.SIGTERM)
    connect()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_plan_sets_for_ray_serve_reaches_all_that_the_driver_starts(ray):
    connect(env={"RAY_SERVE_ENABLE_HA_PROXY": "1"})
    assert ray.options["runtime_env"] == {"env_vars": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
    connect()
    assert "runtime_env" not in ray.options


def test_a_cluster_that_is_not_there_or_refuses_is_reported_in_one_line(ray):
    ray.refuses = "could not connect\nstack\ntrace"
    hint = " (one that requires a token needs RAY_AUTH_MODE=token here too)"
    for address, where in (("10.0.0.1:1", "10.0.0.1:1"), (None, "this machine")):
        with pytest.raises(ConnectionError) as caught:
            connect(address)
        assert str(caught.value) == f"no Ray cluster at {where}: could not connect{hint}"
    os.environ |= {"RAY_ADDRESS": "10.0.0.2:1", "RAY_AUTH_MODE": "token"}
    with pytest.raises(ConnectionError) as caught:
        connect()
    assert str(caught.value) == "no Ray cluster at 10.0.0.2:1: could not connect"

"""The layout notation: what is written can be read, and nothing else can."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdbench.layout import CONTROLS, MODES, POOL, Layout, Pool, placed_as

sizes = st.integers(1, 10_000)
pools = st.builds(Pool, sizes, sizes)
layouts = st.builds(Layout, decode=pools, prefill=st.none() | pools)


@given(layouts)
def test_what_is_printed_is_read_back(layout):
    assert Layout.parse(str(layout)) == layout
    assert Layout.parse_published(str(layout)) == (layout, None)


@given(st.text() | st.from_regex(r"p?\d{1,3}xtp\d{1,3}(-d?\d{1,3}xtp\d{1,3})?", fullmatch=True))
@example("4xtp1\u0663")  # a digit, but not one of ours
@example("4xtp2\n")
def test_any_text_prints_back_as_itself_or_is_refused(text):
    try:
        layout = Layout.parse(text)
    except ValueError as error:
        assert repr(text) in str(error) and "p2xtp2-d1xtp4" in str(error)
    else:
        assert str(layout) == text


@pytest.mark.parametrize(
    "text",
    ["", "4", "xtp2", "0xtp2", "4xtp0", "04xtp2", "4xtp02", "-1xtp2", "4xtp2 ", "4XTP2", "p1xtp2", "d1xtp2",
     "1xtp2-1xtp2", "p1xtp2-1xtp2", "p1xtp2_d1xtp2", "d1xtp2-p1xtp2", "p1xtp2-d1xtp2-d1xtp2", "1.5xtp2"],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(ValueError, match="write 4xtp2"):
        Layout.parse(text)


def test_parts_of_a_pd_layout():
    layout = Layout.parse("p2xtp2-d1xtp4")
    assert (layout.prefill, layout.decode) == (Pool(2, 2), Pool(1, 4))
    assert (layout.is_pd, layout.gpus, layout.ratio) == (True, 8, "2:1")


def test_parts_of_a_collocated_layout():
    layout = Layout.parse("4xtp2")
    assert (layout.prefill, layout.decode) == (None, Pool(4, 2))
    assert (layout.is_pd, layout.gpus, layout.ratio) == (False, 8, "")


@given(layouts)
def test_gpus_are_those_of_both_pools(layout):
    pools = [layout.decode] + ([layout.prefill] if layout.is_pd else [])
    assert layout.gpus == sum(pool.num * pool.tp for pool in pools)


@pytest.mark.parametrize("bad", [0, -1, True, 1.0, "2", None])
def test_a_pool_needs_whole_numbers_from_one(bad):
    with pytest.raises(ValueError, match="number of replicas"):
        Pool(bad, 1)
    with pytest.raises(ValueError, match="tensor-parallel size"):
        Pool(1, bad)


@pytest.mark.parametrize(
    ("name", "layout", "placement"),
    [
        ("2xtp2-1xtp2", "p2xtp2-d1xtp2", None),
        ("1ptp2-3dtp2-packed-ucx", "p1xtp2-d3xtp2", "pack"),
        ("4ptp1-2dtp2-packed-ucx-bck", "p4xtp1-d2xtp2", "pack"),
        ("spread_srd_1xtp4-1xtp4", "p1xtp4-d1xtp4", "spread"),
        ("1xtp4-1xtp4-spread-libfabric", "p1xtp4-d1xtp4", "spread"),
        ("pack_p1xtp4-d1xtp4", "p1xtp4-d1xtp4", "pack"),
        ("pd_p3xtp2-d1xtp2", "p3xtp2-d1xtp2", None),
        ("baseline_2xtp4", "2xtp4", None),
    ],
)
def test_published_spellings(name, layout, placement):
    assert Layout.parse_published(name) == (Layout.parse(layout), placement)


@pytest.mark.parametrize(
    "name", ["", "baseline", "2xtp4_4xtp2", "02xtp4", "1xtp4-1xtpep4", "pack_1xtpep4-1xtp4", "1xtp4-0xtp2"]
)
def test_a_published_name_has_exactly_one_layout(name):
    with pytest.raises(ValueError, match="no single layout|tensor parallelism only"):
        Layout.parse_published(name)


def test_every_control_stands_like_a_mode_that_is_none():
    assert {placed_as(mode) for mode in MODES} == set(MODES) - set(CONTROLS)
    assert set(MODES) - set(CONTROLS) - {POOL} == set(CONTROLS.values()), "a pool has no control"
    assert all(placed_as(mode) == mode for mode in CONTROLS.values())


@pytest.mark.parametrize(
    "word", ["dp2", "2xdp8", "pp2", "ep8", "4xtp2dp2", "1xtpep4", "cp2", "dcp2", "sp2", "dp2ep", "PP2", "dp", "epon",
             "2dp", "dpx2", "dep8", "tep8", "dpsize2", "dp2tp2", "dataparallel2"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["4xtp2_{}", "1xtp4-{}", "pack_p1xtp4-d1xtp4-{}", "{}_2xtp4"])
def test_another_parallelism_is_refused(name, word):
    """20 GPUs as 4 would make throughput per GPU five times too high."""
    with pytest.raises(ValueError, match=f"'{word}' in .*: this notation knows tensor parallelism only"):
        Layout.parse_published(name.format(word))


@pytest.mark.parametrize("remark", ["dp_2", "dp-2", "dp=2", "data_parallel_2", "expert-parallel", "x.dp2"])
def test_another_parallelism_in_several_words_is_refused(remark):
    with pytest.raises(ValueError, match="this notation knows tensor parallelism only"):
        Layout.parse_published(f"4xtp1_{remark}")


@pytest.mark.parametrize("name", ["2xtp4_step3", "2xtp4-deep2", "h100_2xtp4", "2xtp4_rep2", "2xtp4_v0.11", "tcp_2xtp4"])
def test_words_that_only_look_like_one_are_remarks(name):
    assert str(Layout.parse_published(name)[0]) == "2xtp4"

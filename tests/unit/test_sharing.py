"""How evenly replicas shared requests: found from nothing but when tokens came."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import viz
from benchmarks import sharing
from benchmarks.sharing import put_together, true_share
from pdbench.analysis.audit_source import sources_of
from pdbench.analysis.sharing import groups, of_level, shares
from pdbench.read.level_file import ResultError
from pdbench.read.requests import Requests
from pdbench.read.results import read_study

RESULTS = Path(__file__).parents[2] / "bm_results"
ONE = "gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_120b_1xtp2"  # one replica
PD = "gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_spread_p1xtp1-d1xtp1"  # one that decodes
STEP = 0.01


def decoded(*each):
    """Requests by when their replica's steps begin (s), the step that gives the first token, and the number of tokens."""
    n = len(each)
    phase, first, tokens = (np.array(column) for column in zip(*each, strict=True))
    noise = np.random.default_rng(1)
    came = [
        p + STEP * (f + np.arange(t)) + noise.exponential(STEP / 50, t) for p, f, t in zip(phase, first, tokens, strict=True)
    ]
    start = STEP * (first - 1)
    ttft = np.array([times[0] for times in came]) - start
    return Requests(start, ttft, [np.diff(times) for times in came], np.full(n, 100.0), tokens * 1.0)


def measured(folder, level):
    found = Requests.of(json.loads((RESULTS / folder / f"{level}.json").read_text()))
    assert found
    return found


def test_three_of_four_requests_at_one_replica():
    _, least, greatest, most = of_level(decoded((0, 0, 50), (0, 0, 50), (0, 0, 50), (STEP / 2, 0, 50)), 2)
    assert (least, greatest, most) == (pytest.approx(0.75, abs=0.01), pytest.approx(0.75, abs=0.01), 3)


def test_replicas_in_step_look_like_one_and_the_bounds_say_so():
    """Four requests whose tokens come together: one replica's, or shared out in any way."""
    _, least, greatest, most = of_level(decoded(*[(0, 0, 50)] * 4), 2)
    assert (least, greatest, most) == (pytest.approx(0.5, abs=0.01), 1, 4)
    third = of_level(decoded(*[(0, 0, 50)] * 4, (STEP / 2, 0, 50), (STEP / 2, 0, 50)), 3)
    assert third.least == pytest.approx(1 / 3, abs=0.01) and third.greatest == pytest.approx(2 / 3, abs=0.01)


def test_a_request_alone_is_at_one_replica():
    assert of_level(decoded((0, 0, 50), (0, 60, 50)), 2)[:3] == (1, 1, 1)


def test_more_groups_than_replicas_are_not_clear():
    assert np.isnan(of_level(decoded((0, 0, 50), (STEP / 3, 0, 50), (2 * STEP / 3, 0, 50)), 2)[1:]).all()


def test_requests_one_after_the_other_are_one_replicas_where_they_overlap():
    group = groups(decoded((0, 0, 50), (0, 30, 50), (0, 60, 50), (STEP / 2, 0, 50), (STEP / 2, 45, 50)))
    assert group[0] == group[1] == group[2] and group[3] != group[0] and group[4] != group[0]


def test_a_single_token_shows_nothing():
    assert np.isnan(of_level(decoded(*[(0, 0, 1)] * 4), 2).least)


@pytest.mark.parametrize(
    ("folder", "level", "is_pd"), [(ONE, "conc32_rep3", False), (ONE, "conc8_rep2", False), (PD, "conc16", True)]
)
def test_requests_of_one_replica_on_gpus_are_not_taken_for_those_of_two(folder, level, is_pd):
    assert min(of_level(measured(folder, level), 1, is_pd)[1:3]) > 0.99


@pytest.mark.parametrize(
    "levels",
    [
        ["conc24_rep2", "conc8_rep3"],
        ["conc32_rep3", "conc16_rep2"],
        ["conc16_rep2", "conc16_rep3"],
        ["conc32_rep2", "conc16_rep3", "conc8_rep2"],
    ],
)
def test_levels_of_one_replica_put_together_are_told_apart(levels):
    """Measured on GPUs one after the other; put together they are those of replicas of which it is known who served what."""
    requests, part_of = put_together([measured(ONE, level) for level in levels])
    group = groups(requests)
    assert not [served for served in np.unique(group) if len(set(part_of[group == served])) > 1]
    _, least, greatest, _ = of_level(requests, len(levels))
    assert least - 0.01 <= true_share(requests, part_of, is_pd=False) <= greatest + 0.01


def test_the_benchmark_counts_what_is_right(capsys):
    assert sharing.main(["--exps", str(RESULTS / ONE)]) == 0
    alone, pairs, _ = capsys.readouterr().out.splitlines()
    assert alone == "levels of one replica: 15, not clear: 0"
    assert pairs.startswith("put together by 2: 105, not clear: 1, true share outside by more than 2%: 0, at most by ")


def test_a_pool_whose_roles_a_controller_moves_shares_nothing_out():
    """Which replicas decode changes while it serves: no share of theirs means anything."""
    study = read_study([RESULTS / "gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_first_2xtp1"])
    assert len(shares(study)) and all(sources_of(study)[0].columns["share"])
    ((name, folder),) = study.folders.items()
    study.folders[name] = replace(folder, arm=replace(folder.arm, placement="controlled pool"))
    with pytest.raises(ResultError, match="nothing to share out"):
        shares(study)
    assert not any(sources_of(study)[0].columns["share"])


def test_the_true_share_is_that_of_the_part_with_more_in_flight():
    whole = put_together([measured(ONE, "conc24_rep2"), measured(ONE, "conc8_rep3")])
    assert true_share(*whole, is_pd=False) == pytest.approx(24 / 32, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.005]), st.integers(0, 60), st.integers(2, 80)), min_size=2, max_size=12),
       st.randoms(use_true_random=False), st.floats(-100, 100))  # fmt: skip
def test_order_and_clock_do_not_matter_and_bounds_are_bounds(each, random, offset):
    requests = decoded(*each)
    found = of_level(requests, 2)
    rows = list(range(len(each)))
    random.shuffle(rows)
    moved = Requests(requests.start[rows] + offset, requests.ttft[rows], [requests.itl[i] for i in rows],
                     requests.isl[rows], requests.osl[rows])  # fmt: skip
    assert np.allclose(found, of_level(moved, 2), atol=1e-6, equal_nan=True)
    even, least, greatest, most = found
    assert even >= 0.5 - 1e-9
    assert np.isnan(least) or even - 1e-9 <= least <= greatest + 1e-9 <= 1 + 1e-8 and most <= len(each)


def test_viz_prints_a_row_for_each_level_and_writes_it(tmp_path, capsys):
    folder = RESULTS / "gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_120b_2xtp1"
    viz.main(["--exps", str(folder), "--show-sharing", "--json", str(tmp_path / "a.json")])
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.split()[:3] == ["2xtp1", "32", "3"])
    assert line.split() == ["2xtp1", "32", "3", "2", "50", "57", "22", "5.48"]
    assert any("busiest replica's share of the requests in flight" in line for line in lines)
    rows = json.loads((tmp_path / "a.json").read_text())["sharing"]
    (row,) = (row for row in rows if (row["level"], row["repeat"]) == (32, 3))
    assert row["replicas"] == 2 and row["least"] == pytest.approx(0.567, abs=0.001)


def test_without_several_replicas_or_details_one_line_says_so(tmp_path, write_folder, level_content, capsys):
    with pytest.raises(ResultError, match="no arm has several replicas that decode"):
        shares(read_study([RESULTS / ONE]))
    content = {key: value for key, value in level_content().items() if key != "itls"}
    folder = write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": content})
    with pytest.raises(SystemExit) as left:
        viz.main(["--exps", str(folder), "--show-sharing"])
    said = capsys.readouterr()
    assert left.value.code == 2 and said.err.count("\n") == 1 and "no per-request details" in said.err

"""What the framework adds: numbers worked out by hand, pairs, spread and what is called noise."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import viz
from pdbench.analysis import decision
from pdbench.analysis.overhead import overheads
from pdbench.output import chart, tables
from pdbench.output.figures import View, arm_styles, draw
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results


def table(*rows, **more):
    """Rows of (arm, serving, layout, level, TTFT ms, TPOT ms, requests/s); further rows of a level are its repeats."""
    made, seen = [], {}
    for arm, serving, layout, level, ttft, tpot, rate in rows:
        seen[arm, level] = seen.get((arm, level), 0) + 1
        row = {"arm": arm, "serving": serving, "layout": layout, "placement": "", "level": level, "repeat": seen[arm, level]}
        row |= {
            "engine": "",
            "block": 0,
            "machines": "",
            "model": "tiny",
            "isl": 500,
            "osl": 64,
            "phase": "mixed",
            "kind": "concurrency",
            "accelerator": "CPU",
        }
        made.append(row | {"median_ttft_ms": ttft, "median_tpot_ms": tpot, "request_throughput": rate} | more)
    return pd.DataFrame(made)


BARE = ("b", "bare", "1xtp1")
RAY = ("r", "ray", "1xtp1")


def test_one_repeat_of_each_by_hand():
    """The first measurement of this repository, at concurrency 8: 11.24 requests/s and 8.1 ms against 3.69 and 25.1."""
    (row,) = overheads(table((*BARE, 8, 40.0, 8.1, 11.24), (*RAY, 8, 95.0, 25.1, 3.69))).to_dict("records")
    assert (row["arm"], row["control"], row["level"], row["repeats"]) == ("r", "b", 8, 1)
    assert row["added_ttft_ms"] == 55 and row["added_tpot_ms"] == pytest.approx(17.0)
    assert row["throughput_ratio"] == pytest.approx(3.69 / 11.24) and row["request_throughput_bare"] == 11.24
    for name in ("added_ttft_ms", "added_tpot_ms", "throughput_ratio"):
        assert math.isnan(row[f"{name}_from"]) and math.isnan(row[f"{name}_to"]) and row[f"{name}_noise"] is False


def test_engines_that_were_set_differently_show_nothing_of_ray_serve():
    pair = table((*BARE, 8, 40.0, 8.1, 11.24), (*RAY, 8, 95.0, 25.1, 3.69))
    for engines in (["a 1\nb 2", "a 1\nb 2"], ["", "a 1"]):
        assert len(overheads(pair.assign(engine=engines))) == 1, "alike, or unknown"
    with pytest.raises(ResultError, match="the engines of r and b were set differently: a 3 against a 1, b 2"):
        overheads(pair.assign(engine=["a 1\nb 2", "a 3"]))


def test_three_repeats_have_a_spread_and_their_mean():
    """Welch: sd 1 and 2.6458, so a standard error of 1.633 with 2.5597 degrees of freedom, whose t is 3.5107."""
    bare = [(*BARE, 1, ttft, 5.0, 10.0) for ttft in (10.0, 12.0, 11.0)]
    ray = [(*RAY, 1, ttft, 5.0, 5.0) for ttft in (31.0, 30.0, 35.0)]
    (row,) = overheads(table(*bare, *ray)).to_dict("records")
    assert row["added_ttft_ms"] == 21 and row["repeats"] == 3
    freedom = (1 / 3 + 7 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (7 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(1 / 3 + 7 / 3)
    assert (row["added_ttft_ms_from"], row["added_ttft_ms_to"]) == pytest.approx((21 - half, 21 + half))
    assert (row["added_tpot_ms"], row["added_tpot_ms_from"], row["added_tpot_ms_to"]) == (0, 0, 0)
    assert row["added_tpot_ms_noise"] and not row["throughput_ratio_noise"] and not row["added_ttft_ms_noise"]
    ratio = (row["throughput_ratio"], row["throughput_ratio_from"], row["throughput_ratio_to"])
    assert ratio == pytest.approx((0.5, 0.5, 0.5))


def test_within_blocks_what_a_machine_does_to_both_arms_cancels_out():
    """Each block is on a slower machine; Ray Serve adds 5 ms on all of them. Of two blocks there are no pairs enough."""
    rows = [(*of, 8, ttft + 5 * (of is RAY), 10.0, 20.0) for of in (BARE, RAY) for ttft in (40.0, 90.0, 180.0)]
    blocks = table(*rows).assign(block=[1, 2, 3, 3, 1, 2], machines=list("abccab"))
    mixed = blocks.assign(median_ttft_ms=[40.0, 90.0, 180.0, 185.1, 45.0, 94.9])
    (row,) = overheads(mixed).to_dict("records")
    ends = stats.t.interval(0.95, 2, loc=5.0, scale=stats.sem([5.0, 4.9, 5.1]))
    assert row["blocks"] == 3 and (row["added_ttft_ms_from"], row["added_ttft_ms_to"]) == pytest.approx(ends)
    (row,) = overheads(mixed.assign(machines=list("abcdab"))).to_dict("records")
    assert row["blocks"] == 0 and row["added_ttft_ms_noise"], "two blocks are on the same machines: repeats are independent"
    both = pd.concat([mixed, mixed.assign(layout="2xtp1", block=0)])
    assert "[95% interval: Student's, within blocks or, where" in "\n".join(tables.overhead_words(overheads(both)))


def test_what_could_be_either_is_noise():
    bare = [(*BARE, 1, 10.0, tpot, rate) for tpot, rate in ((4.0, 9.0), (6.0, 11.0), (5.0, 10.0))]
    ray = [(*RAY, 1, 10.5, tpot, rate) for tpot, rate in ((4.5, 9.5), (5.5, 10.5), (6.5, 8.5))]
    (row,) = overheads(table(*bare, *ray)).to_dict("records")
    assert row["added_tpot_ms"] == 0.5 and row["added_tpot_ms_noise"] and row["throughput_ratio_noise"]
    assert not row["added_ttft_ms_noise"], "it is the same in each repeat"


def test_pairs_are_of_one_layout_placement_and_workload_at_levels_of_both():
    alone = table((*BARE, 1, 1, 1, 1), (*BARE, 4, 1, 1, 1), (*RAY, 4, 2, 2, 1), (*RAY, 8, 2, 2, 1))
    wide = table(("b2", "bare", "2xtp1", 4, 1, 1, 1), ("r3", "ray", "3xtp1", 4, 1, 1, 1))
    pd_arms = [table((f"{serving} {where}", serving, "p1xtp1-d1xtp1", 4, 1, 1, 1), placement=where)
               for serving, where in (("bare", "pack"), ("ray", "pack"), ("ray", "spread"))]  # fmt: skip
    other = table(("o", "ray", "2xtp1", 4, 1, 1, 1), isl=2000)
    found = overheads(pd.concat([alone, wide, *pd_arms, other]))
    assert list(zip(found["control"], found["arm"], found["level"])) == [("b", "r", 4), ("bare pack", "ray pack", 4)]
    for rows in (wide, table((*RAY, 4, 1, 1, 1)), table((*BARE, 4, 1, 1, 1)), pd.concat([alone[:1], alone[3:]])):
        with pytest.raises(ResultError, match="no control arm and arm behind Ray Serve of the same layout"):
            overheads(rows)


def test_several_ways_to_serve_one_layout_share_a_control():
    found = overheads(table((*BARE, 1, 10, 4, 10), (*RAY, 1, 20, 8, 5), ("direct", "ray", "1xtp1", 1, 15, 6, 8)))
    assert dict(zip(found["arm"], found["throughput_ratio"])) == pytest.approx({"r": 0.5, "direct": 0.8})


def test_a_single_token_has_no_tpot_to_add():
    found = overheads(table((*BARE, 1, 10, math.nan, 10), (*RAY, 1, 20, math.nan, 5)))
    assert math.isnan(found["added_tpot_ms"][0]) and found["added_ttft_ms"][0] == 10
    ((_, headers, (cells,)),) = tables.overhead_grids(found)
    assert cells == ["r", "b", "1", "1", "10", "+10.00", "-", "-", "10", "0.50"] and len(headers) == len(cells)


numbers = st.lists(st.floats(0.5, 1000), min_size=3, max_size=5)


@settings(max_examples=25)
@given(numbers, numbers, st.randoms())
def test_neither_the_order_of_rows_nor_of_repeats_matters_and_swapped_arms_mirror(bare, ray, rng):
    def found(first, second):
        rows = [(*BARE, 1, v, v, v) for v in first] + [(*RAY, 1, v, v, v) for v in second]
        rng.shuffle(rows)
        (row,) = overheads(table(*rows)).to_dict("records")
        return row

    once, again = found(bare, ray), found(bare, ray)
    assert once == pytest.approx(again)
    swapped = found(ray, bare)
    assert swapped["added_ttft_ms"] == pytest.approx(-once["added_ttft_ms"])
    assert swapped["throughput_ratio"] == pytest.approx(1 / once["throughput_ratio"])
    assert (
        once["added_ttft_ms_from"] <= once["added_ttft_ms"] + 1e-9 and once["added_ttft_ms"] - 1e-9 <= once["added_ttft_ms_to"]
    )


@settings(max_examples=25)
@given(numbers, numbers, st.floats(0.01, 100))
def test_another_unit_of_time_scales_what_is_added_and_leaves_the_ratio(bare, ray, factor):
    def found(by):
        rows = [(*BARE, 1, by * v, 1.0, by * v) for v in bare] + [(*RAY, 1, by * v, 1.0, by * v) for v in ray]
        return overheads(table(*rows)).iloc[0]

    one, scaled = found(1.0), found(factor)
    assert scaled["throughput_ratio"] == pytest.approx(one["throughput_ratio"])
    for end in ("", "_from", "_to"):
        assert np.isclose(scaled[f"added_ttft_ms{end}"], factor * one[f"added_ttft_ms{end}"], rtol=1e-6, atol=1e-6 * factor)


@pytest.fixture
def folders(tmp_path, write_folder, level_content, make_manifest):
    """Folders of a control and of the arm behind Ray Serve, with their manifests."""

    def make(mode, ttft, tpot, duration, layout="1xtp1"):
        name = f"tiny_itl100_otl11_mixed_{'bare_' if mode.startswith('bare') else ''}{layout}"
        more = {"median_ttft_ms": ttft, "median_tpot_ms": tpot, "duration": duration}
        folder = write_folder(tmp_path, name, {"conc4.json": level_content(**more)})
        make_manifest(layout, mode).write(folder)
        return folder

    return [make("bare", 20.0, 4.0, 1.0), make("collocated", 50.0, 10.0, 2.0)]


def test_viz_prints_the_table(folders, capsys):
    viz.main(["--exps", *map(str, folders), "--show-overhead"])
    said = capsys.readouterr().out
    assert "tiny · ISL 100 · OSL 11 · mixed · by concurrency" in said and "figure.png" not in said
    (line,) = (line for line in said.splitlines() if line.strip().startswith("1xtp1"))
    assert line.split() == ["1xtp1", "1xtp1", "bare", "4", "1", "20", "+30.00", "4", "+6.00", "20", "0.50"]
    assert "no interval with fewer than 3 repeats" in said


def test_without_a_pair_viz_says_what_to_measure(folders, capsys):
    with pytest.raises(SystemExit) as left:
        viz.main(["--exps", str(folders[0]), "--show-overhead"])
    said = capsys.readouterr()
    assert left.value.code == 2 and said.err.count("\n") == 1 and "launch_gptoss.py --mode bare or bare-pd" in said.err


def test_the_report_has_a_section_where_there_is_a_pair(folders, tmp_path, capsys):
    for given_folders, there in ((folders, True), (folders[1:], False)):
        viz.main(["--exps", *map(str, given_folders), "--report", str(tmp_path / "r.html")])
        page = (tmp_path / "r.html").read_text()
        assert ("What Ray Serve adds" in page) == there and ("+30.00" in page) == there


def test_a_control_that_is_ahead_neither_leads_nor_fades_another(folders):
    """It is faster and carries twice as much; still the arm behind Ray Serve is the frontier."""
    (axes,) = (axes for axes in draw(read_results(folders), View()).axes if axes.get_label() == "tradeoff")
    labels = [line.get_label() for line in axes.get_lines()]
    assert "_dominated" not in labels
    (band,) = (line for line in axes.get_lines() if line.get_label() == "Pareto frontier")
    assert set(band.get_xdata()) == {10.0}
    table = read_results(folders)
    looks = {arm: chart.looks(style) for arm, style in arm_styles(table).items()}
    reported = json.loads(chart.data(table, looks, chart.metrics(table, "concurrency", View()), ()))
    assert {arm["name"]: arm["control"] for arm in reported["arms"]} == {"1xtp1": False, "1xtp1 bare": True}


def test_a_control_is_reported_apart_and_decides_nothing(folders):
    found = read_results(folders)
    assert list(zip(found["arm"], found["serving"])) == [("1xtp1 bare", "bare"), ("1xtp1", "ray")]
    styles = arm_styles(found)
    assert list(styles) == ["1xtp1", "1xtp1 bare"] and styles["1xtp1 bare"].color == "#8C8C8C"
    ((_, rows),) = decision.workloads(found)
    assert set(rows["arm"]) == {"1xtp1"}
    ((_, rows),) = decision.workloads(found[:1])
    assert set(rows["arm"]) == {"1xtp1 bare"}, "where there is nothing else, it is compared with itself"

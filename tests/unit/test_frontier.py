"""What arms attain, who is best where: by hand, and against brute force on any curves."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from pdbench.analysis.frontier import Curve, attainable, crossovers, curves, frontier, pareto

# -- by hand --


def corners(curve):
    return list(zip(curve.latency.tolist(), curve.throughput.tolist(), strict=True))


def test_a_curve_that_folds_back_jumps_where_it_returns():
    """More load first costs latency, 5 to 10 ms, then gives some back, to 8 ms at 200/s, before it costs again.

    Between 5 and 10 ms throughput rises by 10/s per ms, so 80/s are there at 8 ms, where 200/s are, too.
    """
    curve = attainable("a", [5, 10, 8, 12], [50, 100, 200, 220])
    assert corners(curve) == [(5, 50), (8, 80), (8, 200), (12, 220)]
    assert math.isnan(curve.throughput_at(4.9))
    assert [curve.throughput_at(x) for x in (5, 7, 8, 10, 12, 99)] == [50, 70, 200, 210, 220, 220]
    # 80 to 200/s are all attained at 8 ms; 210 half-way between 8 and 12.
    assert [curve.latency_at(y) for y in (1, 50, 80, 81, 200, 210, 220)] == [5, 5, 8, 8, 8, 10, 12]
    assert math.isnan(curve.latency_at(221))


def test_less_at_more_load_is_a_plateau():
    """From (6, 40) to (7, 60), 50/s come again at 6.5 ms; what comes after the maximum adds nothing."""
    curve = attainable("a", [5, 6, 7, 9], [50, 40, 60, 55])
    assert corners(curve) == [(5, 50), (6.5, 50), (7, 60)]
    assert (curve.throughput_at(6), curve.latency_at(50)) == (50, 5)


def test_a_fold_below_the_first_level_begins_there():
    curve = attainable("a", [10, 8, 12], [100, 120, 200])
    assert corners(curve) == [(8, 120), (12, 200)]


def test_levels_at_one_latency_attain_the_highest():
    assert corners(attainable("a", [8, 8], [100, 120])) == corners(attainable("a", [8, 8], [120, 100])) == [(8, 120)]


def test_repeats_are_reduced_to_their_median_and_levels_without_latency_left_out():
    table = pd.DataFrame(
        [("b", 8, 20, 300), ("b", 4, 10, 100), ("b", 4, 12, 90), ("b", 4, 11, 500), ("a", 4, 9, 7), ("c", 4, math.nan, 1)],
        columns=["arm", "level", "median_tpot_ms", "input_throughput_per_node"],
    )
    found = curves(table)
    assert list(found) == ["b", "a"]
    assert corners(found["b"]) == [(11, 100), (20, 300)]


def straight(arm, *points):
    return Curve(arm, *np.array(points, dtype=float).T)


def test_two_straight_lines_cross_once():
    """100 + 20 (x - 10) = 150 + 10 (x - 10) at x = 15, 200/s; in the middles 175 : 150 and 250 : 225."""
    found = {"pd": straight("pd", (10, 100), (20, 300)), "both": straight("both", (10, 150), (20, 250))}
    table = crossovers(found, baseline={"both"})
    expected = pd.DataFrame(
        {
            "low": [10.0, 15.0], "high": [15.0, math.inf], "middle": [12.5, 17.5], "best": ["both", "pd"],
            "throughput_low": [150.0, 200.0], "throughput_high": [200.0, 300.0],
            "next_best": ["pd", "both"], "next_margin": [1 / 6, 1 / 9], "next_margin_low": [0.0, 0.0],
            "next_margin_high": [0.5, 0.2], "collocated": ["both", "both"], "collocated_margin": [0.0, 1 / 9],
            "collocated_margin_low": [0.0, 0.0], "collocated_margin_high": [0.0, 0.2],
        }
    )  # fmt: skip
    assert_frame_equal(table, expected)


def test_what_nobody_else_attains_is_an_infinite_margin_and_without_others_there_is_none():
    found = {"a": straight("a", (5, 10), (6, 20)), "b": straight("b", (8, 40))}
    table = crossovers(found, baseline=set())
    assert list(table["best"]) == ["a", "b"] and table["high"][0] == 8
    assert list(table["next_best"]) == ["", "a"]
    assert table["next_margin_high"][0] == math.inf and table["next_margin"][1] == 1.0
    assert set(table["collocated"]) == {""} and table["collocated_margin"].isna().all()


def test_equal_arms_go_to_the_collocated_one_then_by_name():
    line = [(5, 10), (6, 20)]
    found = {name: straight(name, *line) for name in ("a", "c", "b")}
    for baseline, best in (({"c"}, "c"), (set(), "a")):
        table = crossovers(found, baseline)
        assert list(table["best"]) == [best] and table["next_margin_high"][0] == 0


def test_three_curves_through_one_point_leave_no_sliver():
    found = {n: straight(n, (1, 3 - s), (3, 3 + s)) for n, s in (("a", 0.1), ("b", 0.7), ("c", 1.3))}
    table = crossovers(found, set())
    assert list(table["best"]) == ["a", "c"] and table["low"][1] == pytest.approx(2)


# -- any curves --

points = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=6)
arms = st.dictionaries(st.sampled_from("abcdef"), points, min_size=1, max_size=5)
SCAN = np.linspace(0.5, 42, 500)


def found_of(levels):
    return {arm: attainable(arm, *zip(*polyline, strict=True)) for arm, polyline in levels.items()}


@given(points)
def test_interpolation_is_monotone_and_attains_every_level(polyline):
    curve = attainable("a", *zip(*polyline, strict=True))
    assert (np.diff(curve.latency) >= 0).all() and (np.diff(curve.throughput) >= 0).all()
    scanned = curve.throughput_at(SCAN)
    known = scanned[~np.isnan(scanned)]
    assert (np.diff(known) >= 0).all() and np.isnan(scanned).sum() + known.size == SCAN.size
    for latency, throughput in polyline:
        assert curve.throughput_at(latency) >= throughput * (1 - 1e-9)
        assert curve.latency_at(throughput) <= latency * (1 + 1e-9)
    assert curve.throughput[-1] == max(y for _, y in polyline)


@given(points)
def test_latency_at_is_the_lowest_that_attains(polyline):
    curve = attainable("a", *zip(*polyline, strict=True))
    for throughput in np.linspace(curve.throughput[0], curve.throughput[-1], 23):
        latency = curve.latency_at(throughput)
        assert curve.throughput_at(latency * (1 + 1e-9)) >= throughput * (1 - 1e-6)
        below = curve.throughput_at(latency * (1 - 1e-6))
        assert math.isnan(below) or below <= throughput * (1 + 1e-9)


@given(points)
def test_attained_is_the_highest_of_all_points_on_the_polyline_within_the_latency(polyline):
    curve = attainable("a", *zip(*polyline, strict=True))
    ends = np.array(polyline if len(polyline) > 1 else polyline * 2, dtype=float)
    between = np.concatenate([np.linspace(a, b, 200) for a, b in zip(ends[:-1], ends[1:], strict=True)])
    for x in (3.3, 10.0, 17.7, 25.5, 40.0):
        inside = between[between[:, 0] <= x]
        if len(inside):
            best = inside[:, 1].max()
            # A scan of 200 points misses at most a step of the polyline, 60/200 high and 40/200 wide.
            assert best <= curve.throughput_at(x) * (1 + 1e-9)
            assert curve.throughput_at(x - 0.2) <= best + 0.3 or math.isnan(curve.throughput_at(x - 0.2))


@given(arms, st.randoms())
def test_the_order_of_arms_changes_nothing(levels, random):
    shuffled = list(levels)
    random.shuffle(shuffled)
    found = found_of(levels)
    again = {arm: found[arm] for arm in shuffled}
    assert_frame_equal(crossovers(found, {"a", "c"}), crossovers(again, {"a", "c"}))
    assert corners(frontier(found)) == corners(frontier(again))


@given(arms, st.data())
def test_a_dominated_arm_never_wins(levels, data):
    better = data.draw(st.sampled_from(sorted(levels)))
    worse = [(x + 1, y * 0.9) for x, y in levels[better]]
    table = crossovers(found_of(levels | {"dominated": worse}), baseline={"dominated"})
    assert "dominated" not in set(table["best"])


@given(points)
def test_one_arm_alone_is_its_own_frontier(polyline):
    found = found_of({"a": polyline})
    assert corners(frontier(found)) == corners(found["a"])
    table = crossovers(found, set())
    assert list(table["best"]) == ["a"] and table["low"][0] == found["a"].latency[0] and table["high"][0] == math.inf
    assert table["throughput_high"][0] == found["a"].throughput[-1] and table["next_margin"].isna().all()


@given(arms)
@example({"a": [(7, 1), (33, 59)], "b": [(15, 1)], "c": [(1, 43), (18, 1), (33, 59), (7, 1)]})  # a run of one rounding error
def test_bands_agree_with_a_dense_scan(levels):
    found = found_of(levels)
    table = crossovers(found, {"b"})
    assert (table["low"][1:].to_numpy() == table["high"][:-1].to_numpy()).all(), "without gaps"
    assert (table["best"][1:].to_numpy() != table["best"][:-1].to_numpy()).all()
    at = SCAN[table["low"][0] <= SCAN]
    every = np.nan_to_num(np.array([found[arm].throughput_at(at) for arm in found]))
    assert frontier(found).throughput_at(at) == pytest.approx(every.max(axis=0), rel=1e-6)
    band = table.iloc[np.searchsorted(table["low"], at, side="right") - 1]
    ours = np.array(list(found)) == band["best"].to_numpy()[:, None]
    assert every.T[ours] == pytest.approx(every.max(axis=0), rel=1e-6)
    second = np.where(ours.T, 0, every).max(axis=0)
    margin = every.max(axis=0)[second > 0] / second[second > 0] - 1
    low, high = (band[name].to_numpy()[second > 0] for name in ("next_margin_low", "next_margin_high"))
    assert (low - 1e-6 <= margin).all() and (margin <= high + 1e-6).all()


@given(points)
def test_pareto_is_what_no_other_row_dominates(rows):
    table = pd.DataFrame([*rows, (math.nan, 3)], columns=["x", "y"])
    efficient = [
        not any(a <= x and b >= y and (a, b) != (x, y) for a, b in rows) for x, y in rows
    ]  # fmt: skip
    assert list(pareto(table, "x", "y")) == [*efficient, False]

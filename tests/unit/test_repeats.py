"""Intervals over repeats, against scipy's own where it has them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pdbench.analysis import repeats

A, B, C = np.array([900.0, 1000, 1100]), np.array([400.0, 500, 600, 550]), np.array([480.0, 510, 530])


def test_a_mean_has_students_interval():
    expected = stats.t.interval(0.95, 2, loc=A.mean(), scale=stats.sem(A))
    assert repeats.of_mean(A) == pytest.approx(expected)
    logs = stats.t.interval(0.95, 2, loc=np.log(A).mean(), scale=stats.sem(np.log(A)))
    assert repeats.of_geometric_mean(A) == pytest.approx(np.exp(logs))


def test_an_interval_ends_where_the_quantity_does():
    low, high = repeats.of_mean([0.8, 0.9, 1.0])
    assert repeats.of_mean([0.8, 0.9, 1.0], within=(0, 1)) == (low, 1) and high > 1
    assert repeats.of_mean([1, 2, 30], within=repeats.POSITIVE) == (0, repeats.of_mean([1, 2, 30])[1])
    assert all(math.isnan(end) for end in repeats.of_mean([1, 2], within=(0, 1)))


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=9))
def test_the_interval_is_around_the_mean_and_follows_a_shift(values):
    low, high = repeats.of_mean(values)
    assert low + high == pytest.approx(2 * np.mean(values), abs=1e-9) and low <= high
    assert repeats.of_mean(np.array(values) + 1) == pytest.approx((low + 1, high + 1), abs=1e-6)


def test_a_difference_has_welchs_interval_and_a_ratio_that_of_logarithms():
    expected = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert repeats.of_difference(A, B) == pytest.approx(tuple(expected))
    low, high = repeats.of_ratio(A, B)
    assert 1 / repeats.of_ratio(B, A)[1] == pytest.approx(low) and low < 2 < high


def test_ratios_of_several_arms_are_tukeys():
    values = {"a": A, "b": B, "c": C}
    expected = stats.tukey_hsd(*(np.log(of) for of in values.values())).confidence_interval(0.95)
    found = repeats.of_ratios(values)
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            if i != j:
                assert found[one, other] == pytest.approx(
                    (math.exp(expected.low[i, j]), math.exp(expected.high[i, j])), rel=1e-4
                )


def test_fewer_than_three_repeats_have_none():
    for interval in (repeats.of_mean(A[:2]), repeats.of_difference(A[:2], B), repeats.of_ratio(A, B[:2])):
        assert all(map(math.isnan, interval))
    assert repeats.of_ratios({"a": A, "b": B[:2]}) == {}
    assert set(repeats.of_ratios({"a": A, "b": B[:2], "c": C})) == {("a", "c"), ("c", "a")}


def test_a_repeat_without_throughput_has_no_ratio():
    assert all(map(math.isnan, repeats.of_ratio(A, np.array([0.0, 500, 600]))))
    assert all(map(math.isnan, repeats.of_geometric_mean([0.0, 1.0, 2.0])))
    assert repeats.of_ratios({"a": A, "b": np.array([0.0, 500, 600])}) == {}


@pytest.mark.filterwarnings("error")
def test_repeats_that_are_all_equal_have_no_spread_and_no_warning():
    same, other = np.full(3, 5.0), np.full(3, 10.0)
    assert repeats.of_difference(same, other) == (-5, -5) and repeats.of_mean(same) == (5, 5)
    assert repeats.of_ratio(same, other) == pytest.approx((0.5, 0.5))
    assert repeats.of_ratios({"a": same, "b": other})["b", "a"] == pytest.approx((2, 2))
    low, high = repeats.of_difference(A, same)
    assert low < 995 < high


def test_many_equal_arms_seldom_have_a_false_winner():
    """Of 200 studies of 12 equal arms at most 5% and what chance adds; intervals of single pairs have one in every second."""
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(200):
        values = {str(arm): rng.lognormal(0, 0.05, 3) for arm in range(12)}
        best = max(values, key=lambda arm: np.median(values[arm]))
        wrong += any(low > 1 for (arm, _), (low, _) in repeats.of_ratios(values).items() if arm == best)
    assert wrong <= 20


def test_ratios_over_some_arms_are_those_of_all_pairs():
    rng = np.random.default_rng(3)
    values = {arm: rng.uniform(1, 2, 4) for arm in "abcd"}
    every = repeats.of_ratios(values)
    assert repeats.of_ratios(values, {"b"}) == {pair: ends for pair, ends in every.items() if pair[0] == "b"}
    assert len(every) == 12


# -- within blocks --


def test_two_arms_within_blocks_have_students_interval_of_their_ratios():
    found = repeats.of_ratios({"a": A, "c": C}, blocks={"a": (1, 2, 3), "c": (3, 1, 2)})
    assert found["a", "c"] == pytest.approx(repeats.of_geometric_mean(A / C[[1, 2, 0]]))


def test_arms_that_lack_blocks_are_compared_by_least_squares():
    """Against a fit with a column for each arm but the first, and for each block."""
    values, blocks = {"a": A, "b": B, "c": C}, {"a": (1, 2, 3), "b": (1, 2, 3, 4), "c": (2, 3, 4)}
    observed = [(arm, block, math.log(y)) for arm in values for block, y in zip(blocks[arm], values[arm], strict=True)]
    design = np.array(
        [[arm == "b", arm == "c", *(block == k for k in (1, 2, 3, 4))] for arm, block, _ in observed], dtype=float
    )
    logs = np.array([y for *_, y in observed])
    fit, (rest,) = np.linalg.lstsq(design, logs)[:2]
    error = math.sqrt(rest / 4 * np.linalg.inv(design.T @ design)[0, 0])
    half = stats.studentized_range.ppf(0.95, 3, 4) / math.sqrt(2) * error
    found = repeats.of_ratios(values, blocks=blocks)
    assert found["b", "a"] == pytest.approx((math.exp(fit[0] - half), math.exp(fit[0] + half)))


@pytest.mark.parametrize(
    "blocks",
    [{"a": (1, 2, 3), "b": (4, 5, 6, 7)}, {"a": (1, 2, 3), "b": ()}, {"a": (1, 2, 3), "b": (2, 3, 4, 5)}],
    ids=["none in common", "outside blocks", "two in common"],
)
def test_arms_that_no_blocks_link_are_independent(blocks):
    assert not repeats.linked(list(blocks.values()))
    assert repeats.of_ratios({"a": A, "b": B}, blocks=blocks) == repeats.of_ratios({"a": A, "b": B})


def test_arms_are_linked_through_others():
    assert repeats.linked([(1, 2, 3), (5, 6, 7), (2, 3, 4, 5, 6)]) and not repeats.linked([(1, 2, 3), (5, 6, 7), (2, 3, 4)])


# -- alike --


def test_arms_are_alike_where_both_one_sided_tests_show_it():
    close, far = np.log([1.0, 1.001, 0.999]), np.log([1.2, 1.201, 1.199])
    wide = np.log([0.8, 1.0, 1.25])
    assert repeats.alike(close) and repeats.alike(close, close)
    assert not repeats.alike(wide) and not repeats.alike(close, wide), "nothing is shown"
    assert not repeats.alike(far - close) and not repeats.alike(far, close) and repeats.alike(far, close, margin=0.2)
    assert not repeats.alike(close[:2]) and not repeats.alike(close, close[:2]), "two repeats show nothing"


@given(st.floats(0.9, 1.1))
def test_alike_is_what_two_t_tests_at_five_percent_say(ratio):
    ours, theirs = np.log([1.0, 1.01, 0.99, 1.0]), np.log(np.array([1.0, 0.99, 1.01]) * ratio)
    limit = -math.log(1 - repeats.MARGIN)
    above = stats.ttest_ind(ours, theirs - limit, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(ours, theirs + limit, equal_var=False, alternative="less").pvalue
    assert repeats.alike(ours, theirs) == (max(above, below) <= 0.05) == repeats.alike(theirs, ours)

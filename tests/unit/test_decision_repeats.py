"""Intervals of decisions and of bands, over repeats and within blocks."""

import math

import numpy as np
import pandas as pd
import pytest

from pdbench.analysis.decision import bands, decide
from pdbench.analysis.repeats import of_geometric_mean, of_ratios
from pdbench.analysis.samples import samples
from pdbench.analysis.sla import parse
from pdbench.output import decision_text
from tests.helpers.decision_table import PD, table


def test_intervals_and_leads_do_not_interpolate_a_tail_either():
    """Of each repeat the first level counts: 1000, 1100 and 1210; between it and the second nothing is known."""
    rows = [(layout, level, 8, 100, rate) for layout, least in ((PD, 1000), ("2xtp2", 500))
            for factor in (1, 1.1, 1.21) for level, rate in ((4, factor * least), (8, 2 * least))]  # fmt: skip
    tails = [20 if level == 4 else 200 if layout == PD else 60 for layout, level, *_ in rows]
    best, other = decide(table(*rows).assign(p99_itl_ms=tails), parse("p99_itl=50")).itertuples()
    assert (best.throughput, other.throughput, best.lead, other.lead) == (1100, 550, 0, 1)
    # Student's, of three logarithms 0.0953 apart: 1100 x exp(-+ 4.303 x 0.0953 / sqrt(3)).
    assert (best.throughput_from, best.throughput_to) == (pytest.approx(868, abs=1), pytest.approx(1394, abs=1))
    assert math.sqrt((1 + other.lead_from) * (1 + other.lead_to)) == pytest.approx(2)


def repeated(pd_rates, base_rates):
    rows = [(PD, 4, 8, 100, rate) for rate in pd_rates] + [("2xtp2", 4, 8, 100, rate) for rate in base_rates]
    return table(*rows)


def test_a_difference_within_the_spread_of_repeats_is_noise():
    near = decide(repeated([900, 1000, 1100], [890, 990, 1090]), parse("tpot=10"))
    assert near["lead_from"][1] < 0 < near["lead_to"][1]
    # Student's t of three logarithms: their mean +- 4.303 standard errors.
    logs = np.log([900, 1000, 1100])
    half = 4.302653 * logs.std(ddof=1) / math.sqrt(3)
    assert near["throughput_from"][0] == pytest.approx(math.exp(logs.mean() - half), rel=1e-6)
    assert near["throughput_to"][0] == pytest.approx(math.exp(logs.mean() + half), rel=1e-6)
    far = decide(repeated([900, 1000, 1100], [400, 500, 600]), parse("tpot=10"))
    assert far["lead"][1] == 1 and 0 < far["lead_from"][1] < 1 < far["lead_to"][1]


def test_bands_carry_the_same_intervals():
    measured = repeated([900, 1000, 1100], [400, 500, 600])
    row = bands(measured, "median_tpot_ms", "input_throughput_per_node").iloc[0]
    assert (row["best"], row["collocated"], row["collocated_margin"]) == (PD, "2xtp2", 1)
    of_decision = decide(measured, parse("tpot=8"))
    assert (row["collocated_margin_from"], row["collocated_margin_to"]) == pytest.approx(
        (of_decision["lead_from"][1], of_decision["lead_to"][1])
    )
    assert row["gpus"] == 8


def test_a_third_arm_widens_the_intervals_of_leads():
    """One more arm is one more chance to lead by chance; its repeats, as far apart, make the spread better known, too."""
    two = decide(repeated([900, 1000, 1100], [400, 500, 600]), parse("tpot=10"))
    other = [("1xtp4", 4, 8, 100, rate) for rate in (300, 500, 800)]
    three = decide(pd.concat([repeated([900, 1000, 1100], [400, 500, 600]), table(*other)]), parse("tpot=10"))
    assert three.set_index("arm").loc["2xtp2", "lead_to"] > two.set_index("arm").loc["2xtp2", "lead_to"]


def drifting(*orders):
    """PD has 1.1 times 2xtp2's throughput in each of three blocks, which differ; rows in these orders of blocks."""
    rows = []
    for (layout, factor), order in zip([(PD, 1.1), ("2xtp2", 1.0)], orders, strict=True):
        rate = {1: 900, 2: 1000, 3: 1110}
        rows.append(table(*((layout, 4, 8, 100, factor * rate[block]) for block in order)).assign(block=order, machines="m"))
    return pd.concat(rows)


@pytest.mark.parametrize("orders", [([1, 2, 3], [1, 2, 3]), ([3, 1, 2], [1, 2, 3])])
def test_what_a_block_does_to_all_its_arms_makes_no_lead_uncertain(orders):
    measured = drifting(*orders)
    answer, band = decide(measured, parse("tpot=10")), bands(measured, "median_tpot_ms", "input_throughput_per_node").iloc[0]
    assert (answer["lead_from"][1], answer["lead_to"][1]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert (band["next_margin_from"], band["next_margin_to"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert "of leads within blocks, at once" in next(decision_text.uncertainty_words(measured))
    alone = decide(measured.assign(block=0), parse("tpot=10"))
    assert alone["lead_from"][1] < 0, "outside blocks the drift is a spread of repeats"


def test_a_block_on_another_machine_is_no_pair():
    measured = drifting([1, 2, 3], [1, 2, 3]).reset_index(drop=True)
    measured.loc[(measured["arm"] == PD) & (measured["block"] == 3), "machines"] = "other"
    assert decide(measured, parse("tpot=10"))["lead_from"][1] < 0, "two pairs are too few"


def test_a_repeat_of_an_arm_is_a_block_that_all_its_levels_have():
    rows = [(PD, level, 4 + level, 100, 1000 * level * block) for level in (1, 2) for block in (1, 2, 3)]
    measured = table(*rows).assign(block=[1, 2, 3, 2, 3, 4], machines="m")
    (sample,) = samples(measured, ["input_throughput_per_node"]).values()
    assert sample.blocks == ((2, "m"), (3, "m")) and sample.together[..., 0].tolist() == [[2000, 2000], [3000, 4000]]
    assert [len(level) for level in sample.levels] == [3, 3]
    outside = samples(measured.assign(block=[0, 2, 3, 2, 3, 4]), ["input_throughput_per_node"])[PD]
    assert outside.blocks == () and outside.together[..., 0].tolist() == [[1000, 2000], [2000, 4000], [3000, 6000]]


def test_two_repeats_are_no_interval():
    answers = decide(repeated([900, 1000, 1100], [400, 500]), parse("tpot=10"))
    assert answers["throughput_from"].notna().tolist() == [True, False] and list(answers["repeats"]) == [3, 2]
    assert answers[["lead_from", "lead_to"]].isna().all(axis=None)


def test_the_order_of_arms_changes_no_interval():
    measured = repeated([900, 1000, 1100], [890, 990, 1090])
    one, other = (decide(rows, parse("tpot=10")) for rows in (measured, measured[::-1]))
    pd.testing.assert_frame_equal(one, other)


def crossing(*shifts):
    """1xtp1 attains 2 + x at x ms, PD 2x - 2s, a repeat for each shift s: they cross at 2 + 2s."""
    rows = [("1xtp1", 4, 1, 9, 3), ("1xtp1", 8, 3, 9, 5)] * len(shifts)
    rows += [(PD, level, x, 9, 2 * (x - shift)) for shift in shifts for level, x in ((4, 1), (8, 3))]
    return bands(table(*rows), "median_tpot_ms", "input_throughput_per_node")


def test_the_latency_at_which_the_best_arm_changes_has_an_interval():
    found = crossing(-0.1, 0.0, 0.1)
    assert list(found["best"]) == ["1xtp1", PD] and found["high"].iloc[0] == pytest.approx(2)
    low, high = of_geometric_mean([1.8, 2.0, 2.2])
    assert (found["high_from"].iloc[0], found["high_to"].iloc[0]) == (pytest.approx(low), pytest.approx(high))
    assert found[["high_from", "high_to"]].iloc[1].isna().all(), "the last band has no end"
    shown = [line[0] for line in decision_text.band_rows(found, "TPOT", "tokens/s", False, None)[1]]
    assert shown[0] == f"1 to 2 [{low:.3g}, {high:.3g}]"
    turned = decision_text.band_rows(found, "TPOT", "tokens/s", True, None)[1][-1][0]
    assert turned == f"500 [{1000 / high:.1f}, {1000 / low:.1f}] to 1,000"


def test_margins_of_bands_are_simultaneous_over_the_bands():
    """Bonferroni: two bands have intervals at 97.5%. At 1.5 ms 1xtp1 attains 3.5 against 3 and what the shifts make of it."""
    first = crossing(-0.1, 0.0, 0.1).iloc[0]
    values = {"1xtp1": np.full(3, 3.5), PD: np.array([3.2, 3.0, 2.8])}
    low, high = of_ratios(values, confidence=0.975)["1xtp1", PD]
    assert first["middle"] == pytest.approx(1.5)
    assert (first["next_margin_from"], first["next_margin_to"]) == (pytest.approx(low - 1), pytest.approx(high - 1))
    assert (high - low) > 1.2 * np.diff(of_ratios(values)["1xtp1", PD])[0]


def test_the_change_of_the_best_arm_is_that_within_blocks():
    """In each block both arms move alike; in another order of rows changes between blocks would be at other latencies."""
    rows = [("1xtp1", level, x, 9, factor * (2 + x)) for factor in (1, 2, 4) for level, x in ((4, 1), (8, 3))]
    rows += [(PD, level, x, 9, factor * 2 * x) for factor in (4, 1, 2) for level, x in ((4, 1), (8, 3))]
    found = bands(table(*rows).assign(block=[1, 1, 2, 2, 3, 3, 3, 3, 1, 1, 2, 2], machines="m"),
                  "median_tpot_ms", "input_throughput_per_node")  # fmt: skip
    assert (found["high_from"].iloc[0], found["high_to"].iloc[0]) == (pytest.approx(2), pytest.approx(2))


def test_of_several_changes_in_a_repeat_the_middle_one_counts():
    """1xtp1 attains 10 + 2x at x ms. In the first repeat PD overtakes at 2 ms, falls behind at 3, and overtakes at 6."""
    at, pd_repeats = (1, 2.5, 4.5, 8), [(11, 15.5, 17.5, 28), (11, 14, 18.5, 29), (11, 14, 18, 28.5)]
    rows = [("1xtp1", level, x, 9, 10 + 2 * x) for level, x in enumerate(at) for _ in pd_repeats]
    rows += [(PD, level, x, 9, repeat[level]) for level, x in enumerate(at) for repeat in pd_repeats]
    found = bands(table(*rows), "median_tpot_ms", "input_throughput_per_node")
    assert list(found["best"]) == ["1xtp1", PD] and found["high"].iloc[0] == pytest.approx(5.5)
    expected = of_geometric_mean([3, 5, 5.5])
    assert tuple(found[["high_from", "high_to"]].iloc[0]) == pytest.approx(expected), "6 ms is nearer to that of the medians"


def test_a_change_of_the_best_arm_has_no_interval_without_three_repeats_that_each_have_it():
    assert crossing(-0.1, 0.1)["high_from"].isna().all()
    assert crossing(-0.1, 0.0, 0.9)["high_from"].isna().all(), "in one repeat 1xtp1 stays the best"

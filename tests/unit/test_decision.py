"""The answer to an SLA, worked out by hand, and its uncertainty."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench.analysis.decision import bands, cost, decide, highest, overloaded, workloads
from pdbench.analysis.frontier import attainable
from pdbench.analysis.pieces import not_judged
from pdbench.analysis.repeats import of_geometric_mean, of_ratios
from pdbench.analysis.samples import samples
from pdbench.analysis.sla import Bound, parse, per_request
from pdbench.output import decision_text
from pdbench.read.results import read_results

# -- what is typed --


def test_an_sla_is_read():
    assert parse("tpot=10,p99_ttft=800,chunk=250.5") == (
        Bound("median", "tpot", 10), Bound("p99", "ttft", 800), Bound("median", "chunk", 250.5),
    )  # fmt: skip
    assert [bound.column for bound in parse("mean_itl=9,chunk=9")] == ["mean_itl_ms", "chunk_latency_ms"]
    assert str(parse("p99_ttft=800")[0]) == "p99 TTFT <= 800 ms" and str(parse("max_itl=60")[0]) == "max ITL <= 60 ms"


def test_end_to_end_latency_is_a_bound(tmp_path, write_folder, level_content, lawful):
    """TTFT of 0.5 s and 10 gaps of 10 ms are 600 ms; at another level 20 ms, 700 ms. Half-way between them 650 ms are met."""
    files, same = {}, level_content(4, detailed=True)
    for concurrency, gap in ((4, 0.01), (8, 0.02)):
        each = 0.5 + 10 * gap
        content = level_content(concurrency, detailed=True) | {"ttfts": [0.5] * 20, "itls": [[gap] * 10] * 20,
                   "start_times": [each * (i // concurrency) for i in range(20)]}  # fmt: skip
        files[f"conc{concurrency}.json"] = lawful(content)
    folder = write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", files)
    measured = read_results([folder])
    assert measured["median_e2e_ms"].tolist() == pytest.approx([600, 700]) and str(parse("p99_e2e=9")[0]) == "p99 E2E <= 9 ms"
    assert measured["p99_e2e_ms"].tolist() == pytest.approx([600, 700])
    row = decide(measured, parse("e2e=650")).iloc[0]
    assert row["holds"] and row["level"] == pytest.approx(6) and row["reason"] == "limited by median E2E"
    assert not decide(measured, parse("e2e=500"))["holds"].any()
    unknown = {name: value for name, value in same.items() if name not in ("ttfts", "itls", "start_times", "input_lens")}
    for more, expected in (({}, math.nan), ({"median_e2el_ms": 321.0}, 321.0)):
        stated = write_folder(tmp_path, "tiny_itl100_otl11_mixed_1xtp2", {"conc4.json": unknown | more})
        assert read_results([stated])["median_e2e_ms"].tolist() == pytest.approx([expected], nan_ok=True)
    assert decide(read_results([folder]).assign(median_e2e_ms=math.nan), parse("e2e=650"))["reason"][0].startswith(
        "its results lack"
    )


def test_a_request_is_held_to_the_loosest_bound_of_each_metric():
    assert per_request(parse("tpot=10,p99_tpot=20,ttft=500,itl=3,chunk=9")) == {"tpot": 20, "ttft": 500}


# -- by hand --


def table(*rows, kind="concurrency"):
    """Rows of (layout, level, TPOT, TTFT, input tokens/s per node); requests have 100 tokens in, 11 out."""
    made = []
    for layout, level, tpot, ttft, rate in rows:
        row = {"arm": layout, "layout": layout, "level": level, "kind": kind}
        row |= {"serving": "ray", "accelerator": "GPU", "gpus": 4, "gpus_per_node": 8}
        row |= {"model": "tiny", "isl": 100, "osl": 11, "phase": "mixed", "median_tpot_ms": tpot, "median_ttft_ms": ttft}
        row |= {"input_throughput_per_node": rate, "output_throughput_per_node": 0.11 * rate}
        row |= {"total_throughput_per_node": 1.11 * rate, "request_throughput_per_node": rate / 100}
        made.append(
            row
            | {"request_throughput": rate / 200, "served_share": math.nan, "cap_reached": math.nan}
            | {"tokens_per_piece": math.nan, "block": 0, "machines": ""}
        )
    return pd.DataFrame(made)


PD = "p1xtp2-d1xtp2"
RATE = "input_throughput_per_node"
TWO_LEVELS = [(PD, 4, 8, 100, 1000), (PD, 8, 12, 300, 2000)]


def test_between_two_levels_everything_is_interpolated_in_the_load():
    """TPOT reaches 10 half-way from 8 to 12: 1500 tokens/s, 6 in flight on 4 GPUs, TTFT 200."""
    row = decide(table(*TWO_LEVELS), parse("tpot=10,ttft=500")).iloc[0]
    assert row["holds"] and row["reason"] == "limited by median TPOT"
    assert (row["throughput"], row["level"], row["concurrency_per_gpu"]) == (1500, 6, 1.5)
    assert (row["median_tpot_ms"], row["median_ttft_ms"], row["request_throughput_per_node"]) == (10, 200, 15)
    assert row["output_throughput_per_node"] == pytest.approx(165)


def test_the_tightest_bound_decides():
    """TTFT reaches 150 a quarter of the way: 1250 tokens/s at TPOT 9."""
    row = decide(table(*TWO_LEVELS), parse("tpot=10,ttft=150")).iloc[0]
    assert (row["throughput"], row["median_tpot_ms"], row["reason"]) == (1250, 9, "limited by median TTFT")


def test_what_does_not_limit_is_said_too():
    assert decide(table(*TWO_LEVELS), parse("tpot=50")).iloc[0]["reason"] == "no higher load measured"
    falling = table(*TWO_LEVELS, (PD, 16, 14, 400, 1900))
    row = decide(falling, parse("tpot=50")).iloc[0]
    assert (row["throughput"], row["level"], row["reason"]) == (2000, 8, "more load gives no more throughput")


def test_a_curve_that_folds_back_is_followed():
    """From (8 ms, 1000) over (12 ms, 1500) to (9 ms, 3000): at 10 ms 2500, on the way back."""
    row = decide(table((PD, 4, 8, 1, 1000), (PD, 8, 12, 1, 1500), (PD, 16, 9, 1, 3000)), parse("tpot=10")).iloc[0]
    assert (row["throughput"], row["level"]) == (3000, 16)
    row = decide(table((PD, 4, 8, 1, 1000), (PD, 8, 12, 1, 3500), (PD, 16, 9, 1, 2000)), parse("tpot=10")).iloc[0]
    # Up: 1000 + 2500/2 = 2250. Back: from 3500 at 12 ms to 2000 at 9 ms, 10 ms are 2/3 of the way: 2500.
    assert row["throughput"] == pytest.approx(2500) and row["level"] == pytest.approx(8 + 8 * 2 / 3)


@pytest.mark.parametrize(
    ("tails", "level", "reason"),
    [
        ((20, 200, 300), 4, "limited by p99 ITL, which a neighbouring level breaks"),  # and not 50 ms, at level 4.67
        ((200, 20, 200), 8, "limited by p99 ITL, which a neighbouring level breaks"),
        ((200, 20, 49), 16, "no higher load measured"),
        ((20, 20, 200), 8, "limited by p99 ITL, which a neighbouring level breaks"),
    ],
)
def test_a_tail_of_itl_is_that_of_levels_that_were_measured(tails, level, reason):
    """It leaps where 1% of the tokens begin to wait for a prefill: what lies between two levels is not known."""
    measured = table((PD, 4, 8, 100, 1000), (PD, 8, 12, 300, 2000), (PD, 16, 16, 500, 3000)).assign(p99_itl_ms=tails)
    row = decide(measured, parse("p99_itl=50")).iloc[0]
    assert (row["level"], row["throughput"], row["reason"]) == (level, {4: 1000, 8: 2000, 16: 3000}[level], reason)


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


def test_only_a_neighbouring_level_that_breaks_a_tail_is_called_that():
    far = table((PD, 4, 8, 100, 1000), (PD, 8, 9, 100, 900), (PD, 16, 16, 500, 3000)).assign(p99_itl_ms=[20, 20, 200])
    assert decide(far, parse("p99_itl=50")).iloc[0]["reason"] == "more load gives no more throughput"


def test_between_levels_that_both_keep_a_tail_the_other_bounds_decide():
    measured = table(*TWO_LEVELS).assign(p99_itl_ms=[20, 40])
    assert decide(measured, parse("tpot=10,p99_itl=50")).iloc[0]["level"] == 6
    broken = decide(measured, parse("tpot=10,p99_itl=30")).iloc[0]
    assert (broken["level"], broken["p99_itl_ms"]) == (4, 20)
    assert not decide(measured, parse("p99_itl=10"))["holds"].any()
    assert decide(table(*TWO_LEVELS).assign(mean_itl_ms=[20, 40]), parse("mean_itl=30")).iloc[0]["level"] == 6, (
        "a mean is steady"
    )


def test_why_an_arm_fails():
    broken = decide(table(*TWO_LEVELS), parse("tpot=7,ttft=90")).iloc[0]
    assert not broken["holds"] and math.isnan(broken["throughput"])
    assert broken["reason"] == "median TPOT is 8.0 ms at best, median TTFT is 100.0 ms at best"
    # TPOT <= 9 from 3/4 of the way on, TTFT <= 150 up to 1/4 of it.
    apart = decide(table((PD, 4, 12, 100, 1000), (PD, 8, 8, 300, 2000)), parse("tpot=9,ttft=150")).iloc[0]
    assert apart["reason"] == "each bound is met at some level, all of them at none"
    lacking = decide(table((PD, 4, math.nan, 100, 1000)), parse("tpot=9,ttft=150")).iloc[0]
    assert lacking["reason"] == "its results lack median_tpot_ms"


def test_the_best_comes_first_and_the_others_say_how_far_they_are_behind():
    answers = decide(table(*TWO_LEVELS, ("2xtp2", 4, 8, 100, 1200), ("4xtp1", 4, 20, 50, 9000)), parse("tpot=10"))
    assert list(answers["arm"]) == [PD, "2xtp2", "4xtp1"] and list(answers["holds"]) == [True, True, False]
    assert list(answers["collocated"]) == [False, True, True]
    assert answers["lead"][1] == pytest.approx(1500 / 1200 - 1)
    assert answers["reason"][2] == "median TPOT is 20.0 ms at best"


def test_of_equal_arms_the_collocated_one_is_best_in_any_order():
    rows = [(PD, 4, 8, 1, 1000), ("2xtp2", 4, 8, 1, 1000), ("p2xtp1-d1xtp2", 4, 8, 1, 1000)]
    for order in (rows, rows[::-1]):
        assert list(decide(table(*order), parse("tpot=9"))["arm"]) == ["2xtp2", PD, "p2xtp1-d1xtp2"]


def test_an_overloaded_level_keeps_no_bound_on_ttft():
    """At 8/s requests wait in a queue: how long depends on their number, not on the arm."""
    rates = table(("2xtp2", 4, 8, 100, 1000), ("2xtp2", 8, 8, 9000, 1500), (PD, 8, 8, 9000, 1500), kind="request-rate")
    rates["served_share"] = [1.0, 0.7, 0.94]
    bounds = parse("ttft=20000")
    answers = decide(rates, bounds)
    assert answers["arm"].tolist() == ["2xtp2", PD] and answers["holds"].tolist() == [True, False]
    assert answers["reason"][1] == "every level is saturated"
    assert answers["level"].tolist()[0] == 4 and len(overloaded(rates, [bound.column for bound in bounds])) == 2
    assert decide(rates, parse("tpot=10"))["throughput"].tolist() == [1500, 1500], "throughput and TPOT are real"
    assert not decide(rates[1:], bounds)["holds"].any(), "another workload's answer does not wait for this one"


@pytest.mark.parametrize("metric", ["ttft", "p99_ttft", "mean_ttft", "chunk"])
def test_a_saturated_level_counts_under_no_latency_that_contains_ttft(metric):
    rates = table(("2xtp2", 4, 8, 100, 1000), ("2xtp2", 8, 8, 9000, 1500), (PD, 8, 8, 9000, 1500), kind="request-rate")
    rates["served_share"] = [1.0, 0.7, 0.94]
    column = parse(f"{metric}=20000")[0].column
    rates[column] = rates["median_ttft_ms"]
    assert decide(rates, parse(f"{metric}=20000"))["level"].dropna().tolist() == [4]
    found = bands(rates, column, "input_throughput_per_node")
    assert found["best"].tolist() == ["2xtp2"] and found["throughput_high"].tolist() == [1000]
    assert len(overloaded(rates, [column])) == 2 and overloaded(rates, ["median_tpot_ms"]).empty
    assert bands(rates, "median_tpot_ms", "input_throughput_per_node")["throughput_high"].tolist() == [1500]
    assert list(decision_text.saturated_words(overloaded(rates, [column])))[0].endswith("2 levels of 2 arms")


def test_a_level_that_the_client_capped_keeps_no_bound_on_ttft():
    rates = table(("2xtp2", 4, 8, 100, 1000), ("2xtp2", 8, 8, 100, 1500), kind="request-rate")
    rates["served_share"], rates["cap_reached"] = 1.0, [math.nan, 64]
    assert decide(rates, parse("ttft=500"))["level"].tolist() == [4]
    assert decide(rates, parse("tpot=10"))["level"].tolist() == [8]
    assert decision_text.queue_words(64) == "the queue is in the client, at its cap of 64 in flight"
    assert decision_text.queue_words(math.nan) == "its TTFT is that of a queue"


def test_an_arm_that_is_ahead_by_goodput_alone_is_named():
    measured = table(("2xtp2", 4, 8, 100, 1200), (PD, 4, 8, 100, 1000)).assign(goodput=[3.0, 4.0])
    assert "  by goodput p1xtp2-d1xtp2 is ahead: 8 against 6 requests/s/node" in words(measured, "tpot=10")
    for goodput in ([4.0, 4.0], [4.0, math.nan], [math.nan, math.nan]):
        assert "goodput" not in "".join(words(measured.assign(goodput=goodput), "tpot=10"))


def words(measured, bounds):
    return list(decision_text.answer_words(decide(measured, parse(bounds)), parse(bounds), "input/s"))


@pytest.mark.parametrize(
    ("bounds", "named"), [("p99_ttft=9,max_tpot=9", "p99 TTFT and max TPOT"), ("ttft=9", ""), ("p99_itl=9,max_itl=9", "")]
)
def test_a_tail_of_few_requests_is_called_that(bounds, named):
    measured = table(*TWO_LEVELS, (PD, 16, 9, 1, 3000)).assign(completed=[20, 99, 100])
    expected = [f"fewer than 100 requests at 4, 8: {named} there is that of the slowest two"] * bool(named)
    assert list(decision_text.few_words(measured, parse(bounds))) == expected
    assert not list(decision_text.few_words(measured[2:], parse(bounds)))


def test_coarser_pieces_are_not_judged_by_the_time_between_them():
    """Equal answers; one arm sends 8 tokens at once, so its gaps are 8 times longer, and their p99 misses the bound."""
    measured = table(("2xtp2", 4, 10, 100, 1000), (PD, 4, 10, 100, 1200))
    measured["p99_itl_ms"], measured["tokens_per_piece"] = [12.0, 80.0], [1.0, 8.0]
    for bound in ("p99_itl=50", "p99_itl=500"):
        answers = decide(measured, parse(bound))
        assert answers["arm"].tolist() == ["2xtp2", PD] and answers["holds"].tolist() == [True, False]
        assert answers["reason"][1] == "not compared by ITL: 8 tokens a piece against 1"
    expected = f"not compared by ITL: {PD}, 8 tokens a piece against 1: a time between pieces is none between tokens"
    assert list(decision_text.piece_words(not_judged(measured, parse("p99_itl=50")))) == [expected]
    assert decide(measured, parse("tpot=20"))["holds"].all() and not not_judged(measured, parse("tpot=20"))
    measured["tokens_per_piece"] = [1.0, 1.4]
    assert decide(measured, parse("p99_itl=500"))["arm"].tolist() == [PD, "2xtp2"], "on a busy machine two come in one"


def test_a_request_rate_is_no_concurrency():
    assert math.isnan(decide(table(*TWO_LEVELS, kind="request-rate"), parse("tpot=10"))["concurrency_per_gpu"][0])


def test_goodput_is_per_node():
    """4 of a node's 8 GPUs: twice the best level's; a level's is the median of its repeats."""
    measured = table(*TWO_LEVELS, TWO_LEVELS[1], TWO_LEVELS[1]).assign(goodput=[2.0, 1.0, 3.5, 3.0])
    assert decide(measured, parse("tpot=10"))["goodput_per_node"][0] == 6


def test_prices_are_beside_what_they_are_of():
    """The last of a dozen columns lie outside a window of 1280 pixels."""
    measured = table(*TWO_LEVELS, ("2xtp2", 4, 8, 100, 900))
    headers, rows = decision_text.band_rows(bands(measured, "median_tpot_ms", RATE), "TPOT", "input/s", False, 3)
    assert headers[2:4] == ["input/s", "price\nof 1M"] and rows[0][3] == f"{cost(3, 8, 1000):.3f} to {cost(3, 8, 2000):.3f}"
    answers, bounds = decide(measured, parse("tpot=10")), parse("tpot=10")
    headers, rows = decision_text.decision_rows(answers, bounds, "input/s", "concurrency", 3)
    assert headers[3:7] == ["input/s", *(f"price of 1M\n{kind}" for kind in ("input", "output", "total"))]
    assert rows[0][4] == f"{cost(3, 8, 1500):.3f}"


def test_the_price_of_a_million_tokens():
    """8 GPUs at 3 an hour cost 24 an hour, in which 10,000 tokens/s make 36 million."""
    assert cost(3, 8, 10_000) == pytest.approx(24 / 36)


def test_what_cannot_be_compared_is_reported_apart():
    mixed = pd.concat([table(*TWO_LEVELS), table(*TWO_LEVELS).assign(isl=200), table(*TWO_LEVELS, kind="request-rate")])
    titles = [title for title, rows in workloads(mixed) if len(rows) == 2]
    assert titles[0] == "tiny · ISL 100 · OSL 11 · mixed · by concurrency" and len(titles) == 3


# -- any curves --

levels = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=6)


@given(levels, st.floats(0.5, 45))
def test_one_bound_is_what_the_curve_attains(polyline, limit):
    latency, throughput = map(np.array, zip(*polyline, strict=True))
    found = highest(throughput.astype(float), latency.astype(float)[:, None], np.array([limit])).throughput
    attained = np.nan_to_num(attainable("a", latency, throughput).throughput_at(limit))
    assert found == pytest.approx(attained, rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=2, max_size=5), st.integers(1, 40), st.integers(1, 40))
def test_several_bounds_agree_with_a_dense_scan(points, first, second):
    points = np.array(points, dtype=float)
    found = highest(points[:, 0], points[:, 1:], np.array([first, second], dtype=float))
    scanned = np.concatenate([np.linspace(a, b, 201) for a, b in zip(points[:-1], points[1:], strict=True)])
    kept = scanned[(scanned[:, 1] <= first) & (scanned[:, 2] <= second)]
    assert found.throughput >= kept[:, 0].max(initial=0) - 1e-9
    if found.throughput:
        start, end = points[found.segment], points[found.segment + 1]
        rate, *latencies = start + found.share * (end - start)
        assert rate == pytest.approx(found.throughput)
        assert latencies[0] <= first + 1e-9 and latencies[1] <= second + 1e-9


# -- repeats --


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


# -- the public study --


def test_published_answer(published):
    """2xTP4 has a TPOT of 9.7 ms at 32 in flight and of 11.4 at 48: 10 ms lie between these levels."""
    folder = published / "bm_results" / "gptoss_itl5000_otl250_mixed_baseline_2xtp4"
    low, high = (json.loads((folder / f"conc{k}.json").read_text()) for k in (32, 48))
    assert low["median_tpot_ms"] < 10 < high["median_tpot_ms"]
    way = (10 - low["median_tpot_ms"]) / (high["median_tpot_ms"] - low["median_tpot_ms"])
    rates = [level["total_input_tokens"] / level["duration"] for level in (low, high)]
    row = decide(read_results([folder]), parse("tpot=10")).iloc[0]
    assert row["level"] == pytest.approx(32 + 16 * way) and row["concurrency_per_gpu"] == pytest.approx(4 + 2 * way)
    assert row["throughput"] == pytest.approx(rates[0] + way * (rates[1] - rates[0]))
    assert row["request_throughput_per_node"] == pytest.approx(row["throughput"] / 5000)


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

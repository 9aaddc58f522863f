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
from pdbench.analysis.sla import Bound, parse, per_request
from pdbench.output import decision_text
from pdbench.read.results import read_results
from tests.helpers.decision_table import PD, RATE, TWO_LEVELS, table

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
    expected = [f"fewer than 100 requests at 4, 8: {named} there rests on one or two of them"] * bool(named)
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

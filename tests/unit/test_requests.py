"""Per-request details: every number against one worked out by hand."""

import math

import numpy as np
import pytest

from pdbench.read.requests import (
    Requests,
    decode_steps,
    end_to_end,
    goodput,
    percentiles,
)
from pdbench.read.results import read_results

# Two clients, one request after another each: 100 prompt tokens, 3 output tokens.
# sent at    0    0    1    1.5   2
# TTFT       .5   1    .5   .5    .5
# gaps      .25  .25  .25  .25   .25 (twice each)
# ends at    1    1.5  2    2.5   3
CONTENT = {
    "start_times": [0.0, 0.0, 1.0, 1.5, 2.0], "ttfts": [0.5, 1.0, 0.5, 0.5, 0.5], "itls": [[0.25, 0.25]] * 5,
    "input_lens": [100] * 5, "output_lens": [3] * 5,
}  # fmt: skip


@pytest.fixture
def requests():
    return Requests.of(CONTENT)


def test_times_of_each_request(requests):
    assert list(requests.end) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert (end_to_end(requests)["median_e2e_ms"], end_to_end(requests)["max_e2e_ms"]) == (1000, 1500)
    assert list(requests.tpot) == [0.25] * 5 and list(requests.values("ttft")) == [500, 1000, 500, 500, 500]


@pytest.mark.parametrize("key", CONTENT)
def test_without_a_detail_there_is_nothing_to_say(key):
    assert Requests.of({k: v for k, v in CONTENT.items() if k != key}) is None
    assert all(map(math.isnan, [*percentiles(None).values(), goodput(None, 3.0, {"ttft": 600})]))


def test_two_tokens_in_one_piece_are_two_tokens():
    merged = Requests.of(CONTENT | {"itls": [[0.5], *[[0.25, 0.25]] * 4]})
    assert list(merged.tpot) == [0.25] * 5 and list(merged.values("itl")) == [500] + [250] * 8


def test_percentiles_are_over_requests_and_over_tokens():
    uneven = Requests.of(CONTENT | {"itls": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8], [0.9, 1.0]]})
    found = percentiles(uneven)
    # TTFT sorted .5 .5 .5 .5 1: p90 lies at rank 3.6, p95 at 3.8.
    assert found["p90_ttft_ms"] == pytest.approx(800) and found["p95_ttft_ms"] == pytest.approx(900)
    # Means .15 .35 .55 .75 .95; ten gaps .1 to 1.0, p90 at rank 8.1.
    assert found["p90_tpot_ms"] == pytest.approx(870) and found["p90_itl_ms"] == pytest.approx(910)
    assert [found[f"max_{metric}_ms"] for metric in ("ttft", "tpot", "itl")] == pytest.approx([1000, 950, 1000])


def test_goodput_counts_requests_that_kept_to_every_bound(requests):
    assert goodput(requests, 3.0, {"ttft": 600}) == pytest.approx(4 / 3)
    assert goodput(requests, 3.0, {"ttft": 600, "tpot": 200}) == 0
    assert goodput(requests, 3.0, {"tpot": 250}) == pytest.approx(5 / 3), "the bound itself is kept to"


def test_a_single_token_has_no_tpot_to_be_late_with():
    single = Requests.of(CONTENT | {"itls": [[]] * 5, "output_lens": [1] * 5})
    assert math.isnan(single.tpot[0]) and goodput(single, 3.0, {"tpot": 1}) == pytest.approx(5 / 3)
    assert math.isnan(percentiles(single)["p90_itl_ms"]) and math.isnan(percentiles(single)["max_itl_ms"])


def test_decode_steps_are_those_while_all_decode():
    """Sent together, first tokens at 1 and 1.5; ends at 3 and 3.5: both decode from 1.5 to 3.

    Gaps of the first: 1-1.5 (an admission is in it), 1.5-2, 2-2.5, 2.5-3; of the second: 1.5-2.5, 2.5-3, 3-3.5.
    """
    gaps = np.array([[0.5] * 4, [1.0, 0.25, 0.25, 0.5]])
    both = Requests(np.zeros(2), np.array([1.0, 1.5]), gaps, np.full(2, 9.0), np.full(2, 5.0))
    found = decode_steps(both)
    # Within: .5 .5 .5 of the first; 1 .25 .25 of the second (ends at 3); its last gap ends at 3.5.
    assert found["median_itl_ms"] == 500 and found["mean_itl_ms"] == 500
    assert found["mean_tpot_ms"] == 500 and found["std_tpot_ms"] == 0
    assert found["output_throughput"] == pytest.approx(6 / 1.5)
    assert found["p90_itl_ms"] == pytest.approx(750), "sorted .25 .25 .5 .5 .5 1: rank 4.5"
    assert found["max_itl_ms"] == 1000


@pytest.mark.parametrize("ttft", [[0.5, 2.5], [0.5, 1.4]])
def test_requests_that_never_decode_together_are_an_error(ttft):
    apart = Requests(np.zeros(2), np.array(ttft), np.array([[0.5, 0.5]] * 2), np.full(2, 9.0), np.full(2, 3.0))
    with pytest.raises(ValueError, match="ask for more output tokens"):
        decode_steps(apart)


def test_the_share_of_time_with_all_in_flight(requests):
    """Two are in flight until 2.5 s, then one until 3 s."""
    times, number = requests.in_flight()
    assert list(number[times < 2.5]).count(2) and max(number) == 2 and number[-1] == 0
    assert requests.share_of_time(2) == pytest.approx(2.5 / 3)
    assert requests.share_of_time(1) == 1 and requests.share_of_time(3) == 0


def test_the_share_is_a_column_where_a_number_in_flight_was_asked_for(tmp_path, write_folder, level_content):
    levels = {"conc4.json": level_content(4, detailed=True), "conc8.json": level_content(8, requests=40)}
    folder = write_folder(tmp_path, "tiny_itl100_otl11_mixed_1xtp1", levels)
    with_details, without = read_results([folder])["full_share"]
    assert 0.9 < with_details <= 1 and math.isnan(without)
    rate = write_folder(
        tmp_path,
        "tiny_itl100_otl11_mixed_2xtp1",
        {"rr10.json": level_content(20, rate=10.0, max_concurrency=None, detailed=True)},
    )
    assert read_results([rate])["full_share"].isna().all()

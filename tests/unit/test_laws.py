"""Laws that a level must obey, each broken alone; the level is then refused where it is read, and so by the sweep."""

import math

import pytest

from pdbench.read import laws
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results
from pdbench.workload import Level


@pytest.fixture
def read(tmp_path, write_folder):
    """Read one level from a file of the name; its row."""

    def row(content, name="conc4.json"):
        osl = content["total_output_tokens"] // content["completed"]
        return read_results([write_folder(tmp_path, f"tiny_itl100_otl{osl}_mixed_2xtp1", {name: content})]).iloc[0]

    return row


def test_a_level_holds_what_littles_law_says(read, level_content):
    """10 requests/s of 380 ms each: 3.8 in flight."""
    row = read(level_content(mean_ttft_ms=270.0, mean_tpot_ms=11.0))
    assert row["in_flight"] == pytest.approx(3.8) and math.isnan(row["served_share"])
    assert row["steady_request_throughput"] == pytest.approx(4 / 0.38), "with 4 in flight all the time"


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"request_rate": 1.0, "duration": 20.0}, "request_rate is 1, so that may be the load, not 4 in flight"),
        ({"duration": 20.0, "mean_ttft_ms": 200.0, "mean_tpot_ms": 60.0}, "0.8 requests were in flight"),
        ({"mean_ttft_ms": 0.27, "mean_tpot_ms": 0.011}, "0.0038 requests were in flight"),  # seconds
        ({"mean_ttft_ms": 320.0, "mean_tpot_ms": 11.0}, "4.3 requests were in flight"),  # more than were asked for
        ({"duration": 20.0}, None),
        ({"median_tpot_ms": 0.02}, "median TPOT is 0.02 ms, less than 0.1"),
        ({"median_tpot_ms": 40.0, "p99_tpot_ms": 30.0}, "median_tpot_ms is 40, above p99_tpot_ms, which is 30"),
        ({"p95_ttft_ms": 151.9}, "p95_ttft_ms is 151.9, above p99_ttft_ms, which is 150"),
        ({"p90_itl_ms": 20.0, "p95_itl_ms": 19.0}, "p90_itl_ms is 20, above p95_itl_ms, which is 19"),
        ({"max_ttft_ms": 147.0}, "p99_ttft_ms is 150, above max_ttft_ms, which is 147"),
    ],
)  # fmt: skip
def test_a_summary_that_cannot_be(read, level_content, changes, seen):
    content = level_content(**changes)
    if seen is None:
        assert read(content)["in_flight"] == pytest.approx(3.8), "any duration, where the requests' times fit"
        return
    with pytest.raises(ResultError, match=rf"conc4\.json: {seen}"):
        read(content)


def test_fewer_requests_than_are_to_be_in_flight(read, level_content):
    with pytest.raises(ResultError, match="3 requests cannot keep 4 in flight"):
        read(level_content(requests=3))


@pytest.mark.parametrize(("rate", "counts"), [(1e9, True), (19.0, False)])
def test_a_rate_beside_a_concurrency_counts_if_it_limits_nothing(read, level_content, rate, counts):
    """The public study's client was given 1e9; here 10 requests/s are served."""
    content = level_content() | {"request_rate": rate}
    if counts:
        assert read(content)["completed"] == 20
    else:
        with pytest.raises(ResultError, match="request_rate is 19, so that may be the load, not 4 in flight"):
            read(content)


@pytest.mark.parametrize("rate", [True, "4", [4], {}])
def test_a_rate_that_is_no_number(read, level_content, rate):
    with pytest.raises(ResultError, match="request_rate must be a number or inf"):
        read(level_content() | {"request_rate": rate})


@pytest.mark.parametrize(
    ("key", "change", "seen"),
    [
        ("ttfts", lambda ttfts: [0.001, *ttfts[1:]], "mean_ttft_ms is 50, but by the requests' own times it is 47.55"),
        ("ttfts", lambda ttfts: [1e3 * t for t in ttfts], "mean_ttft_ms is 50, but by the requests' own times it is 50000"),
        ("itls", lambda itls: [[0.02] * 10, *itls[1:]], "mean_tpot_ms is 10, but by the requests' own times it is 10.5"),
        ("itls", lambda itls: [[], *itls[1:]], "1 requests have no time between tokens, but 11 output tokens"),
        ("itls", lambda itls: [[0.005, 0.015] * 5 for _ in itls], "p99_itl_ms is 10, but by the requests' own times it is 15"),
        (
            "start_times",
            lambda starts: [*starts[:-1], 9.0],
            "duration is 0.789474 s, but from the first start to the last end it is 7.65",
        ),
    ],
)
def test_details_that_do_not_fit_the_summary(read, level_content, key, change, seen):
    content = level_content(detailed=True)
    assert read(content)["completed"] == 20
    with pytest.raises(ResultError, match=rf"conc4\.json: {seen}"):
        read(content | {key: change(content[key])})


def test_one_output_token_has_fewer_laws(read, level_content):
    assert read(level_content(osl=1))["in_flight"] == pytest.approx(3.8)


def test_the_rate_that_was_served(read, level_content):
    """20 requests at 8/s and 0.2 s for the last: 2.7 s without a queue. They took 2.7 s, or 10."""
    ok = level_content(concurrency=None, rate=8.0, duration=2.7, mean_ttft_ms=90.0, mean_tpot_ms=11.0)
    assert read(ok, "rr8.json")["served_share"] == pytest.approx(1)
    late = ok | {"duration": 10.0, "request_throughput": 2.0, "output_throughput": 22.0, "total_token_throughput": 222.0}
    row = read(late, "rr8.json")
    assert row["served_share"] == pytest.approx(0.27) and row["served_share"] < laws.SERVED


def test_a_rate_that_rises_is_no_rate(read, level_content):
    content = level_content(concurrency=None, rate=8.0) | {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1}
    with pytest.raises(ResultError, match="the rate rose during the level .ramp_up_strategy linear.: its name says one rate"):
        read(content, "rr8.json")


def test_published_and_own_levels_obey(published):
    """Every level of the public study, whose client wrote no details."""
    from pdbench.read.level_file import load_level

    checked = 0
    for path in published.rglob("conc*.json"):
        content = load_level(path)
        laws.check(content, Level.from_filename(path.name), content["total_output_tokens"] // content["completed"], None)
        checked += 1
    assert checked > 300


# -- a rate that the client capped --


def capped(level_content, cap, duration=20.0, rate=10.0, **means):
    """200 requests at 10/s of 200 ms each: 2 in flight in 20 s."""
    means = {"mean_ttft_ms": 90.0, "mean_tpot_ms": 11.0} | means
    return level_content(cap, rate=rate, requests=200, duration=duration, **means)


@pytest.mark.parametrize(
    ("cap", "duration", "reached"),
    [(None, 20.0, False), (2, 20.0, True), (2.2, 20.0, True), (2.3, 20.0, False), (4, 20.0, False), (4, 80.0, True)],
)
def test_a_cap_of_the_client_that_was_reached(read, level_content, cap, duration, reached):
    """In 80 s the queue of 60 s excess would have been 30 s long, in the mean; a request took 0.2 s."""
    row = read(capped(level_content, cap, duration), "rr10.json")
    assert row["cap_reached"] == cap if reached else math.isnan(row["cap_reached"])


def test_a_queue_at_the_server_is_not_the_cap(read, level_content):
    """Half of the excess of 60 s was waited for, with 75 of 100 in flight."""
    row = read(capped(level_content, 100, 80.0, mean_ttft_ms=30000.0), "rr10.json")
    assert row["served_share"] < laws.SERVED and math.isnan(row["cap_reached"])


def test_more_than_the_cap_cannot_be_in_flight(read, level_content):
    with pytest.raises(ResultError, match="2 requests were in flight .*, but max_concurrency allowed 1.9"):
        read(capped(level_content, 1.9), "rr10.json")


@pytest.mark.parametrize("cap", [True, "4", [4], 0, -1])
def test_a_cap_that_is_no_number(read, level_content, cap):
    with pytest.raises(ResultError, match="max_concurrency must be a number above 0 or null"):
        read(capped(level_content, 4) | {"max_concurrency": cap}, "rr10.json")


def test_a_duration_in_which_nothing_was_under_way_is_refused(read, level_content, lawful):
    content = lawful(level_content(detailed=True, requests=100))
    times = content | {"duration": content["duration"] * 1.8}
    rates = {key: content[key] / 1.8 for key in ("request_throughput", "output_throughput", "total_token_throughput")}
    with pytest.raises(ResultError, match="of which no request was under way in"):
        read(times | rates)
    read(content)

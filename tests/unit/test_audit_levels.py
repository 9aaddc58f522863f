"""The audit of levels by themselves: what kept one from being what its name says."""

from pathlib import Path

import pytest

from pdbench.analysis.audit import KINDS, audit
from pdbench.read.results import read_study
from tests.helpers.audits import MIXED, found, seen, writer

RESULTS = Path(__file__).parents[2] / "bm_results"


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    return writer(tmp_path, write_folder, level_content)


def test_a_cold_first_level(arm):
    folder = arm("2xtp1", mean_ttft_ms=[150.0, 80.0, 90.0], p99_ttft_ms=[1900.0, 200.0, 200.0], duration=[13.7, 5.0, 2.63])
    reported = "conc4, the first level measured: TTFT has a median of 50, a mean of 150 and a p99 of 1,900 ms"
    assert seen("cold start", folder) == f"{reported}; the mean of conc8 is 80"


@pytest.mark.parametrize(
    ("means", "durations"), [([70.0, 60.0, 60.0], [8.3, 3.8, 1.9]), ([150.0, 160.0, 170.0], [13.7, 7.1, 3.7])]
)
def test_a_first_level_like_the_others_is_not_cold(arm, means, durations):
    """A mean of 1.4 medians is the spread of requests; one that load explains grows with load."""
    assert found(arm("2xtp1", mean_ttft_ms=means, duration=durations)) == []


def test_an_overloaded_level_is_named_with_what_was_served(tmp_path, write_folder, level_content):
    """20 requests at 8/s need 2.5 s, and their own time; these took 10."""
    levels = {f"rr{rate}.json": level_content(None, rate=float(rate), requests=200, duration=took)
              for rate, took in ((2, 100.0), (8, 100.0))}  # fmt: skip
    folder = write_folder(tmp_path, MIXED + "2xtp1", levels)
    assert seen("overloaded", folder) == "requests/s served: rr8 2 of 8"


def test_a_rate_that_the_client_held_back_is_named_with_its_cap(tmp_path, write_folder, level_content):
    """2 of 10/s served, and no request waited: as many as were in flight, the client did not send."""
    content = level_content(4, rate=10.0, requests=200, duration=100.0)
    folder = write_folder(tmp_path, MIXED + "2xtp1", {"rr10.json": content})
    reported = "rr10: max_concurrency 4, 0.33 in flight on average, 2 of 10 requests/s served"
    assert seen("capped", folder) == reported and [kind for kind, _ in found(folder)] == ["capped"]
    assert "the queue is in the client and not in TTFT" in KINDS["capped"][0]


def test_a_concurrency_that_was_not_kept_is_named(arm, tmp_path, write_folder, level_content):
    # 100 requests of 50 + 10 x 10 ms: with 4 in flight they take 3.75 s.
    slow = level_content(4, requests=100, mean_ttft_ms=50.0, mean_tpot_ms=10.0, duration=4.7)
    folder = write_folder(tmp_path, MIXED + "2xtp1", {"conc4.json": slow})
    assert seen("concurrency not kept", folder) == "conc4: 3.19 in flight in the mean"
    # 4 in flight until 2.25 s, then 3 until 4.35 s.
    places = [0.15 * (i // 4) for i in range(60)] + [2.25 + 0.15 * (i // 3) for i in range(40)]
    tail = level_content(4, detailed=True, requests=100, start_times=places)
    folder = write_folder(tmp_path / "tail", MIXED + "2xtp1", {"conc4.json": tail})
    share = "conc4: 3.45 in flight in the mean, all of them for 52% of the time"
    assert seen("concurrency not kept", folder, details=True) == share


def test_prompts_of_another_length_than_the_name_says(tmp_path, write_folder, level_content):
    short = level_content(4, isl=92, requests=100)
    folder = write_folder(tmp_path, MIXED + "2xtp1", {"conc4.json": short})
    assert seen("other prompts", folder) == "conc4: tokens of a prompt: mean 92; the folder's name says 100"
    mixed = level_content(4, detailed=True, requests=100, input_lens=[80] * 50 + [120] * 50)
    folder = write_folder(tmp_path / "mixed", MIXED + "2xtp1", {"conc4.json": mixed})
    ends = "conc4: tokens of a prompt: shortest 80, longest 120; the folder's name says 100"
    assert seen("other prompts", folder, details=True) == ends


def test_few_requests_are_named_with_their_number(arm):
    assert seen("few requests", arm("2xtp1", requests=[20, 99, 100])) == "requests of a level: conc4 20, conc8 99"


def test_answers_that_came_in_one_go_are_named(tmp_path, write_folder, level_content, lawful):
    """Slower than the law of a TPOT that can be, and faster than any engine with such a TTFT."""
    honest = level_content(detailed=True, requests=100, osl=33)
    for number, (gap, is_seen) in enumerate([(0.0002, True), (0.003, False)]):
        content = lawful(
            honest
            | {
                "ttfts": [0.8] * 100,
                "itls": [[gap] * 32] * 100,
                "seed": str(number),
                "start_times": [0.95 * (i // 4) for i in range(100)],
            }
        )
        folder = write_folder(tmp_path, f"tiny_itl100_otl33_mixed_{number}_2xtp1", {"conc4.json": content})
        findings = [f.seen for f in audit(read_study([folder])) if f.kind == "in one go"]
        assert findings == ["conc4: TTFT is 99.2% or more of each request of 33 output tokens"] * is_seen


@pytest.mark.parametrize(
    ("of", "uneven"),
    [
        ("h200x2_first_2xtp1", ["conc8 64%, conc16 65%"]),
        ("h200x2_serving_bare_2xtp1", []),  # the router sees all requests
        ("h200x2_first_pack_p1xtp1-d1xtp1", []),  # one replica decodes
    ],
)
def test_replicas_that_shared_requests_unevenly_are_named(of, uneven):
    """Measured on two H200s; docs/GPU.md says what else speaks for it."""
    folder = RESULTS / f"gpt-oss-20b-shape_itl5000_otl250_mixed_{of}"
    seen_there = [finding.seen for finding in audit(read_study([folder])) if finding.kind == "shared unevenly"]
    assert seen_there == [f"requests in flight at the busiest of 2 replicas, at the least: {levels}" for levels in uneven]


def test_without_details_nothing_is_said_of_sharing():
    folder = RESULTS / "gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_first_2xtp1"
    assert "shared unevenly" not in {finding.kind for finding in audit(read_study([folder], details=False))}

"""A level's file: what does not count says why, and no damage makes a row or another exception."""

import json
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results
from tests.helpers.one_level import COLLOCATED, read_one

# -- levels that do not count --


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"failed": 1}, "20 of 20 requests completed, 1 counted as failed"),
        ({"completed": 19}, "19 of 20 requests completed, 0 counted as failed"),
        ({"completed": 21}, "21 of 20 requests completed"),
        ({"num_prompts": 0, "completed": 0}, "num_prompts must be finite and above 0, not 0"),
        ({"num_prompts": 20.0}, "num_prompts must be a whole number, not 20.0"),
        ({"total_output_tokens": 219}, "total_output_tokens is 219, not 220: 20 requests of 11"),
        ({"total_input_tokens": 4000}, "prompts have 200 tokens on average, but the folder's name says 100"),
        ({"max_concurrency": 8}, "max_concurrency is 8, but the file's name says 4"),
        ({"duration": 0}, "duration must be finite and above 0, not 0"),
        ({"median_tpot_ms": 0.0}, "median_tpot_ms must be finite and above 0, not 0.0"),
        ({"std_ttft_ms": -1.0}, "std_ttft_ms must be finite and at least 0, not -1.0"),
        ({"p99_itl_ms": math.nan}, "p99_itl_ms must be finite and at least 0, not nan"),
        ({"mean_ttft_ms": math.inf}, "mean_ttft_ms must be finite and at least 0, not inf"),
        ({"mean_ttft_ms": 10**400}, "mean_ttft_ms must be finite"),
        ({"completed": True}, "completed must be a number, not True"),
        ({"duration": "2.0"}, "duration must be a number, not '2.0'"),
        ({"duration": None}, "duration must be a number, not None"),
        ({"output_throughput": 220.0}, "output_throughput is 220, but tokens / duration is 110"),
        ({"total_token_throughput": 1000.0}, "total_token_throughput is 1000, but tokens / duration is 1110"),
    ],
)
def test_a_level_that_does_not_count_says_why(tmp_path, write_folder, level_content, change, reason):
    with pytest.raises(ResultError) as caught:
        read_one(write_folder, tmp_path, level_content() | change)
    assert str(caught.value).startswith(f"{tmp_path / COLLOCATED / 'conc4.json'}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_rate_other_than_the_file_names_is_refused(tmp_path, write_folder, level_content):
    with pytest.raises(ResultError, match="request_rate is 3.0, but the file's name says 2"):
        read_one(write_folder, tmp_path, level_content(rate=3.0), filename="rr2.json")


def test_a_client_that_does_not_count_failures_is_read(tmp_path, write_folder, level_content):
    content = level_content()
    del content["failed"]
    assert read_one(write_folder, tmp_path, content)["completed"] == 20


def test_a_prompt_may_be_a_few_tokens_off(tmp_path, write_folder, level_content):
    content = level_content(total_input_tokens=2040, total_token_throughput=1130.0)
    assert read_one(write_folder, tmp_path, content)["input_throughput"] == 1020


# -- per-request details --


def test_whole_details_are_read(tmp_path, write_folder, level_content):
    assert read_one(write_folder, tmp_path, level_content(detailed=True))["completed"] == 20


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("ttfts", [0.05] * 19, "ttfts must be a list of 20 entries"),
        ("generated_texts", "abc", "generated_texts must be a list of 20 entries, not 'abc'"),
        ("output_lens", [11] * 19 + [10], "a request has 10 output tokens, not 11"),
        ("output_lens", [11] * 19 + ["11"], "an entry of output_lens must be a number, not '11'"),
        ("errors", [""] * 19 + ["timed out"], "a request failed: 'timed out'"),
        ("ttfts", [0.05] * 19 + [math.nan], "an entry of ttfts must be finite"),
        ("itls", [[0.01]] * 19 + [0.01], "an entry of itls must be a list, not 0.01"),
        ("itls", [[0.01]] * 19 + [[-0.01]], "an entry of itls must be finite and at least 0, not -0.01"),
        ("input_lens", [100] * 19 + [99], "input_lens add up to 1999, not to total_input_tokens"),
        ("start_times", [None] * 20, "an entry of start_times must be a number, not None"),
    ],
)
def test_details_that_do_not_fit_are_refused(tmp_path, write_folder, level_content, key, value, reason):
    with pytest.raises(ResultError, match=rf"conc4\.json: {reason}"):
        read_one(write_folder, tmp_path, level_content(detailed=True) | {key: value})


def test_details_are_passed_over_where_nobody_asks(tmp_path, write_folder, level_content):
    content = level_content(detailed=True, p90_ttft_ms=50.0)
    whole = read_one(write_folder, tmp_path, content)
    quick = read_one(write_folder, tmp_path, content, details=False)
    rests_on_details = whole.index.str.match(
        "tokens_per_piece|full_share|ttft_share|(p95|max)_ttft|(p9[05]|max)_(tpot|itl)|.*_e2e_ms"
    )
    assert quick[~rests_on_details].equals(whole[~rests_on_details]) and quick["p90_ttft_ms"] == 50
    assert quick[rests_on_details].isna().all() and whole["p95_itl_ms"] == 10
    # What is passed over may be broken; what is left may not, and a failed request is seen.
    text = json.dumps(content).replace('"itls": [[0.01', '"itls": [[oops')
    assert read_one(write_folder, tmp_path, text, details=False).equals(quick)
    for damaged in (text, json.dumps(content | {"errors": [""] * 19 + ["timed out"]}), json.dumps(content)[:-1]):
        with pytest.raises(ResultError, match=r"conc4\.json: "):
            read_one(write_folder, tmp_path, damaged, details=damaged is text)


def test_details_elsewhere_than_the_client_writes_them_are_read(tmp_path, write_folder, level_content):
    content = level_content(detailed=True)
    moved = dict(reversed(content.items()))
    assert list(moved).index("errors") < list(moved).index("input_lens")
    assert read_one(write_folder, tmp_path, moved, details=False).equals(read_one(write_folder, tmp_path, content))


# -- any damage is a ResultError that names the file, never another exception and never a row --

STATISTICS = [f"{s}_{m}_ms" for m in ("ttft", "tpot", "itl") for s in ("mean", "median", "std", "p99")]
REQUIRED = [
    "num_prompts", "completed", "max_concurrency", "duration", "total_input_tokens", "total_output_tokens",
    "output_throughput", "total_token_throughput", *STATISTICS,
]  # fmt: skip
DETAILS = ["input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors"]
numbers_that_are_none = st.sampled_from([math.nan, math.inf, -math.inf, -1, -0.5, 10**400])
no_numbers = st.none() | st.booleans() | st.text() | st.lists(st.floats()) | st.just({"mean": 1})
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=5,
)
# Each example writes the same file again, so that one folder for all of them does no harm.
on_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)


def refused(tmp_path, write_folder, content):
    with pytest.raises(ResultError) as caught:
        read_one(write_folder, tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / COLLOCATED / 'conc4.json'}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", REQUIRED)
def test_damage_missing_key(tmp_path, write_folder, level_content, key):
    content = level_content()
    del content[key]
    refused(tmp_path, write_folder, content)


@on_files
@given(st.sampled_from(REQUIRED), no_numbers | numbers_that_are_none)
def test_damage_value_that_is_no_number(tmp_path, write_folder, level_content, key, value):
    refused(tmp_path, write_folder, level_content() | {key: value})


@on_files
@given(st.sampled_from(DETAILS), no_numbers | st.integers() | st.lists(st.integers(), max_size=19))
def test_damage_details_that_are_no_list_of_all_requests(tmp_path, write_folder, level_content, key, value):
    refused(tmp_path, write_folder, level_content(detailed=True) | {key: value})


@on_files
@given(st.data(), st.booleans())
def test_damage_truncated(tmp_path, write_folder, level_content, data, detailed):
    text = json.dumps(level_content(detailed=detailed))
    refused(tmp_path, write_folder, text[: data.draw(st.integers(0, len(text) - 1))])


@on_files
@given(st.text(st.characters(codec="utf-8")) | st.lists(any_json).map(json.dumps))
@example("[" * 100_000)
@example("9" * 5000)
def test_damage_other_content(tmp_path, write_folder, text):
    refused(tmp_path, write_folder, text)


@on_files
@given(st.binary())
@example("{}".encode("utf-16"))
@example(b"\xff\xfe\x00")
def test_damage_bytes(tmp_path, write_folder, data):
    folder = write_folder(tmp_path, COLLOCATED, {})
    (folder / "conc4.json").write_bytes(data)
    with pytest.raises(ResultError, match=r"conc4\.json: "):
        read_results([folder])


# Of any JSON nearly nothing is read: without the examples, and statistics that may be so, the row was hardly ever looked at.
@on_files
@given(
    st.dictionaries(st.sampled_from([*REQUIRED, *DETAILS, "failed"]), any_json, min_size=1)
    | st.dictionaries(st.sampled_from(STATISTICS), st.floats(0, 1000) | st.integers(0, 1000), max_size=2)
)
@example({})
@example({"std_tpot_ms": 0})
def test_whatever_a_file_holds_a_row_has_finite_numbers(tmp_path, write_folder, level_content, changes):
    try:
        row = read_one(write_folder, tmp_path, level_content(detailed=True) | changes)
    except ResultError as error:
        assert str(error).startswith(f"{tmp_path / COLLOCATED / 'conc4.json'}: ")
    else:
        numbers = row[[not isinstance(value, str) for value in row]].drop(["served_share", "cap_reached"])  # of rates alone
        assert all(math.isfinite(value) and value >= 0 for value in numbers)


@pytest.mark.parametrize("key", ["p99_ttft_ms", "mean_itl_ms", "std_tpot_ms"])
def test_a_statistic_that_was_not_asked_for_says_how_to(tmp_path, write_folder, level_content, key):
    content = level_content(4)
    del content[key]
    folder = write_folder(tmp_path, COLLOCATED, {"conc4.json": content})
    with pytest.raises(ResultError, match=f"{key} is missing: measure with --percentile-metrics ttft,tpot,itl --metric-perc"):
        read_results([folder])


def test_requests_per_second_must_follow_from_the_counts(tmp_path, write_folder, level_content):
    folder = write_folder(tmp_path, COLLOCATED, {"conc4.json": level_content(4) | {"request_throughput": 12.0}})
    with pytest.raises(ResultError, match="request_throughput is 12, but requests / duration is 10"):
        read_results([folder])

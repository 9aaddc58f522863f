"""Load that shifts: phases and traces as somebody writes them, and the requests that come of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench.read.trace import Phase, Sent, Shift, longest_gap, parse_phases, read_sent, read_trace, trace_path, trace_text

TWO = "5000:50:4:30,500:500:2.5:10"


def test_phases_are_read_as_they_are_typed():
    shift = parse_phases(TWO)
    assert shift.phases == (Phase(5000, 50, 4, 30), Phase(500, 500, 2.5, 10))
    assert shift.longest == (5000, 500) and shift.identity == TWO


@pytest.mark.parametrize(
    "text, named",
    [
        ("5000:50", "phase '5000:50' is not like 5000:50:4:30"),
        ("5000:50:4:30:1", "'5000:50:4:30:1' is not like"),
        ("5000:50:x:30", "is not like"),
        ("5000:50:4:30,", "phase '' is not like"),
        ("1.5:50:4:30", "is not like"),
        ("0:50:4:30", "phase 0:50:4:30: ISL is 0, and must be at least 1"),
        ("5000:1:4:30", "OSL is 1, and must be at least 2: where load shifts, every request is decoded"),
        ("5000:50:0:30", "requests/s must be above 0 and finite, not 0"),
        ("5000:50:inf:30", "requests/s must be above 0 and finite, not inf"),
        ("5000:50:4:0", "seconds must be above 0 and finite, not 0"),
        ("5000:50:4:-1", "seconds must be above 0 and finite, not -1"),
        ("5000:50:4:nan", "seconds must be above 0 and finite, not nan"),
    ],
)
def test_phases_that_cannot_be_sent_are_refused_in_one_line(text, named):
    with pytest.raises(ValueError) as error:
        parse_phases(text)
    assert named in str(error.value) and "\n" not in str(error.value)


@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.5, 1, 2]))
def test_a_phase_has_as_many_requests_as_its_rate_says_at_times_within_it(seed, load):
    sent = parse_phases(TWO).sent(load, seed)
    first, second = ([one for one in sent if one.phase == phase] for phase in (0, 1))
    assert (len(first), len(second)) == (round(120 * load), round(25 * load))
    assert all(0 <= one.at <= 30 and one[1:3] == (5000, 50) for one in first)
    assert all(30 <= one.at <= 40 and one[1:3] == (500, 500) for one in second)
    assert sent == sorted(sent, key=lambda one: one.at)


def test_times_are_the_seeds():
    shift = parse_phases(TWO)
    assert shift.sent(1, 3) == shift.sent(1, 3) != shift.sent(1, 4)


def test_a_phase_without_a_request_and_too_many_are_refused():
    with pytest.raises(ValueError, match=r"phase 500:500:2.5:10 has no request at load 0.01"):
        parse_phases(TWO).sent(0.01, 0)
    with pytest.raises(ValueError, match=r"makes more than 1,048,576 requests at load 1e\+06"):
        parse_phases(TWO).sent(1e6, 0)


def line(at=1.0, isl=100, osl=11, **more):
    return json.dumps({"timestamp": at, "input_length": isl, "output_length": osl} | more)


def write(tmp_path, *lines):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{one}\n" for one in lines))
    return path


def test_a_trace_begins_with_its_first_request_and_a_load_makes_it_faster(tmp_path):
    shift = read_trace(write(tmp_path, line(3600), line(3604, hash_ids=[1, 2]), line(3608, 20, 31, phase=1)))
    assert shift.longest == (100, 31)
    assert shift.sent(2, 0) == [Sent(0, 100, 11, 0), Sent(2, 100, 11, 0), Sent(4, 20, 31, 1)]
    other = read_trace(write(tmp_path, line(3600), line(3605), line(3608, 20, 31, phase=1)))
    assert shift.identity.startswith("trace of 3 requests, ") and shift.identity != other.identity


@pytest.mark.parametrize(
    "lines, named",
    [
        ([], "holds no request"),
        ([line(2), line(1)], "line 2: timestamp 1 is before 2: sort the requests by time"),
        (["{"], "line 1: Invalid JSON"),
        ([line(), ""], "line 2: Invalid JSON"),
        ([line(osl=1)], "line 1: output_length: Input should be greater than or equal to 2"),
        ([line(isl=0)], "line 1: input_length: "),
        ([line(isl=2.5)], "line 1: input_length: "),
        ([line(-1)], "line 1: timestamp: "),
        ([line(float("nan"))], "line 1: "),
        ([line(speed=1)], "line 1: speed: Extra inputs are not permitted"),
        (['{"timestamp": 1, "input_length": 3}'], "line 1: output_length: Field required"),
        ([line(phase=1)], "line 1: phase 1: the first is 0"),
        ([line(), line(2, phase=2)], "line 2: phase 2 after 0"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused_in_one_line(tmp_path, lines, named):
    path = write(tmp_path, *lines)
    with pytest.raises(ValueError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}: {named}"[: len(str(path)) + 2]) and named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_levels_file_is_read_as_it_was_written_and_no_prompt_is_another_levels(tmp_path):
    sent = Shift(phases=(Phase(100, 11, 4, 5),)).sent(1, 3)
    texts = [trace_text(sent, seed) for seed in (1, 2)]
    assert read_sent(texts[0].encode(), tmp_path) == sent
    ids = [json.loads(one)["hash_ids"] for text in texts for one in text.splitlines()]
    assert all(len(each) == 1 for each in ids) and len({each[0] for each in ids}) == len(ids) == 40


def test_the_trace_is_beside_its_level_whatever_the_level_is_called(tmp_path):
    names = [trace_path(tmp_path / f"shift1.json{end}").name for end in ("", ".part", ".bad")]
    assert names == ["shift1.trace.jsonl", "shift1.trace.jsonl.part", "shift1.trace.jsonl.bad"]


def test_the_longest_time_without_a_request_begins_at_once():
    assert longest_gap([Sent(7, 1, 2, 0), Sent(8, 1, 2, 0)]) == 7
    assert longest_gap([Sent(1, 1, 2, 0), Sent(8, 1, 2, 0)]) == 7

"""Which levels count: what the sweep accepts, the reader reads; everything else is set aside."""

import json
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdbench.manifest import Gate, Manifest
from pdbench.measure import sweep
from pdbench.measure.sweep import LevelError
from pdbench.read.results import read_results
from pdbench.serve import client
from tests.helpers.planning import FILENAME, NAME, files, measure, planned


def test_a_level_that_counts_gets_its_name(server, tmp_path, capsys, level_content):
    bench = measure(tmp_path, level_content())
    folder = tmp_path / NAME
    assert files(folder) == ["conc4.json", FILENAME]
    assert capsys.readouterr().out == "10.00 requests/s, TTFT 50 ms, TPOT 10.0 ms, inter-token p99 27.0 ms\n"
    (record,) = Manifest.read(folder).levels
    assert (record.level, record.ok, record.problems, record.num_prompts) == ("conc4", True, [], 20)
    assert record.command.startswith("vllm bench serve --backend vllm ") and f"--seed {record.seed}" in record.command
    assert record.launched == server["deployment"].launched and record.ended >= record.started > "2" and record.attempt == 1
    assert bench.words[bench.words.index("--metadata") + 1 :] == [f"seed={record.seed}", "level=conc4", "exp_name=x"]


def test_of_one_token_there_is_no_time_between_two(server, tmp_path, capsys, level_content):
    measure(tmp_path, level_content(osl=1), "--mode", "prefill-only")
    assert capsys.readouterr().out == "10.00 requests/s, TTFT 50 ms\n"


def without(key):
    return lambda content: {k: v for k, v in content.items() if k != key}


# What a client's file may have wrong, each of which viz.py refuses.
FAULTS = {
    "prompts of another length": lambda c: c | {"total_input_tokens": 1200, "total_token_throughput": 710.0},
    "another load": lambda c: c | {"max_concurrency": 8},
    "a time that is no number": lambda c: c | {"itls": [[math.nan] * 10, *c["itls"][1:]]},
    "a request without its time": lambda c: c | {"ttfts": c["ttfts"][1:]},
    "a throughput that does not follow": lambda c: c | {"output_throughput": 220.0},
    "answers of two lengths": lambda c: c | {"output_lens": [10, 12, *[11] * 18]},
    "a percentile is missing": without("p99_ttft_ms"),
    "a request too few": lambda c: c | {"completed": 19},
    "failed requests": lambda c: c | {"failed": 2},
    "too few tokens": lambda c: c | {"total_output_tokens": 219},
    "prompts counted twice": lambda c: c | {"total_input_tokens": 2 * c["total_input_tokens"], "input_lens": [200] * 20},
    "buffered answers": lambda c: c | {"itls": [[2e-5] * 10] * 20, "median_tpot_ms": 0.02, "mean_tpot_ms": 0.02},
    "no time per token": lambda c: c | {f"{of}_tpot_ms": 0.0 for of in ("mean", "median", "p99")},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_the_reader_refuses_is_set_aside(server, tmp_path, level_content, fault):
    with pytest.raises(LevelError, match="^level conc4 does not count: "):
        measure(tmp_path, FAULTS[fault](level_content(detailed=True)))
    assert files(tmp_path / NAME) == ["conc4.json.bad", FILENAME], "no plot reads it"
    (record,) = Manifest.read(tmp_path / NAME).levels
    assert not record.ok and len(record.problems) == 1
    assert list(planned(tmp_path)[1]) == ["conc4", "conc8"], "it is measured again"
    measure(tmp_path, level_content(detailed=True))
    assert files(tmp_path / NAME) == ["conc4.json", FILENAME]


def test_a_level_whose_answers_came_in_one_go_does_not_count(server, tmp_path, level_content, lawful):
    """Gaps of 0.2 ms after a long TTFT are those of a proxy that buffers; the same TTFT and 10 ms a token are an engine's."""
    for gap, counts in ((0.0002, False), (0.010, True)):
        content = lawful(level_content(detailed=True, osl=33) | {"ttfts": [20.0] * 20, "itls": [[gap] * 32] * 20,
                         "start_times": [20.5 * (i // 4) for i in range(20)]})  # fmt: skip
        if counts:
            measure(tmp_path, content, "--osl", "33")
        else:
            with pytest.raises(LevelError, match="^level conc4 does not count: answers came in one go"):
                measure(tmp_path, content, "--osl", "33")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["completed", "failed", "num_prompts", "duration", "max_concurrency", "total_input_tokens", "total_output_tokens",
        "median_ttft_ms", "p99_itl_ms", "output_throughput", "itls", "ttfts", "errors", "input_lens", "start_times",
        "date"]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from(KEYS), anything, max_size=2))
@example(change={"completed": 10**4000})
@example(change={"failed": 1, "errors": [[], {"a": "\n"}]})
@example(change={"date": None})
def test_what_the_sweep_accepts_the_reader_reads(server, tmp_path_factory, level_content, change):
    results = tmp_path_factory.mktemp("r")
    content = level_content(detailed=True) | change
    try:
        measure(results, json.dumps(content).encode())
    except LevelError as error:
        assert "\n" not in str(error) and files(results / NAME) == ["conc4.json.bad", FILENAME]
    else:
        assert len(read_results([results / NAME])) == 1 and files(results / NAME) == ["conc4.json", FILENAME]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
@example(content=b"[" * 99999)
@example(content=b'{"completed": 20')
def test_no_content_of_a_file_is_another_error(server, tmp_path_factory, content):
    results = tmp_path_factory.mktemp("r")
    with pytest.raises(LevelError, match="level conc4 does not count"):
        measure(results, content)
    assert files(results / NAME) == ["conc4.json.bad", FILENAME]


@pytest.mark.parametrize(("more", "asked"), [(["-n", "19"], 19), (["-n", "40"], 40)])
def test_another_number_of_requests_than_asked_does_not_count(server, tmp_path, level_content, more, asked):
    with pytest.raises(LevelError, match=f"20 requests instead of {asked}"):
        measure(tmp_path, level_content(), *more)


def test_the_reason_of_a_failed_request_is_passed_on(server, tmp_path, level_content):
    failed = level_content(completed=19, failed=1, errors=["", "Internal\n  Server Error"])
    with pytest.raises(LevelError, match="19 of 20 requests completed, 1 counted as failed: Internal Server Error$"):
        measure(tmp_path, failed)


def test_a_client_that_failed_leaves_no_level(server, tmp_path, level_content, capsys):
    for content, status, problem in ((None, 1, "with code 1"), (None, 0, "No such file"), (level_content(), 3, "with code 3")):
        with pytest.raises(LevelError, match=problem):
            measure(tmp_path, content, status=status)
    assert "its last words" in capsys.readouterr().err
    assert files(tmp_path / NAME) == ["conc4.json.bad", FILENAME]
    assert len(Manifest.read(tmp_path / NAME).levels) == 1, "the last word on a level is the one kept"


def test_a_level_whose_gate_fails_does_not_count(server, tmp_path, level_content):
    known = {"time": "now", "expected": "at most 1.0%", "advice": "choose another --seed"}
    server["gates"] = [Gate(name="requests", passed=True, seen="24", **known),
                       Gate(name="prefix-cache", passed=False, seen="40.0% cached", **known)]  # fmt: skip
    problem = "prefix-cache: 40.0% cached; expected at most 1.0%; choose another --seed"
    with pytest.raises(LevelError, match=f"level conc4 does not count: {problem}"):
        measure(tmp_path, level_content())
    assert files(tmp_path / NAME) == ["conc4.json.bad", FILENAME]
    (record,) = Manifest.read(tmp_path / NAME).levels
    assert (record.ok, record.problems, record.gates) == (False, [problem], server["gates"])
    assert server["after"] == [], "the gates between levels are for levels that count"


def test_a_server_that_dies_at_the_gates_fails_its_level(server, tmp_path, level_content, monkeypatch):
    def gone(*args):
        raise client.ServerError("no server answers")

    monkeypatch.setattr(sweep.level_gates, "check", gone)
    with pytest.raises(LevelError, match="no server answers"):
        measure(tmp_path, level_content())
    assert files(tmp_path / NAME) == ["conc4.json.bad", FILENAME]

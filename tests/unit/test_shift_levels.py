"""Levels of load that shifts: what the reader accepts of them, what the sweep does, and what is carried elsewhere."""

import json
import math
import sys

import pytest

from pdbench.manifest import Manifest
from pdbench.measure import gather, shifting
from pdbench.measure.level_gates import Snapshot
from pdbench.measure.sweep import LevelError, Sweep
from pdbench.measure.sweep_options import parse_args
from pdbench.measure.sweep_plan import SweepError, limits, plan
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results, read_study
from pdbench.read.trace import parse_phases, read_trace, trace_path
from pdbench.workload import Level
from tests.helpers.planning import URL, Bench, files
from tests.helpers.shifting import PHASES, content_of, write_level

NAME = "tiny_itl100_otl31_shift_pool_p1xtp1-d2xtp1"


def test_a_level_is_read_with_the_lengths_that_its_phases_say(tmp_path):
    write_level(tmp_path / NAME)
    study = read_study([tmp_path / NAME])
    (row,) = study.table.to_dict("records")
    assert (row["kind"], row["level"], row["phase"], row["completed"]) == ("shift", 1, "shift", 30)
    assert row["output_throughput"] * row["duration"] == pytest.approx(20 * 11 + 10 * 31)
    assert row["median_ttft_ms"] == pytest.approx(50) and row["median_tpot_ms"] == pytest.approx(10)
    assert row["in_flight"] * row["duration"] == pytest.approx(20 * (0.05 + 0.1) + 10 * (0.05 + 0.3))
    assert all(math.isnan(row[name]) for name in ("served_share", "steady_request_throughput", "cap_reached", "full_share"))
    (file,) = study.folders[str(tmp_path / NAME)].levels.values()
    assert [one.phase for one in file.sent] == [0] * 20 + [1] * 10
    assert not read_results([tmp_path / NAME], details=False)["tokens_per_piece"].isna().any(), (
        "each request counts: it is read"
    )


@pytest.mark.parametrize(
    "change, named",
    [
        ({"output_lens": [11] * 30}, "output_lens are not those of the 30 requests of its trace"),
        ({"input_lens": [100] * 30}, "input_lens are not those of the 30 requests of its trace"),
        ({"total_output_tokens": 531}, "total_output_tokens is 531, but by its trace it is 530"),
        ({"trace": "0" * 64}, "shift1.trace.jsonl is not the trace that was replayed"),
        ({"max_concurrency": 4}, "max_concurrency is given, so the trace was not the load"),
        ({"request_rate": 4.0}, "max_concurrency is given, so the trace was not the load"),
        ({"completed": 29}, "29 of 30 requests completed"),
        ({"median_tpot_ms": 20.0}, "median_tpot_ms"),
        ({"duration": 30.0}, "throughput"),
    ],
)
def test_a_level_that_is_not_what_its_trace_says_is_refused(tmp_path, change, named):
    path = write_level(tmp_path / NAME, change=change)
    with pytest.raises(ResultError) as error:
        read_results([tmp_path / NAME])
    assert named in str(error.value) and str(path) in str(error.value)


def test_a_client_that_falls_behind_its_trace_is_refused(tmp_path):
    write_level(tmp_path / NAME, late=0.9)
    read_results([tmp_path / NAME])
    write_level(tmp_path / NAME, late=1.1)
    with pytest.raises(ResultError, match=r"a request was sent 1\.1 s later than its trace says"):
        read_results([tmp_path / NAME])


def test_details_and_the_trace_are_needed(tmp_path):
    path = write_level(tmp_path / NAME)
    content = json.loads(path.read_text())
    del content["itls"]
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="--save-detailed"):
        read_results([tmp_path / NAME])
    trace_path(path).unlink()
    with pytest.raises(ResultError, match=r"shift1\.trace\.jsonl is missing"):
        read_results([tmp_path / NAME])


def test_loads_of_two_kinds_share_no_folder(tmp_path, write_folder, level_content):
    write_folder(tmp_path, NAME, {"conc4.json": level_content()})
    with pytest.raises(ResultError, match="a level of concurrency, but the folder's name says shift"):
        read_results([tmp_path / NAME])
    write_level(tmp_path / "tiny_itl100_otl31_mixed_p1xtp1-d2xtp1")
    with pytest.raises(ResultError, match="a level of shift, but the folder's name says mixed"):
        read_results([tmp_path / "tiny_itl100_otl31_mixed_p1xtp1-d2xtp1"])


class Replays(Bench):
    """A client that sends what the trace says; keywords as for `shifting.replayed`."""

    def __init__(self, change=None, **how):
        super().__init__()
        self.change, self.how = change or {}, how

    def run(self, words, requests, limits):
        self.content = json.dumps(content_of(words, **self.how) | self.change).encode()
        return super().run(words, requests, limits)


def options(tmp_path, *more, phases=PHASES):
    return parse_args(["-e", "pool_p1xtp1-d2xtp1", "--phases", phases, "-u", URL, "--results-dir", str(tmp_path), *more])


def measure(tmp_path, *more, bench=None, **change):
    """Plan and measure; returns the tasks."""
    args = options(tmp_path, *more, **change)
    target, tasks = plan(args, lambda line: None)
    bench, sweep = bench or Replays(), Sweep(args, target)
    sweep.snapshot = Snapshot(counters={}, replicas={})
    for task in tasks:
        sweep._attempt(bench, task, task.seed, 1)
    return tasks


def test_a_sweep_writes_each_level_with_its_trace_and_goes_on_where_it_ended(server, tmp_path):
    tasks = measure(tmp_path, "--load", "0.5,1", "--repeats", "2")
    assert [task.level.stem for task in tasks] == ["shift0.5", "shift1", "shift0.5_rep2", "shift1_rep2"]
    assert [task.num_prompts for task in tasks] == [15, 30, 15, 30]
    table = read_results([tmp_path / NAME])
    assert list(table["completed"]) == [15, 15, 30, 30]
    assert measure(tmp_path, "--load", "0.5,1", "--repeats", "2") == []
    trace_path(tmp_path / NAME / "shift1.json").unlink()
    assert [task.level.stem for task in measure(tmp_path, "--load", "0.5,1", "--repeats", "2")] == ["shift1"]
    manifest = Manifest.read(tmp_path / NAME)
    assert (manifest.phase, manifest.isl, manifest.osl, manifest.shift) == ("shift", 100, 31, PHASES)
    assert {gate.name: gate.passed for gate in manifest.levels[0].gates} == {"lost": True}


def test_all_arms_get_the_same_times_and_no_repeat_those_of_another(server, tmp_path):
    ours, theirs = (measure(tmp_path / arm, "--repeats", "2") for arm in ("one", "other"))
    assert [task.sent for task in ours] == [task.sent for task in theirs]
    assert ours[0].sent != ours[1].sent
    one, other = (read_trace(trace_path(tmp_path / "one" / NAME / f"{stem}.json")) for stem in ("shift1", "shift1_rep2"))
    assert one.trace != other.trace


def test_other_phases_of_the_same_longest_are_not_put_together(server, tmp_path):
    measure(tmp_path)
    with pytest.raises(SweepError, match=f"holds results of shift {PHASES}, but this is shift 100:31:4:5"):
        measure(tmp_path, phases="100:31:4:5")


@pytest.mark.parametrize(
    "change, seen",
    [
        ({"completed": 29, "failed": 1, "errors": ["", "too\nbad"] + [""] * 28}, "1 of 30 requests did not complete"),
        ({"output_lens": [11] * 20 + [31] * 9 + [30]}, "0 of 30 requests did not complete, 1 ended before"),
        ({"errors": None}, "cannot be read"),
    ],
)
def test_a_lost_request_fails_its_gate_and_the_level_does_not_count(server, tmp_path, change, seen):
    with pytest.raises(LevelError, match="shift1 does not count: lost: "):
        measure(tmp_path, bench=Replays(change))
    (record,) = Manifest.read(tmp_path / NAME).levels
    assert [(gate.name, gate.passed) for gate in record.gates] == [("lost", False)] and seen in record.gates[0].seen
    assert files(tmp_path / NAME) == ["manifest.json", "shift1.json.bad", "shift1.trace.jsonl.bad"]
    measure(tmp_path)
    assert files(tmp_path / NAME) == ["manifest.json", "shift1.json", "shift1.trace.jsonl"], "measured again, it counts"


def test_what_the_client_is_told(server, tmp_path):
    bench = Replays()
    measure(tmp_path, bench=bench)
    given = dict(zip(bench.words, bench.words[1:], strict=False))
    assert given["--dataset-name"] == "timed_trace" and given["--num-prompts"] == "30"
    assert given["--timed-trace-chunk-hash-size"] == "100", "one hash id makes up the longest prompt"
    assert not {"--request-rate", "--max-concurrency", "--random-input-len"} & set(bench.words)


@pytest.mark.parametrize(
    "words, named",
    [
        (["--phases", "100:11:4:5", "--isl", "5"], "--isl is of requests that are all alike"),
        (["--phases", "100:11:4:5", "-c", "4"], "--concurrency is of requests that are all alike"),
        (["--phases", "100:11:4:5", "-t", "request-rate"], "--type is of requests that are all alike"),
        (["--phases", "100:1:4:5", "--mode", "prefill-only"], "OSL is 1"),
        (["--phases", "100:11:4:5", "--mode", "prefill-only"], "--mode is of requests that are all alike"),
        (["--phases", "100:11:4:5", "--as-published"], "--as-published is of requests that are all alike"),
        (["--trace", "/nowhere"], "No such file"),
        (["--isl", "5", "--osl", "5", "--load", "1"], "--load is of load that shifts"),
        (["--isl", "5"], "--isl and --osl are needed (or --phases"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(words, named, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        parse_args(["-e", "x", *words])
    assert stop.value.code == 2 and named in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("load", ["0", "all", "1,1", "x"])
def test_a_load_is_above_0(load, server, tmp_path):
    with pytest.raises(ValueError, match=r"load '?.* (is not allowed|names a level twice)"):
        plan(options(tmp_path, "--load", load), lambda line: None)
    assert not list(tmp_path.iterdir())


def test_a_level_may_take_as_long_as_its_trace_and_its_longest_gap(server, tmp_path):
    args = options(tmp_path, phases="100:11:1:100,20:31:0.01:1000")
    (task,) = plan(args, lambda line: None)[1]
    level, request = limits(args, task)
    assert level == 7200 + task.sent[-1].at and 600 < request <= 600 + 1000


def test_the_warm_up_sends_the_shapes_of_every_phase(tmp_path):
    assert shifting.shapes(parse_phases(PHASES).sent(1, 0)) == [(100, 11), (20, 31)]
    assert shifting.words(parse_phases(PHASES).sent(1, 0), (100, 31)).startswith("100:11 and 20:31 tokens, in ")
    assert shifting.words((), (100, 31)) == "100:31 tokens"
    assert shifting.shapes(()) == []


def test_gathering_carries_ticks_and_traces(server, tmp_path, monkeypatch, capsys):
    measure(tmp_path / "there")
    there, here = tmp_path / "there" / NAME, tmp_path / "here" / NAME
    (there / "shift1.ticks.jsonl").write_text("{}\n")
    monkeypatch.setattr(sys, "argv", ["gather", str(there), "--results-dir", str(here.parent)])
    assert gather.main() == 0 and files(here) == files(there)
    read_results([here])
    trace_path(there / Level("shift", 1).filename).unlink()
    assert gather.main() == 2 and "shift1.trace.jsonl is missing" in capsys.readouterr().err

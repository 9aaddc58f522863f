"""What the bench client notes of its own use of a core, and which levels are stopped."""

import os
import time

import pytest

from pdbench.measure import bench_client
from pdbench.measure.bench_client import PREPARE_S, Clock, Limits, Watch
from pdbench.measure.sweep import parse_args
from pdbench.measure.sweep_plan import Task, limits
from pdbench.workload import Level


def test_the_time_of_measuring_is_cut_out():
    clock = Clock()
    clock.samples.clear()
    clock.samples.extend([(0.0, 1.0, 0.0), (8.0, 9.0, 0.5), (9.0, 9.1, 0.6)])
    clock.sample = lambda: clock.samples.append((10.0, 9.3, 0.8))
    cpu, waited, wall = clock.last(2.0)
    assert (round(cpu, 3), round(waited, 3), wall) == (0.3, 0.3, 2.0)
    assert clock.last(60.0)[2] == 10.0, "what was not noted is not invented"


def test_a_busy_thread_is_seen():
    clock = Clock()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
    cpu, waited, wall = clock.last(0.3)
    assert wall >= 0.3 and 0 < cpu + waited <= 1.2 * wall


def test_a_file_of_logins_does_not_replace_the_key(monkeypatch):
    monkeypatch.setenv("NETRC", "/somewhere/.netrc")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    found = bench_client.inherited()
    assert found["NETRC"] == os.devnull and "TQDM_DISABLE" not in found and found["PATH"] == os.environ["PATH"]


def watched(*reports, limits=(100.0, 10.0), now):
    """What a watch of 20 requests says at `now`, after reports (ended, time) since it began at 0."""
    watch = Watch(20, Limits(*limits), 0.0)
    for ended, at in reports:
        watch.report(ended, 20, at)
    return watch.complaint(now)


def test_a_level_that_goes_on_is_left_alone():
    assert watched(now=PREPARE_S) is None, "it loads, or draws its prompts"
    assert watched((0, 50.0), (1, 59.0), (2, 68.0), now=77.0) is None
    assert watched((0, 500.0), (3, 505.0), now=510.0) is None, "the time before its first request is not the level's"
    assert watched((0, 5.0), (20, 9.0), now=PREPARE_S) is None, "it computes its summary"


def test_what_hangs_is_reported_with_how_far_it_came():
    assert watched(now=PREPARE_S + 1) == "the bench client sent no request within 600 s"
    assert watched((0, 1.0), (7, 2.0), now=12.5).startswith("7 of 20 requests ended, then none for 10 s (--request-limit)")
    assert watched((0, 1.0), now=11.5).startswith("0 of 20 requests ended, then none for 10 s")
    slow = [(n, 9.0 * n) for n in range(13)]
    assert watched(*slow, now=109.0) == "12 of 20 requests ended within 100 s (--level-limit)"
    assert watched((0, 1.0), (20, 2.0), now=603.0) == "the bench client did not end after the last of 20 requests within 600 s"
    assert watched(limits=(1e9, 1000.0), now=900.0) is None, "a request may take longer than all preparations"


def test_other_bars_of_the_client_are_not_its_requests():
    watch = Watch(20, Limits(100.0, 10.0), 0.0)
    watch.report(3, 5, 1.0)  # files of a tokenizer
    assert watch.ended is None and watch.complaint(12.0) is None


@pytest.mark.parametrize(
    ("level", "requests", "options", "expected"),
    [
        (Level("concurrency", 4.0), 20, [], (7200 + 5 * 60, 600)),
        (Level("concurrency", 64.0), 10, [], (7200 + 60, 600)),
        (Level("request-rate", 0.1), 500, [], (7200 + 5000, 600 + 200)),
        (Level("request-rate", 10.0), 500, ["--request-limit", "5", "--level-limit", "90"], (90, 7)),
    ],
)
def test_limits_follow_from_the_load_unless_they_are_given(level, requests, options, expected):
    args = parse_args(["-e", "x", "--isl", "1", "--osl", "1", *options])
    assert limits(args, Task(level, requests, 1, 2, 3)) == expected

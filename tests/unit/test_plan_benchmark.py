"""The planner's benchmark: its queries run as typed, and its regret is what can be worked out by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import planner

ROOT = Path(__file__).resolve().parents[2]


def test_queries_are_timed():
    typed = [sys.executable, "benchmarks/planner.py"]
    done = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(planner.TARGETS) * len(planner.FLEETS) and all(" s (CPU " in line for line in lines)
    # A CPU second is what such a query may take; here it is given some more, since a shared core is slower.
    assert max(float(line.split("(CPU ")[1].split()[0]) for line in lines if "10000" in line) < 3


def test_throughput_within_limits_is_between_levels():
    curve = np.array([[1.0, 5, 100], [2.0, 15, 300]])  # requests/s per GPU, TPOT, TTFT
    assert planner.within(curve, 10, 1000) == pytest.approx(1.5) and planner.within(curve, 15, 150) == pytest.approx(1.25)
    assert planner.within(curve, 4, 1000) == 0 and planner.within(curve, 99, 999) == 2


def test_regret_is_what_the_picks_lack():
    """Predictions order three layouts wrongly: the first pick has half of the most, the second all of it."""
    measured = [np.array([[rate, 1, 1]]) for rate in (1.0, 2.0, 1.5)]
    judged = [np.array([[rate, 1, 1]]) for rate in (3.0, 2.0, 1.0)]
    assert list(planner.regret(judged, measured)) == pytest.approx([0.5, 0, 0])
    assert list(planner.regret(measured, measured)) == [0, 0, 0]


def test_a_second_measurement_differs_by_what_two_runs_do():
    noisy = planner.noisy(np.ones((20000, 3)), np.random.default_rng(0))
    assert np.abs(np.log(noisy)).mean(0) == pytest.approx(list(planner.BETWEEN_RUNS.values()), rel=0.05)

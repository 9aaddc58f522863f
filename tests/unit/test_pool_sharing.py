"""The benchmark of a pool's router: what it counts; it runs real Ray Serve, for a minute, by itself."""

import subprocess
import sys

import pytest

from benchmarks import pool_sharing


def test_the_busiest_share_is_a_mean_over_time_until_the_last_is_sent():
    """One second with a's alone, one with two of a's and one of b's; weighted by how many there are: (1 + 2) of (1 + 3)."""
    done = [("a", 0.0, 5.0), ("a", 1.0, 5.0), ("b", 1.0, 5.0), ("b", 2.0, 9.0)]
    assert pool_sharing.busiest(done) == pytest.approx(3 / 4)
    assert pool_sharing.busiest([("a", 0.0, 2.0), ("b", 0.0, 2.0), ("a", 1.0, 2.0)]) == pytest.approx(0.5)


@pytest.mark.parametrize(("option", "value"), [("--replicas", "1"), ("--seconds", "0"), ("--spread", "1"), ("--router", "x")])
def test_a_wrong_option_is_refused_in_one_line(option, value):
    run = subprocess.run([sys.executable, pool_sharing.__file__, option, value], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stdout == "" and option in run.stderr and len(run.stderr.splitlines()) == 1

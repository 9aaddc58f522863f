"""What the bench client notes of its own use of a core."""

import time

from pdbench.measure.bench_client import Clock


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

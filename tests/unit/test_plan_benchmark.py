"""The planner's benchmark: its queries run as typed, and its regret is what can be worked out by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer, peer_cells, planner
from pdbench.layout import Layout

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


def test_a_constant_takes_away_a_common_factor_and_no_more():
    measured = np.array([[10.0, 8, 100], [20.0, 8, 400]])
    assert peer.errors(measured, measured / 2 * peer.mean_ratio(measured, measured / 2)) == pytest.approx([0, 0, 0])
    flat = np.array([[5.0, 4, 50], [10.0, 4, 50]])  # TTFT measured 2 and 8 times as long: their geometric mean is 4
    assert peer.errors(measured, flat * peer.mean_ratio(measured, flat)) == pytest.approx([0, 0, 0.75])
    assert peer.errors(measured, flat * peer.best_ratio(measured, flat)) == pytest.approx([0, 0, 0.375])


def test_a_cell_is_put_to_the_peer_by_replica():
    assert peer.options(Layout.parse("8xtp1"), 4) == {"mode": "agg", "tp_size": 1, "moe_tp_size": 1, "batch_size": 1}
    asked = peer.options(Layout.parse("p1xtp2-d3xtp4"), 32)
    assert asked["decode_batch_size"] == 11 and asked["decode_num_workers"] == 3 and asked["decode_moe_tp_size"] == 4
    assert asked["prefill_batch_size"] == 1 and asked["prefill_num_workers"] == 1 and asked["prefill_tp_size"] == 2


def test_requests_in_flight_bound_the_rate_of_the_peer():
    """TTFT 100 ms and 10 tokens of 10 ms: 5 a second each; in flight are 4 on 8 replicas."""
    made = [peer.Cell(Layout.parse(text), 4, {"osl": 11}, np.ones(3), np.ones(3)) for text in ("8xtp1", "p1xtp1-d1xtp1")]
    assert [peer.closed(cell, 5.0, 10.0, 100.0)[0] for cell in made] == pytest.approx([20, 5])
    assert peer.closed(made[1], 50.0, 10.0, 100.0) == pytest.approx([20, 10, 100])


def test_a_failed_cell_is_named_and_takes_no_part(capsys):
    cells = [peer.Cell(Layout.parse("1xtp1"), level, {"osl": 11}, np.ones(3), np.ones(3)) for level in (1, 8)]
    answers = [{"values": [1, 1, 1], "wall": 0.1, "cpu": 0.1}, {"failed": "RuntimeError: OOM"}]
    peer.print_errors(cells, answers)
    peer.print_rest(cells, answers, 1.0, np.zeros(2))
    printed = capsys.readouterr().out
    assert "collocated, 1 cells" in printed and "'failed': 1\n  1xtp1 at 8: RuntimeError: OOM\n" in printed


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("cat >/dev/null; echo no module >&2", "no module"),
        ("echo hello", "answers no JSON"),
        ("exec sleep 60", "not done within"),
    ],
)
def test_a_peer_that_does_not_answer_is_one_line(tmp_path, script, said):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(peer_cells.PeerError, match=said):
        list(peer_cells.ask(str(python), {"cells": [{}]}, 1 if "sleep" in script else 60))


def test_a_python_without_the_peer_is_named():
    with pytest.raises(peer_cells.PeerError, match="No module named 'aiconfigurator': install"):
        list(peer_cells.ask(sys.executable, {"cells": [{}]}, 60))
    with pytest.raises(peer_cells.PeerError, match="/none: No such file"):
        list(peer_cells.ask("/none", {"cells": [{}]}, 60))

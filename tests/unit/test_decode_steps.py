"""benchmarks/decode_steps.py: how many requests run in a step, and that steps of one CUDA graph take as long as each other."""

import re

import numpy as np
import pytest

from benchmarks import decode_steps
from pdbench.configs import ROOT
from pdbench.read.requests import Requests

RESULTS = ROOT / "bm_results"


def test_a_step_counts_those_that_have_their_first_token_and_not_yet_their_last():
    """One decodes from 1 to 6 s, the other from 2.5 to 4 s."""
    starts, gaps = np.array([0.0, 1.5]), [np.full(5, 1.0), np.full(2, 0.75)]
    running, took = decode_steps.steps_of(Requests(starts, np.array([1.0, 1.0]), gaps, np.full(2, 9.0), np.array([6.0, 3.0])))
    assert running.tolist() == [1, 2, 2, 1, 1, 2, 2] and took.tolist() == [1.0] * 5 + [0.75] * 2


def test_steps_of_one_graph_take_as_long_as_each_other(capsys):
    """As docs/GPU.md says of 1P:1D: medians of 9 to 16 requests are within 2%, and half as long again as those of 5 to 8."""
    (folder,) = RESULTS.glob("*120b-shape*_h200x2_120b_pack_*")
    assert decode_steps.main([str(folder)]) == 0
    rows = re.findall(r"^ *(\d+)(?: to (\d+))? +(\d+) +[\d,]+ +([\d.]+) +([\d.]+) to ([\d.]+)", capsys.readouterr().out, re.M)
    found = {int(size): [float(median), float(least), float(most)] for _, _, size, median, least, most in rows}
    assert list(found) == [1, 2, 4, 8, 16, 24, 32]
    assert found[16][2] / found[16][1] < 1.02 and 1.4 < found[16][1] / found[8][2] < 1.55
    assert ("9", "16") in {row[:2] for row in rows}


@pytest.mark.parametrize("name", ["*_h200x2_120b_2xtp1", "*_prefill-only_h200x1_120b_*"])
def test_an_arm_that_says_nothing_is_refused(name, capsys):
    (folder,) = RESULTS.glob(name)
    with pytest.raises(SystemExit) as caught:
        decode_steps.main([str(folder)])
    assert caught.value.code == 2
    assert "no folder has an arm with one decoding replica and per-request details" in capsys.readouterr().err


def test_engines_without_graphs_have_a_row_for_each_number(capsys):
    (folder,) = RESULTS.glob("*_mixed_cpu_demo_pack_*")
    decode_steps.main([str(folder)])
    assert re.findall(r"^ *(\d+) +(\d+) ", capsys.readouterr().out, re.M) == [(n, n) for n in "1234"]

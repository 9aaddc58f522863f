"""benchmarks/decode_steps.py: how many requests run in a step, and that steps of one CUDA graph take as long as each other."""

import re
import shutil

import numpy as np
import pytest

from benchmarks import decode_steps
from pdbench.configs import ROOT
from pdbench.read.requests import Requests

RESULTS = ROOT / "bm_results"
ROWS = re.compile(r"^ *(\d+)(?: to (\d+))? +(\d+) +([\d,]+) +([\d.]+) +([\d.]+) to ([\d.]+)", re.M)


def one(name):
    (folder,) = RESULTS.glob(name)
    return folder


def test_a_step_counts_those_that_have_their_first_token_and_not_yet_their_last():
    """One decodes from 1 to 6 s, the other from 2.5 to 4 s, a third from 4.5 s on, the middle of a step of the first."""
    starts, gaps = np.array([0.0, 1.5, 3.5]), [np.full(5, 1.0), np.full(2, 0.75), np.full(1, 3.0)]
    requests = Requests(starts, np.full(3, 1.0), gaps, np.full(3, 9.0), np.array([6.0, 3.0, 2.0]))
    running, took = decode_steps.tokens_of(requests, prompts=False)
    assert running.tolist() == [1, 2, 2, 2, 2, 2, 2, 2] and took.tolist() == [1.0] * 5 + [0.75] * 2 + [3.0]
    # The other ends in the middle of a step of the first, and still counts.
    gaps[1] = np.array([0.75, 1.25])
    assert decode_steps.tokens_of(requests, prompts=False)[0].tolist()[:5] == [1, 2, 2, 3, 2]


def test_a_collocated_replica_counts_no_token_that_came_while_a_prompt_was_due():
    """Prompts are due from 0 to 1, 1.5 to 2.5 and 3.5 to 4.5 s, so that one step of each request counts."""
    starts, gaps = np.array([0.0, 1.5, 3.5]), [np.full(5, 1.0), np.full(2, 0.75), np.full(1, 3.0)]
    requests = Requests(starts, np.full(3, 1.0), gaps, np.full(3, 9.0), np.array([6.0, 3.0, 2.0]))
    running, took = decode_steps.tokens_of(requests, prompts=True)
    # The first's last, from 5 to 6 s, the other's first, from 2.5 to 3.25 s, and the third's, from 4.5 to 7.5 s.
    assert running.tolist() == [2, 2, 2] and took.tolist() == [1.0, 0.75, 3.0]


def test_steps_of_one_graph_take_as_long_as_each_other(capsys):
    """As docs/GPU.md says of 1P:1D: medians of 9 to 16 requests are within 2%, and half as long again as those of 5 to 8."""
    folder = one("*120b-shape*_h200x2_120b_pack_*")
    assert decode_steps.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(folder.name + "\n")
    rows = ROWS.findall(printed)
    assert [int(size) for _, _, size, *_ in rows] == [1, 2, 4, 8, 16, 24, 32]
    found = {int(size): [float(number) for number in of] for _, _, size, _, *of in rows}
    assert found[16][2] / found[16][1] < 1.02 and 1.4 < found[16][1] / found[8][2] < 1.55
    assert all(least <= median <= most for median, least, most in found.values())
    assert ("9", "16", "16", "6,491") in {row[:4] for row in rows}, "steps, not tokens"


def test_steps_between_prompts_of_one_replica_are_those_of_decode_alone(capsys):
    """As docs/GPU.md says of one H200, two launches: within 1% of each other."""
    found = {}
    for name in ("*_mixed_h200x1_120b_1xtp1", "*_decode-only_h200x1_120b_*"):
        assert decode_steps.main([str(one(name))]) == 0
        rows = ROWS.findall(capsys.readouterr().out)
        found[name] = {int(row[2]): float(row[4]) for row in rows}
    assert [row[3] for row in rows] == ["254", "247", "242", "474"], "of decode alone all steps count"
    mixed, alone = found.values()
    assert set(mixed) == {2, 4, 8, 16} == set(alone)
    assert all(mixed[size] / alone[size] == pytest.approx(1, abs=0.01) for size in mixed)


def test_a_graph_for_each_number_of_requests_shortens_steps_that_were_padded(capsys):
    """6 and 12 by a seventh; 16 has a graph either way."""
    decode_steps.main([str(one("*_h200x1_graphs_bare_1xtp1")), str(one("*_h200x1_graphs_bare_1xtp1_fine-graphs"))])
    own, fine = capsys.readouterr().out.split("_fine-graphs\n")
    padded, exact = ({int(row[0]): (int(row[2]), float(row[5])) for row in ROWS.findall(of)} for of in (own, fine))
    assert {number: size for number, (size, _) in padded.items()} == {6: 8, 12: 16, 20: 24}
    assert {number: size for number, (size, _) in exact.items()} == {6: 6, 12: 12, 16: 16, 20: 20}
    assert all(0.84 < exact[number][1] / padded[number][1] < 0.88 for number in (6, 12))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("*_h200x2_120b_2xtp1", "has 2 replicas that decode"),
        ("*_cpu_steady_answers", "has a controller, which moves roles"),
    ],
)
def test_an_arm_that_says_nothing_is_refused_alone_and_named_beside_others(name, line, capsys):
    folder = one(name)
    with pytest.raises(SystemExit) as caught:
        decode_steps.main([str(folder)])
    assert caught.value.code == 2 and f"error: {folder.name} {line}\n" in capsys.readouterr().err
    assert decode_steps.main([str(folder), str(one("*_mixed_cpu_demo_pack_*"))]) == 0
    assert f"left out: {folder.name} {line}\n" in capsys.readouterr().err


def test_what_cannot_be_read_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        decode_steps.main([str(tmp_path / "none")])
    assert "no such folder" in capsys.readouterr().err


def test_too_few_steps_say_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decode_steps, "FEWEST", 10**6)
    with pytest.raises(SystemExit):
        decode_steps.main([str(one("*_mixed_cpu_demo_pack_*"))])
    assert "has fewer than 1000000 steps of any number of requests" in capsys.readouterr().err


def test_engines_whose_graphs_cannot_be_read_are_named(tmp_path, capsys):
    folder = tmp_path / one("*_h200x2_first_pack_*").name
    shutil.copytree(one("*_h200x2_first_pack_*"), folder)
    manifest = folder / "manifest.json"
    manifest.write_text(re.sub(r'"cudagraph_capture_sizes": \[[^]]*\]', '"cudagraph_capture_sizes": 16', manifest.read_text()))
    with pytest.raises(SystemExit):
        decode_steps.main([str(folder)])
    assert "the engines' compilation_config: cudagraph_capture_sizes: Input should be a valid list" in capsys.readouterr().err


def test_engines_without_graphs_have_a_row_for_each_number(capsys):
    decode_steps.main([str(one("*_mixed_cpu_demo_pack_*"))])
    assert re.findall(r"^ *(\d+) +(\d+) ", capsys.readouterr().out, re.M) == [(n, n) for n in "1234"]

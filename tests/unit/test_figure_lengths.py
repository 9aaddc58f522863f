"""What --figure lengths draws: ratios by ISL:OSL and level, and which arm is the better one."""

import numpy as np
import pandas as pd
import pytest

import viz
from pdbench.configs import ROOT
from pdbench.output.figures import View, draw
from pdbench.read.level_file import ResultError

KNOWN = {"model": "tiny", "phase": "mixed", "kind": "concurrency", "serving": "ray", "tokens_per_piece": 1.0,
         "gpus_per_node": 2, "accelerator": "H200", "machines": "m", "folder": "f"}  # fmt: skip
LAYOUTS = {"2xtp1": "2xtp1", "p1xtp1-d1xtp1 pack": "p1xtp1-d1xtp1", "p1xtp1-d1xtp1 spread": "p1xtp1-d1xtp1"}
NAMES = ("request_throughput", "median_ttft_ms", "median_tpot_ms", "p99_itl_ms")


def rows(arm, lengths, *blocks, level=4.0):
    """An arm at one level, by block: requests/s, then latencies, all of one value."""
    isl, osl = map(int, lengths.split(":"))
    named = {"arm": f"{arm} {lengths}", "layout": LAYOUTS[arm], "isl": isl, "osl": osl, "level": level}
    return [KNOWN | named | {"block": block} | dict.fromkeys(NAMES[1:], late) | {"request_throughput": fast}
            for block, (fast, late) in enumerate(blocks, start=1)]  # fmt: skip


def lengths(*parts):
    return draw(pd.DataFrame([row for part in parts for row in part]), View(figure="lengths"))


SHORT = [rows("2xtp1", "500:1000", (4.0, 10.0)), rows("p1xtp1-d1xtp1 pack", "500:1000", (3.0, 12.0))]
LONG = [rows("2xtp1", "8000:50", (2.0, 10.0)), rows("p1xtp1-d1xtp1 pack", "8000:50", (3.0, 4.0))]


def texts(axes):
    """By row and column: a cell's lines."""
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        found.setdefault((int(y), int(x)), []).append(text.get_text())
    return found


def test_a_row_for_each_length_with_the_most_prompt_tokens_on_top():
    figure = lengths(*SHORT, *LONG)
    throughput, ttft, _, _ = figure.axes
    assert [label.get_text() for label in throughput.get_yticklabels()] == ["8000:50", "500:1000"]
    assert texts(throughput) == {(0, 0): ["1.50"], (1, 0): ["0.75"]}
    assert texts(ttft) == {(0, 0): ["0.40"], (1, 0): ["1.20"]}
    assert "p1xtp1-d1xtp1 pack over 2xtp1" in figure.get_suptitle()
    assert "no interval with fewer than 3 blocks" in figure.legends[0].get_title().get_text().replace("\xa0", " ")


def test_a_colour_stands_for_one_arm_in_every_panel():
    """8000:50 has more requests/s and less latency with PD: the same side of the scale; 500:1000 the other."""

    def side(patch):
        red, _, blue, _ = patch.get_facecolor()
        return np.sign(blue - red)

    for axes in lengths(*SHORT, *LONG).axes:
        assert {patch.get_gid(): side(patch) for patch in axes.patches} == {"8000:50 4": 1, "500:1000 4": -1}


def test_with_three_blocks_a_cell_has_its_interval_and_is_bold_where_that_is_without_1():
    base = rows("2xtp1", "500:1000", (4.0, 10.0), (2.0, 20.0), (8.0, 5.0))
    figure = lengths(base, rows("p1xtp1-d1xtp1 pack", "500:1000", (3.0, 9.0), (1.5, 22.0), (6.0, 5.1)))
    throughput, ttft, _, _ = figure.axes
    assert texts(throughput) == {(0, 0): ["0.75", "0.75 to 0.75"]} and throughput.texts[0].get_weight() == "bold"
    assert texts(ttft)[0, 0][0] == "1.00" and ttft.texts[0].get_weight() == "normal"


def test_what_has_no_ratio_is_hatched():
    (level,) = rows("2xtp1", "8000:50", (2.0, 10.0))
    figure = lengths([level | {"tokens_per_piece": 8.0}], LONG[1])
    stalls = figure.axes[-1]
    assert texts(stalls) == {} and stalls.patches[0].get_hatch()
    assert "no ratio" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_two_arms_beside_the_collocated_one_are_named():
    with pytest.raises(ResultError, match="compares one arm with one collocated arm.*pack, p1xtp1-d1xtp1 spread"):
        lengths(*LONG, rows("p1xtp1-d1xtp1 spread", "8000:50", (3.0, 4.0)))


def test_it_draws_the_repositorys_own_blocks(tmp_path, capsys):
    folders = [str(ROOT / f"bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_120b_{arm}")
               for arm in ("1xtp2", "pack_p1xtp1-d1xtp1")]  # fmt: skip
    viz.main(["--exps", *folders, "--figure", "lengths", "--plot-path", str(tmp_path / "lengths.png")])
    assert (tmp_path / "lengths.png").stat().st_size > 10_000
    assert "  y: " not in capsys.readouterr().out, "its numbers are ratios"

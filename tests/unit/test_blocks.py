"""Ratios within blocks: worked out by hand, and what does not count as a pair."""

import math

import pandas as pd
import pytest

import viz
from pdbench.analysis.blocks import MEASURES, paired
from pdbench.manifest import LevelRecord
from pdbench.read.level_file import ResultError


def table(*rows):
    """Rows of (arm, layout, level, block, machines, value); every measure has the value."""
    known = {
        "model": "tiny",
        "isl": 500,
        "osl": 64,
        "phase": "mixed",
        "kind": "concurrency",
        "serving": "ray",
        "tokens_per_piece": 1.0,
    }
    columns = ("arm", "layout", "level", "block", "machines")
    return pd.DataFrame([known | dict(zip(columns, row)) | dict.fromkeys(MEASURES, row[-1]) for row in rows])


def blocks(arm, layout, *values, machines=None, level=8):
    return [(arm, layout, level, block, (machines or {}).get(block, "m"), value) for block, value in enumerate(values, start=1)]


BASE = ("c", "2xtp1")
PD = ("p", "p1xtp1-d1xtp1")


def test_a_drift_that_all_arms_share_cancels_out():
    """Each block is twice as slow as the last; PD is 10% faster in all of them."""
    (row,) = paired(table(*blocks(*BASE, 1.0, 2.0, 4.0), *blocks(*PD, 1.1, 2.2, 4.4))).to_dict("records")
    assert (row["arm"], row["base"], row["level"], row["blocks"]) == ("p", "c", 8, 3)
    for name in MEASURES:
        assert row[name] == pytest.approx(1.1) and row[f"{name}_from"] == pytest.approx(1.1) == row[f"{name}_to"]
        assert row[f"{name}_noise"] is False and row[f"{name}_alike"] is False


def test_inter_token_latency_of_coarser_pieces_has_no_ratio():
    rows = table(*blocks(*BASE, 1.0, 2.0, 4.0), *blocks(*PD, 1.1, 2.2, 4.4))
    rows.loc[rows["arm"] == "p", "tokens_per_piece"] = 8.0
    (row,) = paired(rows).to_dict("records")
    assert math.isnan(row["p99_itl_ms"]) and math.isnan(row["p99_itl_ms_from"]) and not row["p99_itl_ms_alike"]
    assert row["median_tpot_ms"] == pytest.approx(1.1)


def test_arms_that_hardly_differ_are_alike():
    (row,) = paired(table(*blocks(*BASE, 1.0, 2.0, 4.0), *blocks(*PD, 1.01, 2.0, 4.01))).to_dict("records")
    assert row["request_throughput_alike"] is True and row["request_throughput_noise"] is True


def test_three_blocks_by_hand():
    """Ratios 1, 1 and e: mean of the logarithms 1/3, standard error 1/3, Student's t with 2 degrees of freedom 4.3027."""
    (row,) = paired(table(*blocks(*BASE, 1.0, 1.0, 1.0), *blocks(*PD, 1.0, 1.0, math.e))).to_dict("records")
    assert row["median_tpot_ms"] == pytest.approx(math.exp(1 / 3))
    assert row["median_tpot_ms_from"] == pytest.approx(math.exp((1 - 4.30265) / 3), rel=1e-5)
    assert row["median_tpot_ms_to"] == pytest.approx(math.exp((1 + 4.30265) / 3), rel=1e-5)
    assert row["median_tpot_ms_noise"] is True


def test_fewer_blocks_have_no_interval():
    (row,) = paired(table(*blocks(*BASE, 1.0, 1.0), *blocks(*PD, 2.0, 2.0))).to_dict("records")
    assert row["median_ttft_ms"] == pytest.approx(2) and row["blocks"] == 2
    assert math.isnan(row["median_ttft_ms_from"]) and row["median_ttft_ms_noise"] is False


def test_a_block_of_two_machines_is_no_pair():
    elsewhere = blocks(*PD, 2.0, 2.0, 9.0, machines={3: "other"})
    (row,) = paired(table(*blocks(*BASE, 1.0, 1.0, 1.0), *elsewhere)).to_dict("records")
    assert row["blocks"] == 2 and row["median_ttft_ms"] == pytest.approx(2)


def test_each_arm_is_over_the_first_collocated_one_at_levels_of_both():
    other = blocks("d", "1xtp2", 3.0)
    rows = table(*blocks(*PD, 2.0), *blocks(*PD, 2.0, level=16), *blocks(*BASE, 1.0), *other)
    assert [(row.arm, row.base, row.level) for row in paired(rows).itertuples()] == [("p", "c", 8), ("d", "c", 8)]


@pytest.mark.parametrize(
    "rows",
    [
        [*blocks(*BASE, 1.0), *blocks(*PD, 1.0, level=4)],
        [*blocks(*PD, 1.0), *blocks("q", "p1xtp1-d1xtp2", 1.0)],
        [(*BASE, 8, 0, "m", 1.0), (*PD, 8, 0, "m", 1.0)],
    ],
    ids=["no level of both", "nothing collocated", "no blocks"],
)
def test_without_a_pair_there_is_nothing_to_compare(rows):
    with pytest.raises(ResultError, match="no block has a collocated arm and another of the same workload"):
        paired(table(*rows))


def test_viz_prints_them_from_folders(tmp_path, capsys, write_folder, level_content, make_manifest):
    for layout, mode, speed in (("2xtp1", "collocated", 1.0), ("p1xtp1-d1xtp1", "pd-pack", 0.5)):
        files = {}
        manifest = make_manifest(layout=layout, mode=mode)
        for block in (1, 2, 3):
            stem = "conc4" + f"_rep{block}" * (block > 1)
            content = level_content(label=layout)
            files[f"{stem}.json"] = content | {"median_tpot_ms": content["median_tpot_ms"] * speed * block}
            manifest.levels.append(LevelRecord(
                level=stem, command="", launched=None, seed=1, warmup_seed=None, num_prompts=20, started="", ended="", ok=True,
                block=block, machines=["here"],
            ))  # fmt: skip
        folder = write_folder(tmp_path, f"tiny_itl100_otl11_mixed_x_{layout}", files)
        manifest.write(folder)
    viz.main(["--exps", *map(str, sorted(tmp_path.iterdir())), "--show-blocks"])
    printed = capsys.readouterr().out
    assert (
        "over 2xtp1, in the same block" in printed and "0.50 [0.50, 0.50]" in printed and "1.00 [1.00, 1.00] alike" in printed
    )
    assert not list(tmp_path.glob("*.png"))

"""What a figure says of its data besides the values: rows of one level, rings, its heading."""

import pytest

from pdbench.output.figures import View, draw
from pdbench.read.results import read_study

NAMES = "tiny_itl100_otl11_mixed_{}"


@pytest.fixture
def study(tmp_path, write_folder):
    """Read folders of {name: {level file: content}}."""
    return lambda arms: read_study([write_folder(tmp_path, NAMES.format(name), levels) for name, levels in arms.items()])


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_label() == name)


def lines(axes, gid="arm"):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines() if line.get_gid() == gid}


def key(figure):
    return " ".join(figure.legends[0].get_title().get_text().split())


# -- one level --


def test_one_level_has_a_row_for_each_arm(study, level_content):
    tpots = {"2xtp1": (10.0, 30.0, 14.0), "p1xtp1-d1xtp1": (20.0, 20.0, 20.0)}
    files = ("conc4.json", "conc4_rep2.json", "conc4_rep3.json")
    arms = {
        arm: {name: level_content(median_tpot_ms=tpot) for name, tpot in zip(files, of_arm, strict=True)}
        for arm, of_arm in tpots.items()
    }
    figure = draw(study(arms).table, View(itl=True))
    tpot = panel(figure, "tpot")
    assert lines(tpot) == {"2xtp1": [[14, 0]], "p1xtp1-d1xtp1": [[20, 1]]}
    assert [label.get_text() for label in tpot.get_yticklabels()] == ["2xtp1", "p1xtp1-d1xtp1"]
    assert tpot.get_xlabel() == "Median TPOT (ms)" and tpot.get_ylim() == (1.5, -0.5), "the first is on top"
    ranges = [bar.tolist() for bars in tpot.collections for bar in bars.get_segments()]
    assert [[10, 0], [30, 0]] in ranges
    assert [label.get_text() for label in panel(figure, "ttft").get_yticklabels()] == ["", ""]
    assert lines(panel(figure, "itl")).keys() == tpots.keys()
    assert "concurrency 4" in figure.get_suptitle()


def test_several_levels_have_curves(study, level_content):
    figure = draw(study({"2xtp1": {f"conc{k}.json": level_content(k) for k in (4, 8)}}).table, View())
    assert lines(panel(figure, "tpot")) == {"2xtp1": [[4, 10], [8, 10]]} and "concurrency" not in figure.get_suptitle()


# -- overloaded --


def test_a_rate_that_was_not_served_has_a_ring(study, level_content):
    served = {"rr2.json": level_content(None, rate=2, requests=20, duration=10.1)}
    late = {"rr8.json": level_content(None, rate=8, requests=20, duration=10.0, median_tpot_ms=12.0)}
    figure = draw(study({"2xtp1": served | late}).table, View())
    assert lines(panel(figure, "tpot"), "overloaded") == {"_overloaded": [[8, 12]]}
    assert lines(panel(figure, "tradeoff"), "overloaded") == {"_overloaded": [[12, pytest.approx(800)]]}
    assert "ring: overloaded" in key(figure)
    assert "ring" not in key(draw(study({"1xtp1": served}).table, View()))


# -- heading --


def test_the_heading_says_hardware_runs_and_launches(study, level_content, make_manifest, speed_record, tmp_path):
    files = {f"conc{k}{rep}.json": level_content(k) for k in (4, 8) for rep in ("", "_rep2")}
    known = study({"p1xtp2-d1xtp2": files})
    assert draw(known.table, View(), known).get_suptitle().endswith("\nnodes of 8 GPUs · 2 runs of each level")
    manifest = make_manifest(accelerator="H100", gpus_per_node=4)
    manifest.levels = [speed_record(name.removesuffix(".json"), 1.0) for name in files]
    for record, launched in zip(manifest.levels, ("first", "second", "first", "second"), strict=True):
        record.launched = launched
    manifest.write(tmp_path / NAMES.format("p1xtp2-d1xtp2"))
    known = read_study([tmp_path / NAMES.format("p1xtp2-d1xtp2")])
    title = draw(known.table, View(), known).get_suptitle()
    assert title == "tiny · ISL 100 · OSL 11 · mixed\nnodes of 4 H100 · 2 runs of each level, in 2 launches"

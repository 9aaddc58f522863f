"""How arms look: colour by ratio, line by TP, collocated dashed black, whatever else is in the figure."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pdbench.output.figures import View, arm_styles, draw
from pdbench.output.figures.styles import COLLOCATED_COLOR, OTHER_RATIOS, RATIO_COLORS
from pdbench.read.results import read_results

SPREAD = "tiny_itl100_otl11_mixed_spread_{}_1xtp4-1xtp4"


@pytest.fixture
def read(tmp_path, write_folder, level_content):
    """Read folders of one level each, named here."""
    return lambda *names: read_results([write_folder(tmp_path, name, {"conc4.json": level_content()}) for name in names])


def arm_lines(axes):
    return [line for line in axes.get_lines() if line.get_gid() == "arm"]


def test_collocated_is_always_dashed_black_and_the_thicker_the_more_tp_and_pd_is_neither(read):
    names = ["8xtp1", "4xtp2", "2xtp4", "1xtp8", "2xtp2", "1xtp16", "pd_p1xtp2-d1xtp2", "pd_p5xtp1-d1xtp2"]
    table = read(*(f"tiny_itl100_otl11_mixed_{name}" for name in names))
    for axes in draw(table, View()).axes:
        assert len(arm_lines(axes)) == len(names)
    styles = arm_styles(table)
    collocated = {arm: style for arm, style in styles.items() if "-" not in arm}
    assert {(style.color, style.line) for style in collocated.values()} == {("#000000", (0, (5, 2)))}
    assert len({style.marker for style in collocated.values()}) == len(collocated) == 6
    widths = [collocated[arm].width for arm in ("8xtp1", "4xtp2", "2xtp4", "1xtp8", "1xtp16")]
    assert all(thick > thin + 0.5 for thin, thick in zip(widths, widths[1:], strict=False))
    assert collocated["2xtp2"].width == collocated["4xtp2"].width
    pd_arms = [style for arm, style in styles.items() if "-" in arm]
    assert not {(0, (5, 2)), "#000000"} & {part for style in pd_arms for part in (style.color, style.line)}


def test_colour_is_the_ratio_and_the_line_the_tp_sizes(read):
    names = ["p2xtp2-d1xtp2", "p2xtp2-d1xtp4", "p1xtp2-d2xtp2", "p4xtp2-d2xtp2"]
    styles = arm_styles(read(*(f"tiny_itl100_otl11_mixed_{name}" for name in names)))
    two_one, other_tp, one_two, doubled = (styles[name] for name in names)
    assert two_one.color == other_tp.color == doubled.color != one_two.color
    assert two_one.line == one_two.line == doubled.line != other_tp.line
    assert two_one.marker != doubled.marker


def test_arms_of_one_layout_share_colour_and_line_and_still_differ(read):
    names = ["tiny_itl100_otl11_mixed_pack_1xtp4-1xtp4", "tiny_itl100_otl11_mixed_pd_1xtp4-1xtp4"]
    table = read(*names, SPREAD.format("srd"), SPREAD.format("tcp"))
    styles = list(arm_styles(table).values())
    assert len({(style.color, style.line) for style in styles}) == 1
    assert len(set(styles)) == 4
    assert [style.filled for style in styles] == [True, True, False, False]
    lines = arm_lines(draw(table, View()).axes[0])
    assert [line.get_markerfacecolor() == "white" for line in lines] == [False, False, True, True]


def test_fifteen_runs_of_one_layout_differ(read):
    assert len(set(arm_styles(read(*(SPREAD.format(f"run{number}") for number in range(15)))).values())) == 15


@pytest.mark.parametrize("layout", ["p1xtp2-d3xtp2", "p5xtp1-d1xtp2", "p1xtp2-d6xtp2"])
def test_a_layout_looks_the_same_in_another_figure(read, layout):
    name = f"tiny_itl100_otl11_mixed_{layout}"
    others = [f"tiny_itl100_otl11_mixed_{other}" for other in ("p9xtp1-d1xtp1", "p1xtp2-d1xtp2", "2xtp4", "p1xtp1-d7xtp1")]
    assert arm_styles(read(name))[layout] == arm_styles(read(*others, name))[layout]


def test_looks_do_not_depend_on_the_order_of_folders(read):
    names = ["tiny_itl100_otl11_mixed_4xtp2", "tiny_itl100_otl11_mixed_1xtp2", SPREAD.format("tcp"), SPREAD.format("srd")]
    assert list(arm_styles(read(*names)).items()) == list(arm_styles(read(*reversed(names))).items())


# sRGB, linear, as seen without one kind of cone: Machado, Oliveira and Fernandes 2009, table 1, severity 1.
SEEN = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("eyes", SEEN)
def test_ratios_are_reported_apart_whichever_cones_a_reader_has(eyes):
    colors = [lab(np.clip(np.array(SEEN[eyes]) @ linear(color), 0, 1)) for color in (*RATIO_COLORS.values(), COLLOCATED_COLOR)]
    # A difference of 2.3 in CIELAB is just noticeable, side by side.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > 5 * 2.3


def test_no_two_ratios_share_a_colour():
    assert len({*RATIO_COLORS.values(), *OTHER_RATIOS}) == len(RATIO_COLORS) + len(OTHER_RATIOS)


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ rgb / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

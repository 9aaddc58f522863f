"""What the figure draws: its values, names, scales and labels."""

import os

import numpy as np
import pytest

from pdbench.figures import View, arm_styles, draw, save
from pdbench.results import ResultError, read_results

SPREAD = "tiny_itl100_otl11_mixed_spread_{}_1xtp4-1xtp4"


@pytest.fixture
def table(tmp_path, write_folder, level_content):
    """Collocated 2xtp1 and PD p1xtp1-d1xtp2 at concurrency 4 and 8, with latencies of round numbers."""

    def levels(tpots, ttfts):
        return {
            f"conc{k}.json": level_content(k, median_tpot_ms=tpot, median_ttft_ms=ttft, p99_itl_ms=3 * tpot)
            for k, tpot, ttft in zip((4, 8), tpots, ttfts, strict=True)
        }

    arms = {
        "tiny_itl100_otl11_mixed_2xtp1": levels((10.0, 20.0), (50.0, 90.0)),
        "tiny_itl100_otl11_mixed_pack_1xtp1-1xtp2": levels((8.0, 12.5), (60.0, 200.0)),
    }
    return read_results([write_folder(tmp_path, *arm) for arm in arms.items()])


@pytest.fixture
def read(tmp_path, write_folder, level_content):
    """Read folders of one level each, named here."""

    def read(*names, filename="conc4.json", **content):
        folders = [write_folder(tmp_path, name, {filename: level_content(**content)}) for name in names]
        return read_results(folders)

    return read


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_label() == name)


def curves(axes):
    """{arm: [(x, y), ...]} as drawn."""
    return {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in axes.get_lines()}


def legend_texts(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def tick_labels(axis):
    axis.axes.figure.draw_without_rendering()
    low, high = axis.get_view_interval()
    ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
    return [label.get_text() for at, label in ticks if low <= at <= high]


# -- values --


def test_latency_panels_draw_medians_against_concurrency(table):
    figure = draw(table, View())
    assert curves(panel(figure, "tpot")) == {
        "2xtp1": [(4, 10.0), (8, 20.0)],
        "p1xtp1-d1xtp2 pack": [(4, 8.0), (8, 12.5)],
    }
    assert curves(panel(figure, "ttft")) == {
        "2xtp1": [(4, 50.0), (8, 90.0)],
        "p1xtp1-d1xtp2 pack": [(4, 60.0), (8, 200.0)],
    }


# 1000 input, 110 output tokens/s on 2 and 3 GPUs; a node has 8.
@pytest.mark.parametrize(
    ("view", "collocated", "pd", "label"),
    [
        (View(), 4000, 1000 * 8 / 3, "Input tokens/s per node of 8 GPUs"),
        (View(throughput="output"), 440, 110 * 8 / 3, "Output tokens/s per node of 8 GPUs"),
        (View(throughput="total"), 4440, 1110 * 8 / 3, "Total tokens/s per node of 8 GPUs"),
        (View(normalized=False), 1000, 1000, "Input tokens/s of the whole layout"),
    ],
)
def test_tradeoff_draws_the_throughput_asked_for(table, view, collocated, pd, label):
    axes = panel(draw(table, view), "tradeoff")
    assert [y for _, y in curves(axes)["2xtp1"]] == [collocated, collocated]
    assert [y for _, y in curves(axes)["p1xtp1-d1xtp2 pack"]] == pytest.approx([pd, pd])
    assert axes.get_ylabel() == label


@pytest.mark.parametrize(
    ("view", "x", "label"),
    [
        (View(), [10, 20], "Median TPOT (ms)"),
        (View(latency_mode="first_token"), [50, 90], "Median TTFT (ms)"),
        (View(latency_mode="chunk"), [200, 390], "first 16 tokens: TTFT + 15 x TPOT, medians (ms)"),
        (View(interactivity=True), [100, 50], "1000 / median TPOT (tokens/s/user)"),
        (View(latency_mode="first_token", interactivity=True), [20, 1000 / 90], "first tokens/s/user"),
        (View(latency_mode="chunk", interactivity=True), [5, 1000 / 390], "1000 / (TTFT + 15 x TPOT)"),
    ],
)
def test_tradeoff_draws_the_latency_asked_for(table, view, x, label):
    axes = panel(draw(table, view), "tradeoff")
    assert [at for at, _ in curves(axes)["2xtp1"]] == pytest.approx(x)
    assert label in axes.get_xlabel()


def test_p99_inter_token_latency_is_drawn_only_on_request(table):
    assert [axes.get_label() for axes in draw(table, View()).axes] == ["tpot", "ttft", "tradeoff"]
    figure = draw(table, View(itl=True))
    assert sorted(axes.get_label() for axes in figure.axes) == ["itl", "tpot", "tradeoff", "ttft"]
    assert curves(panel(figure, "itl"))["p1xtp1-d1xtp2 pack"] == [(4, 24.0), (8, 37.5)]
    assert panel(figure, "itl").get_ylabel() == "p99 inter-token latency (ms)"


def test_repeats_draw_their_median_and_each_a_dot(tmp_path, write_folder, level_content):
    levels = {"conc4.json": 10.0, "conc4_rep2.json": 30.0, "conc4_rep3.json": 14.0}
    contents = {name: level_content(median_tpot_ms=tpot) for name, tpot in levels.items()}
    figure = draw(read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", contents)]), View())
    line, dots = panel(figure, "tpot").get_lines()
    assert line.get_xydata().tolist() == [[4, 14]]
    assert sorted(dots.get_ydata()) == [10, 14, 30]
    assert dots.get_zorder() < line.get_zorder()
    assert "line: median of repeats" in figure.legends[0].get_title().get_text()
    assert len(panel(figure, "tradeoff").texts) == 1


def test_request_rates_are_the_x_axis(tmp_path, write_folder, level_content):
    levels = {f"rr{rate}.json": level_content(concurrency=None, rate=rate) for rate in (0.5, 1, 2)}
    table = read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", levels)])
    axes = panel(draw(table, View()), "tpot")
    assert curves(axes)["2xtp1"] == [(0.5, 10), (1, 10), (2, 10)]
    assert axes.get_xlabel() == "Request rate (requests/s)"
    assert tick_labels(axes.xaxis) == ["0.5", "1", "2"]


def test_concurrencies_and_request_rates_do_not_mix(tmp_path, write_folder, level_content):
    one = write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": level_content()})
    other = write_folder(tmp_path, "tiny_itl100_otl11_mixed_1xtp1", {"rr2.json": level_content(rate=2)})
    with pytest.raises(ResultError, match="concurrency levels .*2xtp1.* and request-rate .*1xtp1") as caught:
        draw(read_results([one, other]), View())
    assert "\n" not in str(caught.value)


def test_without_tpot_the_panel_says_so_and_ttft_is_drawn(read):
    table = read("tiny_itl100_otl1_mixed_2xtp1", osl=1)
    figure = draw(table, View(latency_mode="first_token"))
    assert "every request has one output token" in panel(figure, "tpot").texts[0].get_text()
    assert curves(panel(figure, "tradeoff"))["2xtp1"] == [(50, 4000)]
    for mode in ("token", "chunk"):
        with pytest.raises(ResultError, match=f"{mode} needs a TPOT.* use --latency-mode first_token"):
            draw(table, View(latency_mode=mode))


# -- names, colours, lines --


def test_one_legend_with_short_names_collocated_first(read):
    names = ["pd_p1xtp2-d3xtp2", "pd_p3xtp2-d1xtp2", "2xtp4", "pd_p1xtp2-d1xtp2", "4xtp2"]
    figure = draw(read(*(f"tiny_itl100_otl11_mixed_{name}" for name in names)), View())
    assert legend_texts(figure) == ["4xtp2", "2xtp4", "p3xtp2-d1xtp2", "p1xtp2-d1xtp2", "p1xtp2-d3xtp2"]
    assert not any(axes.get_legend() for axes in figure.axes)
    assert figure.get_suptitle() == "tiny · ISL 100 · OSL 11 · mixed"


def test_collocated_is_dashed_and_grey_and_pd_is_neither(read):
    names = ["8xtp1", "4xtp2", "2xtp4", "1xtp8", "2xtp2", "1xtp16", "pd_p1xtp2-d1xtp2", "pd_p5xtp1-d1xtp2"]
    figure = draw(read(*(f"tiny_itl100_otl11_mixed_{name}" for name in names)), View())
    for axes in figure.axes:
        assert len(axes.get_lines()) == len(names)
        for line in axes.get_lines():
            grey = len({line.get_color()[i : i + 2] for i in (1, 3, 5)}) == 1
            collocated = "-" not in line.get_label()
            assert (line.is_dashed(), grey) == (collocated, collocated)


def test_colour_is_the_ratio_and_marker_the_tp_sizes(read):
    names = ["p2xtp2-d1xtp2", "p2xtp2-d1xtp4", "p1xtp2-d2xtp2", "p4xtp2-d2xtp2"]
    styles = arm_styles(read(*(f"tiny_itl100_otl11_mixed_{name}" for name in names)))
    two_one, other_tp, one_two, doubled = (styles[name] for name in names)
    assert two_one.color == other_tp.color == doubled.color != one_two.color
    assert two_one.marker == one_two.marker == doubled.marker != other_tp.marker
    assert two_one.line != doubled.line


def test_arms_of_one_layout_share_colour_and_marker_and_still_differ(read):
    names = ["tiny_itl100_otl11_mixed_pack_1xtp4-1xtp4", "tiny_itl100_otl11_mixed_pd_1xtp4-1xtp4"]
    table = read(*names, SPREAD.format("srd"), SPREAD.format("tcp"))
    styles = list(arm_styles(table).values())
    assert len({(style.color, style.marker) for style in styles}) == 1
    assert len(set(styles)) == 4
    assert [style.filled for style in arm_styles(table).values()] == [True, True, False, False]
    lines = panel(draw(table, View()), "tpot").get_lines()
    assert [line.get_markerfacecolor() == "white" for line in lines] == [False, False, True, True]


def test_a_layout_looks_the_same_in_another_figure(read):
    name = "tiny_itl100_otl11_mixed_p1xtp2-d3xtp2"
    others = [f"tiny_itl100_otl11_mixed_{other}" for other in ("p9xtp1-d1xtp1", "p1xtp2-d1xtp2", "2xtp4")]
    assert arm_styles(read(name))["p1xtp2-d3xtp2"] == arm_styles(read(*others, name))["p1xtp2-d3xtp2"]


# -- scales and labels --


def test_scales_are_linear_from_zero_unless_asked(table):
    figure = draw(table, View())
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()[0]) == ("linear", "linear", 0)


def test_log_latency_concerns_latencies_only(table):
    figure = draw(table, View(log_latency=True, itl=True))
    scales = {axes.get_label(): (axes.get_xscale(), axes.get_yscale()) for axes in figure.axes}
    assert scales == {
        "tpot": ("linear", "log"),
        "ttft": ("linear", "log"),
        "itl": ("linear", "log"),
        "tradeoff": ("log", "linear"),
    }
    assert tick_labels(panel(figure, "tpot").yaxis) == ["8", "10", "15", "20"]


def test_log_levels_concern_the_levels_only(table):
    figure = draw(table, View(log_levels=True))
    scales = {axes.get_label(): (axes.get_xscale(), axes.get_yscale()) for axes in figure.axes}
    assert scales == {"tpot": ("log", "linear"), "ttft": ("log", "linear"), "tradeoff": ("linear", "linear")}
    assert tick_labels(panel(figure, "ttft").xaxis) == ["4", "8"]


def test_ticks_at_crowded_levels_leave_some_out(tmp_path, write_folder, level_content):
    levels = {f"conc{k}.json": level_content(k) for k in (1, 2, 4, 8, 16, 256)}
    table = read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", levels)])
    assert tick_labels(panel(draw(table, View()), "tpot").xaxis) == ["4", "16", "256"]
    logarithmic = draw(table, View(log_levels=True))
    assert tick_labels(panel(logarithmic, "tpot").xaxis) == ["1", "2", "4", "8", "16", "256"]


def test_tradeoff_points_are_labelled_with_their_level(table):
    texts = panel(draw(table, View()), "tradeoff").texts
    labels = {text.get_gid(): (text.get_text(), text.xy) for text in texts}
    assert labels == {
        "2xtp1/4": ("4", (10.0, 4000.0)),
        "2xtp1/8": ("8", (20.0, 4000.0)),
        "p1xtp1-d1xtp2 pack/4": ("4", (8.0, pytest.approx(8000 / 3))),
        "p1xtp1-d1xtp2 pack/8": ("8", (12.5, pytest.approx(8000 / 3))),
    }


def test_identical_points_share_one_label(read):
    figure = draw(read("tiny_itl100_otl11_mixed_pack_1xtp4-1xtp4", SPREAD.format("srd")), View())
    assert [text.get_text() for text in panel(figure, "tradeoff").texts] == ["4"]


@pytest.mark.parametrize("view", [View(), View(log_latency=True, log_levels=True, itl=True)])
def test_no_text_overlaps_in_the_published_figure(published, view):
    figure = draw(read_results(sorted((published / "bm_results").iterdir())), view)
    renderer = figure.canvas.get_renderer()
    axes = panel(figure, "tradeoff")
    boxes = np.array([text.get_window_extent(renderer).extents for text in axes.texts])
    # 12 arms of 6 levels, of which two arms are byte for byte the same
    assert len(boxes) == 66
    for axis in (axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)):
        labels = [label.get_window_extent(renderer).extents for label in axis.get_majorticklabels()]
        assert_apart(np.array(labels))
    assert_apart(boxes)
    assert (boxes[:, :2] >= axes.bbox.min).all() and (boxes[:, 2:] <= axes.bbox.max).all()
    outside = [*figure.legends, figure._suptitle, *figure.axes]
    assert_apart(np.array([artist.get_tightbbox(renderer).extents for artist in outside]))


def assert_apart(boxes):
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    overlap = ((low < high.transpose(1, 0, 2)) & (low.transpose(1, 0, 2) < high)).all(axis=2)
    assert np.argwhere(np.triu(overlap, 1)).tolist() == []


# -- files --


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_saved_in_the_format_of_the_name(table, tmp_path, name, magic):
    folder = tmp_path / "figures"
    folder.mkdir()
    save(draw(table, View()), folder / name)
    assert (folder / name).read_bytes().startswith(magic)
    assert os.listdir(folder) == [name]


def test_an_old_figure_is_replaced_not_written_over(table, tmp_path):
    (tmp_path / "a.svg").write_text("old")
    os.link(tmp_path / "a.svg", tmp_path / "reader.svg")  # somebody has it open
    save(draw(table, View()), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert (tmp_path / "reader.svg").read_text() == "old"


def test_a_failed_save_leaves_the_old_file_and_nothing_else(table, tmp_path, monkeypatch):
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "a.png").write_text("old")
    figure = draw(table, View())

    def fail(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(ResultError, match=r"a\.png: No space left on device"):
        save(figure, folder / "a.png")
    assert (folder / "a.png").read_text() == "old"
    assert os.listdir(folder) == ["a.png"]


@pytest.mark.parametrize("name", ["a.xyz", "missing/a.png"])
def test_a_place_where_no_figure_can_be_is_an_error(table, tmp_path, name):
    with pytest.raises(ResultError, match=name):
        save(draw(table, View()), tmp_path / name)
    assert not list(tmp_path.glob("**/*xyz*")) and not (tmp_path / "missing").exists()

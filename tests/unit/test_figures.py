"""What the classic figure and the trade-off draw: values, names, scales and labels; and how figures are saved."""

import os

import pytest

from pdbench.output.figures import View, draw, save
from pdbench.output.figures.styles import RATIO_COLORS, faded
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results

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
    return {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in arm_lines(axes)}


def arm_lines(axes):
    """The lines of arms, without the marks that are laid over or under them."""
    return [line for line in axes.get_lines() if line.get_gid() == "arm"]


def legend_texts(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def legend_key(figure):
    """What the marks mean, without its line breaks."""
    return " ".join(figure.legends[0].get_title().get_text().split())


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
    figure = draw(table, View(itl="p99"))
    assert sorted(axes.get_label() for axes in figure.axes) == ["itl", "tpot", "tradeoff", "ttft"]
    assert curves(panel(figure, "itl"))["p1xtp1-d1xtp2 pack"] == [(4, 24.0), (8, 37.5)]
    assert panel(figure, "itl").get_ylabel() == "p99 inter-token latency (ms)"


def test_the_longest_inter_token_latency_needs_per_request_details(table, tmp_path, write_folder, level_content):
    with pytest.raises(
        ResultError, match="^2xtp1, p1xtp1-d1xtp2 pack: no max of inter-token latency without per-request details$"
    ):
        draw(table, View(itl="max"))
    folder = write_folder(
        tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {f"conc{n}.json": level_content(n, detailed=True) for n in (4, 8)}
    )
    itl = panel(draw(read_results([folder]), View(itl="max")), "itl")
    assert [at for _, at in curves(itl)["2xtp1"]] == pytest.approx([10.0, 10.0])
    assert itl.get_ylabel() == "Longest inter-token latency (ms)"
    alone = write_folder(tmp_path, "tiny_itl100_otl1_prefill-only_2xtp1", {"conc4.json": level_content(osl=1, duration=2)})
    assert panel(draw(read_results([alone]), View(itl="max", latency_mode="first_token")), "itl")


def test_repeats_draw_their_median_and_their_range(tmp_path, write_folder, level_content):
    levels = {"conc4.json": (10.0, 2.0), "conc4_rep2.json": (30.0, 4.0), "conc4_rep3.json": (14.0, 2.5)}
    contents = {name: level_content(median_tpot_ms=tpot, duration=s) for name, (tpot, s) in levels.items()}
    figure = draw(read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", contents)]), View())
    (line,) = arm_lines(panel(figure, "tpot"))
    assert line.get_xydata().tolist() == [[14, 0]]
    assert [[10, 0], [30, 0]] in bars(panel(figure, "tpot"))
    # 20 requests of 100 tokens in 2, 2.5 and 4 s on 2 of a node's 8 GPUs: 4000, 3200 and 2000 tokens/s
    assert curves(panel(figure, "tradeoff"))["2xtp1"] == [(14, 3200)]
    assert bars(panel(figure, "tradeoff")) == [[[10, 3200], [30, 3200]], [[14, 2000], [14, 4000]]]
    assert "bar: least to most of them" in legend_key(figure)
    assert len(panel(figure, "tradeoff").texts) == 1


def test_a_single_measurement_has_no_range(table):
    figure = draw(table, View())
    assert not any(bars(axes) for axes in figure.axes) and "repeats" not in legend_key(figure)


def bars(axes):
    """Ends of the error bars."""
    found = [collection for collection in axes.collections if collection.get_gid() == "range"]
    return sorted(segment.tolist() for collection in found for segment in collection.get_segments())


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


# -- frontier --


@pytest.fixture
def crossing(tmp_path, write_folder, level_content):
    """Per node of 8 GPUs: 2xtp1 (10 ms, 4000), (20 ms, 8000); p1xtp1-d1xtp1 (8 ms, 2000), (30 ms, 3000)."""

    def levels(*points):  # 20 requests of 100 tokens on 2 of 8 GPUs: 8000 / duration tokens/s per node
        return {
            f"conc{k}.json": level_content(k, median_tpot_ms=tpot, duration=8000 / each)
            for k, (tpot, each) in zip((4, 8), points, strict=True)
        }

    arms = {
        "tiny_itl100_otl11_mixed_2xtp1": levels((10.0, 4000), (20.0, 8000)),
        "tiny_itl100_otl11_mixed_1xtp1-1xtp1": levels((8.0, 2000), (30.0, 3000)),
    }
    return read_results([write_folder(tmp_path, *arm) for arm in arms.items()])


def test_the_frontier_goes_through_the_best_of_all_arms(crossing):
    axes = panel(draw(crossing, View(figure="tradeoff")), "tradeoff")
    (band,) = [line for line in axes.get_lines() if line.get_label() == "Pareto frontier"]
    x, y = band.get_xydata().T
    assert (x[0], y[0]) == (8, 2000) and (x[-1], y[-1]) == (20, 8000)
    # PD rises by 1000 in 22 ms until collocated begins: at 10 ms from 2000 + 1000 * 2 / 22 to 4000, then 400 per ms.
    assert max(y[x < 10]) == pytest.approx(2000 + 1000 * 2 / 22, rel=0.01)
    assert y[x > 10.01] == pytest.approx(4000 + 400 * (x[x > 10.01] - 10))
    assert "grey band: Pareto frontier" in legend_key(axes.figure)


def test_in_interactivity_the_frontier_is_the_same_one(crossing):
    axes = panel(draw(crossing, View(figure="tradeoff", interactivity=True)), "tradeoff")
    (band,) = [line for line in axes.get_lines() if line.get_label() == "Pareto frontier"]
    x, y = band.get_xydata().T
    assert x[0] == 125 and x[-1] == 50
    assert y[x < 99.9] == pytest.approx(4000 + 400 * (1000 / x[x < 99.9] - 10))


def test_dominated_points_are_pale(crossing):
    axes = panel(draw(crossing, View(figure="tradeoff")), "tradeoff")
    (pale,) = [line for line in axes.get_lines() if line.get_label() == "_dominated"]
    # 30 ms for 3000 is worse than 10 ms for 4000; nothing is as fast as 8 ms.
    assert pale.get_xydata().tolist() == [[30, 3000]]
    assert pale.get_markerfacecolor() == faded(RATIO_COLORS[1])


def test_arms_of_different_workloads_are_not_ranked(read):
    names = ["tiny_itl100_otl11_mixed_2xtp1", "other_itl100_otl11_mixed_4xtp1"]
    figure = draw(read(*names), View())
    drawn = {line.get_label() for line in panel(figure, "tradeoff").get_lines()}
    assert drawn == {"2xtp1 tiny", "4xtp1 other"}
    assert "frontier" not in legend_key(figure)


def test_the_tradeoff_alone_is_one_panel_with_the_same_values(table):
    figure, classic = draw(table, View(figure="tradeoff")), draw(table, View())
    (axes,) = figure.axes
    assert curves(axes) == curves(panel(classic, "tradeoff"))
    assert legend_texts(figure) == legend_texts(classic)


# -- legend, scales and labels --


def test_one_legend_with_short_names_collocated_first(read):
    names = ["pd_p1xtp2-d3xtp2", "pd_p3xtp2-d1xtp2", "2xtp4", "pd_p1xtp2-d1xtp2", "4xtp2"]
    figure = draw(read(*(f"tiny_itl100_otl11_mixed_{name}" for name in names)), View())
    assert legend_texts(figure) == ["4xtp2", "2xtp4", "p3xtp2-d1xtp2", "p1xtp2-d1xtp2", "p1xtp2-d3xtp2"]
    assert not any(axes.get_legend() for axes in figure.axes)
    assert figure.get_suptitle().startswith("tiny · ISL 100 · OSL 11 · mixed")


def test_scales_are_linear_from_zero_unless_asked(table):
    figure = draw(table, View())
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()[0]) == ("linear", "linear", 0)


def test_log_latency_concerns_latencies_only(table):
    figure = draw(table, View(log_latency=True, itl="p99"))
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


def test_levels_can_be_those_of_each_gpu(table):
    """4 and 8 requests in flight on 2 GPUs and on 3: the panels over the load, and not the trade-off."""
    total, per_gpu = draw(table, View()), draw(table, View(per_gpu=True))
    at = {name: [list(line.get_xdata()) for line in arm_lines(panel(per_gpu, name))] for name in ("tpot", "ttft")}
    assert at == dict.fromkeys(at, [[2.0, 4.0], [pytest.approx(4 / 3), pytest.approx(8 / 3)]])
    assert panel(per_gpu, "tpot").get_xlabel() == panel(total, "tpot").get_xlabel() + " per GPU"
    same = [[list(line.get_xdata()) for line in arm_lines(panel(one, "tradeoff"))] for one in (total, per_gpu)]
    assert same[0] == same[1] and panel(total, "tradeoff").get_xlabel() == panel(per_gpu, "tradeoff").get_xlabel()


def test_ticks_at_crowded_levels_leave_some_out(tmp_path, write_folder, level_content):
    levels = {f"conc{k}.json": level_content(k) for k in (1, 2, 4, 8, 16, 256)}
    table = read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", levels)])
    assert tick_labels(panel(draw(table, View()), "tpot").xaxis) == ["4", "16", "256"]
    logarithmic = draw(table, View(log_levels=True))
    assert tick_labels(panel(logarithmic, "tpot").xaxis) == ["1", "2", "4", "8", "16", "256"]


def test_tradeoff_points_are_labelled_with_their_concurrency_per_gpu(table):
    figure = draw(table, View())
    labels = {text.get_gid(): (text.get_text(), text.xy) for text in panel(figure, "tradeoff").texts}
    # 4 and 8 requests in flight on 2 GPUs and on 3
    assert labels == {
        "2xtp1/4": ("2", (10.0, 4000.0)),
        "2xtp1/8": ("4", (20.0, 4000.0)),
        "p1xtp1-d1xtp2 pack/4": ("1.33", (8.0, pytest.approx(8000 / 3))),
        "p1xtp1-d1xtp2 pack/8": ("2.67", (12.5, pytest.approx(8000 / 3))),
    }
    assert "number: concurrency per GPU" in legend_key(figure)


def test_tradeoff_points_of_request_rates_are_labelled_with_the_rate(read):
    figure = draw(read("tiny_itl100_otl11_mixed_2xtp1", filename="rr2.5.json", concurrency=None, rate=2.5), View())
    assert [text.get_text() for text in panel(figure, "tradeoff").texts] == ["2.5"]
    assert "number: requests/s" in legend_key(figure)


def test_a_curve_that_folds_back_is_drawn_in_order_of_load(tmp_path, write_folder, level_content):
    levels = {f"conc{k}.json": level_content(k, median_tpot_ms=tpot) for k, tpot in ((4, 20.0), (8, 30.0), (16, 10.0))}
    table = read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", levels)])
    assert [x for x, _ in curves(panel(draw(table, View()), "tradeoff"))["2xtp1"]] == [20, 30, 10]


def test_identical_points_share_one_label(read):
    figure = draw(read("tiny_itl100_otl11_mixed_pack_1xtp4-1xtp4", SPREAD.format("srd")), View())
    assert [text.get_text() for text in panel(figure, "tradeoff").texts] == ["0.5"]


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

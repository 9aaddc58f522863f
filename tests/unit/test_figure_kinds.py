"""What the figures besides the classic one draw: heat map, network, latencies, timeline."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from pdbench.analysis import sla
from pdbench.output.figures import View, draw
from pdbench.output.figures.distributions import survivors
from pdbench.output.figures.heatmap import FRAME
from pdbench.output.figures.styles import RATIO_COLORS, faded
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results

COLLOCATED = "tiny_itl100_otl11_mixed_{}"
PACK = "tiny_itl100_otl11_mixed_pack_1xtp4-1xtp4"
SPREAD = "tiny_itl100_otl11_mixed_spread_{}_1xtp4-1xtp4"


@pytest.fixture
def read(tmp_path, write_folder):
    """Read folders of {name: {level file: content}}."""
    return lambda arms: read_results([write_folder(tmp_path, name, levels) for name, levels in arms.items()])


def words(figure):
    return " ".join(text.get_text() for text in figure.legends[0].get_texts())


def key(figure):
    return " ".join(figure.legends[0].get_title().get_text().split())


# -- heat map --


@pytest.fixture
def heated(read, level_content):
    """Four arms on 2, 4, 2 and 3 GPUs; per node of 8 at most 4000, 2000, 6000 and 8000 tokens/s, TPOT 10, 5, 10, 20 ms."""

    def level(gpus, per_node, tpot):  # 20 requests of 100 tokens: 2000 / duration tokens/s, of gpus / 8 nodes
        return {"conc4.json": level_content(median_tpot_ms=tpot, duration=2000 / (per_node * gpus / 8))}

    return read(
        {
            COLLOCATED.format("2xtp1"): level(2, 4000, 10.0),
            COLLOCATED.format("2xtp2"): level(4, 2000, 5.0),
            COLLOCATED.format("p1xtp1-d1xtp1"): level(2, 6000, 10.0),
            COLLOCATED.format("p2xtp1-d1xtp1"): level(3, 8000, 20.0),
        }
    )


def cells(figure):
    """By arm: (column, row, its text or None where nothing holds)."""
    found = {}
    for axes in figure.axes:
        for patch in axes.patches:
            x, y = (int(part) for part in patch.get_xy())
            inside = [t.get_text() for t in axes.texts if int(t.get_position()[0]) == x and int(t.get_position()[1]) == y]
            column, row = axes.get_xticklabels()[x].get_text(), axes.get_yticklabels()[y].get_text()
            found[patch.get_gid()] = column, row, inside[0] if inside else None
    return found


def test_heatmap_shows_the_best_throughput_within_the_bounds(heated):
    figure = draw(heated, View(figure="heatmap", sla=sla.parse("tpot=15")))
    # 6000 is 50% more than the 4000 of the best collocated arm; 20 ms do not keep 15.
    assert cells(figure) == {
        "2xtp1": ("collocated", "TP1", "4,000"),
        "2xtp2": ("collocated", "TP2", "2,000"),
        "p1xtp1-d1xtp1": ("P TP1\nD TP1", "1:1", "6,000\n+50%"),
        "p2xtp1-d1xtp1": ("P TP1\nD TP1", "2:1", None),
    }
    assert "does not keep the bounds" in words(figure)
    assert "Input tokens/s per node of 8 GPUs at median TPOT <= 15 ms" in " ".join(figure.get_suptitle().split())


def test_heatmap_frames_the_best_of_all(heated):
    for bound, best in (("tpot=30", "p2xtp1-d1xtp1"), ("tpot=15", "p1xtp1-d1xtp1"), ("tpot=6", "2xtp2")):
        figure = draw(heated, View(figure="heatmap", sla=sla.parse(bound)))
        framed = [p.get_gid() for axes in figure.axes for p in axes.patches if p.get_edgecolor() == to_rgba(FRAME["edgecolor"])]
        assert framed == [best]


def test_heatmap_of_pd_alone_has_no_percent(heated):
    figure = draw(heated[heated["layout"].str.startswith("p")], View(figure="heatmap", sla=sla.parse("tpot=15")))
    assert cells(figure)["p1xtp1-d1xtp1"][2] == "6,000" and "percent" not in key(figure)


def test_heatmap_names_the_best_of_the_arms_that_share_a_cell(read, level_content):
    slow, fast = ({"conc4.json": level_content(duration=seconds)} for seconds in (4, 2))
    table = read({PACK: slow, SPREAD.format("srd"): fast})
    figure = draw(table, View(figure="heatmap", sla=sla.parse("tpot=15")))
    assert list(cells(figure)) == ["p1xtp4-d1xtp4 spread"]


@pytest.mark.parametrize(
    ("bounds", "reported"),
    [((), "heatmap needs --sla, such as --sla tpot=10"), (sla.parse("tpot=1"), "no arm keeps median TPOT <= 1 ms")],
)
def test_a_heatmap_needs_bounds_that_hold_somewhere(heated, bounds, reported):
    with pytest.raises(ResultError, match=reported):
        draw(heated, View(figure="heatmap", sla=bounds))


def test_a_heatmap_leaves_out_whose_ratio_a_controller_moved(heated):
    """Its layout is the one of a moment: the best of p1-d1 is not to be its cell's."""
    sla_given = sla.parse("tpot=15")
    controlled = heated["layout"] == "p1xtp1-d1xtp1"
    placed = heated.assign(placement=heated["placement"].where(~controlled, "controlled pool"))
    assert "p1xtp1-d1xtp1" in cells(draw(heated, View(figure="heatmap", sla=sla_given)))
    assert "p1xtp1-d1xtp1" not in cells(draw(placed, View(figure="heatmap", sla=sla_given)))
    with pytest.raises(ResultError, match="of fixed ratios, and a controller moved those of every arm"):
        draw(placed[controlled], View(figure="heatmap", sla=sla_given))


# -- network --


def test_network_draws_a_bar_for_each_arm_and_level(read, level_content):
    def levels(*seconds):
        return {f"conc{k}.json": level_content(k, duration=s) for k, s in zip((4, 8), seconds, strict=True)}

    arms = {COLLOCATED.format("2xtp4"): levels(1, 1), PACK: levels(4, 2), SPREAD.format("srd"): levels(5, 4)}
    figure = draw(read(arms | {SPREAD.format("tcp"): levels(40, 20)}), View(figure="network"))
    (axes,) = figure.axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    # 20 requests of 100 tokens = 2000 tokens in each time, on 8 of 8 GPUs
    assert heights == {
        "2xtp4": [2000, 2000],
        "p1xtp4-d1xtp4 pack": [500, 1000],
        "p1xtp4-d1xtp4 spread srd": [400, 500],
        "p1xtp4-d1xtp4 spread tcp": [50, 100],
    }
    looks = {bars.get_label(): (bars[0].get_facecolor()[:3], bars[0].get_edgecolor()[:3]) for bars in axes.containers}
    green, white, black = (to_rgba(color)[:3] for color in (RATIO_COLORS[1], "white", "black"))
    assert looks["2xtp4"] == (white, black) and axes.containers[0][0].get_linestyle() == "--"
    assert looks["p1xtp4-d1xtp4 pack"] == (green, white)
    assert looks["p1xtp4-d1xtp4 spread srd"] == looks["p1xtp4-d1xtp4 spread tcp"] == (white, green)
    assert len({bars[0].get_hatch() for bars in axes.containers[2:]}) == 2
    assert "GB/s" not in key(figure) and "hollow: P and D on two nodes" in key(figure)


def test_network_writes_the_speed_of_kv_transfers_over_its_bars(
    tmp_path, level_content, write_folder, make_manifest, speed_record
):
    files = {"conc4.json": 4.0, "conc4_rep2.json": 1.0, "conc4_rep3.json": 2.0}
    folder = write_folder(tmp_path, SPREAD.format("srd"), {n: level_content(duration=s) for n, s in files.items()})
    manifest = make_manifest(layout="p1xtp4-d1xtp4", gpus=8, gpus_per_node=8)
    speeds = {"conc4": 10.0, "conc4_rep2": 40.0, "conc4_rep3": 12.5}
    manifest.levels = [speed_record(*each) for each in speeds.items()]
    manifest.write(folder)
    figure = draw(read_results([folder]), View(figure="network"))
    (axes,) = figure.axes
    # The median of three, over the median of 500, 2000 and 1000 tokens/s with its range
    assert [text.get_text() for text in axes.texts] == ["12"]
    assert [bar.get_height() for bar in axes.containers[0]] == [1000]
    assert [segment.tolist() for segment in axes.collections[0].get_segments()] == [[[0, 500], [0, 2000]]]
    assert "number: GB/s of the KV transfers" in key(figure)


@pytest.mark.parametrize(
    ("names", "reported"),
    [
        (["2xtp4", "4xtp2"], "one PD layout, not of none"),
        (["p1xtp4-d1xtp4", "p1xtp2-d1xtp2"], "not of p1xtp2-d1xtp2, p1xtp4-d1xtp4"),
    ],
)
def test_network_is_of_one_pd_layout(read, level_content, names, reported):
    table = read({COLLOCATED.format(name): {"conc4.json": level_content()} for name in names})
    with pytest.raises(ResultError, match=reported):
        draw(table, View(figure="network"))


# -- latencies and timeline --


@pytest.fixture
def detailed(read, level_content, lawful):
    """Three requests at concurrency 2: in turn 0.1, 0.2, 0.3 s to the first token, then 10 tokens each 10 ms."""
    times = {"start_times": [1.5, 1.5, 2.0], "ttfts": [0.1, 0.2, 0.3], "itls": [[0.01] * 9 + [0.05]] * 3}
    level = {"conc2.json": lawful(level_content(2, requests=3, detailed=True) | times)}
    more = {"conc4.json": level_content(4, detailed=True)}
    return read({COLLOCATED.format("2xtp1"): level | more, COLLOCATED.format("p1xtp1-d1xtp1"): level})


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_label() == name)


def test_latencies_are_shares_that_took_so_long_or_longer(detailed):
    figure = draw(detailed, View(figure="latencies"))
    assert "concurrency 2" in figure.get_suptitle()  # the highest that both have
    ttft = panel(figure, "ttft").get_lines()
    assert [line.get_label() for line in ttft] == ["2xtp1", "p1xtp1-d1xtp1", "_median"]  # 3 requests have no p99
    assert panel(figure, "ttft").get_yscale() == "log"
    for line in ttft[:2]:
        x, y = line.get_xydata().T
        # All requests wait 100 ms or longer for their first token, two thirds 200, one third 300.
        assert x == pytest.approx([100, 200, 300]) and y == pytest.approx([1, 2 / 3, 1 / 3])
    x, y = panel(figure, "itl").get_lines()[0].get_xydata().T
    assert y[x > 11].max() == pytest.approx(0.1) and x.max() == pytest.approx(50)


def test_the_tail_of_a_distribution_is_drawn_to_the_slowest():
    x, y = survivors(np.arange(100_000.0)[::-1])
    assert (x[0], y[0]) == (0, 1) and (x[-1], y[-1]) == (99_999, 1e-5)
    assert y == pytest.approx(1 - x / 100_000) and len(x) < 1100
    assert len(y[y <= 0.01]) > 100


def test_latencies_of_repeats_are_put_together(read, level_content, lawful):
    files = {"conc4.json": 0.1, "conc4_rep2.json": 0.3}
    starts = [1.5 + (i // 4) for i in range(20)]
    contents = {
        name: lawful(level_content(detailed=True) | {"ttfts": [ttft] * 20, "itls": [[0.05] * 10] * 20, "start_times": starts})
        for name, ttft in files.items()
    }
    x, y = panel(draw(read({PACK: contents}), View(figure="latencies")), "ttft").get_lines()[0].get_xydata().T
    assert y[x > 150].max() == pytest.approx(0.5)


def test_timeline_draws_each_request_from_its_start_over_its_first_token_to_its_end(detailed):
    figure = draw(detailed, View(figure="timeline"))
    wait, decode = panel(figure, "bars p1xtp1-d1xtp1").collections
    # Since the first start, at 1.5 s; each decodes for 9 x 10 + 50 = 140 ms.
    assert np.array(wait.get_segments())[..., 0] == pytest.approx(np.array([[0, 0.1], [0, 0.2], [0.5, 0.8]]))
    assert np.array(decode.get_segments())[..., 0] == pytest.approx(np.array([[0.1, 0.24], [0.2, 0.34], [0.8, 0.94]]))
    assert np.array(decode.get_segments())[..., 1].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert tuple(decode.get_color()[0]) == to_rgba(RATIO_COLORS[1])
    assert tuple(wait.get_color()[0]) == to_rgba(faded(RATIO_COLORS[1]))


def test_timeline_counts_the_requests_in_flight(detailed):
    (line,) = panel(draw(detailed, View(figure="timeline", level=2)), "flight 2xtp1").get_lines()
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xdata() == pytest.approx([0, 0, 0.24, 0.34, 0.5, 0.94])
    assert line.get_ydata().tolist() == [1, 2, 1, 0, 1, 0]


@pytest.mark.parametrize("figure", ["latencies", "timeline"])
def test_a_level_that_an_arm_lacks_is_reported(detailed, figure):
    with pytest.raises(ResultError, match=r"p1xtp1-d1xtp1 was not measured at concurrency 4: it has 2"):
        draw(detailed, View(figure=figure, level=4))


@pytest.mark.parametrize("figure", ["latencies", "timeline"])
def test_without_details_there_is_nothing_to_draw(read, level_content, figure):
    table = read({PACK: {"conc4.json": level_content()}})
    with pytest.raises(ResultError, match=r"pack_1xtp4-1xtp4: conc4.json holds no per-request details: run_bm.sh saves them"):
        draw(table, View(figure=figure))


def test_arms_without_a_common_level(read, level_content):
    table = read({PACK: {"conc4.json": level_content()}, SPREAD.format("srd"): {"conc8.json": level_content(8)}})
    with pytest.raises(ResultError, match="p1xtp4-d1xtp4 pack was not measured at a level that all arms have: it has 4"):
        draw(table, View(figure="latencies"))


def test_a_timeline_of_many_arms_does_not_fit(read, level_content):
    names = ["8xtp1", "4xtp1", "2xtp1", "1xtp1", "1xtp2"]
    table = read({COLLOCATED.format(name): {"conc4.json": level_content(detailed=True)} for name in names})
    with pytest.raises(ResultError, match="room for 4 arms, not 5"):
        draw(table, View(figure="timeline"))

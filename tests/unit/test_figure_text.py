"""No text of a figure lies on other text or beyond the figure's edge, whatever is drawn."""

from pathlib import Path

import numpy as np
import pytest

from pdbench.analysis import sla
from pdbench.output.figures import View, draw, save
from pdbench.read.results import read_results

OWN = Path(__file__).parents[2] / "bm_results"
SLA = sla.parse("tpot=10,ttft=1000")
VIEWS = {
    "classic": View(),
    "classic-log": View(log_latency=True, log_levels=True, itl="p99"),
    "classic-ttft": View(latency_mode="first_token", log_latency=True),
    "tradeoff": View(figure="tradeoff"),
    "tradeoff-log": View(figure="tradeoff", log_latency=True),
    "tradeoff-interactivity": View(figure="tradeoff", interactivity=True, throughput="output"),
    "heatmap": View(figure="heatmap", sla=SLA),
}
PUBLISHED = {
    "main": "bm_results/*",
    "P TP2 : D TP2": "archive/*_itl5000_otl250_mixed_[1234]xtp2-[123]xtp2",
    "P TP1 : D TP2": "archive/*_itl5000_otl250_mixed_[12]xtp1-[12]xtp2",
    "all of 5000:250": "archive/*_itl5000_otl250_mixed_*",
}


def drawn_texts(figure):
    """Every text that a reader sees."""
    figure.draw_without_rendering()
    found = list(figure.texts)
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def overlaps(figure):
    """Pairs of texts that overlap, and texts that are cut off."""
    texts, renderer = drawn_texts(figure), figure.canvas.get_renderer()
    boxes = np.array([text.get_window_extent(renderer).extents for text in texts])
    low, high = boxes[:, None, :2], boxes[None, :, 2:]
    over = (low < high).all(axis=2)
    pairs = [(texts[i].get_text(), texts[j].get_text()) for i, j in np.argwhere(np.triu(over & over.T, 1))]
    beyond = (boxes[:, :2] < figure.bbox.min).any(axis=1) | (boxes[:, 2:] > figure.bbox.max).any(axis=1)
    return pairs + [texts[i].get_text() for i in np.flatnonzero(beyond)]


@pytest.fixture(scope="module")
def own():
    """This repository's results of the demo, with per-request details."""
    folders = [path.parent for path in OWN.glob("*_cpu_demo_[!a]*/manifest.json")]
    return read_results(sorted(folders), gpus_per_node=2, details=False)


def test_overlaps_are_found(own):
    figure = draw(own, View())
    assert overlaps(figure) == []
    figure.axes[0].text(0.5, 0.5, "over", transform=figure.axes[0].transAxes)
    figure.axes[0].text(0.5, 0.5, "over this", transform=figure.axes[0].transAxes)
    figure.text(0.99, 0.5, "too long for this place")
    assert ("over", "over this") in overlaps(figure) and "too long for this place" in overlaps(figure)


OWN_VIEWS = VIEWS | {
    "heatmap": View(figure="heatmap", sla=sla.parse("tpot=25,p99_itl=60,ttft=2000")),
    "network": View(figure="network"), "latencies": View(figure="latencies", log_latency=True),
    "timeline": View(figure="timeline"),
}  # fmt: skip


@pytest.mark.parametrize("view", [View(itl="p99"), View(), View(figure="overhead"), View(figure="tradeoff")])
def test_figures_of_one_level(view):
    folders = [path.parent for path in OWN.glob("*_serving_path_*/manifest.json")]
    assert overlaps(draw(read_results(sorted(folders), details=False), view)) == []


@pytest.mark.parametrize("name", OWN_VIEWS)
def test_figures_of_this_repositorys_results(own, name):
    assert overlaps(draw(own, OWN_VIEWS[name])) == []


@pytest.mark.parametrize(
    ("arms", "name"),
    [("main", name) for name in VIEWS]
    + [(arms, name) for arms in PUBLISHED if arms != "main" for name in ("classic-log", "tradeoff", "heatmap")],
)
def test_figures_of_the_published_results(published, arms, name):
    table = read_results([*sorted(published.glob(PUBLISHED[arms])), *baselines(published, arms)], details=False)
    figure = draw(table, VIEWS[name])
    assert overlaps(figure) == []
    if arms == "main" and VIEWS[name].figure == "classic":
        # 12 arms of 6 levels, of which two arms are byte for byte the same: every point has its label
        assert len(next(axes for axes in figure.axes if axes.get_label() == "tradeoff").texts) == 66


def baselines(published, arms):
    return [published / "archive" / "gptoss_itl5000_otl250_mixed_4xtp2"] if arms.startswith("P TP") else []


def test_the_network_of_the_published_results(published):
    arms = [*published.glob("bm_results/*1xtp4-*1xtp4"), *published.glob("bm_results/*baseline_2xtp4")]
    assert overlaps(draw(read_results(arms), View(figure="network"))) == []


def test_many_arms_of_long_names(tmp_path, write_folder, level_content, make_manifest, speed_record):
    """Eight transports of one layout at nine levels, with the speeds of their transfers."""
    names = [f"tiny_itl100_otl11_mixed_spread_a-transport-of-long-name-{i}_1xtp4-1xtp4" for i in range(8)]
    levels = {f"conc{k}.json": level_content(k, median_tpot_ms=10.0 + k / 10) for k in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
    folders = [write_folder(tmp_path, name, levels) for name in names]
    manifest = make_manifest(layout="p1xtp4-d1xtp4", gpus=8, gpus_per_node=8)
    manifest.levels = [speed_record(name.removesuffix(".json"), 0.0123) for name in levels]
    for folder in folders:
        manifest.write(folder)
    table = read_results(folders)
    for view in (View(), View(figure="tradeoff"), View(figure="network"), View(figure="heatmap", sla=sla.parse("tpot=20"))):
        assert overlaps(draw(table, view)) == []


@pytest.mark.parametrize("name", ["tradeoff", "heatmap", "network", "latencies", "timeline"])
def test_every_figure_is_saved_in_every_format(own, tmp_path, name):
    figure = draw(own, View(figure=name, sla=sla.parse("tpot=30")))
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        save(figure, tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(magic)
    svg = (tmp_path / "a.svg").read_bytes()
    assert svg.count(b"<path") > 10 and b"<image" not in svg  # vectors, no picture of them

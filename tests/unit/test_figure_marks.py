"""What a figure says of its data besides the values: rows of one level, rings, its heading, and which arms it left out."""

import pandas as pd
import pytest

import viz
from pdbench.output import options
from pdbench.output.figures import View, draw, left_out, title
from pdbench.read.results import read_results, read_study

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
    figure = draw(study(arms).table, View(itl="p99"))
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


def test_where_tokens_came_in_pieces_the_inter_token_latency_says_so(study, level_content, lawful):
    fine = level_content(detailed=True, requests=100)
    arms = {"2xtp1": fine, "1xtp2": lawful(fine | {"itls": [[0.05] * 2] * 100, "seed": "2"})}
    read = study({name: {"conc4.json": content} for name, content in arms.items()})
    said = "1xtp2: 5 tokens a piece against 1, so no time between tokens"
    assert said in key(draw(read.table, View(itl="p99")))
    assert said in key(draw(read.table, View(figure="latencies"), read))
    assert said not in key(draw(read.table, View())), "no inter-token latency is shown"


# -- overloaded --


def test_a_rate_that_was_not_served_has_a_ring(study, level_content):
    served = {"rr2.json": level_content(None, rate=2, requests=20, duration=10.1)}
    late = {"rr8.json": level_content(None, rate=8, requests=20, duration=10.0, median_tpot_ms=12.0)}
    figure = draw(study({"2xtp1": served | late}).table, View())
    assert lines(panel(figure, "tpot"), "overloaded") == {"_overloaded": [[8, 12]]}
    assert lines(panel(figure, "tradeoff"), "overloaded") == {"_overloaded": [[12, pytest.approx(800)]]}
    assert "ring: overloaded" in key(figure)
    rings = [line for line in panel(figure, "tradeoff").get_lines() if line.get_label() == "_overloaded"]
    assert not any(ring.get_clip_on() for ring in rings), "whole at the end of an axis, too"
    assert "ring" not in key(draw(study({"1xtp1": served}).table, View()))


def test_a_saturated_level_is_no_frontier_where_ttft_counts(study, level_content):
    served = {"rr2.json": level_content(None, rate=2, requests=20, duration=10.1)}
    late = {"rr8.json": level_content(None, rate=8, requests=20, duration=4.0, median_ttft_ms=60.0)}
    table = study({"2xtp1": served | late}).table

    def highest(mode):
        band = next(line for line in panel(draw(table, View(latency_mode=mode)), "tradeoff").get_lines()
                    if line.get_label() == "Pareto frontier")  # fmt: skip
        return max(band.get_ydata())

    assert highest("token") == pytest.approx(2000), "TPOT is that of the level"
    assert highest("first_token") == highest("chunk") == pytest.approx(20 / 10.1 * 100 * 4)
    alone = draw(study({"1xtp1": late}).table, View(latency_mode="first_token"))
    assert "Pareto frontier" not in lines(panel(alone, "tradeoff"), gid=None)


# -- refuted --


def test_what_the_audit_refutes_is_drawn_and_marked_but_no_frontier(tmp_path, monkeypatch, write_folder, level_content, capsys):
    """The copy of one measurement under a smaller layout has twice the throughput per node."""
    monkeypatch.chdir(tmp_path)
    same = {f"conc{k}.json": level_content(k, duration=2.0) for k in (4, 8)}
    good = {f"conc{k}.json": level_content(k, duration=4.0, median_tpot_ms=11.0) for k in (4, 8)}
    arms = {"p1xtp1-d1xtp1": same, "p2xtp1-d2xtp1": same, "2xtp1": good}
    folders = [str(write_folder(tmp_path, NAMES.format(name), levels)) for name, levels in arms.items()]
    drawn = []
    monkeypatch.setattr("pdbench.output.figures.save", lambda figure, path: drawn.append(figure))
    viz.main(["--exps", *folders])
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "refuted by the audit, drawn with a †, in no frontier" in err
    assert "p1xtp1-d1xtp1: two layouts; p2xtp1-d2xtp1: two layouts" in err
    viz.main(["--include-refuted", "--exps", *folders])
    assert capsys.readouterr().err == ""

    def band(figure):
        return max(line.get_ydata().max() for line in panel(figure, "tradeoff").get_lines()
                   if line.get_label() == "Pareto frontier")  # fmt: skip

    def names(figure):
        return [text.get_text() for text in figure.legends[0].get_texts()]

    marked, whole = drawn
    assert band(marked) < band(whole) and set(lines(panel(marked, "tradeoff"))) == set(arms), "all of them are drawn"
    assert sorted(names(marked)) == ["2xtp1", "p1xtp1-d1xtp1 †", "p2xtp1-d2xtp1 †"]
    assert "† refuted by the audit, in no frontier: two layouts" in key(marked) and "†" not in key(whole)
    faded = [line for line in panel(marked, "tradeoff").get_lines() if line.get_label() == "_dominated"]
    assert not faded, "what is refuted beats none"
    assert not any("†" in name for name in names(whole))


@pytest.mark.parametrize("figure", ["network", "latencies", "timeline"])
def test_figures_of_one_level_mark_it_too(figure, tmp_path, monkeypatch, write_folder, level_content, lawful, capsys):
    monkeypatch.chdir(tmp_path)
    same = {"conc4.json": level_content(4, detailed=True)}
    other = {"conc4.json": lawful(level_content(4, detailed=True) | {"ttfts": [0.06] * 20})}
    arms = {"1xtp2": same, "p1xtp1-d1xtp1": same, "2xtp1": other}
    folders = [str(write_folder(tmp_path, NAMES.format(name), levels)) for name, levels in arms.items()]
    drawn = []
    monkeypatch.setattr("pdbench.output.figures.save", lambda figure, path: drawn.append(figure))
    for more in ([], ["--include-refuted"]):
        viz.main(["--figure", figure, *more, "--exps", *folders])
    err = capsys.readouterr().err
    assert err.count("refuted by the audit, drawn with a † (see --audit; --include-refuted): ") == 1
    marked, whole = drawn
    shown = {text.get_text() for text in marked.legends[0].get_texts()} | {axes.get_title() for axes in marked.axes}
    assert {"1xtp2 †", "p1xtp1-d1xtp1 †", "2xtp1"} <= shown and "† refuted by the audit: two layouts" in key(marked)
    assert "†" not in key(whole)


# -- heading --


def test_the_heading_names_all_models(study, level_content):
    table = study({"2xtp1": {"conc4.json": level_content()}}).table
    several = pd.concat([table, table.assign(model="other", isl=200)])
    assert title(several) == "tiny or other · OSL 11 · mixed", "each arm says its own ISL"
    assert title(pd.concat([table.assign(model=name) for name in "abcde"])).startswith("a or b or c or 2 more · ISL 100 · ")


def test_the_heading_says_hardware_runs_and_launches(study, level_content, make_manifest, speed_record, tmp_path):
    files = {f"conc{k}{rep}.json": level_content(k) for k in (4, 8) for rep in ("", "_rep2")}
    known = study({"p1xtp2-d1xtp2": files})
    assert draw(known.table, View(), known).get_suptitle().endswith("\nnodes of 8 GPUs · 2 runs of each level")
    manifest = make_manifest(accelerator="H100", gpus_per_node=4)
    manifest.levels = [speed_record(name.removesuffix(".json"), 1.0) for name in files]
    for record, launched in zip(manifest.levels, ("first", "second", "third", "fourth"), strict=True):
        record.launched = launched
    manifest.write(tmp_path / NAMES.format("p1xtp2-d1xtp2"))
    known = read_study([tmp_path / NAMES.format("p1xtp2-d1xtp2")])
    title = draw(known.table, View(), known).get_suptitle()
    assert title == "tiny · ISL 100 · OSL 11 · mixed\nnodes of 4 H100 · 2 runs of each level, in 4 launches"
    shown = known.table[known.table["level"] == 4]
    assert draw(shown, View(), known).get_suptitle().endswith(" · 2 runs of each level, in 2 launches")


# -- the ceiling --


@pytest.fixture
def crowd(study, level_content):
    """Twenty PD arms, of which a later one reaches more at one latency, and a collocated one behind all of them."""
    arms = {f"p1xtp1-d1xtp1_run{i:02}": {"conc4.json": level_content(duration=2 - i / 20)} for i in range(20)}
    return study({"2xtp1": {"conc4.json": level_content(duration=4)}} | arms)


def test_too_many_arms_leave_out_those_far_from_the_frontier(crowd):
    out = left_out(crowd.table, View(), options.MOST_ARMS)
    assert out == [f"p1xtp1-d1xtp1 run{i:02}" for i in (5, 4, 3, 2, 1, 0)]  # the nearest of them first; 2xtp1 stays
    assert left_out(crowd.table, View(), 21) == [] == left_out(crowd.table, View(figure="heatmap"), 1)
    assert left_out(crowd.table, View(), 1) == [f"p1xtp1-d1xtp1 run{i:02}" for i in reversed(range(20))]


def test_nearness_is_at_the_same_latency(study, level_content):
    fast = {"conc4.json": level_content(median_tpot_ms=5.0, duration=8)}  # alone at 5 ms
    strong, weaker = ({"conc4.json": level_content(duration=s)} for s in (2, 2.5))
    table = study({"p1xtp1-d1xtp1": strong, "p1xtp1-d2xtp1": weaker, "2xtp1": fast}).table
    assert left_out(table, View(normalized=False), 2) == ["p1xtp1-d2xtp1"]


def test_what_is_left_out_is_said_with_the_way_to_choose(crowd, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = list(crowd.folders)
    viz.main(["--exps", *folders])
    out = capsys.readouterr().out
    assert "figure.png: 15 arms, 15 measurements" in out
    assert "left out: p1xtp1-d1xtp1 run05, p1xtp1-d1xtp1 run04" in out and "--most-arms" in out
    viz.main(["--most-arms", "21", "--exps", *folders])
    assert "left out" not in capsys.readouterr().out
    viz.main(["--most-arms", "2", "--exps", *folders])
    assert "run13 and 13 more" in capsys.readouterr().out
    figure = draw(crowd.table[crowd.table["arm"] == "2xtp1"], View(), crowd)
    assert figure.get_suptitle().endswith("1 of 21 arms")


# -- overhead --


@pytest.fixture
def pair(tmp_path, write_folder, level_content):
    """An arm behind Ray Serve and its control: at 4 with three repeats each, at 8 with one."""

    def folder(name, ttfts, tpot):
        levels = {f"conc4_rep{i}.json": level_content(median_ttft_ms=t, median_tpot_ms=tpot) for i, t in enumerate(ttfts, 1)}
        levels["conc4.json"] = levels.pop("conc4_rep1.json")
        return write_folder(tmp_path, NAMES.format(name), levels | {"conc8.json": level_content(8, label=name)})

    return [folder("bare_1xtp1", (50.0, 51.0, 52.0), 10.0), folder("1xtp1", (60.0, 62.0, 64.0), 10.5)]


def test_the_overhead_has_a_row_for_each_level_with_its_interval(pair):
    figure = draw(read_results(pair), View(figure="overhead"))
    ttft, ratio = panel(figure, "added_ttft_ms"), panel(figure, "throughput_ratio")
    assert [label.get_text() for label in ttft.get_yticklabels()] == ["1xtp1 · 4", "1xtp1 · 8"]
    marks = {line.get_label(): line for line in ttft.get_lines()}
    assert marks["0"].get_xydata().tolist() == [[11, 0]] and marks["0"].get_markerfacecolor() != "white"
    (low, _), (high, _) = marks["0 interval"].get_xydata()
    assert 5 < low < 11 < high < 17 and "1 interval" not in marks  # a single run has no interval
    assert {line.get_label(): line for line in ratio.get_lines()}["0"].get_markerfacecolor() == "white"  # equal: noise
    assert "hollow: may be noise" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_without_controls_there_is_no_overhead_to_draw(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        viz.main(["--figure", "overhead", "--exps", str(pair[1])])
    assert stopped.value.code == 2 and "no control arm" in capsys.readouterr().err
    viz.main(["--figure", "overhead", "--exps", *map(str, pair)])
    assert "figure.png: 2 arms" in capsys.readouterr().out


def test_more_rows_than_fit_are_refused(pair, monkeypatch):
    from pdbench.output.figures import overhead

    monkeypatch.setattr(overhead, "MOST_ROWS", 1)
    with pytest.raises(overhead.ResultError, match="has room for 1 arms and levels, not 2: give fewer folders"):
        draw(read_results(pair), View(figure="overhead"))

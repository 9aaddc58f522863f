"""Stalls: what is said of p99 inter-token latency, collocated against PD."""

import numpy as np
import pytest

import viz
from pdbench.analysis.stalls import stall_lines, verdict
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    """Write an arm's folder: `{concurrency: (median, p99)}` of inter-token latency in ms."""

    def write(layout, levels, rate=False, osl=11, isl=100):
        contents = {}
        for level, (median, p99) in levels.items():
            load = {"concurrency": None, "rate": float(level)} if rate else {"concurrency": level}
            latencies = {"median_itl_ms": median, "p99_itl_ms": p99}
            content = level_content(requests=20, osl=osl, isl=isl, **load, **latencies)
            contents[f"{'rr' if rate else 'conc'}{level}.json"] = content
        return write_folder(tmp_path, f"tiny_itl{isl}_otl{osl}_mixed_{layout}", contents)

    return write


def lines_of(*folders):
    return stall_lines(read_results(folders))


@pytest.mark.parametrize(
    ("collocated", "pd", "words"),
    [
        (300.0, 100.0, "the worst stalls are 3.0 times shorter with PD"),
        (125.0, 100.0, "the worst stalls are 1.2 times shorter with PD"),
        (124.0, 100.0, "no difference that one run could show"),
        (100.0, 100.0, "no difference that one run could show"),
        (100.0, 124.0, "no difference that one run could show"),
        (100.0, 126.0, "the worst stalls are 1.3 times longer with PD"),
        (100.0, 1000.0, "the worst stalls are 10.0 times longer with PD"),
    ],
)
def test_a_ratio_is_reported_in_words(collocated, pd, words):
    assert verdict(np.array([collocated]), np.array([pd])) == words


def test_a_ratio_within_the_spread_of_repeats_is_none():
    ours, theirs = np.array([50.0, 100.0, 200.0]), np.array([90.0, 180.0, 300.0])
    assert verdict(theirs, ours) == "no difference beyond that of repeats"
    assert verdict(np.array([179.0, 180.0, 181.0]), np.array([99.0, 100.0, 101.0])).endswith("1.8 times shorter with PD")


def test_within_blocks_what_a_block_does_to_both_arms_cancels_out():
    """The same three pairs, each twice as slow as the one before: 1.5 times in every one."""
    theirs, ours = np.array([75.0, 151.0, 300.0]), np.array([50.0, 100.0, 201.0])
    assert verdict(theirs, ours) == "no difference beyond that of repeats"
    assert verdict(theirs, ours, within=True) == "the worst stalls are 1.5 times shorter with PD"


def test_each_level_and_pd_arm_has_a_line_beside_the_collocated_one(arm):
    baseline = arm("2xtp1", {4: (10.0, 300.0), 8: (12.0, 110.0)})
    pack = arm("pack_p1xtp1-d1xtp1", {4: (11.0, 100.0), 8: (13.0, 100.0)})
    spread = arm("spread_p1xtp1-d1xtp1", {4: (20.0, 600.0)})
    assert lines_of(baseline, pack, spread) == [
        "level 4: inter-token median/p99 10/300 ms 2xtp1, 11/100 ms p1xtp1-d1xtp1 pack: "
        "the worst stalls are 3.0 times shorter with PD",
        "level 8: inter-token median/p99 12/110 ms 2xtp1, 13/100 ms p1xtp1-d1xtp1 pack: no difference that one run could show",
        "level 4: inter-token median/p99 10/300 ms 2xtp1, 20/600 ms p1xtp1-d1xtp1 spread: "
        "the worst stalls are 2.0 times longer with PD",
    ]
    arms = [line.split(" ms ")[2].split(":")[0] for line in lines_of(spread, baseline, pack)]
    assert arms == ["p1xtp1-d1xtp1 spread", *["p1xtp1-d1xtp1 pack"] * 2], "in the order given"


def test_a_level_that_only_one_arm_has_is_left_out(arm):
    found = lines_of(arm("2xtp1", {4: (10.0, 30.0)}), arm("pack_p1xtp1-d1xtp1", {4: (10.0, 30.0), 8: (10.0, 30.0)}))
    assert len(found) == 1 and found[0].startswith("level 4: ")


def test_each_of_several_collocated_arms_is_compared(arm):
    baselines = arm("2xtp1", {4: (10.0, 100.0)}), arm("1xtp2", {4: (20.0, 300.0)})
    first, second = lines_of(*baselines, arm("pack_p1xtp1-d1xtp1", {4: (10.0, 100.0)}))
    assert "10/100 ms 2xtp1, " in first and first.endswith("no difference that one run could show")
    assert "20/300 ms 1xtp2, " in second and second.endswith("3.0 times shorter with PD")


def test_a_rate_is_not_a_concurrency(arm):
    collocated, pd = {4: (10.0, 100.0)}, {4: (10.0, 900.0)}
    with pytest.raises(ResultError, match="no level was measured both collocated and with PD"):
        lines_of(arm("2xtp1", collocated, rate=True), arm("pack_p1xtp1-d1xtp1", pd))
    assert len(lines_of(arm("4xtp1", collocated), arm("pack_p2xtp1-d1xtp1", pd))) == 1


def test_arms_of_one_kind_alone_cannot_be_compared(arm):
    both = "stalls compare a collocated arm with PD arms: give folders of both"
    with pytest.raises(ResultError, match=both):
        lines_of(arm("2xtp1", {4: (10.0, 30.0)}))
    with pytest.raises(ResultError, match=both):
        lines_of(arm("pack_p1xtp1-d1xtp1", {4: (10.0, 30.0)}), arm("spread_p1xtp1-d1xtp1", {4: (10.0, 30.0)}))


def test_different_workloads_are_not_compared(arm):
    with pytest.raises(ResultError, match="stalls compare arms of one model and one workload"):
        lines_of(arm("2xtp1", {4: (10.0, 30.0)}), arm("pack_p1xtp1-d1xtp1", {4: (10.0, 30.0)}, isl=200))


def test_models_that_only_the_files_tell_apart_are_not_compared(tmp_path, write_folder, level_content):
    folders = [write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{layout}", {"conc4.json": level_content(model_id=model)})
               for layout, model in (("2xtp1", "tiny"), ("p1xtp1-d1xtp1", "large"))]  # fmt: skip
    with pytest.raises(ResultError, match="stalls compare arms of one model and one workload"):
        lines_of(*folders)


def test_one_output_token_has_no_stalls(arm, level_content, write_folder, tmp_path):
    content = {"conc4.json": level_content(osl=1)}
    folders = [write_folder(tmp_path, f"tiny_itl100_otl1_mixed_{name}", content) for name in ("2xtp1", "p1xtp1-d1xtp1")]
    with pytest.raises(ResultError, match="a single output token has no inter-token latency"):
        lines_of(*folders)


@pytest.mark.parametrize(("pieces", "compared"), [(1, True), (2, False), (10, False)])
def test_pieces_of_several_tokens_are_no_stalls(tmp_path, write_folder, level_content, lawful, pieces, compared):
    """Equal TPOT; one arm sends single tokens, the other `pieces` at once: its gaps are longer, its stalls are not."""
    single = level_content(detailed=True)
    several = lawful(single | {"itls": [[0.01 * pieces] * (10 // pieces)] * 20})
    contents = {"2xtp1": single, "pack_p1xtp1-d1xtp1": several}
    folders = [
        write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{name}", {"conc4.json": content}) for name, content in contents.items()
    ]
    if compared:
        assert lines_of(*folders)[0].endswith("no difference that one run could show")
    else:
        with pytest.raises(
            ResultError, match=rf"level 4: p1xtp1-d1xtp1 pack sends {pieces}.0 tokens a piece, 2xtp1 1.0: the gaps"
        ):
            lines_of(*folders)


def test_viz_prints_them(arm, capsys):
    folders = arm("2xtp1", {4: (10.0, 300.0)}), arm("pack_p1xtp1-d1xtp1", {4: (11.0, 100.0)})
    viz.main(["--show-stalls", "--exps", *map(str, folders)])
    assert capsys.readouterr().out.splitlines() == lines_of(*folders)


def test_viz_says_what_cannot_be_compared(arm, capsys):
    with pytest.raises(SystemExit) as stopped:
        viz.main(["--show-stalls", "--exps", str(arm("2xtp1", {4: (10.0, 300.0)}))])
    said = capsys.readouterr()
    expected = "viz.py: error: stalls compare a collocated arm with PD arms: give folders of both\n"
    assert (stopped.value.code, said.out, said.err) == (2, "", expected)

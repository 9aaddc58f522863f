"""viz.py: decisions, answers to an SLA, and what is said with them."""

import json
import os
from pathlib import Path

import pytest

import viz
from pdbench.configs import ROOT

COLLOCATED = "tiny_itl100_otl11_mixed_2xtp1"
PD = "tiny_itl100_otl11_mixed_pack_1xtp1-1xtp2"


def decided(out, first):
    """The cells of the first table row that begins with `first`."""
    return next(line.split() for line in out.splitlines() if line.split()[:1] == [first])


@pytest.fixture
def rivals(tmp_path, monkeypatch, write_folder, level_content):
    """2xtp1 at TPOT 10 ms; PD, of 3 GPUs, at 8 ms, and at 16 ms with twice the throughput; in an empty folder beside them."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    fast = level_content(8, duration=1.0, median_tpot_ms=16.0)
    levels = {
        COLLOCATED: {f"conc{k}.json": level_content(k, label=COLLOCATED) for k in (4, 8)},
        PD: {"conc4.json": level_content(4, median_tpot_ms=8.0), "conc8.json": fast},
    }
    return [str(write_folder(tmp_path, *of_arm)) for of_arm in levels.items()]


def test_decision_by_bands(rivals, capsys):
    """Per node 2xtp1 has 1000 x 8/2 = 4000 input tokens/s; PD 1000 x 8/3 = 2667 at 8 ms, 5333 at 16, so 4000 at 12 ms."""
    viz.main(["--show-decision", "--exps", *rivals])
    assert os.listdir() == []
    out = capsys.readouterr().out
    assert "tiny · ISL 100 · OSL 11 · mixed · by concurrency" in out
    assert decided(out, "8")[:8] == ["8", "to", "10", "p1xtp1-d1xtp2", "pack", "2,667", "to", "3,333"]
    assert decided(out, "10")[:7] == ["10", "to", "12", "2xtp1", "4,000", "to", "4,000"]
    # In the last band's middle, 14 ms, 4667 : 4000.
    last = ["from", "12", "p1xtp1-d1xtp2", "pack", "4,000", "to", "5,333", "+16.7%", "+0.0%", "to", "+33.3%", "2xtp1"]
    assert decided(out, "from")[:12] == last
    assert "no interval for every arm: fewer than 3 repeats" in out
    assert (
        "input tokens/s = tokens / duration x 8 GPUs / those of the layout (2 or 3); "
        "extrapolated: 2 or 3 of a node's 8 GPUs, times 4 or 2.67\n"
    ) in out


@pytest.mark.parametrize(
    ("layouts", "node", "words"),
    [
        (["1xtp2"], "2", ""), (["2xtp2"], "2", ""), (["1xtp2"], "8", "; extrapolated: 2 of a node's 8 GPUs, times 4"),
        (["1xtp1", "1xtp2", "1xtp4", "1xtp8"], "8", "; extrapolated: 1 to 4 of a node's 8 GPUs, times 8 to 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", [["--sla", "tpot=20"], ["--show-tables"], ["--plot-path", "a.svg"]])
def test_throughput_of_a_part_of_a_node_is_called_extrapolated(
    layouts, node, words, asked, tmp_path, monkeypatch, write_folder, level_content, capsys
):
    monkeypatch.chdir(tmp_path)
    folders = [str(write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{layout}", {"conc4.json": level_content(seed=layout)}))
               for layout in layouts]  # fmt: skip
    viz.main([*asked, "--gpus-per-node", node, "--exps", *folders])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "those of the layout" in line)
    assert line.endswith(f"){words}")
    if asked[0] != "--show-tables":
        viz.main([*asked, "--no-use-normalized", "--gpus-per-node", node, "--exps", *folders])
        assert "extrapolated" not in capsys.readouterr().out, "what is not per node is as measured"


def test_decision_in_interactivity_reads_the_bands_backwards(rivals, capsys):
    viz.main(["--show-decision", "--use-interactivity", "--exps", *rivals])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " to " in line and "xtp" in line]
    assert [row[:3] for row in rows] == [["up", "to", "83.33"], ["83.33", "to", "100"], ["100", "to", "125"]]


def test_an_sla_is_answered(rivals, capsys):
    """PD alone is below 10 ms: at 9 ms 2667 + 1/8 x 2667 = 3000 tokens/s, of 100 each, and 4.5 in flight on 3 GPUs."""
    viz.main(["--sla", "tpot=9,ttft=500", "--gpu-hour-price", "3", "--exps", *rivals])
    out = capsys.readouterr().out
    assert "SLA: median TPOT <= 9 ms, median TTFT <= 500 ms" in out
    assert "best: p1xtp1-d1xtp2 pack, 3,000 input/s/node, 30 requests/s/node, 1.50 requests in flight per GPU;" in out
    assert "median TPOT 9 ms, 0% under; median TTFT 50 ms, 90% under" in out
    assert "the best collocated: none keeps it" in out and "median TPOT is 10.0 ms at best" in out
    # 24 per hour and node / (3000 x 3600) tokens
    assert "2.222" in out


def test_repeats_give_intervals_and_call_noise_by_its_name(write_folder, level_content, tmp_path, capsys):
    """4xtp2 makes 1053, 1000 and 952 tokens/s, 2xtp4 1026, 976 and 930, 8xtp1 513, 500 and 488.

    sd of their logarithms: 5.00%, 4.88% and 2.50%, pooled 4.28% with 6 degrees of freedom; the studentized range of three is
    4.339 there: intervals of 4.339 x 4.28% / sqrt(3) = 10.7% about 2.6%, -7.8 to 14%, and about 69%, 80 to 123%.
    """
    durations = {"4xtp2": (1.9, 2.0, 2.1), "2xtp4": (1.95, 2.05, 2.15), "8xtp1": (3.9, 4.0, 4.1)}
    folders = []
    for layout, repeats in durations.items():
        names = ("conc4.json", "conc4_rep2.json", "conc4_rep3.json")
        levels = {name: level_content(duration=d) for name, d in zip(names, repeats, strict=True)}
        folders.append(str(write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{layout}", levels)))
    viz.main(["--sla", "tpot=10", "--exps", *folders])
    out = capsys.readouterr().out
    assert "+2.5% [-8, 14] noise over the next best, 2xtp4" in out
    assert "[883.8, 1,133]" in out and "[470.0, 532.2]" in out, "each arm by itself: t of 2 degrees of freedom"
    assert decided(out, "8xtp1")[9:12] == ["+100.0%", "[80,", "123]"]
    assert "of leads at once over all arms (Tukey-Kramer)" in out and "no interval" not in out


@pytest.mark.parametrize(
    ("asked", "says"), [(["--sla", "tpot=10"], True), (["--show-stalls"], True), (["--show-tables"], False)]
)
def test_an_answer_names_arms_whose_requests_were_shared_unevenly(capsys, asked, says):
    """Two replicas behind Ray Serve, one decode replica, and two replicas behind a router that sees all requests."""
    arms = ("first_2xtp1", "first_pack_p1xtp1-d1xtp1", "serving_bare_2xtp1")
    folders = [str(ROOT / f"bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_{arm}") for arm in arms]
    viz.main([*asked, "--gpus-per-node", "2", "--exps", *folders])
    named = [line for line in capsys.readouterr().out.splitlines() if line.startswith("shared unevenly")]
    assert named == ["shared unevenly: 2xtp1: that is the router, not the layout (see --show-sharing)"] * says


BARE = [f"bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x{name}"
        for name in ("1_chunks_bare_1xtp1_step512", "2_120b_pack_p1xtp1-d1xtp1", "2_120b_2xtp1")]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "says"),
    [(["--sla", "max_itl=60"], True), (["--show-stalls"], True), (["--figure", "tradeoff"], True), (["--show-tables"], False)],
)
def test_an_answer_names_the_control_arms_that_it_leaves_out(monkeypatch, tmp_path, capsys, asked, says):
    figure = ["--plot-path", str(tmp_path / "a.png")] * ("--figure" in asked)
    monkeypatch.chdir(ROOT)
    viz.main([*asked, *figure, "--gpus-per-node", "2", "--exps", *BARE])
    named = "in no decision and no frontier: 1xtp1 bare: without Ray Serve (--include-bare compares such arms, too)\n"
    assert capsys.readouterr().out.count(named) == says


def test_control_arms_are_compared_on_request(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    asked = ["--sla", "max_itl=60", "--gpus-per-node", "2", "--exps", *BARE]
    viz.main(asked)
    assert "the best collocated: none keeps it\n" in capsys.readouterr().out
    viz.main(["--include-bare", *asked])
    out = capsys.readouterr().out
    assert "+44.0% over the best collocated, 1xtp1 bare\n" in out and "in no decision" not in out
    with pytest.raises(SystemExit):
        viz.main(["--include-bare", "--show-decision", "--show-overhead", "--exps", *BARE])
    assert "--include-bare has no control arms left" in capsys.readouterr().err


def test_what_the_audit_refutes_is_left_out_of_decisions(rivals, write_folder, level_content, tmp_path, capsys):
    """One measurement under the names of 2 and 3 GPUs: one of the two throughputs per node is wrong."""
    same = {"conc4.json": level_content(4, median_tpot_ms=2.0)}
    copies = [str(write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{name}", same)) for name in ("1xtp2", "p1xtp2-d1xtp2")]
    for asked in (["--show-decision"], ["--sla", "tpot=30"], ["--figure", "heatmap", "--sla", "tpot=30,ttft=500"]):
        viz.main([*asked, "--exps", *rivals])
        alone = capsys.readouterr().out
        viz.main([*asked, "--exps", *rivals, *copies])
        out = capsys.readouterr().out
        for arm in ("1xtp2", "p1xtp2-d1xtp2"):
            assert f"left out: {arm}: two layouts (see --audit; --include-refuted compares it, too)\n" in out
        assert alone.replace(", 4 measurements", "") in out.split("\n", 2)[2].replace(", 4 measurements", ""), "as without them"
        viz.main([*asked, "--include-refuted", "--exps", *rivals, *copies])
        assert "left out" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        viz.main(["--sla", "tpot=9", "--exps", *copies])
    assert "refutes every folder: see --audit, or compare them with --include-refuted" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--sla", "chunk=20000"], ["--show-decision", "--latency-mode", "first_token"],
                                   ["--show-decision", "--latency-mode", "chunk"]])  # fmt: skip
def test_how_many_saturated_levels_were_left_out_is_said(flags, tmp_path, monkeypatch, write_folder, level_content, capsys):
    monkeypatch.chdir(tmp_path)
    rates = {"rr2.json": level_content(None, rate=2, duration=10.1), "rr8.json": level_content(None, rate=8, duration=10.0)}
    viz.main([*flags, "--exps", str(write_folder(tmp_path, COLLOCATED, rates))])
    out = capsys.readouterr().out
    assert "left out as saturated, of what contains TTFT: 1 level of 1 arm\n" in out
    assert "  2xtp1, 2 of 8 requests/s served: its TTFT is that of a queue\n" in out


def test_where_every_level_is_saturated_no_band_of_ttft_is_printed(tmp_path, monkeypatch, write_folder, level_content, capsys):
    monkeypatch.chdir(tmp_path)
    rates = {"rr8.json": level_content(None, rate=8, duration=10.0)}
    viz.main(["--show-decision", "--latency-mode", "chunk", "--exps", str(write_folder(tmp_path, COLLOCATED, rates))])
    assert "no arm has a first 16 that is its own: every level is saturated" in capsys.readouterr().out


def test_a_workload_of_saturated_levels_leaves_the_next_its_answer(tmp_path, monkeypatch, write_folder, level_content, capsys):
    monkeypatch.chdir(tmp_path)
    late = write_folder(tmp_path, COLLOCATED, {"rr8.json": level_content(None, rate=8, duration=10.0)})
    other = write_folder(tmp_path, COLLOCATED.replace("itl100", "itl200"),
                         {"rr2.json": level_content(None, rate=2, isl=200, duration=10.1)})  # fmt: skip
    viz.main(["--sla", "ttft=20000", "--json", "a.json", "--report", "r.html", "--exps", str(late), str(other)])
    out = capsys.readouterr().out
    assert "no arm is seen to keep it" in out and "every level is saturated" in " ".join(out.split())
    assert "best: 2xtp1 200:11" in out
    answers = [workload["sla"][0]["holds"] for workload in json.loads(Path("a.json").read_text())["workloads"]]
    assert answers == [False, True] and "No arm is seen to keep it" in Path("r.html").read_text()


def test_what_differs_beside_the_layout_is_said_before_an_answer(tmp_path, monkeypatch, write_folder, level_content, capsys):
    monkeypatch.chdir(tmp_path)
    folders = [str(write_folder(tmp_path, name, {"conc4.json": level_content(seed=name, burstiness=burst)}))
               for name, burst in ((COLLOCATED, 0.1), (PD, 100.0))]  # fmt: skip
    for asked in (["--sla", "ttft=700"], ["--show-decision"], ["--show-intervals"]):
        viz.main([*asked, "--exps", *folders])
        assert "mixed loads: burstiness: " in capsys.readouterr().out
    viz.main(["--show-tables", "--exps", *folders])
    assert "mixed loads" not in capsys.readouterr().out


def test_no_line_of_what_differs_is_wider_than_others(capsys):
    folders = sorted(map(str, (ROOT / "bm_results").glob("*_h200x1_chunks_*")))
    viz.main(["--show-intervals", "--gpus-per-node", "1", "--exps", *folders])
    lines = capsys.readouterr().out.splitlines()
    named = lines[: lines.index("")]
    assert named[0].startswith("mixed engines: compilation_config.cudagraph_capture_sizes: ") and max(map(len, named)) <= 118


def several(tmp_path, write_folder, level_content, *arms):
    return [str(write_folder(tmp_path, f"{name}", {"conc4.json": level_content(**more)})) for name, more in arms]


@pytest.mark.parametrize("flag", ["--show-decision", "--sla=tpot=10"])
def test_models_of_one_name_by_their_folders_are_not_compared(flag, tmp_path, write_folder, level_content, capsys):
    arms = (COLLOCATED, {"model_id": "org/tiny"}), (PD, {"model_id": "large", "duration": 1.5})
    viz.main([flag, "--exps", *several(tmp_path, write_folder, level_content, *arms)])
    out = capsys.readouterr().out
    titles = [f"tiny ({name}) · ISL 100 · OSL 11 · mixed · by concurrency" for name in ("tiny", "large")]
    assert out.startswith("2 workloads, which are not compared with each other:\n  " + "\n  ".join(titles) + "\n\n")
    assert out.count("alone") and " over the next best" not in out


def test_owners_and_folders_of_a_model_are_no_other_model(tmp_path, write_folder, level_content, capsys):
    arms = (COLLOCATED, {"model_id": "org/tiny"}), (PD, {"model_id": "tiny", "duration": 1.5})
    viz.main(["--sla", "tpot=10", "--exps", *several(tmp_path, write_folder, level_content, *arms)])
    out = capsys.readouterr().out
    assert out.startswith("\ntiny · ISL 100") and " over the next best" in out and "workloads" not in out


def test_workloads_are_named_before_they_are_answered(tmp_path, write_folder, level_content, capsys):
    arms = (COLLOCATED, {}), ("tiny_itl200_otl11_mixed_2xtp1", {"isl": 200})
    viz.main(["--show-decision", "--exps", *several(tmp_path, write_folder, level_content, *arms)])
    assert capsys.readouterr().out.startswith("2 workloads, which are not compared with each other:\n  tiny · ISL 100")


def test_why_an_arm_falls_short_is_within_a_window_of_80_columns(rivals, capsys):
    viz.main(["--sla", "tpot=9,ttft=500,p99_ttft=900,p99_itl=20", "--gpu-hour-price", "3", "--exps", *rivals])
    lines = [line[:80] for line in capsys.readouterr().out.splitlines()]
    assert any("why not more" in line for line in lines)
    (first,) = (i for i, line in enumerate(lines) if "median TPOT is 10.0 ms at best, p99" in line)
    assert lines[first + 1].strip() == "ITL is 27.0 ms at best"
    assert lines[first + 1].index("ITL") == lines[first].index("median")


def test_nobody_keeps_an_sla(rivals, capsys):
    viz.main(["--sla", "p99_ttft=1", "--exps", *rivals])
    assert "no arm is seen to keep it" in capsys.readouterr().out


def test_without_tpot_the_other_flag_is_named(write_folder, level_content, tmp_path, capsys):
    folder = write_folder(tmp_path, "tiny_itl100_otl1_mixed_1xtp1", {"conc4.json": level_content(osl=1)})
    viz.main(["--show-decision", "--sla", "tpot=9", "--exps", str(folder)])
    out = capsys.readouterr().out
    assert "no arm has both median_tpot_ms and input_throughput_per_node: use --latency-mode" in out
    assert "its results lack median_tpot_ms" in out

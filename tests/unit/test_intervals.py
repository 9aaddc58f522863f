"""Confidence intervals of result folders, and how viz.py prints them and goodput."""

import math

import pytest

import viz
from pdbench.analysis.intervals import level_intervals
from pdbench.read.results import read_results


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    """An arm's folder; `{file name: TTFT in s of its requests}`."""

    def write(name, levels, osl=11):
        contents = {}
        for stem, ttft in levels.items():
            spread = [ttft * (0.9 + 0.01 * i) for i in range(20)]
            starts = [(ttft + 0.1) * (i // 4) for i in range(20)]
            content = level_content(detailed=True, osl=osl, ttfts=spread, start_times=starts)
            contents[f"{stem}.json"] = content
        return write_folder(tmp_path, f"tiny_itl100_otl{osl}_mixed_{name}", contents)

    return write


def test_repeats_are_averaged_and_three_have_an_interval(arm):
    folders = [arm("1xtp1", {"conc4": 1.0}), arm("2xtp1", {"conc4": 0.5, "conc4_rep2": 1.0, "conc4_rep3": 1.5})]
    found = level_intervals(read_results(folders))
    ttft = found[found["statistic"] == "median_ttft_ms"].set_index("arm")
    assert ttft["repeats"].to_dict() == {"1xtp1": 1, "2xtp1": 3}
    # 20 requests at 0.90, 0.91 ... 1.09 of it: medians of 497.5, 995 and 1492.5, their mean +- 4.3027 sd / sqrt(3).
    assert ttft["estimate"].tolist() == pytest.approx([995, 995]) and math.isnan(ttft.loc["1xtp1", "low"])
    half = 4.302653 * 497.5 / math.sqrt(3)
    assert ttft.loc["2xtp1", ["low", "high"]].tolist() == pytest.approx([995 - half, 995 + half], rel=1e-5)
    rate = found[found["statistic"] == "request_throughput"].set_index("arm")
    # 4 in flight, less 5%, over their time: 0.5, 1 and 1.5 x 0.995 s and 10 tokens of 10 ms.
    assert rate.loc["2xtp1", "estimate"] == pytest.approx(3.8 * (1 / 0.5975 + 1 / 1.095 + 1 / 1.5925) / 3)


def test_a_single_output_token_has_no_tpot(arm):
    table = level_intervals(read_results([arm("1xtp1", {"conc4": 1.0}, osl=1)]))
    assert set(table["statistic"]) == {"median_ttft_ms", "request_throughput"}


def test_viz_prints_intervals(arm, capsys):
    viz.main(["--show-intervals", "--exps", str(arm("1xtp1", {"conc4": 1.0, "conc4_rep2": 1.0}))])
    out = capsys.readouterr().out
    assert "TTFT median" in out and "995 [-, -]" in out and "3.47 [-, -]" in out


def test_viz_prints_goodput(arm, capsys):
    """TTFT is 900 to 1090 ms: 11 of 20 requests are within 1000, in 5.76 s: 4 in flight, less 5%, of 1.095 s each."""
    viz.main(["--show-tables", "--sla", "ttft=1000.1,tpot=20", "--exps", str(arm("1xtp1", {"conc4": 1.0}))])
    out = capsys.readouterr().out
    assert "goodput" in out and out.splitlines()[4].split()[-1] == "1.91"


WRONG = ["", "ttft", "ttft=x", "ttft=0", "ttft=-1", "ttft=nan", "ttft=inf", "ttft=5,"]


@pytest.mark.parametrize("text", [*WRONG, "e2el=5", "p50_ttft=5", "p99_chunk=5", "ttft=5,median_ttft=6"])
def test_a_wrong_sla_is_reported(text, capsys):
    with pytest.raises(SystemExit):
        viz.main(["--exps", "x", "--sla", text])
    reported = capsys.readouterr().err
    assert reported.startswith(f"viz.py: error: argument --sla: {text!r} is not like tpot=10,p99_ttft=500 (ms): ")
    assert reported.count("\n") == 1

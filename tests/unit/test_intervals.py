"""Confidence intervals of result folders, and how viz.py prints them and goodput."""

import json
import math

import numpy as np
import pytest

import viz
from pdbench.analysis import waves
from pdbench.analysis.intervals import level_intervals
from pdbench.read.requests import Requests
from pdbench.read.results import read_study


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
    found = level_intervals(read_study(folders))
    ttft = found[found["statistic"] == "median_ttft_ms"].set_index("arm")
    assert ttft["repeats"].to_dict() == {"1xtp1": 1, "2xtp1": 3}
    # 20 requests at 0.90, 0.91 ... 1.09 of it: medians of 497.5, 995 and 1492.5, their mean +- 4.3027 sd / sqrt(3).
    assert ttft["estimate"].tolist() == pytest.approx([995, 995])
    assert ttft["waves"].to_dict() == {"1xtp1": 5, "2xtp1": 0} and math.isnan(ttft.loc["2xtp1", "effective"])
    half = 4.302653 * 497.5 / math.sqrt(3)
    assert half > 995 and ttft.loc["2xtp1", ["low", "high"]].tolist() == pytest.approx([0, 995 + half], rel=1e-5)
    rate = found[found["statistic"] == "request_throughput"].set_index("arm")
    # 4 in flight, less 5%, over their time: 0.5, 1 and 1.5 x 0.995 s and 10 tokens of 10 ms.
    assert rate.loc["2xtp1", "estimate"] == pytest.approx(3.8 * (1 / 0.5975 + 1 / 1.095 + 1 / 1.5925) / 3)


def test_a_single_output_token_has_no_tpot(arm):
    table = level_intervals(read_study([arm("1xtp1", {"conc4": 1.0}, osl=1)]))
    assert set(table["statistic"]) == {"median_ttft_ms", "request_throughput"}


def run(ttft, size, osl=1, gap=0.01, start=None):
    """One request after the other in each of `size` places; `ttft` in s, in the order sent."""
    count = len(ttft) // size
    starts = np.arange(count).repeat(size) * 10.0 if start is None else start
    itl = [np.full(osl - 1, gap)] * len(ttft)
    return Requests(starts, np.array(ttft), itl, np.full(len(ttft), 8.0), np.full(len(ttft), float(osl)))


def test_a_single_run_has_the_interval_of_its_waves():
    # Medians of the waves: 1, 2, 4 s; of their logarithms the standard deviation is log 2, Student's factor 4.3027.
    seen = waves.of_run(run([1, 1, 1, 2, 2, 2, 4, 4, 4], 3, osl=3), 3)
    assert seen.count == 3
    assert seen.factor["median_ttft_ms"] == pytest.approx(2 ** (4.302653 / math.sqrt(3)), rel=1e-5)
    assert seen.factor["median_tpot_ms"] == pytest.approx(1) and seen.factor["p99_itl_ms"] == pytest.approx(1)
    # The waves end at 1.02, 12.02 and 24.02 s: 3 requests took 1.02, 11 and 12 s.
    logs = np.log([1.02, 11, 12])
    assert seen.factor["request_throughput"] == pytest.approx(math.exp(4.302653 * logs.std(ddof=1) / math.sqrt(3)), rel=1e-5)
    # Nine values of variance 1.75; waves' means of variance 7/3, of which three: as good as 2.25 independent requests.
    assert seen.effective == pytest.approx(1.75 / (7 / 9))


def test_requests_that_do_not_wait_for_each_other_all_count():
    rng = np.random.default_rng(3)
    assert waves.of_run(run(rng.lognormal(0, 0.1, 4000), 4), 4).effective > 3500
    assert waves.of_run(run([1.0] * 12, 4), 4).effective == 12, "all are alike"
    one = waves.of_run(run([1, 2, 3, 4], 1), 0.97)
    assert (one.count, one.effective) == (4, pytest.approx(4)), "at concurrency 1 a request is a wave"


def test_two_waves_have_no_interval():
    assert waves.of_run(run([1, 1, 2, 2], 2), 2) is None


def test_waves_follow_the_order_in_which_requests_were_sent():
    mixed = run([1, 4, 2, 4, 1, 2], 2, start=np.array([0.0, 20, 10, 20, 0, 10]))
    assert waves.of_run(mixed, 2).factor == waves.of_run(run([1, 1, 2, 2, 4, 4], 2), 2).factor


def test_viz_prints_intervals(arm, capsys):
    several = arm("1xtp1", {"conc4": 1.0, "conc4_rep2": 1.0})
    viz.main(["--show-intervals", "--include-refuted", "--exps", str(several), str(arm("2xtp1", {"conc4": 1.0}))])  # copies
    out = capsys.readouterr().out
    assert "TTFT median" in out and "995 [-, -]" in out and "3.47 [-, -]" in out, "two repeats have none"
    # One run of 5 waves, whose medians are 915, 955, ... 1075 ms.
    half = 2.776445 * np.log([915, 955, 995, 1035, 1075]).std(ddof=1) / math.sqrt(5)
    low, high = (995 * math.exp(sign * half) for sign in (-1, 1))
    (line,) = [line for line in out.splitlines() if line.strip().startswith("2xtp1")]
    assert line.split()[1:5] == ["4", "1", "5", "4.40"] and f"995 ({low:.1f}, {high:,.0f})" in line


def test_in_json_a_single_run_says_how_many_waves(arm, tmp_path):
    viz.main(["--json", str(tmp_path / "a.json"), "--exps", str(arm("1xtp1", {"conc4": 1.0}))])
    intervals = json.loads((tmp_path / "a.json").read_text())["intervals"]
    assert {row["waves"] for row in intervals} == {5} and all(row["low"] <= row["estimate"] <= row["high"] for row in intervals)


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

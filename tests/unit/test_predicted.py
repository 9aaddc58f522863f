"""A planner's predictions beside what was measured: in viz.py's figures and in its report."""

import re
from pathlib import Path

import pytest

import plan
import viz
from pdbench.layout import Layout
from pdbench.output import figures
from pdbench.output.figures import planned
from pdbench.output.figures.classic import PREDICTED
from pdbench.output.predicted import coverage_words, predicted, prediction_rows
from pdbench.planner.model import Model
from pdbench.planner.predicting import SEEDS, predict
from pdbench.planner.recommending import recommend, sweep
from pdbench.planner.simulator import Workload
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_study
from tests.helpers.planning_runs import LEVELS, write_run

LAYOUTS = ("2xtp2", "p1xtp2-d1xtp2", "p1xtp1-d1xtp2")
LEFT_OUT = "p1xtp2-d2xtp2"


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_folder, level_content):
    """Three runs, a fourth that the fit has not, a fifth of a TP size that no run has, and a model of the three."""
    root = tmp_path_factory.mktemp("predicted")
    folders = {one: str(write_run(root, one, write_folder, level_content)) for one in (*LAYOUTS, LEFT_OUT, "1xtp4")}
    plan.main(["fit", *(folders[one] for one in LAYOUTS), "--no-as-published", "-o", str(root / "model.json")])
    return root, folders


def study(root, *layouts):
    return read_study([root[1][one] for one in layouts])


def test_rows_are_the_planners_own_predictions_of_each_level(root):
    found = predicted(root[0] / "model.json", study(root, "2xtp2", LEFT_OUT))
    expected = predict(Model.read(root[0] / "model.json"), Layout.parse(LEFT_OUT), LEVELS, Workload(5000, 250), SEEDS)
    rows = found[found["layout"] == LEFT_OUT]
    assert list(rows["level"]) == list(LEVELS) and not rows["fitted"].any() and found["fitted"].sum() == len(LEVELS)
    # Where the sweep's own requests differ in number from 5 a level, so do its predictions: within a few percent.
    assert rows["median_tpot_ms"].tolist() == pytest.approx([one.values["median_tpot_ms"] for one in expected], rel=0.05)
    assert rows["input_throughput"].tolist() == pytest.approx((rows["request_throughput"] * 5000).tolist())
    chunk = rows["median_ttft_ms"] + 15 * rows["median_tpot_ms"]
    assert rows["chunk_latency_ms"].tolist() == pytest.approx(chunk.tolist())


def test_what_the_model_does_not_cover_is_named(root, capsys):
    found = predicted(root[0] / "model.json", study(root, "2xtp2", "1xtp4"))
    assert set(found["arm"]) == {"2xtp2"}
    assert "viz.py: not predicted: 1xtp4: 1xtp4 cannot be predicted: the model lacks" in capsys.readouterr().err
    with pytest.raises(ResultError, match="predicts none of these runs: 1xtp4: 1xtp4 cannot be predicted"):
        predicted(root[0] / "model.json", study(root, "1xtp4"))
    with pytest.raises(ResultError, match="no model of plan.py fit"):
        predicted(Path(__file__), study(root, "2xtp2"))


def test_crosses_and_bars_are_where_the_predictions_are(root):
    of = study(root, "2xtp2", LEFT_OUT)
    found = predicted(root[0] / "model.json", of)
    figure = figures.draw(of.table, figures.View(predicted=found), of)
    tpot, _, tradeoff = figure.axes
    crosses = [line.get_xydata().tolist() for line in tpot.lines if line.get_gid() == PREDICTED]
    assert crosses == [rows[["level", "median_tpot_ms"]].to_numpy().tolist() for _, rows in found.groupby("arm", sort=False)]
    bars = [segment.tolist() for bars in tpot.collections[-2:] for segment in bars.get_segments()]
    ends = found[["level", "median_tpot_ms_low", "median_tpot_ms_high"]].to_numpy()
    assert bars == [[[level, low], [level, high]] for level, low, high in ends]
    lines = [line.get_xydata() for line in tradeoff.lines if line.get_gid() == PREDICTED]
    assert lines[0][:, 1].tolist() == pytest.approx(found["input_throughput_per_node"][:4].tolist())


def test_the_report_has_both_numbers_side_by_side(root, tmp_path):
    argv = ["--exps", root[1]["2xtp2"], root[1][LEFT_OUT], "--predicted-by", str(root[0] / "model.json")]
    viz.main([*argv, "--report", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    found = predicted(root[0] / "model.json", study(root, "2xtp2", LEFT_OUT))
    assert coverage_words(found)[1:].replace("'", "&#39;") in page and "fitted to 1 of these 2 runs" in page
    for row in prediction_rows(found)[1]:
        assert re.search(r"</td>\s*<td[^>]*>".join(map(re.escape, row[2:])), page)


@pytest.mark.parametrize("asked", [["--figure", "heatmap", "--sla", "tpot=10"], ["--show-tables"], ["--show-decision"]])
def test_where_predictions_have_no_place_they_are_refused(root, capsys, asked):
    with pytest.raises(SystemExit) as raised:
        viz.main(["--exps", root[1]["2xtp2"], "--predicted-by", str(root[0] / "model.json"), *asked])
    assert raised.value.code == 2
    assert "--predicted-by goes with --figure classic or tradeoff, and with --report" in capsys.readouterr().err


def test_layouts_worth_measuring_are_drawn_by_rising_load(root, tmp_path, capsys):
    path, out = root[0] / "model.json", tmp_path / "finalists.png"
    plan.main(["recommend", str(path), "--sla", "tpot=12,ttft=2000", "--gpus", "8", "--plot-path", str(out)])
    assert f"{out}\n" in capsys.readouterr().out and out.stat().st_size > 10_000
    from pdbench.analysis.sla import parse

    model, bounds, workload = Model.read(path), parse("tpot=12,ttft=2000"), Workload(5000, 250)
    choices = recommend(model, bounds, 8, workload).choices
    sweeps = [(choice, sweep(model, choice.prediction, workload)) for choice in choices]
    (axes,) = planned.finalists(sweeps, bounds).axes
    for (choice, points), line, marks in zip(sweeps, axes.lines, axes.collections[1::2], strict=False):
        assert line.get_xdata() == pytest.approx([one.values["median_tpot_ms"] for one in points])
        assert line.get_ydata() == pytest.approx([one.values["request_throughput"] / choice.layout.gpus for one in points])
        kept = [one.values["median_tpot_ms"] <= 12 and one.values["median_ttft_ms"] <= 2000 for one in points]
        assert [tuple(colour) != (1, 1, 1, 1) for colour in marks.get_facecolors()] == kept and any(kept)
    assert axes.lines[-1].get_xdata() == [12, 12], "the limit"

"""`--steps`: collocated layouts with smaller steps beside PD, as docs/planner.md shows with runs of two H200s."""

import json

import pytest

import plan
from pdbench.analysis.sla import parse
from pdbench.configs import ROOT
from pdbench.layout import Layout
from pdbench.manifest import REMEMBERS
from pdbench.planner.model import Model
from pdbench.planner.predicting import predict
from pdbench.planner.recommending import recommend
from pdbench.planner.simulator import Workload

WORKLOAD = Workload(5000, 250)
ARM = "- {layout: 1xtp1, name: small, engine_args: {max_num_batched_tokens: 1024}}"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A fit to three layouts on two H200s, with steps of 8192 tokens."""
    path = tmp_path_factory.mktemp("fit") / "pair.json"
    plan.main(["fit", *map(str, sorted((ROOT / "bm_results").glob("*_h200x2_120b_*xtp?"))), "-o", str(path)])
    return path


def said(capsys, *arguments):
    plan.main(list(map(str, arguments)))
    return capsys.readouterr().out


def test_smaller_steps_are_named_where_they_alone_keep_to_a_bound(path):
    """Steps of 8192 tokens keep 70 ms only where nobody has a neighbour; of 1024 and 512 the larger has more throughput."""
    model, bound = Model.read(path), parse("max_itl=70")
    (own,) = (one for one in recommend(model, bound, 2, WORKLOAD).choices if str(one.layout) == "1xtp1")
    found = recommend(model, bound, 2, WORKLOAD, steps=(512, 1024))
    (best,) = (one for one in found.choices if one.layout.decode.tp == 1 and not one.layout.is_pd)
    assert own.prediction.step is None and own.prediction.level == 1
    assert best.prediction.step == 1024 and best.fleet_throughput > 3 * own.fleet_throughput
    assert all(one.prediction.step is None for one in found.choices if one.layout.is_pd)
    assert any("steps of at most 1024 tokens, fitted to 8192" in why for why in best.prediction.outside)


def test_the_documented_answer_is_what_is_printed(path, capsys):
    printed = said(capsys, "recommend", path, "--sla", "max_itl=60", "--gpus", "2", "--steps", "2048,1024,512")
    rows = [line.rstrip() for line in printed.splitlines() if line.startswith((" 1x", " 2x", " p1x"))]
    assert len(rows) == 3 and all(row in (ROOT / "docs/planner.md").read_text().splitlines() for row in rows)


def test_without_a_bound_on_waits_the_own_steps_are_named(path):
    found = recommend(Model.read(path), parse("tpot=12"), 2, WORKLOAD, steps=(512, 1024))
    assert {one.prediction.step for one in found.choices} == {None}


def test_each_step_of_each_collocated_layout_is_looked_at_the_fits_own_once(path):
    model, bound = Model.read(path), parse("tpot=12")
    one, same, more = (recommend(model, bound, 2, WORKLOAD, steps=steps).screened for steps in ((), (8192,), (8192, 512, 1024)))
    collocated = 3  # 1xtp1, 2xtp1, 1xtp2
    assert one == same == more - 2 * collocated


def test_another_step_is_predicted_as_by_a_model_that_has_it(path):
    model, layout = Model.read(path), Layout.parse("2xtp1")
    small = model.model_copy(update={"engine": model.engine.model_copy(update={"budget": 1024})})
    (one,), (other,) = predict(model, layout, [16], WORKLOAD, (1,), 1024), predict(small, layout, [16], WORKLOAD, (1,))
    assert one.values == other.values and (one.step, other.step) == (1024, None)
    assert predict(model, layout, [16], WORKLOAD, (1,), 8192) == predict(model, layout, [16], WORKLOAD, (1,))


def test_predict_has_a_line_for_each_step(path, capsys, tmp_path):
    printed = said(
        capsys, "predict", path, "--layouts", "2xtp1", "--levels", "8", "--steps", "512,8192", "--json", tmp_path / "p.json"
    )
    rows = json.loads((tmp_path / "p.json").read_text())["predictions"]
    assert [(one["layout"], one.get("largest_step")) for one in rows] == [("2xtp1", None), ("2xtp1", 512)]
    assert rows[1]["max_itl_ms"] < rows[0]["max_itl_ms"] / 3
    assert "\n 2xtp1 " in printed and "\n 2xtp1, steps of 512 " in printed
    assert "intervals may not hold: 2xtp1, steps of 512: steps of at most 512 tokens, fitted to 8192" in printed


def test_a_choice_is_launched_with_its_step(path, capsys, tmp_path):
    asked = ("recommend", path, "--sla", "max_itl=70", "--gpus", "2", "--steps", "1024")
    printed = said(capsys, *asked)
    assert "\n 1xtp1, steps of 1024 " in printed
    (line,) = (line for line in printed.splitlines() if "--layout 1xtp1 " in line)
    assert "--engine-arg max_num_batched_tokens=1024 && ./run_bm.sh -e planned_1xtp1_step1024 " in line
    file = tmp_path / "e.yaml"
    for arm, label, lacking in (
        (ARM, "1xtp1_small", ""),
        ("- {layout: 1xtp1}", "1xtp1_step1024", "1xtp1, name: step1024, engine_args: {m"),
    ):
        file.write_text(f"arms:\n  {arm}\n  - {{layout: p1xtp1-d1xtp1, mode: pd-pack}}\n")
        printed = said(capsys, *asked, "--experiment", file)
        assert f"--arms {label}," in printed and f"{{layout: {lacking or '1xtp2'}" in printed


def test_of_two_arms_of_a_layout_the_one_that_is_routed_as_the_runs_were_is_named(path, capsys, tmp_path):
    file, model = tmp_path / "e.yaml", tmp_path / "m.json"
    file.write_text(f"arms:\n  - {{layout: 1xtp1}}\n  - {{layout: 1xtp1, name: asked, serve_env: {{{REMEMBERS}: '0'}}}}\n")
    for asked, label in ((False, "1xtp1"), (True, "1xtp1_asked")):
        model.write_text(json.dumps(json.loads(path.read_text()) | {"ingress": 0, "asked": asked}))
        printed = said(capsys, "recommend", model, "--sla", "tpot=15", "--gpus", "1", "--experiment", file)
        assert f"--arms {label}\n" in printed


@pytest.mark.parametrize("text", ["0", "1024,", "a", "-5", "1e3"])
def test_steps_that_are_no_numbers_of_tokens_are_one_line(path, capsys, text):
    with pytest.raises(SystemExit) as caught:
        plan.main(["recommend", str(path), "--sla", "tpot=12", "--gpus", "2", f"--steps={text}"])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and f"'{text}' is not like 8192,1024 (tokens of one step)" in err and err.count("\n") == 1

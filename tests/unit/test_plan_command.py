"""plan.py as typed: what it prints and writes, and one line for each mistake."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

import plan
from pdbench.configs import ROOT
from pdbench.layout import CONTROLS
from pdbench.manifest import REMEMBERS
from pdbench.measure.experiment import load_experiment
from pdbench.output import planning
from tests.helpers.planning_runs import write_run

LAYOUTS = ("2xtp2", "p1xtp2-d1xtp2", "p1xtp1-d1xtp2")


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_folder, level_content):
    """Three runs, a fourth that no fit has, and a model of the three."""
    root = tmp_path_factory.mktemp("plan")
    for layout in (*LAYOUTS, "p1xtp2-d2xtp2"):
        write_run(root / "runs", layout, write_folder, level_content)
    plan.main(["fit", *run_paths(root, *LAYOUTS), "--no-as-published", "-o", str(root / "model.json")])
    return root


def run_paths(root, *layouts):
    return [str(root / "runs" / f"gptoss_itl5000_otl250_mixed_{layout}") for layout in layouts]


def said(capsys, *arguments):
    plan.main(list(map(str, arguments)))
    return capsys.readouterr().out


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as raised:
        plan.main(list(map(str, arguments)))
    printed = capsys.readouterr()
    assert raised.value.code == 2 and printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_fit_says_what_it_can_and_cannot_predict(root, capsys):
    printed = said(capsys, "fit", *run_paths(root, *LAYOUTS), "--no-as-published", "-o", root / "again.json")
    assert "gptoss on GPU: 3 runs of 3 layouts, 5000:250 tokens, 2 to 16 in flight" in printed
    assert "too few layouts can be left out" in printed and "block pools are taken as never full" in printed
    assert "not predicted, for want of a run that decodes at TP1" in printed
    assert json.loads((root / "again.json").read_text()) == json.loads((root / "model.json").read_text())


def test_predict_prints_and_writes_the_same_numbers(root, capsys):
    printed = said(capsys, "predict", root / "model.json", "--layouts", "4xtp2,p1xtp2-d2xtp2", "--levels", "4,8",
                   "--json", root / "p.json")  # fmt: skip
    found = json.loads((root / "p.json").read_text())["predictions"]
    assert [(one["layout"], one["level"], one["gpus"]) for one in found] == [
        ("4xtp2", 4, 8), ("4xtp2", 8, 8), ("p1xtp2-d2xtp2", 4, 6), ("p1xtp2-d2xtp2", 8, 6)]  # fmt: skip
    for one in found:
        assert one["median_tpot_ms_low"] < one["median_tpot_ms"] < one["median_tpot_ms_high"] and one["outside"] == []
        assert f"{one['request_throughput']:.2f} [{one['request_throughput_low']:.2f}, " in printed


def test_levels_outside_the_measured_are_refused_unless_asked_for(root, capsys):
    asked = ("predict", root / "model.json", "--layouts", "4xtp2", "--levels", "64")
    assert "4xtp2: level 64, fitted to 2 to 16: give --extrapolate" in refused(capsys, *asked)
    assert "outside what was measured, where intervals may not hold: 4xtp2: level 64" in said(capsys, *asked, "--extrapolate")


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        ("4xtp8", "4xtp8 cannot be predicted: the model lacks a run that prefills at TP8 and a run that decodes at TP8"),
        ("2xtp1", "2xtp1: lacks a run that decodes at TP1: give --extrapolate"),
        ("p1xtp2-d1xtp1", "p1xtp2-d1xtp1: lacks a run that decodes at TP1"),
        ("tp2", "cannot read the layout 'tp2': write 4xtp2"),
    ],
)
def test_layouts_that_no_run_informs_are_refused(root, capsys, layout, line):
    assert line in refused(capsys, "predict", root / "model.json", "--layouts", layout, "--levels", "4")


def test_other_lengths_are_predicted_and_named(root, capsys):
    printed = said(capsys, "predict", root / "model.json", "--layouts", "4xtp2", "--levels", "4", "--isl", "1000")
    assert "4xtp2: lengths 1000:250, fitted to 5000:250" in printed


def recommend(root, *more):
    return ("recommend", root / "model.json", "--sla", "tpot=12,ttft=900", "--gpus", "16", *more)


def test_recommend_names_three_to_measure_and_never_a_best(root, capsys):
    printed = said(capsys, *recommend(root, "--json", root / "r.json"))
    assert "best" not in printed and "which one leads is not known before they are measured" in printed
    found = json.loads((root / "r.json").read_text())
    assert len(found["measure"]) == len(found["commands"]) == 3 and found["nearest"] == []
    assert all(one["median_tpot_ms"] <= 12 and one["median_ttft_ms"] <= 900 for one in found["measure"])
    rates = [one["fleet_throughput"] for one in found["measure"]]
    assert rates == sorted(rates, reverse=True)
    for one, command in zip(found["measure"], found["commands"], strict=True):
        node = f" --hardware '<file of a node with {one['gpus']} GPUs>'" * (one["gpus"] > 8)
        assert f"--layout {one['layout']}{node} && ./run_bm.sh" in command and f"-c {one['level']} " in command
        assert one["units"] * one["gpus"] <= 16


def test_recommend_names_the_arms_of_an_experiment(root, capsys):
    said(capsys, *recommend(root, "--json", root / "e.json"))
    layouts = [one["layout"] for one in json.loads((root / "e.json").read_text())["measure"]]
    file = root / "e.yaml"
    first = layouts[0]
    file.write_text(f"arms:\n  - {{layout: {first}, mode: {'pd-spread' if '-' in first else 'collocated'}, name: x}}\n")
    printed = said(capsys, *recommend(root, "--experiment", file))
    label = f"{'spread_' if '-' in first else ''}{first}_x"
    assert f"python run_experiment.py {file} --arms {label}," in printed
    assert printed.count(f"# not in {file}, add to its arms:") == 2


def test_the_labels_of_arms_are_those_of_run_experiment():
    """The planner, of the read wing, reads an experiment without the code that runs it."""
    for file in sorted((ROOT / "configs/experiments").glob("*.yaml")):
        fixed = [arm for arm in load_experiment(file).arms if arm.mode not in CONTROLS and not arm.control]
        arms = {
            arm.label: (arm.layout, arm.engine_args.get("max_num_batched_tokens"), arm.serve_env.get(REMEMBERS) == "0")
            for arm in fixed
        }
        assert planning._arms(file) == arms, file.name


def test_a_target_that_nothing_keeps_has_nearest_misses(root, capsys):
    asked = ("recommend", root / "model.json", "--sla", "tpot=1,ttft=5", "--gpus", "8", "--json", root / "n.json")
    printed = said(capsys, *asked)
    found = json.loads((root / "n.json").read_text())
    assert printed.startswith("no layout keeps to median TPOT <= 1 ms, median TTFT <= 5 ms on 8 GPUs: allow more")
    assert "these come nearest:\n" in printed and "run_bm.sh" not in printed
    assert found["measure"] == [] and len(found["nearest"]) >= 1 and found["nearest"][0]["excess"] > 1


@pytest.mark.parametrize(
    ("sla", "gpus", "line"),
    [
        (
            "itl=10",
            "8",
            "median ITL <= 10 ms: the model predicts mean, median and p99 of TTFT and TPOT, and p99 and max of ITL",
        ),
        ("p90_ttft=10", "8", "p90 TTFT <= 10 ms: the model predicts"),
        (
            "tpot=10",
            "1",
            "1 GPUs hold no layout of the TP sizes and kinds that the model's runs have: --extrapolate adds some, for"
            " want of a run that decodes at TP1",
        ),
        ("tpot=-1", "8", "'tpot=-1' is not like tpot=10,p99_ttft=500"),
        ("tpot=10", "0", "'0' is not a whole number of at least 1"),
    ],
)
def test_targets_that_cannot_be_answered(root, capsys, sla, gpus, line):
    assert line in refused(capsys, "recommend", root / "model.json", "--sla", sla, "--gpus", gpus)


@pytest.mark.parametrize(
    ("text", "line"), [(None, "No such file"), ("levels: 3", "is no experiment with arms"), ("a: [", "is no")]
)
def test_an_experiment_that_cannot_be_read(root, capsys, text, line):
    file = root / "bad.yaml"
    file.unlink(missing_ok=True)
    if text:
        file.write_text(text)
    assert line in refused(capsys, *recommend(root, "--experiment", file))


def test_check_leaves_out_the_runs_of_the_fit(root, capsys):
    asked = ("check", root / "model.json", *run_paths(root, *LAYOUTS, "p1xtp2-d2xtp2"), "--no-as-published")
    plan.main([*map(str, asked), "--json", str(root / "c.json")])
    printed = capsys.readouterr()
    assert printed.err.startswith(
        "plan.py: left out, since the model was fitted to them: runs/gptoss_itl5000_otl250_mixed_2xtp2"
    )
    assert " p1xtp2-d2xtp2" in printed.out and " 2xtp2" not in printed.out
    (one,) = json.loads((root / "c.json").read_text())["runs"]
    level = one["levels"][0]
    assert level["request_throughput_measured"] == pytest.approx(level["request_throughput"], rel=0.1)
    assert level["request_throughput_covered"] is True


def test_check_draws_predicted_against_measured(root, capsys):
    """Its points are where the numbers of the check are, and its bars are the intervals."""
    path = root / "check.svg"
    asked = ("check", root / "model.json", *run_paths(root, "p1xtp2-d2xtp2"), "--no-as-published", "--plot-path", path)
    assert str(path) in said(capsys, *asked) and path.read_text().count("<svg") == 1


def test_check_needs_a_run_that_was_not_used(root, capsys):
    with pytest.raises(SystemExit):
        plan.main(["check", str(root / "model.json"), *run_paths(root, "2xtp2"), "--no-as-published"])
    assert "the model was fitted to all of these runs: check it on others" in capsys.readouterr().err


def test_check_refuses_runs_of_another_model(root, capsys, write_folder, level_content, tmp_path):
    other = write_folder(tmp_path, "gpt-oss-20b_itl100_otl11_mixed_2xtp2", {"conc4.json": level_content()})
    line = refused(capsys, "check", root / "model.json", other, "--no-as-published")
    assert "the model was fitted to model gptoss, these runs are of gpt-oss-20b" in line


def test_runs_placed_differently_are_to_be_checked_each_alone(root, capsys, write_folder, level_content, tmp_path):
    names = ("pack_p1xtp2-d1xtp2", "pool_p1xtp2-d2xtp2")
    runs = [write_run(tmp_path, name.split("_")[1], write_folder, level_content, name=name) for name in names]
    line = refused(capsys, "check", root / "model.json", "--no-as-published", *runs)
    assert "placed differently in one check: pack, pool: check each of them alone" in line
    for run in runs:
        assert run.name.split("_")[-1] in said(capsys, "check", root / "model.json", "--no-as-published", run)


def test_explain_says_where_the_time_goes(root, capsys):
    asked = ("explain", root / "model.json", "--layouts", "p1xtp2-d2xtp2", "--levels", "16", "--json", root / "x.json")
    printed = said(capsys, *asked)
    (one,) = json.loads((root / "x.json").read_text())["parts"]
    assert list(one["ms"]) == ["front end", "prefill queue", "prefill", "transfer", "stall", "decode"]
    assert all(name in printed for name in one["ms"]) and f"in all{'':1}" in printed


@pytest.mark.parametrize(("text", "line"), [(None, "No such file"), ("{", "is no model of plan.py fit"), ("{}", "is no model")])
def test_a_file_that_is_no_model(tmp_path, capsys, text, line):
    file = tmp_path / "m.json"
    if text:
        file.write_text(text)
    assert line in refused(capsys, "predict", file, "--layouts", "4xtp2", "--levels", "4")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"parameters": {}}, "its parameters are not those of its layouts"),
        ({"layouts": ["tp2"]}, "cannot read the layout 'tp2'"),
        ({"levels": [9, 3]}, "its levels are not requests in flight"),
        ({"workloads": ["5000"]}, "its workloads are not like 5000:250"),
        ({"errors": [{"layout": "1xtp2", "level": 0, "ratios": {}}]}, "its errors are not numbers at levels"),
        ({"schema_version": 2}, "schema_version"),
        ({"ingress": 4, "asked": True}, "its routers cannot both remember and ask: with asked, ingress has to be 0"),
        ({"surprise": 1}, "surprise"),
        ({"engine": {"experts": 0}}, "engine.experts"),
        ({"engine": {"graphs": [8, 4]}}, "engine.graphs: Value error, sizes are not in ascending order"),
    ],
)
def test_a_model_that_was_edited_wrongly_is_refused(root, tmp_path, capsys, change, line):
    file = tmp_path / "m.json"
    file.write_text(json.dumps(json.loads((root / "model.json").read_text()) | change))
    assert line in refused(capsys, "recommend", file, "--sla", "tpot=10", "--gpus", "8")


def test_a_parameter_must_be_above_zero(root, tmp_path, capsys):
    content = json.loads((root / "model.json").read_text())
    content["parameters"]["admit"] = -1.0
    (tmp_path / "m.json").write_text(json.dumps(content))
    line = refused(capsys, "recommend", tmp_path / "m.json", "--sla", "tpot=10", "--gpus", "8")
    assert "its parameter admit is not above 0 and finite" in line


def test_a_deployment_of_too_many_gpus_is_refused(root, capsys):
    assert "'65' is more than 64" in refused(capsys, *recommend(root, "--unit-gpus", "65"))


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("--kv-tokens", "2:5", "is not like 1=70000,2=975000"),
        ("--experts", "4:128", "is not like 128:4"),
        ("--levels", "4,x", "concurrency 'x' is not allowed"),
        ("-o", "nowhere/m.json", "there is no folder 'nowhere'"),
    ],
)
def test_options_of_fit(root, capsys, option, value, line):
    assert line in refused(capsys, "fit", *run_paths(root, *LAYOUTS), "-o", root / "x.json", option, value)


def test_a_fit_that_is_refused_writes_nothing(root, capsys, tmp_path):
    line = refused(capsys, "fit", *run_paths(root, "2xtp2"), "--as-published", "-o", tmp_path / "m.json", "--levels", "3")
    assert "has none of the levels 3" in line and not list(tmp_path.iterdir())


ENGINE = ("mixed_h200x1_engine_1xtp1", "prefill-only_h200x1_engine_prefill-only_1xtp1")


def runs_of_20b(*names):
    return [str(ROOT / f"bm_results/gpt-oss-20b-shape_itl5000_otl250_{name}") for name in names]


@pytest.fixture(scope="module")
def one_engine(tmp_path_factory):
    """A model of one launch of one engine on one GPU: both phases together, and prefill alone."""
    path = tmp_path_factory.mktemp("one") / "one.json"
    plan.main(["fit", *runs_of_20b(*ENGINE), "-o", str(path)])
    return path


def test_one_engine_predicts_two_gpus(one_engine, tmp_path, capsys):
    """The errors are those that docs/planner.md names; 1P:1D is by what KV transfers typically cost."""

    def levels_of(name):
        """All levels of these runs, and which of them the intervals miss, by ISL and requests in flight."""
        runs = sorted((ROOT / "bm_results").glob(f"gpt-oss-20b-shape_*_mixed_h200x2_lengths_{name}"))
        found, missed = [], []
        for run in runs:
            (isl,) = re.findall(r"_itl(\d+)_", run.name)
            printed = said(capsys, "check", one_engine, run, "--json", tmp_path / "c.json")
            assert ("lacks a PD run whose prefill TP is equal to its decode TP" in printed) == name.startswith("pack")
            levels = json.loads((tmp_path / "c.json").read_text())["runs"][0]["levels"]
            found.append([abs(one["request_throughput"] / one["request_throughput_measured"] - 1) for one in levels])
            missed += [(isl, one["level"]) for one in levels if not one["request_throughput_covered"]]
        return dict(zip(("2000", "5000", "500", "8000"), found, strict=True)), missed

    errors, missed = levels_of("pack_p1xtp1-d1xtp1")
    assert np.mean(errors["5000"]) < 0.04 and np.mean(list(errors.values())) < 0.03 and not missed
    errors, missed = levels_of("2xtp1")
    assert np.mean(list(errors.values())) < 0.045 and not missed


def test_without_a_pd_run_pd_is_predicted_where_it_is_asked_for(one_engine, capsys, tmp_path):
    asked = ("recommend", one_engine, "--sla", "tpot=8,ttft=1000", "--gpus", "4", "--json", tmp_path / "r.json")
    printed, lacking = said(capsys, *asked), "a PD run whose prefill TP is equal to its decode TP"
    assert "p1xtp1" not in printed and f"left out: 5 PD layouts, for want of {lacking}: --extrapolate adds them\n" in printed
    ratios = ("1xtp1-d1", "1xtp1-d2", "1xtp1-d3", "2xtp1-d1", "3xtp1-d1")
    left_out = {"layouts": [f"p{ratio}xtp1" for ratio in ratios], "lacking": [lacking]}
    assert json.loads((tmp_path / "r.json").read_text())["left_out"] == left_out
    printed = said(capsys, *asked, "--extrapolate")
    assert "left out" not in printed
    assert "outside what was measured, where intervals may not hold: p1xtp1-d1xtp1: lacks a PD run" in printed
    remark, command = next(pair for pair in pairwise(printed.splitlines()) if "--layout p1xtp1-d1xtp1 " in pair[1])
    assert remark == "# p1xtp1-d1xtp1 needs a node with 2 GPUs, the runs' have 1: name its file"
    assert "h200-x1" not in command and " --hardware '<file of a node with 2 GPUs>' && ./run_bm.sh " in command
    assert "#" not in command and " --model configs/models/gpt-oss-20b-shape.yaml " in command


def test_a_layout_that_a_node_of_the_runs_holds_is_launched_with_its_hardware(one_engine, capsys):
    printed = said(capsys, "recommend", one_engine, "--sla", "tpot=8,ttft=1000", "--gpus", "4")
    assert "--hardware configs/hardware/h200-x1.yaml && " in printed and "#" not in printed


def test_prefill_alone_says_nothing_of_decode(root, capsys, tmp_path):
    line = refused(capsys, "fit", *runs_of_20b(ENGINE[1]), "-o", tmp_path / "m.json")
    assert "has prefill alone: nothing says how long a decode step takes; add a mixed run" in line
    assert not list(tmp_path.iterdir())


def test_the_whole_way_on_our_own_runs_of_real_engines(tmp_path, capsys):
    """Three arms of the CPU stack fitted, a fourth predicted; the errors are those that docs/planner.md names."""
    runs = {name: next((ROOT / "bm_results").glob(f"*_cpu_planner_{name}")) for name in ("1xtp1", "1xtp2", "pack_*", "2xtp1")}
    model = tmp_path / "model.json"
    plan.main(["fit", *(str(runs[name]) for name in ("1xtp1", "1xtp2", "pack_*")), "-o", str(model)])
    engine = json.loads(model.read_text())["engine"]
    assert (engine["experts"], engine["active"], engine["kv_tokens"]) == (4, 2, {"1": 1_474_920}), "by the manifests"
    (row,) = (line.split() for line in said(capsys, "check", model, runs["2xtp1"]).splitlines() if line.startswith(" 2xtp1 "))
    text = re.search(r"2xtp1 predicted from .*:\n([\d.]+)% of requests/s, (\d+)% of mean TPOT, (\d+) and (\d+)% of TTFT, "
                     r"(\d+)% of the longest ITL and (\d+)% of p99", (ROOT / "docs/planner.md").read_text())  # fmt: skip
    errors = [float(word.rstrip("%")) for word in row[2:]]
    assert errors == pytest.approx([*(float(number) for number in text.groups()), 100], abs=1)

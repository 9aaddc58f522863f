"""Fits to runs that the simulator made: what is found, what is kept, and which runs are refused."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pdbench.configs import ROOT
from pdbench.layout import Layout
from pdbench.planner import calibration
from pdbench.planner.costs import HOLD, Engine
from pdbench.planner.fitting import Fitter
from pdbench.planner.model import LEAST, LEAST_WAITS, Errors, Model, PlanError, missing, quantile
from pdbench.planner.predicting import check, predict
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.replicas import FITTED as FITTED_COLUMNS
from pdbench.planner.runs import Run
from pdbench.planner.simulator import Workload
from tests.helpers.planning_runs import LEVELS, TRUE, write_run

FITTED = ("2xtp2", "p1xtp2-d1xtp2", "p1xtp1-d1xtp2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_folder, level_content):
    root = tmp_path_factory.mktemp("runs")
    return {name: write_run(root, name, write_folder, level_content) for name in (*FITTED, "p1xtp2-d2xtp2", "4xtp2")}


def model_of(folders, **options):
    study = calibration.read(list(folders))
    runs, stack = calibration.runs_of(study, False), calibration.stack_of(study)
    return calibration.make_model(study, runs, calibration.engine_of(study, {}, None), stack)


@pytest.fixture(scope="module")
def model(folders):
    return model_of([folders[name] for name in FITTED])


def test_layouts_that_were_not_used_are_predicted(model, folders):
    """The runs come of the model itself, with unseen seeds: what is left is what its fit misses."""
    study = calibration.read([folders["p1xtp2-d2xtp2"], folders["4xtp2"]])
    for one in check(model, calibration.runs_of(study, False)):
        throughput, tpot, ttft = one.errors[:, :3].mean(0)
        assert throughput < 0.04 and tpot < 0.04 and ttft < 0.12, one.run.layout
        assert np.nanmean(one.covered) > 0.85


def test_parameters_that_the_runs_inform_are_found(model):
    for name in ("prefill_tp2", "prefill_tp1", "step_tp2"):
        assert model.parameters[name] == pytest.approx(TRUE[name], rel=0.1), name
    assert model.parameters[HOLD] == pytest.approx(TRUE[HOLD], rel=0.15)


def test_ttft_counts_less_where_requests_are_shared_out_by_memory():
    """That differs from launch to launch. One replica of a role leaves nothing to share out."""
    weights = {}
    for layout, ingress in (("2xtp1", 4), ("2xtp1", 0), ("1xtp1", 4), ("p1xtp1-d1xtp1", 4)):
        workload, measured = Workload(5000, 250, ingress=ingress), np.ones((1, len(COLUMNS)))
        run = Run("one", layout, Layout.parse(layout), workload, ((4, 20),), measured, ())
        weights[layout, ingress] = dict(zip(FITTED_COLUMNS, Fitter([run], Engine())._weights(run)[0], strict=True))
    apart = weights.pop(("2xtp1", 4))
    one, *others = weights.values()
    assert all(other == one for other in others)
    assert {name for name in one if apart[name] != one[name]} == {"mean_ttft_ms", "median_ttft_ms"}
    assert apart["mean_ttft_ms"] < one["mean_ttft_ms"]


def test_a_model_says_what_it_was_fitted_to(model):
    assert model.layouts == list(FITTED) and model.workloads == ["5000:250"] and model.levels == (LEVELS[0], LEVELS[-1])
    assert model.most_running == 16 and not model.as_published and not model.stack and model.engine.experts == 128


def test_a_model_is_read_back_as_it_was_written(model, tmp_path):
    model.write(tmp_path / "model.json")
    assert Model.read(tmp_path / "model.json") == model


def test_few_layouts_have_wide_intervals(model):
    """With three layouts none can say how far others are missed."""
    assert not model.left_out
    for column in LEAST:
        assert model.width(column, 4) >= np.log(LEAST[column])
    for is_pd in (False, True):
        assert model.width("max_itl_ms", 4, is_pd) >= np.log(LEAST_WAITS[is_pd]["max_itl_ms"])


def test_the_interval_at_a_level_is_made_of_errors_near_to_it(model):
    errors = [Errors(layout="1xtp2", level=level, ratios={"mean_tpot_ms": ratio})
              for level, ratio in ((1, 0.5), (2, -0.1), (4, 0.1), (64, 0.9))]  # fmt: skip
    made = model.model_copy(update={"errors": errors, "left_out": True})
    assert made.width("mean_tpot_ms", 2) == 0.5 and made.width("mean_tpot_ms", 64) == 0.9
    assert made.interval("mean_tpot_ms", 2, 10.0) == pytest.approx((10 * np.exp(-0.5), 10 * np.exp(0.5)))


def test_a_quantile_counts_the_one_that_is_to_come():
    assert quantile([0.1, -0.2, 0.3]) == 0.3  # of three nothing less holds 90%
    assert quantile([i / 100 for i in range(1, 100)]) == 0.9  # ceil(0.9 * 100) = the 90th of 99


def test_what_lies_outside_is_named(model):
    workload = Workload(1000, 250)
    found = predict(model, Layout.parse("p1xtp2-d1xtp1"), [64], workload)[0].outside
    assert found == (
        "lacks a run that decodes at TP1", "lacks a PD run whose prefill TP is above its decode TP",
        "level 64, fitted to 2 to 16", "lengths 1000:250, fitted to 5000:250",
    )  # fmt: skip
    assert predict(model, Layout.parse("p1xtp2-d2xtp2"), [16], Workload(5000, 250))[0].outside == ()


@pytest.mark.parametrize(
    ("layout", "known", "lacks"),
    [
        ("4xtp2", ("2xtp2",), []),
        ("4xtp2", ("p1xtp2-d1xtp2",), ["a collocated run"]),
        ("1xtp4", ("2xtp2",), ["a run that prefills at TP4", "a run that decodes at TP4"]),
        ("p1xtp1-d1xtp2", ("8xtp1", "p1xtp2-d1xtp2"), ["a PD run whose prefill TP is below its decode TP"]),
        ("p1xtp2-d1xtp2", ("2xtp2",), ["a PD run whose prefill TP is equal to its decode TP"]),
        ("p2xtp2-d1xtp4", ("p1xtp2-d1xtp4",), []),
    ],
)
def test_which_runs_a_layout_needs(layout, known, lacks):
    assert missing(Layout.parse(layout), map(Layout.parse, known)) == lacks


def refusal(call, *args):
    with pytest.raises(PlanError) as raised:
        call(*args)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_run_with_fewer_in_flight_than_replicas_is_fitted(folders):
    study = calibration.read([folders["4xtp2"]], [2])
    made = calibration.make_model(study, calibration.runs_of(study, False), calibration.engine_of(study, {}, None), {})
    assert made.most_running == 1 and made.levels == (2, 2)


def test_a_run_of_prefill_alone_informs_prefill_alone(folders, write_folder, level_content, tmp_path):
    name = "gptoss_itl5000_otl250_prefill-only_1xtp1"
    levels = {f"conc{n}.json": level_content(n, None, 20 * n, 5000, 1, 18.0, mean_ttft_ms=900.0) for n in (2, 4, 32)}
    alone = write_folder(tmp_path, name, levels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a single token has no TPOT
        made = model_of([folders["2xtp2"], alone])
    assert (made.layouts, made.prefilled, made.sizes, made.workloads) == (["2xtp2"], ["1xtp1"], [1, 2], ["5000:250"])
    assert made.levels == (2, 16) and made.most_running == 8, "of the run that decodes"
    assert {error.layout for error in made.errors} == {"2xtp2"}
    assert made.lacks(Layout.parse("p1xtp1-d1xtp2")) == ["a PD run whose prefill TP is below its decode TP"]
    assert made.lacks(Layout.parse("1xtp1")) == ["a run that decodes at TP1"]


def test_replayed_prompts_have_to_be_said(folders):
    """The audit finds that a manifest is missing which would say with which seed each level was asked."""
    study = calibration.read([folders["2xtp2"]])
    line = refusal(calibration.runs_of, study, None)
    assert "mixed_2xtp2: no manifest says whether its levels replayed prompts" in line and "--as-published" in line


def with_manifest(root, layout, write_folder, level_content, make_manifest, **deployment):
    folder = write_run(root, layout, write_folder, level_content)
    parsed = Layout.parse(layout)
    mode = "pd-pack" if parsed.is_pd else "collocated"
    manifest = make_manifest(layout, mode, 5000, 250, gpus=parsed.gpus, **deployment)
    return folder, manifest.model_copy(update={"model": "gptoss"})


@pytest.mark.parametrize(
    ("what", "other", "line"),
    [
        ("accelerator", {"accelerator": "H200"}, "runs of different accelerators in one fit: CPU, H200"),
        ("weights", {"model_checksum": "b"}, "model_checksum a, but this is model_checksum b"),
        ("engine", {"llm_configs": {"collocated": {"engine_kwargs": {"max_num_seqs": 8}}}}, "engines' max_num_seqs"),
    ],
)
def test_runs_of_different_stacks_are_refused(what, other, line, tmp_path, write_folder, level_content, make_manifest):
    same = {"model_checksum": "a"}
    for layout, changed in (("2xtp2", {}), ("4xtp2", other)):
        folder, manifest = with_manifest(tmp_path, layout, write_folder, level_content, make_manifest, **same | changed)
        manifest.write(folder)
    study = calibration.read(sorted(tmp_path.iterdir()))
    assert line in refusal(calibration.stack_of, study)


def test_replayed_and_unseen_prompts_are_not_fitted_together(tmp_path, write_folder, level_content, make_manifest):
    for layout, replayed in (("2xtp2", False), ("4xtp2", True)):
        folder, manifest = with_manifest(tmp_path, layout, write_folder, level_content, make_manifest)
        manifest.model_copy(update={"as_published": replayed}).write(folder)
    study = calibration.read(sorted(tmp_path.iterdir()))
    assert "as_published" in refusal(calibration.stack_of, study)


def test_options_that_contradict_manifests_are_refused(tmp_path, write_folder, level_content, make_manifest):
    folder, manifest = with_manifest(tmp_path, "2xtp2", write_folder, level_content, make_manifest)
    manifest.write(folder)
    study = calibration.read([folder])
    assert refusal(calibration.runs_of, study, True) == "--as-published: the manifests say otherwise"
    assert [run.workload.as_published for run in calibration.runs_of(study, None)] == [False]


def test_what_is_recommended_is_launched_as_the_runs_were(tmp_path, write_folder, level_content, make_manifest):
    command = "python launch_gptoss.py --mode collocated --layout 2xtp2 --model 'a b.yaml' --hardware h.yaml --port 8000"
    folder, manifest = with_manifest(tmp_path, "2xtp2", write_folder, level_content, make_manifest, command=command)
    manifest.write(folder)
    assert calibration.launch_options(calibration.read([folder])) == ["--model", "a b.yaml", "--hardware", "h.yaml"]


def test_of_runs_on_several_sizes_of_nodes_the_largest_is_launched_on():
    """A recommended layout may fill such a node, which the file of one with fewer GPUs does not describe."""
    runs = [
        ROOT / f"bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_{of}" for of in ("h200x1_120b_1xtp1", "h200x2_120b_1xtp2")
    ]
    for order in (runs, runs[::-1]):
        assert calibration.launch_options(calibration.read(order))[-2:] == ["--hardware", "configs/hardware/h200-x2.yaml"]


def test_a_folder_without_manifest_beside_others_is_refused(tmp_path, write_folder, level_content, make_manifest):
    folder, manifest = with_manifest(tmp_path, "2xtp2", write_folder, level_content, make_manifest)
    manifest.write(folder)
    write_run(tmp_path, "4xtp2", write_folder, level_content)
    assert "mixed_4xtp2: no manifest: " in refusal(calibration.read, sorted(tmp_path.iterdir()))


def test_runs_placed_differently_are_refused(tmp_path, write_folder, level_content):
    for name in ("pack_p1xtp2-d1xtp2", "spread_p1xtp2-d2xtp2"):
        write_run(tmp_path, name.split("_")[1], write_folder, level_content, name=name)
    study = calibration.read(sorted(tmp_path.iterdir()))
    for purpose in ("fit", "check"):
        line = f"runs with P and D placed differently in one {purpose}: pack, spread: {purpose} each of them alone"
        assert refusal(calibration.stack_of, study, purpose) == line


def test_request_rates_and_decode_alone_are_refused(tmp_path, write_folder, level_content):
    rate = write_folder(tmp_path, "gptoss_itl100_otl11_mixed_2xtp2", {"rr2.json": level_content(None, 2.0)})
    assert "has request rates" in refusal(calibration.read, [rate])
    decode = write_folder(tmp_path, "gptoss_itl1_otl11_decode-only_2xtp2", {"conc4.json": level_content(4, isl=1)})
    assert "is decode-only" in refusal(calibration.read, [decode])


@pytest.mark.parametrize("model", ["llama", "gpt-oss-200b"])
def test_an_unknown_model_needs_its_experts(tmp_path, write_folder, level_content, model):
    folder = write_folder(tmp_path, f"{model}_itl100_otl11_mixed_2xtp2", {"conc4.json": level_content()})
    study = calibration.read([folder])
    assert f"how many experts has {model}? give --experts" in refusal(calibration.engine_of, study, {}, None)
    assert calibration.engine_of(study, {}, (1, 1)).experts == 1


class Made:
    """A study of runs whose manifests say these of their deployments."""

    def __init__(self, *deployments, model="llama"):
        self.table = pd.DataFrame({"model": [model]})
        manifests = [
            SimpleNamespace(
                deployment=SimpleNamespace(**{"made": None, "accelerator": "H100", "llm_configs": {}, "identity": {}} | one)
            )
            for one in deployments
        ]
        self.folders = {str(n): SimpleNamespace(manifest=manifest) for n, manifest in enumerate(manifests)}


def pd_of(layout, **tokens):
    return {"layout": layout, "kv_tokens": tokens or None}


def test_block_pools_are_those_of_the_manifests_smallest_pd_replicas():
    study = Made(pd_of("p1xtp1-d1xtp2", prefill=70_000, decode=900_000), pd_of("p2xtp1-d1xtp1", prefill=69_000, decode=68_000),
                 pd_of("2xtp2", collocated=1_900_000), pd_of("p1xtp4-d1xtp4"), model="gptoss")  # fmt: skip
    assert calibration.engine_of(study, {4: 5_000_000}, None).kv_tokens == {1: 68_000, 2: 900_000, 4: 5_000_000}
    assert "--kv-tokens 1=70000: the manifests say 68000: leave it out" in refusal(
        calibration.engine_of, study, {1: 70_000}, None
    )


def test_graphs_are_those_of_the_manifests_and_must_be_readable():
    config = {"collocated": {"engine_kwargs": {"compilation_config": {"cudagraph_capture_sizes": [1, 6]}}}}
    assert calibration.engine_of(Made(pd_of("2xtp1") | {"llm_configs": config}, model="gptoss"), {}, None).graphs == (1, 6)
    config["collocated"]["engine_kwargs"]["compilation_config"]["cudagraph_capture_sizes"] = "six"
    study = Made(pd_of("2xtp1") | {"llm_configs": config}, model="gptoss")
    assert "the manifests: the engines' compilation_config: cudagraph_capture_sizes: Input should be" in refusal(
        calibration.engine_of, study, {}, None
    )


@pytest.mark.parametrize(
    ("version", "given", "accelerator", "ahead"),
    [
        ("0.29.0", None, "H200", True),
        ("0.14.1", None, "H200", True),
        ("0.13.0", None, "H200", False),
        ("0.29.0", False, "H200", False),
        ("0.13.0", True, "H200", True),
        ("0.29.0+cpu", None, "CPU", False),
        (None, None, "H200", False),
    ],
)
def test_engines_schedule_ahead_as_their_version_and_arguments_say(version, given, accelerator, ahead):
    engine = {"engine_kwargs": {} if given is None else {"async_scheduling": given}}
    made = pd_of("p1xtp1-d1xtp1") | {"llm_configs": {"prefill": engine, "decode": {}}, "accelerator": accelerator}
    study = Made(made | {"identity": {"vllm": version} if version else {}}, model="gptoss")
    assert calibration.engine_of(study, {}, None).ahead == ahead


@pytest.mark.parametrize(
    ("made", "experts"),
    [({"experts": 32, "experts_per_token": 4}, (32, 4)), ({"num_experts": 4, "experts_per_token": 2}, (4, 2))],
)
def test_a_model_that_was_made_here_says_its_experts(made, experts):
    study = Made(pd_of("2xtp1"))
    study.folders["0"].manifest.deployment.made = made
    engine = calibration.engine_of(study, {}, None)
    assert (engine.experts, engine.active) == experts
    assert f"--experts 1:1: the manifests say {experts[0]}:{experts[1]}: leave" in refusal(
        calibration.engine_of, study, {}, (1, 1)
    )


def test_levels_that_no_run_has_are_refused(folders):
    assert "has none of the levels 99" in refusal(calibration.read, [folders["2xtp2"]], [99])

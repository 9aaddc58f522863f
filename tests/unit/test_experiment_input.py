"""What run_experiment.py refuses: files, options, and results of other settings."""

import functools
import json
import shlex
import subprocess
import sys

import pytest

import launch_gptoss
import run_experiment
from pdbench.configs import ROOT, ConfigError
from pdbench.measure import experiment_plan as plan
from pdbench.measure.experiment import load_experiment
from pdbench.measure.experiment_steps import folders, launch_of
from pdbench.nodes import cluster
from pdbench.serve.describe import described, planned_record
from pdbench.serve.options import resolve
from tests.helpers.small_experiment import SLOW, small_experiment

TWO = [{"isl": 100, "osl": 11}, {"isl": 7, "osl": 70}]


@pytest.fixture
def write(tmp_path):
    return functools.partial(small_experiment, tmp_path)


def test_a_block_beyond_the_last_is_reported(run_script, write):
    path = write(blocks=2)
    path.write_text(path.read_text().replace("repeats: 2\n", ""))
    done = run_script(path, "--block", "3")
    said = "run_experiment.py: error: --block 3: this experiment has 2 blocks, --blocks 3 adds more\n"
    assert (done.returncode, done.stderr) == (2, said)
    more = run_script(path, "--block", "3", "--blocks", "3", "--dry-run")
    assert more.returncode == 0 and "block 3" in more.stdout and "block 2" not in more.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repeat": 3}, "unknown key 'repeat': did you mean 'repeats'?"),
        ({"arms": [{"layot": "2xtp1"}]}, "unknown key 'arms.0.layot': did you mean 'layout'?"),
        ({"workload": {"isl": 1, "ols": 2}}, "unknown key 'workload.ols': did you mean 'osl'?"),
        ({"arms": [{"layout": "2tp1"}]}, "cannot read the layout '2tp1'"),
        ({"workload": None}, "give either workload or workloads"),
        ({"workloads": TWO}, "give either workload or workloads"),
        ({"workload": None, "workloads": [*TWO, TWO[0]]}, "workloads names 100:11 twice"),
        ({"workload": None, "workloads": [TWO[0], TWO[1] | {"phase": "prefill-only"}]}, "have one phase"),
        ({"arms": []}, "arms"),
        ({"arms": [{"layout": "2xtp1"}, {"layout": "2xtp1"}]}, "two arms are both 2xtp1: give one a name"),
        ({"arms": [{"layout": "p1xtp1-d1xtp1"}]}, "does not go with mode collocated"),
        ({"arms": [{"layout": "2xtp1", "ucx_tls": "tcp"}]}, "is collocated: it has no KV transfer"),
        ({"arms": [{"layout": "p1xtp1-d1xtp1", "mode": "pd-pack"}]}, "the first arm must be collocated"),
        (
            {"arms": [{"layout": "2xtp1", "phase": "decode-only"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack"}]},
            "the first arm must be collocated, not decode alone",
        ),
        (
            {"workload": {"isl": 7, "osl": 3, "phase": "decode-only"}},
            "arm pack_p1xtp1-d1xtp1: decode alone is measured collocated",
        ),
        (
            {"arms": [{"layout": "2xtp1"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack", "phase": "decode-only"}]},
            "arm decode-only_pack_p1xtp1-d1xtp1: decode alone is measured collocated",
        ),
        ({"arms": [{"layout": "2xtp1"}, SLOW | {"ucx_tls": None}]}, "link_mbit slows TCP down, so it needs ucx_tls: tcp"),
        ({"arms": [{"layout": "2xtp1", "link_mbit": 5}]}, "is collocated: it has no KV transfer"),
        ({"levels": {}}, "give either concurrency or request_rate"),
        ({"levels": {"concurrency": [1, 8], "num_prompts": 7}}, "num_prompts 7 cannot keep 8 in flight"),
        (
            {"levels": {"concurrency": [1], "num_prompts": 7}, "arms": [{"layout": "2xtp1", "phase": "decode-only"}]},
            "num_prompts: decode alone sends as many requests as are in flight, all at once: leave it out",
        ),
        ({"levels": {"concurrency": [1], "request_limit": 0}}, "request_limit: Input should be greater than 0"),
        ({"levels": {"concurrency": [1], "request_rate": [1]}}, "give either concurrency or request_rate"),
        ({"levels": {"concurrency": [0]}}, "levels.concurrency.0"),
        ({"levels": {"concurrency": [4, 8, 4]}}, "concurrency names a level twice"),
        ({"repeats": 0}, "repeats"),
        ({"blocks": 2}, "give either repeats or blocks"),
        ({"blocks": 0}, "blocks"),
        ({"local_gpus": 1}, "local_gpus is for a local cluster: give local_workers, too"),
        ({"local_workers": 2, "local_gpus": -1}, "local_gpus"),
    ],
)
def test_a_wrong_file_is_reported_in_one_line(write, changes, words):
    path = write(**changes)
    with pytest.raises(ConfigError) as reported:
        load_experiment(path)
    assert words in str(reported.value) and str(path) in str(reported.value) and "\n" not in str(reported.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arms", "3xtp1"], "no arm 3xtp1 in this experiment: there are 2xtp1, pack_p1xtp1-d1xtp1"),
        (["--levels", "2,3"], "no level 3 in this experiment: there are 1, 2"),
        (["--levels", ""], "--levels '' is not a list of numbers such as 4,8"),
        (["--arms", ""], "no arm  in this experiment: there are 2xtp1, pack_p1xtp1-d1xtp1"),
        (["--levels", "two"], "--levels 'two' is not a list of numbers such as 4,8"),
        (["--repeats", "0"], "--repeats must be at least 1, not 0"),
        (["--blocks", "-1"], "--blocks must be at least 1, not -1"),
        (["--minutes", "nan"], "--minutes must be at least 1, not nan"),
        (["--block", "0"], "--block must be at least 1, not 0"),
        (["--block", "1"], "--block 1: this experiment has no blocks"),
        (["--minutes", "5"], "--minutes is for experiments with blocks"),
        (["--repeats", "x"], "argument --repeats: invalid int value: 'x'"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(run_script, write, options, words):
    done = run_script(write(), *options)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("run_experiment.py: error: ") and words in done.stderr


def test_a_file_that_is_missing_names_those_that_are_there(tmp_path):
    command = [sys.executable, ROOT / "run_experiment.py", tmp_path / "none.yaml"]  # as a user would
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and "no such file" in done.stderr and "configs/experiments/network.yaml" in done.stderr


def test_a_figure_that_cannot_be_drawn_is_reported_before_anything_is_measured(run_script, write, tmp_path):
    path = write(figures=[["--show-itl"], ["--log-levels"]])
    done = run_script(path, "--results-dir", tmp_path / "results")
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "results").exists()
    assert done.stderr == f"run_experiment.py: {path}: figures: error: unrecognized arguments: --log-levels\n"


def test_an_option_that_no_figure_uses_is_reported_before_anything_is_measured(run_script, write, tmp_path):
    path = write(figures=[["--log-concurrency", "--show-tables"], ["--figure", "network", "--level", "2"]])
    done = run_script(path, "--results-dir", tmp_path / "results")
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "results").exists()
    expected = "error: --level goes with --figure latencies, timeline or shift"
    assert done.stderr == f"run_experiment.py: {path}: figures: {expected}\n"


def test_what_cannot_be_read_or_written_is_one_line(run_script, write, tmp_path):
    path, results = write(), tmp_path / "results"
    results.write_text("")
    done = run_script(path, "--results-dir", results)
    assert done.returncode == 2 and str(results) in done.stderr and done.stderr.count("\n") == 1
    results.unlink()
    results.mkdir()
    (results / f"{path.stem}_times.json").write_text("{")
    done = run_script(path, "--results-dir", results)
    assert done.returncode == 2 and done.stderr.startswith(f"run_experiment.py: error: {results}") and done.stdout == ""
    path = write(model="none.yaml")
    done = run_script(path, "--dry-run")
    assert done.returncode == 2 and "no such file: " in done.stderr and done.stderr.count("\n") == 1


OTHERS = [
    ({"as_published": True}, "run_bm.sh as_published False, but this is run_bm.sh as_published True"),
    ({"max_hit_rate": 0.5}, "run_bm.sh max_hit_rate None, but this is run_bm.sh max_hit_rate 0.5"),
    ({"hardware": "configs/hardware/h200-x2.yaml"}, "gpus_per_node"),
]


def test_levels_of_other_settings_are_refused_and_nothing_is_written(run_script, write, tmp_path, make_manifest):
    path, results = write(), tmp_path / "results"
    experiment = load_experiment(path)
    for arm in experiment.arms:
        record = planned_record(resolve(launch_gptoss.parse_args(launch_of(arm, experiment)[2:]), cluster.planned_nodes)[0])
        (place,) = folders(path.stem, arm, experiment, results)
        place.mkdir(parents=True)
        (sweep,) = (step for step in plan.steps_of(arm, path.stem, experiment, results, None) if step.what == "sweep")
        made = make_manifest(**record)
        made.model_copy(update={"commands": [shlex.join(sweep.command)]}).write(place)
    plan.check_unchanged(path.stem, experiment, results, run_experiment.launched_as)
    changed = [arm.model_copy(update={"ucx_tls": "tcp"} if arm.is_pd else {"env": {"OMP_NUM_THREADS": "7"}})
               for arm in experiment.arms]  # fmt: skip
    with pytest.raises(ValueError, match="transport ucx_tls None, but this is transport ucx_tls tcp") as caught:
        plan.check_unchanged(path.stem, experiment.model_copy(update={"arms": changed}), results, run_experiment.launched_as)
    assert 'collocated OMP_NUM_THREADS "1", but this is collocated OMP_NUM_THREADS "7"' in str(caught.value)
    for other, named in OTHERS:
        with pytest.raises(ValueError, match=named):
            plan.check_unchanged(path.stem, experiment.model_copy(update=other), results, run_experiment.launched_as)
    arm = place / "manifest.json"
    made = json.loads(arm.read_text())
    arm.write_text(json.dumps(made | {"deployment": made["deployment"] | {"model_source": "elsewhere"}}))
    with pytest.raises(ValueError, match="model_source elsewhere, but this is model_source"):
        plan.check_unchanged(path.stem, experiment, results, run_experiment.launched_as)
    arm.write_text(json.dumps(made | {"deployment": None}))
    with pytest.raises(ValueError, match="layout unknown, but this is layout p1xtp1-d1xtp1"):
        plan.check_unchanged(path.stem, experiment, results, run_experiment.launched_as)
    before = sorted(results.rglob("*"))
    done = run_script(write(hardware="configs/hardware/h200-x2.yaml"), "--results-dir", results)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"{results} holds levels of small with other settings: 2xtp1 (" in done.stderr
    assert sorted(results.rglob("*")) == before


def measured_as(experiment, results, make_manifest, **changes):
    """Write the manifest that the last arm has when it was measured; keywords change its deployment. Returns its path."""
    arm = experiment.arms[-1]
    launched, model = resolve(launch_gptoss.parse_args(launch_of(arm, experiment)[2:]), cluster.planned_nodes)
    (place,), (sweep,) = (
        plan.folders("small", arm, experiment, results), plan.sweeps_of(arm, "small", experiment, results, None)
    )  # fmt: skip
    place.mkdir(parents=True, exist_ok=True)
    made = make_manifest(**planned_record(launched) | described(model) | changes)
    made.model_copy(update={"commands": [shlex.join(sweep.command)]}).write(place)
    return place / "manifest.json"


def refused(experiment, results):
    with pytest.raises(ValueError, match="with other settings") as caught:
        plan.check_unchanged("small", experiment, results, run_experiment.launched_as)
    return str(caught.value)


def test_a_pool_whose_requests_were_routed_in_another_way_is_another_arm(write, tmp_path, make_manifest):
    arms = [{"layout": "2xtp1"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-pool"}]
    experiment, results = load_experiment(write(arms=arms)), tmp_path / "results"
    path = measured_as(experiment, results, make_manifest)
    plan.check_unchanged("small", experiment, results, run_experiment.launched_as)
    made = json.loads(path.read_text())
    del made["deployment"]["serving_path"]["pool_routing"]  # as before there was a choice
    path.write_text(json.dumps(made))
    assert "serving_path pool_routing" in refused(experiment, results)


def test_what_a_launch_rests_on_besides_its_options_is_compared(write, tmp_path, make_manifest):
    """The link's rate, pinned ranks, versions, the base seed, and what a model made here is made from."""
    experiment, results = load_experiment(write(arms=[{"layout": "2xtp1"}, SLOW])), tmp_path / "results"
    path = measured_as(experiment, results, make_manifest)
    plan.check_unchanged("small", experiment, results, run_experiment.launched_as)
    slower = experiment.arms[-1].model_copy(update={"link_mbit": 7})
    assert 'PDBENCH_LINK_MBIT "50", but this is prefill PDBENCH_LINK_MBIT "7"' in refused(
        experiment.model_copy(update={"arms": [experiment.arms[0], slower]}), results
    )
    made = json.loads(path.read_text())
    assert made["deployment"]["made"]["hidden_size"] > 0
    path.write_text(json.dumps(made | {"base_seed": 7}))
    assert "run_bm.sh seed 7, but this is run_bm.sh seed 0" in refused(experiment, results)
    measured_as(experiment, results, make_manifest, core_per_rank=False)
    assert "core_per_rank False, but this is core_per_rank True" in refused(experiment, results)
    for name in ("hidden_size", "seed"):
        measured_as(experiment, results, make_manifest, made=made["deployment"]["made"] | {name: 96})
        assert f'"{name}": 96' in refused(experiment, results)
    machine = made["deployment"]["machines"][0]
    measured_as(experiment, results, make_manifest, machines=[machine | {"versions": {"vllm": "0.11.0"}}])
    assert "vllm 0.11.0, but this is vllm " in refused(experiment, results)
    measured_as(experiment, results, make_manifest, made=None, core_per_rank=None)
    plan.check_unchanged("small", experiment, results, run_experiment.launched_as)

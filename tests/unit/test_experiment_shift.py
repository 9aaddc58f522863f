"""Experiments whose load shifts, and arms whose roles a controller moves: what their files may say, and what is planned."""

import json

import pytest
import yaml

from pdbench.configs import ROOT, ConfigError
from pdbench.layout import Layout
from pdbench.manifest import FILENAME, Manifest
from pdbench.measure.experiment import load_experiment, select
from pdbench.measure.experiment_plan import check_unchanged, launch_settings, machines, rounds, script
from pdbench.measure.experiment_steps import figure_steps, folders
from tests.helpers.shifting import write_level
from tests.helpers.small_experiment import SMALL, small_experiment

TWO = [{"isl": 100, "osl": 11, "request_rate": 4, "seconds": 5}, {"isl": 20, "osl": 31, "request_rate": 2, "seconds": 5}]
TEXT = "100:11:4:5,20:31:2:5"
POOL = {"layout": "p1xtp1-d2xtp1", "mode": "pd-pool"}
CONTROLLED = POOL | {"control": "ttft=3000,tpot=60"}
ARMS = [{"layout": "3xtp1"}, POOL, {"layout": "p2xtp1-d1xtp1", "mode": "pd-pool"}, CONTROLLED]
SHIFTS = {
    "workload": {"phases": TWO}, "levels": {"load": [0.5, 1]}, "repeats": 2, "arms": ARMS,
    "figures": [["--figure", "shift", "--sla", "ttft=3000,tpot=60"]],
}  # fmt: skip


def loaded(tmp_path, **changes):
    return load_experiment(small_experiment(tmp_path, **SHIFTS | changes))


def commands(name, experiment, results, what):
    """By label of each arm its only step of this kind."""
    every = rounds(name, experiment, results)
    return {one.arm.label: step.command for one in every for step in one.steps if step.what == what}


def test_phases_are_swept_as_they_are_written_and_as_often_as_the_cycles_say(tmp_path):
    experiment = loaded(tmp_path, workload={"phases": TWO, "cycles": 2})
    (asked,) = experiment.asked
    assert (asked.isl, asked.osl, asked.phase) == (100, 31, "shift")
    sweep = commands("x", experiment, tmp_path, "sweep")["pool_p1xtp1-d2xtp1"]
    assert sweep[3:8] == ["--phases", f"{TEXT},{TEXT}", "--load", "0.5,1", "--tokens"] and "--isl" not in sweep
    (path,) = folders("x", experiment.arms[1], experiment, tmp_path)
    assert path.name == "gpt-oss-tiny_itl100_otl31_shift_x_pool_p1xtp1-d2xtp1"


def test_a_trace_is_swept_from_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr("pdbench.measure.workloads.ROOT", tmp_path)
    (tmp_path / "mine.jsonl").write_text('{"timestamp": 5, "input_length": 7, "output_length": 3}\n')
    experiment = loaded(tmp_path, workload={"trace": "mine.jsonl"})
    assert (experiment.asked[0].isl, experiment.asked[0].osl) == (7, 3)
    assert experiment.asked[0].options == ["--trace", "mine.jsonl"]


def test_a_controller_is_started_between_the_check_and_the_sweep_in_a_launch_of_its_own(tmp_path):
    experiment = loaded(tmp_path)
    moved = next(one for one in rounds("x", experiment, tmp_path) if one.arm.control)
    assert moved.arm.label == "pool_p1xtp1-d2xtp1_control"
    assert [step.what for step in moved.steps] == ["launch", "check", "control", "sweep"]
    assert moved.steps[2].command == ["python", "launch_gptoss.py", "--control", "ttft=3000,tpot=60"]
    assert experiment.arms[1].shares_pool(experiment.arms[2]) and not experiment.arms[2].shares_pool(experiment.arms[3])
    text = script("x", experiment, tmp_path)
    assert text.count("launch_gptoss.py --mode pd-pool") == 2, "one launch of both fixed ratios, and one of the controller's"


def test_what_is_measured_is_not_planned_again(tmp_path, make_manifest, speed_record):
    experiment = loaded(tmp_path, repeats=1)
    one = next(one for one in rounds("x", experiment, tmp_path) if one.arm.label == "pool_p1xtp1-d2xtp1")
    assert machines("x", one, experiment, tmp_path) is None
    (folder,) = folders("x", one.arm, experiment, tmp_path)
    manifest = make_manifest("p1xtp1-d2xtp1", "pd-pool", isl=100, osl=31, phase="shift")
    for load in (0.5, 1):
        write_level(folder, f"shift{load:g}", load=load)
    requests = {"shift0.5": 15, "shift1": 30}
    manifest.levels = [speed_record(stem, 1).model_copy(update={"num_prompts": n}) for stem, n in requests.items()]
    manifest.write(folder)
    assert machines("x", one, experiment, tmp_path) == []
    other = loaded(tmp_path, repeats=1, workload={"phases": [TWO[0], TWO[1] | {"request_rate": 3}]})
    assert machines("x", one, other, tmp_path) is None, "35 requests instead of 30"


def test_results_of_other_phases_or_bounds_are_not_continued(tmp_path, make_manifest):
    experiment = loaded(tmp_path, arms=[ARMS[0], CONTROLLED])
    arm = experiment.arms[1]
    (folder,) = folders("x", arm, experiment, tmp_path)
    bounds = {"ttft_ms": 3000.0, "tpot_ms": 60.0, "tick_s": 1.0}
    manifest = make_manifest("p2xtp1-d1xtp1", "pd-pool", isl=100, osl=31, phase="shift", gpus=3, controller=bounds)
    (sweep,) = [commands("x", experiment, tmp_path, "sweep")[arm.label]]
    manifest.commands = [" ".join(sweep)]
    manifest.write(folder)

    def launched(command):
        """What the launch of the manifest would be, before a controller moved its roles."""
        layout = command[command.index("--layout") + 1]
        record = json.loads(Manifest.read(folder).deployment.model_dump_json())
        return launch_settings(record | {"controller": None, "layout": str(Layout.parse(layout))})

    check_unchanged("x", experiment, tmp_path, launched)
    longer = {"phases": [TWO[0], TWO[1] | {"seconds": 6}]}
    with pytest.raises(ValueError, match=f"shift {TEXT}, but this is run_bm.sh shift {TEXT[:-1]}6"):
        check_unchanged("x", loaded(tmp_path, arms=[ARMS[0], CONTROLLED], workload=longer), tmp_path, launched)
    tighter = CONTROLLED | {"control": "ttft=2000,tpot=60"}
    with pytest.raises(ValueError, match="controller .*3000.*, but this is controller .*2000"):
        check_unchanged("x", loaded(tmp_path, arms=[ARMS[0], tighter]), tmp_path, launched)


def test_figures_of_levels_that_were_not_selected_are_not_drawn(tmp_path):
    of = lambda level: [*SHIFTS["figures"][0], "--level", level]  # noqa: E731
    experiment = loaded(tmp_path, figures=[of("1"), of("0.5")])
    assert len(figure_steps("x", experiment, tmp_path)) == 2
    (step,) = figure_steps("x", select(experiment, None, [0.5]), tmp_path)
    assert step.command[-3:] == ["0.5", "--plot-path", str(tmp_path / "x.png")]


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"workload": {"phases": []}}, "phases"),
        ({"workload": {"phases": [TWO[0] | {"seconds": 0}]}}, "seconds must be above 0"),
        ({"workload": {"phases": [TWO[0] | {"request_rate": 0}]}}, "requests/s must be above 0"),
        ({"workload": {"phases": [TWO[0] | {"osl": 1}]}}, "OSL is 1, and must be at least 2"),
        ({"workload": {"phases": [TWO[0] | {"rate": 1}]}}, "unknown key"),
        ({"workload": {"phases": [{"isl": 1, "osl": 2, "seconds": 3}]}}, "request_rate"),
        ({"workload": {"phases": TWO, "isl": 5}}, "isl is of requests that are all alike"),
        ({"workload": {"phases": TWO, "phase": "prefill-only"}}, "phase is of requests that are all alike"),
        ({"workload": {"phases": TWO, "trace": "x"}}, "either phases or a trace"),
        ({"workload": {"phases": TWO, "cycles": 0}}, "cycles"),
        ({"workload": {"trace": "nowhere.jsonl"}}, "trace nowhere.jsonl: No such file or directory"),
        ({"workload": {"isl": 5, "osl": 5, "cycles": 2}}, "cycles is of phases"),
        ({"workload": {"isl": 5}}, "osl is missing: give isl and osl, or phases, or a trace"),
        ({"workload": {"isl": 5, "osl": 5, "phase": "shift"}}, "phase shift is that of phases or a trace"),
        ({"workload": {"isl": 5, "osl": 5}}, "load of levels goes with phases or a trace"),
        ({"levels": {"concurrency": [4]}}, "load of levels goes with phases or a trace"),
        ({"levels": {"load": [1], "concurrency": [4]}}, "either concurrency or request_rate, or load"),
        ({"levels": {"load": [0]}}, "greater than 0"),
        ({"levels": {"load": [0.001]}}, "has no request at load 0.001"),
        ({"levels": {"load": [1], "num_prompts": 5}}, "num_prompts is of requests that are all alike"),
        ({"as_published": True}, "as_published is of requests that are all alike"),
        ({"figures": [["--show-decision"]]}, "load that shifts is drawn by [--figure, shift, --sla"),
        ({"figures": [["--figure", "shift"]]}, "load that shifts is drawn by [--figure, shift, --sla"),
        ({"arms": [ARMS[0], POOL | {"phase": "prefill-only"}]}, "no arm has a phase of its own"),
        ({"arms": [ARMS[0], POOL | {"control": "fast"}]}, "give both bounds in ms once"),
        ({"arms": [ARMS[0] | {"control": "ttft=1,tpot=1"}]}, "control is of mode pd-pool"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(tmp_path, changes, named):
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, **changes)
    assert named in str(error.value) and "\n" not in str(error.value) and "small.yaml" in str(error.value)


def test_requests_that_are_all_alike_are_as_before(tmp_path):
    experiment = load_experiment(small_experiment(tmp_path))
    assert experiment.asked[0].options == ["--isl", "100", "--osl", "11"] and experiment.asked[0].shift is None
    assert not (tmp_path / FILENAME).exists() and SMALL["workload"] == {"isl": 100, "osl": 11}


def test_the_file_for_two_cores_asks_of_its_figures_what_it_asks_of_its_controller():
    text = yaml.safe_load((ROOT / "configs/experiments/cpu_shift.yaml").read_text())
    (control,) = {arm["control"] for arm in text["arms"] if "control" in arm}
    assert {options[options.index("--sla") + 1] for options in text["figures"]} == {control}

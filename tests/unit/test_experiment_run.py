"""What a run of an experiment does when an arm fails or was measured already; its commands are recorded, not run."""

import functools
import json
import subprocess
import time

import pytest
from packaging.version import Version

from pdbench.manifest import LevelRecord, Manifest
from pdbench.measure import experiment_plan as plan
from pdbench.measure import experiment_run
from pdbench.measure import experiment_steps as steps
from pdbench.measure.experiment import Arm, load_experiment
from pdbench.measure.experiment_run import Run
from pdbench.measure.experiment_steps import Step, tokens_file
from pdbench.measure.experiment_times import measured_seconds
from pdbench.network import slow_link
from pdbench.workload import Level
from tests.helpers.recorded_run import Recorded
from tests.helpers.small_experiment import ARMS, SLOW, small_experiment


@pytest.fixture
def write(tmp_path):
    return functools.partial(small_experiment, tmp_path)


DOCTOR = (None, "doctor")
WHOLE = [(arm, what) for arm in ARMS for what in ("launch", "check", "sweep", "stop")]


@pytest.fixture
def run(write, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment_run, "measured_seconds", lambda *args: 0.0)  # nothing is measured
    return Recorded(load_experiment(write()), tmp_path / "results")


def test_a_run_measures_every_arm_then_draws(run):
    run.all()
    assert run.ran == [DOCTOR, *WHOLE, (None, "figure")] and run.failed == {}
    assert not run.running.exists()


def test_on_ill_nodes_nothing_is_measured_and_the_cluster_is_stopped(run):
    run.fails = {DOCTOR}
    with pytest.raises(subprocess.CalledProcessError):
        on_local_cluster(run).all()
    assert run.ran == [(None, "cluster"), DOCTOR, (None, "cluster")] and not run.running.exists()


def test_without_the_doctor_neither_the_run_nor_a_launch_asks_it(run):
    script = plan.script("small", run.experiment, run.results)
    assert script.count("debug/doctor.py --quick --brief\n") == 1 and "--no-doctor" not in script
    assert script.index("doctor.py") < script.index("launch_gptoss.py")
    run.experiment = run.experiment.model_copy(update={"doctor": False})
    script = plan.script("small", run.experiment, run.results)
    assert "doctor.py" not in script and script.count("--no-doctor") == script.count("--layout") == 2
    run.all()
    assert run.ran == [*WHOLE, (None, "figure")]


def test_one_arms_failure_does_not_lose_the_others(run):
    run.fails = {("pack_p1xtp1-d1xtp1", "check")}
    run.experiment.arms.append(Arm(layout="1xtp1"))
    run.all()
    assert run.failed == {"pack_p1xtp1-d1xtp1": "check exited with 1"}
    assert run.ran[5:8] == [(ARMS[1], "launch"), (ARMS[1], "check"), (ARMS[1], "stop")], "stopped, and not measured"
    assert [what for arm, what in run.ran if arm == "1xtp1"] == ["launch", "sweep", "stop"]
    assert (None, "figure") not in run.ran


def test_without_the_collocated_tokens_no_pd_arm_is_launched(run):
    run.fails = {("2xtp1", "launch")}
    run.all()
    assert "small_tokens.json is missing: a collocated arm must be measured first" in run.failed[ARMS[1]]
    assert run.ran == [DOCTOR, ("2xtp1", "launch"), ("2xtp1", "stop")]


def test_an_arm_that_cannot_be_measured_here_is_left_out_and_named(run, monkeypatch, capfd):
    monkeypatch.setattr(experiment_run, "vllm_version", lambda: Version("0.13.0"))
    run.experiment.arms[1] = run.experiment.arms[1].model_copy(update={"needs_vllm": "0.14"})
    run.all()
    assert run.left_out == {ARMS[1]: "needs vLLM 0.14, here is 0.13.0"} and run.failed == {}
    assert run.ran == [DOCTOR, *WHOLE[:4], (None, "figure")]
    assert ARMS[1] not in " ".join(run.drawn.command) and ARMS[0] in " ".join(run.drawn.command)
    run.report()
    assert f"small: left out: {ARMS[1]}: needs vLLM 0.14, here is 0.13.0" in capfd.readouterr().out


def test_a_link_that_cannot_be_slowed_leaves_its_arm_out(write, tmp_path, monkeypatch):
    run = Recorded(load_experiment(write(arms=[{"layout": "2xtp1"}, SLOW])), tmp_path / "results")
    monkeypatch.setattr(experiment_run, "measured_seconds", lambda *args: 0.0)
    monkeypatch.setattr(slow_link, "is_slow", lambda: False)
    monkeypatch.setattr(slow_link, "why_not", lambda: "no tc here")
    run.all()
    assert run.left_out == {"spread_p1xtp1-d1xtp1_slow": "no tc here"} and (None, "figure") in run.ran
    monkeypatch.setattr(slow_link, "why_not", lambda: None)
    again = Recorded(run.experiment, tmp_path / "other")
    again.all()
    assert [what for _, what in again.ran[5:]] == ["link", "launch", "check", "sweep", "stop", "link", "figure"]


def measure(run, make_manifest, arm, stems, workload=0):
    """What run_bm.sh leaves of levels that count."""
    folder = steps.folders("small", arm, run.experiment, run.results)[workload]
    folder.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest()
    known = {"command": "vllm bench serve", "launched": "now", "seed": 1, "warmup_seed": 2}
    known |= {"started": "now", "ended": "now", "ok": True}
    asked = {stem: Level.from_filename(f"{stem}.json").num_prompts() for stem in stems}
    manifest.levels = [LevelRecord(level=stem, num_prompts=n, **known) for stem, n in asked.items()]
    manifest.write(folder)
    for stem in stems:
        (folder / f"{stem}.json").write_text("{}")
    return folder


def test_what_was_measured_is_not_launched_again(run, make_manifest):
    folder = measure(run, make_manifest, run.experiment.arms[0], ["conc1", "conc2", "conc1_rep2", "conc2_rep2"])
    tokens_file("small", run.results).write_text("{}")
    run.all()
    assert run.ran == [DOCTOR, *WHOLE[4:], (None, "figure")]
    (folder / "conc2_rep2.json").unlink()
    again = Recorded(run.experiment, run.results)
    again.all()
    assert again.ran[1:5] == WHOLE[:4], "a level without its file is measured"


def test_an_arm_is_launched_until_it_has_all_its_workloads(write, tmp_path, make_manifest):
    both = [{"isl": 100, "osl": 11}, {"isl": 7, "osl": 70}]
    run = Recorded(load_experiment(write(workload=None, workloads=both, repeats=1)), tmp_path / "results")
    collocated, stems = run.experiment.arms[0], ["conc1", "conc2"]
    measure(run, make_manifest, collocated, stems)
    left = functools.partial(plan.to_measure, "small", run.experiment, run.results, "here", Version("0.29"))
    assert [one.arm.label for one in left()] == ["2xtp1", "pack_p1xtp1-d1xtp1"]
    measure(run, make_manifest, collocated, stems, workload=1)
    assert [one.arm.label for one in left()] == ["pack_p1xtp1-d1xtp1"]


def test_the_recipe_holds_only_what_is_in_the_results(run, make_manifest):
    run.fails = {("2xtp1", "launch")}
    run.all()
    assert not (run.results / "small.sh").exists(), "nothing was measured"
    measure(run, make_manifest, run.experiment.arms[0], ["conc1", "conc2", "conc1_rep2", "conc2_rep2"])
    tokens_file("small", run.results).write_text("{}")
    again = Recorded(run.experiment, run.results)
    again.fails = {("pack_p1xtp1-d1xtp1", "sweep")}
    again.all()
    recipe = (run.results / "small.sh").read_text()
    assert "-e small_2xtp1 " in recipe and "pd-pack" not in recipe and "pack_p1xtp1-d1xtp1" not in recipe
    whole = plan.script("small", run.experiment, run.results)
    assert set(recipe.splitlines()[4:-1]) < set(whole.splitlines())


BOTH = ["conc1", "conc2"]


@pytest.fixture
def blocks(run, make_manifest, monkeypatch):
    """A run of two blocks, and what measures: its arms' levels, in a block, on a machine."""
    run.experiment = run.experiment.model_copy(update={"blocks": 2})
    monkeypatch.setattr(experiment_run, "machine_id", lambda: "here")
    run.results.mkdir()
    tokens_file("small", run.results).write_text("{}")
    records = {}

    def measured(arm, block, where):
        stems = [f"{stem}_rep{block}" if block > 1 else stem for stem in BOTH]
        folder = measure(run, make_manifest, run.experiment.arms[arm], stems)
        records.setdefault(arm, []).extend(
            record.model_copy(update={"machines": [where], "block": block}) for record in Manifest.read(folder).levels
        )
        manifest = Manifest.read(folder)
        manifest.levels = records[arm]
        manifest.write(folder)

    return run, measured


def launched(run):
    run.all()
    return [arm for arm, what in run.ran if what == "launch"]


def test_a_block_is_of_one_machine(blocks):
    run, measured = blocks
    measured(0, 1, "elsewhere")
    measured(1, 1, "elsewhere")
    measured(0, 2, "elsewhere")
    assert sorted(launched(run)) == sorted(ARMS), "the first is whole; of the second nothing counts on this machine"


def test_a_block_goes_on_where_it_ended_on_the_same_machine(blocks):
    run, measured = blocks
    measured(0, 1, "here")
    measured(1, 1, "here")
    measured(0, 2, "here")
    assert launched(run) == [ARMS[1]]


def test_one_block_alone_is_measured_whatever_the_others_are(blocks):
    run, measured = blocks
    run.only = 2
    measured(0, 2, "here")
    assert launched(run) == [ARMS[1]]


def test_one_block_alone_needs_the_tokens_of_another_where_pd_comes_first(blocks):
    run, _ = blocks
    tokens = tokens_file("small", run.results)
    orders = {block: [arm.is_pd for arm in plan.drawn("small", run.experiment, block)] for block in range(2, 20)}
    run.only = next(block for block, order in orders.items() if order[0])
    assert launched(run) and not run.failed, "with the tokens it is measured"
    tokens.unlink()
    run.ran.clear()
    with pytest.raises(ValueError, match=f"block {run.only} measures pack_p.*small_tokens.json, .*: copy it .* --arms 2xtp1$"):
        run.all()
    assert run.ran == []
    run.only = next(block for block, order in orders.items() if not order[0])
    assert launched(run)[0] == ARMS[0], "it saves them itself"


def test_a_block_that_two_machines_have_measured_is_none(blocks):
    run, measured = blocks
    for arm, where in ((0, "here"), (1, "elsewhere")):
        measured(arm, 1, where)
        measured(arm, 2, "here")
    assert launched(run) == [ARMS[1]]


def test_a_block_is_whole_without_an_arm_that_is_left_out_here(blocks, monkeypatch):
    run, measured = blocks
    monkeypatch.setattr(experiment_run, "vllm_version", lambda: Version("0.13.0"))
    run.experiment.arms[1] = run.experiment.arms[1].model_copy(update={"needs_vllm": "0.14"})
    measured(0, 1, "elsewhere")
    measured(0, 2, "elsewhere")
    assert launched(run) == [] and list(run.left_out) == [ARMS[1]]


def test_no_block_is_begun_that_cannot_end(blocks, capfd):
    run, _ = blocks
    run.times.spent = {label: {"measuring": 600.0, "loading": 400.0, "launches": 2} for label in ARMS}
    run.until = time.monotonic() + 900
    assert launched(run) == [] and run.failed == {}
    said = capfd.readouterr().out
    assert "small: block 1 of 2: 2xtp1, pack_p1xtp1-d1xtp1: about 17 min, by their launches so far\n" in said
    assert "small: block 1 is not begun: 15 of the --minutes are left\n" in said
    again = Recorded(run.experiment, run.results)
    again.times, again.until = run.times, time.monotonic() + 1100
    assert len(launched(again)) == 4, "in this test a launch takes no time"
    assert again.times.spent[ARMS[0]]["launches"] == 4


def test_a_block_of_which_nothing_is_known_is_begun(blocks, capfd):
    run, _ = blocks
    run.until = time.monotonic() + 1
    assert len(launched(run)) == 4 and ": not known how long\n" in capfd.readouterr().out


def test_what_a_killed_run_left_is_stopped_first(run):
    run.results.mkdir()
    run.running.touch()
    run.all()
    assert run.ran[0] == (None, "stop") and run.ran[1:] == [DOCTOR, *WHOLE, (None, "figure")]


def on_local_cluster(run):
    run.experiment.local_workers = 2
    return run


def test_a_local_cluster_is_started_and_stopped_around_the_arms(run):
    on_local_cluster(run).all()
    assert run.ran == [(None, "cluster"), DOCTOR, *WHOLE, (None, "cluster"), (None, "figure")]


def test_the_cluster_that_a_killed_run_left_is_stopped_first(run):
    run.results.mkdir()
    run.running.touch()
    on_local_cluster(run).all()
    assert run.ran[:4] == [(None, "cluster"), (None, "cluster"), DOCTOR, WHOLE[0]] and not run.running.exists()


def test_somebody_elses_cluster_is_left_alone(run):
    """Starting fails where a cluster runs already: that one is not this run's to stop, now or next time."""
    run.fails = {(None, "cluster")}
    with pytest.raises(subprocess.CalledProcessError):
        on_local_cluster(run).all()
    assert run.ran == [(None, "cluster")] and not run.running.exists()


def test_a_stop_that_fails_is_reported(run):
    run.fails = {("2xtp1", "stop")}
    run.all()
    assert run.failed == {"2xtp1": "stop exited with 1"} and ("pack_p1xtp1-d1xtp1", "sweep") in run.ran


def test_lines_of_a_command_are_passed_on(write, tmp_path, capfd):
    run = Run("small", load_experiment(write()), tmp_path)
    run._step(Step("sweep", ["bash", "-c", "echo '[a] run_bm: level conc1'; echo wrong >&2"], "2xtp1"), "title")
    assert capfd.readouterr().out.splitlines()[1:] == ["[a] run_bm: level conc1", "wrong"]


def test_after_an_interruption_nothing_is_left_to_stop(run):
    def interrupted(todo):
        raise KeyboardInterrupt

    run._rounds = interrupted
    with pytest.raises(KeyboardInterrupt):
        on_local_cluster(run).all()
    assert run.ran == [(None, "cluster"), DOCTOR, (None, "cluster")] and not run.running.exists()


def test_what_must_not_be_concluded_ends_the_report(write, tmp_path, capfd):
    run = Run("small", load_experiment(write(cannot_show="nothing about GPUs")), tmp_path)
    run.report()
    assert capfd.readouterr().out.splitlines()[-1] == "nothing about GPUs"


def test_times_add_up_over_runs(write, tmp_path, monkeypatch):
    run = Run("small", load_experiment(write()), tmp_path)
    step = Step("sweep", ["true"], "2xtp1")
    run.times.spent = {"2xtp1": {"measuring": 5.0, "waiting": 100.0}}
    run._step(step, "title")
    assert json.loads(run.times.file.read_text())["2xtp1"]["waiting"] >= 100.0
    run.times.count("2xtp1", "measuring", 20.0, out_of="waiting")
    spent = run.times.spent["2xtp1"]
    assert spent["measuring"] == 25.0 and 80.0 <= spent["waiting"] < 90.0, "of a sweep's time"
    with pytest.raises(subprocess.CalledProcessError):
        run._step(Step("sweep", ["false"], "2xtp1"), "title")


def test_loading_engines_is_reported_apart_from_the_rest_of_a_launch(write, tmp_path, capfd):
    run = Run("small", load_experiment(write()), tmp_path)
    run._step(Step("launch", ["bash", "-c", "echo 'launch: engines loaded in 0.2 s'; sleep 0.3"], "2xtp1"), "title")
    run.times.count("2xtp1", "measuring", 1.0)
    spent = run.times.spent["2xtp1"]
    assert spent["loading"] == 0.2 and 0.1 <= spent["launching"] < 5
    run.report()
    share = 1.2 / (1.2 + spent["launching"])
    assert f"{share:.0%} of the arms' time was loading engines or measuring" in capfd.readouterr().out


def test_measuring_is_what_the_bench_client_took(write, tmp_path, make_manifest):
    """Of three levels one was measured before, and one does not count: 7 s are left."""
    run = Recorded(load_experiment(write()), tmp_path)
    folder = measure(run, make_manifest, run.experiment.arms[0], ["conc1", "conc2", "conc1_rep2"])
    manifest = Manifest.read(folder)
    for record, started, ok, seconds in zip(manifest.levels, ("2", "3", "4"), (True, True, False), (3, 7, 11)):
        record.started, record.ok = f"2026-01-01T00:00:0{started}.000+00:00", ok
        (folder / f"{record.level}.json").write_text(json.dumps({"duration": seconds}))
    manifest.write(folder)
    found = measured_seconds("small", run.experiment.arms[0], run.experiment, tmp_path, "2026-01-01T00:00:02.500+00:00")
    assert found == 7

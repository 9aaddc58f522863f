"""Experiment files, the commands that they stand for, and what a run does when an arm fails or was measured already."""

import json
import subprocess
import sys

import pytest
import yaml

import run_experiment
from pdbench import experiment as plan
from pdbench.configs import ROOT, ConfigError
from pdbench.manifest import LevelRecord, Manifest
from pdbench.workload import Level

FILES = sorted((ROOT / "configs/experiments").glob("*.yaml"))
STUDY = {
    "tp_baselines": "8xtp1 4xtp2 2xtp4 1xtp8",
    "pd_ratio_dtp4": """2xtp4 p1xtp4-d1xtp4 p1xtp2-d1xtp4 p2xtp2-d1xtp4
        p1xtp1-d1xtp4 p2xtp1-d1xtp4 p3xtp1-d1xtp4 p4xtp1-d1xtp4""",
    "pd_ratio_dtp2": """4xtp2 p1xtp2-d1xtp2 p2xtp2-d1xtp2 p3xtp2-d1xtp2 p1xtp2-d2xtp2 p1xtp2-d3xtp2 p2xtp2-d2xtp2
        p1xtp1-d1xtp2 p2xtp1-d1xtp2 p4xtp1-d1xtp2 p1xtp1-d2xtp2 p2xtp1-d3xtp2 p1xtp4-d1xtp2""",
    "network": "2xtp4 p1xtp4-d1xtp4 p1xtp4-d1xtp4 p1xtp4-d1xtp4",
}
SMALL = {
    "shows": "that it works", "model": "configs/models/gpt-oss-tiny.yaml", "hardware": "configs/hardware/cpu.yaml",
    "workload": {"isl": 100, "osl": 11}, "levels": {"concurrency": [1, 2]}, "repeats": 2,
    "arms": [{"layout": "2xtp1"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack", "transport": ["cma", "sysv"]}],
}  # fmt: skip
SLOW = {"name": "slow", "layout": "p1xtp1-d1xtp1", "mode": "pd-spread", "ucx_tls": "tcp", "link_mbit": 50}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        return path

    return write


@pytest.mark.parametrize("name", STUDY)
def test_the_study_is_there_whole(name):
    experiment = plan.load_experiment(ROOT / f"configs/experiments/{name}.yaml")
    assert [arm.layout for arm in experiment.arms] == STUDY[name].split()
    assert (experiment.workload.isl, experiment.workload.osl, experiment.repeats) == (5000, 250, 3)
    assert experiment.levels.concurrency == [4, 8, 16, 32, 48, 64]


def test_the_network_is_told_apart():
    arms = plan.load_experiment(ROOT / "configs/experiments/network.yaml").arms[1:]
    assert [(arm.mode, arm.transport) for arm in arms] == [
        ("pd-pack", ["cuda_ipc"]), ("pd-spread", ["srd"]), ("pd-spread", ["tcp"]),
    ]  # fmt: skip
    assert arms[2].ucx_tls.split(",")[0] == "tcp" and arms[1].ucx_tls is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_launch_of_every_experiment_has_a_plan(path):
    """Each arm's command is taken by launch_gptoss.py itself, without a cluster."""
    import launch_gptoss
    from pdbench import cluster

    experiment = plan.load_experiment(path)
    for one in plan.rounds(path.stem, experiment, ROOT / "bm_results"):
        (launch,) = (step for step in one.steps if step.what == "launch")
        args = launch_gptoss.parse_args(launch.command[2:])
        resolved, _ = launch_gptoss.resolve(args, cluster.planned_nodes)
        assert resolved.layout == one.arm.layout and resolved.mode == one.arm.mode


def run_script(*args):
    command = [sys.executable, ROOT / "run_experiment.py", *args]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dry_run_prints_a_script_that_bash_reads(path, tmp_path):
    done = run_script(path, "--dry-run", "--results-dir", tmp_path / "none")
    assert done.returncode == 0 and done.stderr == "" and not (tmp_path / "none").exists()
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
    experiment = plan.load_experiment(path)
    assert done.stdout.count("launch_gptoss.py --mode") == len(experiment.arms)
    assert done.stdout.count("launch_gptoss.py --stop") == len(experiment.arms)


def test_the_commands_of_a_small_experiment(write, tmp_path):
    experiment = plan.load_experiment(write())
    first, second = plan.rounds("small", experiment, tmp_path)
    assert [step.what for step in first.steps] == ["launch", "check", "sweep"]
    assert [step.what for step in first.ends] == ["stop"]
    tokens = f"{tmp_path}/small_tokens.json"
    assert first.steps[1].command == ["python", "-m", "pdbench.gates", "--save", tokens]
    assert second.steps[1].command == ["python", "-m", "pdbench.gates", "--against", tokens, "--transport", "cma,sysv"]
    assert " ".join(second.steps[2].command) == (
        f"./run_bm.sh -e small_pack_p1xtp1-d1xtp1 --itl 100 --otl 11 -c 1,2 "
        f"--transport cma,sysv --tokens {tokens} --repeats 2 --results-dir {tmp_path}"
    )
    (figure,) = plan.figure_steps("small", experiment, tmp_path)
    prefix = f"{tmp_path}/gpt-oss-tiny_itl100_otl11_mixed_small"
    assert figure.command == [
        "python", "viz.py", "--exps", f"{prefix}_2xtp1", f"{prefix}_pack_p1xtp1-d1xtp1", "--plot-path", f"{tmp_path}/small.png",
    ]  # fmt: skip


def test_of_one_kind_of_arms_no_stalls_are_compared(write, tmp_path):
    experiment = plan.load_experiment(write(figures=[["--itl", "--show-stalls"]]))
    (both,) = plan.figure_steps("small", experiment, tmp_path)
    assert "--show-stalls" in both.command
    for left_out in ARMS:
        (one,) = plan.figure_steps("small", experiment, tmp_path, without=[left_out])
        assert "--show-stalls" not in one.command and "--itl" in one.command


def test_without_a_pd_arm_no_transfer_is_drawn(write, tmp_path):
    experiment = plan.load_experiment(write(figures=[[], ["--figure", "network"]]))
    assert len(plan.figure_steps("small", experiment, tmp_path)) == 2
    (one,) = plan.figure_steps("small", experiment, tmp_path, without=[ARMS[1]])
    assert "network" not in one.command and one.command[-1] == f"{tmp_path}/small.png"


def test_request_rates_phases_and_transports_reach_the_commands(write, tmp_path):
    arms = [{"layout": "1xtp2"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-spread", "ucx_tls": "tcp", "name": "slow"}]
    changes = {"levels": {"request_rate": [0.5, 2], "num_prompts": 30}, "arms": arms}
    experiment = plan.load_experiment(write(**changes, workload={"isl": 7, "osl": 3, "phase": "prefill-only"}))
    one = plan.rounds("small", experiment, tmp_path)[1]
    assert one.steps[0].command[-2:] == ["--ucx-tls", "tcp"]
    text = " ".join(one.steps[2].command)
    assert "-e small_spread_p1xtp1-d1xtp1_slow --itl 7 --otl 3 --mode prefill-only -t request-rate -r 0.5,2 -n 30" in text


def test_a_slow_link_lies_around_its_arm(write, tmp_path):
    experiment = plan.load_experiment(write(arms=[{"layout": "2xtp1"}, SLOW | {"env": {"A": "b c"}}]))
    one = plan.rounds("small", experiment, tmp_path)[1]
    assert [step.what for step in one.steps] == ["link", "launch", "check", "sweep"]
    assert [step.what for step in one.ends] == ["stop", "link"]
    assert one.steps[0].command == ["python", "-m", "pdbench.slow_link", "start", "--mbit", "50"]
    assert one.steps[1].command[-4:] == ["--env", "A=b c", "--env", "UCX_TCP_PORT_RANGE=31744-32767"]
    assert plan.ends_of_all(experiment)[-1].command == ["python", "-m", "pdbench.slow_link", "stop"]


def test_phases_are_measured_and_drawn_apart(write, tmp_path):
    arms = [{"layout": "2xtp1", "phase": "prefill-only"}, {"layout": "2xtp1", "phase": "decode-only"}]
    experiment = plan.load_experiment(write(arms=arms))
    prefill, decode = plan.rounds("small", experiment, tmp_path)
    assert [step.what for step in prefill.steps] == ["launch", "sweep"], "no PD arm: no tokens to hold against"
    assert "--decode-bench" in decode.steps[0].command and "--decode-bench" not in prefill.steps[0].command
    assert " ".join(decode.steps[1].command).startswith(
        "./run_bm.sh -e small_decode-only_2xtp1 --itl 100 --otl 11 --mode decode-only"
    )
    first, second = (step.command for step in plan.figure_steps("small", experiment, tmp_path))
    assert first[3:] == [f"{tmp_path}/gpt-oss-tiny_itl100_otl11_prefill-only_small_prefill-only_2xtp1",
                         "--latency-mode", "first_token", "--plot-path", f"{tmp_path}/small_prefill-only.png"]  # fmt: skip
    assert second[-1] == f"{tmp_path}/small_decode-only.png" and "--throughput-metric" in second


def test_as_published_is_one_repeat_in_folders_of_its_own(write):
    done = run_script(write(), "--dry-run", "--as-published")
    sweeps = [line for line in done.stdout.splitlines() if line.startswith("./run_bm.sh")]
    assert len(sweeps) == 2
    assert all("-e small_as-published_" in line and "--as-published --repeats 1" in line for line in sweeps)


CONTROL = [
    {"layout": "1xtp1", "mode": "bare"}, {"layout": "1xtp1"},
    {"layout": "p1xtp1-d1xtp1", "mode": "bare-pd"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack"},
    {"layout": "p1xtp1-d1xtp1", "mode": "bare-pd-spread"},
]  # fmt: skip


def test_control_arms_are_measured_like_any_other(write, tmp_path):
    experiment = plan.load_experiment(write(arms=CONTROL))
    labels = ["bare_1xtp1", "1xtp1", "bare_p1xtp1-d1xtp1", "pack_p1xtp1-d1xtp1", "bare-spread_p1xtp1-d1xtp1"]
    assert [arm.label for arm in experiment.arms] == labels
    first, second, *pd_arms = plan.rounds("small", experiment, tmp_path)
    assert first.steps[0].command[:6] == ["python", "launch_gptoss.py", "--mode", "bare", "--layout", "1xtp1"]
    tokens = f"{tmp_path}/small_tokens.json"
    assert first.steps[1].command[-2:] == ["--save", tokens] and [step.what for step in second.steps] == ["launch", "sweep"]
    for one in pd_arms:
        assert one.steps[1].command[-2:] == ["--against", tokens] and tokens in one.steps[2].command


def test_overhead_is_shown_where_an_arm_and_its_control_are_left(write, tmp_path):
    experiment = plan.load_experiment(write(arms=CONTROL, figures=[["--show-overhead", "--show-stalls"]]))

    def shown(*without):
        (step,) = plan.figure_steps("small", experiment, tmp_path, without=without)
        return {word for word in step.command if word.startswith("--show")}

    assert shown() == {"--show-overhead", "--show-stalls"}
    assert shown("bare_p1xtp1-d1xtp1", "pack_p1xtp1-d1xtp1") == {"--show-overhead"}
    assert shown("1xtp1", "bare_p1xtp1-d1xtp1") == set(), "controls are no arms to compare stalls with"


def test_interleaved_arms_take_turns(write, tmp_path):
    experiment = plan.load_experiment(write(interleave=True))
    order = [(one.arm.layout, one.repeats) for one in plan.rounds("small", experiment, tmp_path)]
    assert order == [("2xtp1", 1), ("p1xtp1-d1xtp1", 1), ("2xtp1", 2), ("p1xtp1-d1xtp1", 2)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repeat": 3}, "unknown key 'repeat': did you mean 'repeats'?"),
        ({"arms": [{"layot": "2xtp1"}]}, "unknown key 'arms.0.layot': did you mean 'layout'?"),
        ({"workload": {"isl": 1, "ols": 2}}, "unknown key 'workload.ols': did you mean 'osl'?"),
        ({"arms": [{"layout": "2tp1"}]}, "cannot read the layout '2tp1'"),
        ({"arms": []}, "arms"),
        ({"arms": [{"layout": "2xtp1"}, {"layout": "2xtp1"}]}, "two arms are both 2xtp1: give one a name"),
        ({"arms": [{"layout": "p1xtp1-d1xtp1"}]}, "does not go with mode collocated"),
        ({"arms": [{"layout": "2xtp1", "ucx_tls": "tcp"}]}, "is collocated: it has no KV transfer"),
        ({"arms": [{"layout": "p1xtp1-d1xtp1", "mode": "pd-pack"}]}, "the first arm must be collocated"),
        ({"arms": [{"layout": "2xtp1"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack", "phase": "decode-only"}]},
         "arm p1xtp1-d1xtp1: decode alone is measured collocated"),
        ({"arms": [{"layout": "2xtp1"}, SLOW | {"ucx_tls": None}]}, "link_mbit slows TCP down, so it needs ucx_tls: tcp"),
        ({"arms": [{"layout": "2xtp1", "link_mbit": 5}]}, "is collocated: it has no KV transfer"),
        ({"levels": {}}, "give either concurrency or request_rate"),
        ({"levels": {"concurrency": [1], "request_rate": [1]}}, "give either concurrency or request_rate"),
        ({"levels": {"concurrency": [0]}}, "levels.concurrency.0"),
        ({"levels": {"concurrency": [4, 8, 4]}}, "concurrency names a level twice"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(write, changes, words):
    path = write(**changes)
    with pytest.raises(ConfigError) as told:
        plan.load_experiment(path)
    assert words in str(told.value) and str(path) in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arms", "3xtp1"], "no arm 3xtp1 in this experiment: there are 2xtp1, pack_p1xtp1-d1xtp1"),
        (["--levels", "2,3"], "no level 3 in this experiment: there are 1, 2"),
        (["--levels", ""], "--levels '' is not a list of numbers such as 4,8"),
        (["--arms", ""], "no arm  in this experiment: there are 2xtp1, pack_p1xtp1-d1xtp1"),
        (["--levels", "two"], "--levels 'two' is not a list of numbers such as 4,8"),
        (["--repeats", "0"], "--repeats must be at least 1, not 0"),
        (["--repeats", "x"], "argument --repeats: invalid int value: 'x'"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(write, options, words):
    done = run_script(write(), *options)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("run_experiment.py: error: ") and words in done.stderr


def test_a_file_that_is_missing_names_those_that_are_there(tmp_path):
    done = run_script(tmp_path / "none.yaml")
    assert done.returncode == 2 and "no such file" in done.stderr and "configs/experiments/network.yaml" in done.stderr


def test_a_figure_that_cannot_be_drawn_is_told_before_anything_is_measured(write, tmp_path):
    path = write(figures=[["--itl"], ["--log-levels"]])
    done = run_script(path, "--results-dir", tmp_path / "results")
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "results").exists()
    assert done.stderr == f"run_experiment.py: {path}: figures: error: unrecognized arguments: --log-levels\n"


def test_what_cannot_be_read_or_written_is_one_line(write, tmp_path):
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


def test_a_selection_keeps_the_order_of_the_file(write):
    experiment = plan.select(plan.load_experiment(write()), ["pack_p1xtp1-d1xtp1", "2xtp1"], [2.0], 5)
    assert [arm.layout for arm in experiment.arms] == ["2xtp1", "p1xtp1-d1xtp1"]
    assert experiment.levels.concurrency == [2] and experiment.repeats == 5


# A run, with its commands recorded instead of run.


class Recorded(run_experiment.Run):
    """Notes each command; those of `fails` exit with 1. Gates save their tokens."""

    fails: set = set()

    def __init__(self, experiment, results):
        super().__init__("small", experiment, results)
        self.ran = []

    def _step(self, step, title):
        self.ran.append((step.arm, step.what))
        self.drawn = step
        if (step.arm, step.what) in self.fails:
            raise subprocess.CalledProcessError(1, step.command)
        elif "--save" in step.command:
            plan.tokens_file(self.name, self.results).write_text("{}")


ARMS = ("2xtp1", "pack_p1xtp1-d1xtp1")
DOCTOR = (None, "doctor")
WHOLE = [(arm, what) for arm in ARMS for what in ("launch", "check", "sweep", "stop")]


@pytest.fixture
def run(write, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "measured_seconds", lambda *args: 0.0)  # nothing is measured
    return Recorded(plan.load_experiment(write()), tmp_path / "results")


def test_a_run_measures_every_arm_then_draws(run):
    run.all()
    assert run.ran == [DOCTOR, *WHOLE, (None, "figure")] and run.failed == {}
    assert (run.results / "small.sh").read_text() == plan.script("small", run.experiment, run.results)
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
    run.experiment.arms.append(plan.Arm(layout="1xtp1"))
    run.all()
    assert run.failed == {"pack_p1xtp1-d1xtp1": "check exited with 1"}
    assert run.ran[5:8] == [(ARMS[1], "launch"), (ARMS[1], "check"), (ARMS[1], "stop")], "stopped, and not measured"
    assert [what for arm, what in run.ran if arm == "1xtp1"] == ["launch", "sweep", "stop"]
    assert (None, "figure") not in run.ran


def test_without_the_collocated_tokens_no_pd_arm_is_launched(run):
    run.fails = {("2xtp1", "launch")}
    run.all()
    assert "small_tokens.json is missing: the collocated arm must be measured first" in run.failed[ARMS[1]]
    assert run.ran == [DOCTOR, ("2xtp1", "launch"), ("2xtp1", "stop")]


def test_an_arm_that_cannot_be_measured_here_is_left_out_and_named(run, monkeypatch, capfd):
    monkeypatch.setattr(run_experiment, "vllm_version", lambda: (0, 13, 0))
    run.experiment.arms[1] = run.experiment.arms[1].model_copy(update={"needs_vllm": "0.14"})
    run.all()
    assert run.left_out == {ARMS[1]: "needs vLLM 0.14, here is 0.13.0"} and run.failed == {}
    assert run.ran == [DOCTOR, *WHOLE[:4], (None, "figure")]
    assert ARMS[1] not in " ".join(run.drawn.command) and ARMS[0] in " ".join(run.drawn.command)
    run.report()
    assert f"small: left out: {ARMS[1]}: needs vLLM 0.14, here is 0.13.0" in capfd.readouterr().out


def test_a_link_that_cannot_be_slowed_leaves_its_arm_out(write, tmp_path, monkeypatch):
    run = Recorded(plan.load_experiment(write(arms=[{"layout": "2xtp1"}, SLOW])), tmp_path / "results")
    monkeypatch.setattr(plan, "measured_seconds", lambda *args: 0.0)
    monkeypatch.setattr(plan.slow_link, "is_slow", lambda: False)
    monkeypatch.setattr(plan.slow_link, "why_not", lambda: "no tc here")
    run.all()
    assert run.left_out == {"spread_p1xtp1-d1xtp1_slow": "no tc here"} and (None, "figure") in run.ran
    monkeypatch.setattr(plan.slow_link, "why_not", lambda: None)
    again = Recorded(run.experiment, tmp_path / "other")
    again.all()
    assert [what for _, what in again.ran[5:]] == ["link", "launch", "check", "sweep", "stop", "link", "figure"]


def measure(run, make_manifest, arm, stems):
    """What run_bm.sh leaves of levels that count."""
    folder = run.results / plan.folder("small", arm, run.experiment)
    folder.mkdir(parents=True)
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
    plan.tokens_file("small", run.results).write_text("{}")
    run.all()
    assert run.ran == [DOCTOR, *WHOLE[4:], (None, "figure")]
    (folder / "conc2_rep2.json").unlink()
    again = Recorded(run.experiment, run.results)
    again.all()
    assert again.ran[1:5] == WHOLE[:4], "a level without its file is measured"


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


def test_a_stop_that_fails_is_told(run):
    run.fails = {("2xtp1", "stop")}
    run.all()
    assert run.failed == {"2xtp1": "stop exited with 1"} and ("pack_p1xtp1-d1xtp1", "sweep") in run.ran


def test_lines_of_a_command_are_passed_on(write, tmp_path, capfd):
    run = run_experiment.Run("small", plan.load_experiment(write()), tmp_path)
    run._step(plan.Step("sweep", ["bash", "-c", "echo '[a] run_bm: level conc1'; echo wrong >&2"], "2xtp1"), "title")
    assert capfd.readouterr().out.splitlines()[1:] == ["[a] run_bm: level conc1", "wrong"]


def test_after_an_interruption_nothing_is_left_to_stop(run):
    def interrupted(todo):
        raise KeyboardInterrupt

    run._rounds = interrupted
    with pytest.raises(KeyboardInterrupt):
        on_local_cluster(run).all()
    assert run.ran == [(None, "cluster"), DOCTOR, (None, "cluster")] and not run.running.exists()


def test_what_must_not_be_concluded_ends_the_report(write, tmp_path, capfd):
    run = run_experiment.Run("small", plan.load_experiment(write(cannot_show="nothing about GPUs")), tmp_path)
    run.report()
    assert capfd.readouterr().out.splitlines()[-1] == "nothing about GPUs"


def test_times_add_up_over_runs(write, tmp_path, monkeypatch):
    run = run_experiment.Run("small", plan.load_experiment(write()), tmp_path)
    step = plan.Step("sweep", ["true"], "2xtp1")
    run.times = {"2xtp1": {"measuring": 5.0, "waiting": 100.0}}
    run._step(step, "title")
    assert json.loads(run.times_file.read_text())["2xtp1"]["waiting"] >= 100.0
    run._count("2xtp1", "measuring", 20.0, out_of="waiting")
    assert run.times["2xtp1"]["measuring"] == 25.0 and 80.0 <= run.times["2xtp1"]["waiting"] < 90.0, "of a sweep's time"
    with pytest.raises(subprocess.CalledProcessError):
        run._step(plan.Step("sweep", ["false"], "2xtp1"), "title")


def test_loading_engines_is_told_apart_from_the_rest_of_a_launch(write, tmp_path, capfd):
    run = run_experiment.Run("small", plan.load_experiment(write()), tmp_path)
    run._step(plan.Step("launch", ["bash", "-c", "echo 'launch: engines loaded in 0.2 s'; sleep 0.3"], "2xtp1"), "title")
    run._count("2xtp1", "measuring", 1.0)
    spent = run.times["2xtp1"]
    assert spent["loading"] == 0.2 and 0.1 <= spent["launching"] < 5
    run.report()
    share = 1.2 / (1.2 + spent["launching"])
    assert f"{share:.0%} of the arms' time was loading engines or measuring" in capfd.readouterr().out


def test_measuring_is_what_the_bench_client_took(write, tmp_path, make_manifest):
    """Of three levels one was measured before, and one does not count: 7 s are left."""
    run = Recorded(plan.load_experiment(write()), tmp_path)
    folder = measure(run, make_manifest, run.experiment.arms[0], ["conc1", "conc2", "conc1_rep2"])
    manifest = Manifest.read(folder)
    for record, started, ok, seconds in zip(manifest.levels, ("2", "3", "4"), (True, True, False), (3, 7, 11)):
        record.started, record.ok = f"2026-01-01T00:00:0{started}.000+00:00", ok
        (folder / f"{record.level}.json").write_text(json.dumps({"duration": seconds}))
    manifest.write(folder)
    found = plan.measured_seconds("small", run.experiment.arms[0], run.experiment, tmp_path, "2026-01-01T00:00:02.500+00:00")
    assert found == 7

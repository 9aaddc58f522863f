"""Experiment files, and the commands that they mean."""

import functools
import os
import subprocess

import pytest

import launch_gptoss
from pdbench.configs import ROOT
from pdbench.measure import experiment_plan as plan
from pdbench.measure.experiment import Arm, load_experiment, select
from pdbench.measure.experiment_steps import PHASE_OPTIONS, cluster_steps, ends_of_all, figure_steps
from pdbench.nodes import cluster
from pdbench.output.options import FIGURES, build_parser
from pdbench.serve.options import resolve
from tests.helpers.small_experiment import ARMS, SLOW, small_experiment

FILES = sorted((ROOT / "configs/experiments").glob("*.yaml"))
STUDY = {
    "tp_baselines": "8xtp1 4xtp2 2xtp4 1xtp8",
    "pd_ratio_dtp4": """2xtp4 p1xtp4-d1xtp4 p1xtp2-d1xtp4 p2xtp2-d1xtp4
        p1xtp1-d1xtp4 p2xtp1-d1xtp4 p3xtp1-d1xtp4 p4xtp1-d1xtp4""",
    "pd_ratio_dtp2": """4xtp2 p1xtp2-d1xtp2 p2xtp2-d1xtp2 p3xtp2-d1xtp2 p1xtp2-d2xtp2 p1xtp2-d3xtp2 p2xtp2-d2xtp2
        p1xtp1-d1xtp2 p2xtp1-d1xtp2 p4xtp1-d1xtp2 p1xtp1-d2xtp2 p2xtp1-d3xtp2 p1xtp4-d1xtp2""",
    "network": "2xtp4 p1xtp4-d1xtp4 p1xtp4-d1xtp4 p1xtp4-d1xtp4",
}


@pytest.fixture
def write(tmp_path):
    return functools.partial(small_experiment, tmp_path)


@pytest.mark.parametrize("name", STUDY)
def test_the_study_is_there_whole(name):
    experiment = load_experiment(ROOT / f"configs/experiments/{name}.yaml")
    assert [arm.layout for arm in experiment.arms] == STUDY[name].split()
    assert (experiment.workload.isl, experiment.workload.osl, experiment.repeats) == (5000, 250, 3)
    assert experiment.levels.concurrency == [4, 8, 16, 32, 48, 64]


def test_the_network_is_reported_apart():
    arms = load_experiment(ROOT / "configs/experiments/network.yaml").arms[1:]
    assert [(arm.mode, arm.transport) for arm in arms] == [
        ("pd-pack", ["cuda_ipc"]), ("pd-spread", ["srd"]), ("pd-spread", ["tcp"]),
    ]  # fmt: skip
    assert arms[2].ucx_tls.split(",")[0] == "tcp" and arms[1].ucx_tls is None


def test_an_arm_may_have_engine_arguments_of_its_own():
    experiment = load_experiment(ROOT / "configs/experiments/h200x2_kv.yaml")
    of = {one.arm.name: one.steps[0].command for one in plan.rounds("kv", experiment, ROOT / "bm_results") if one.arm.is_pd}
    assert of["block64"][-2:] == ["--engine-arg", "block_size=64"] and "--engine-arg" not in of[None]
    assert of["layers-together"][-2:] == ["--env", "VLLM_KV_CACHE_LAYOUT=BLHNC"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_launch_of_every_experiment_has_a_plan(path):
    """Each arm's command is taken by launch_gptoss.py itself, without a cluster."""

    experiment = load_experiment(path)
    for one in plan.rounds(path.stem, experiment, ROOT / "bm_results"):
        (launch,) = (step for step in one.steps if step.what == "launch")
        args = launch_gptoss.parse_args(launch.command[2:])
        resolved, _ = resolve(args, cluster.planned_nodes)
        assert resolved.layout == one.arm.layout and resolved.mode == one.arm.mode


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dry_run_prints_a_script_that_bash_reads(run_script, path, tmp_path):
    done = run_script(path, "--dry-run", "--results-dir", tmp_path / "none")
    assert done.returncode == 0 and done.stderr == "" and not (tmp_path / "none").exists()
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
    experiment = load_experiment(path)
    launches, changes = (done.stdout.count(f"launch_gptoss.py {option}") for option in ("--mode", "--roles"))
    measured = len(experiment.arms) * (experiment.blocks or 1)
    assert done.stdout.count("./run_bm.sh") == measured * len(experiment.asked)
    assert done.stdout.count("launch_gptoss.py --stop") == launches
    pools = sum(arm.mode == "pd-pool" and not arm.control for arm in experiment.arms)
    assert changes == max(0, pools - 1) * (experiment.blocks or 1), "the ratios of one pool share a launch"
    beside = {arm.label for arm in experiment.arms if experiment.phase_of(arm) == "mixed"}
    alone = [arm.label.removeprefix("prefill-only_") for arm in experiment.arms if arm.phase == "prefill-only"]
    shared = sum(label in beside for label in alone) * (experiment.blocks or 1)
    assert launches + changes + shared == measured, "prompts alone share the launch of both phases"


def test_the_commands_of_a_small_experiment(write, tmp_path):
    experiment = load_experiment(write())
    first, second = plan.rounds("small", experiment, tmp_path)
    assert [step.what for step in first.steps] == ["launch", "check", "sweep"]
    assert [step.what for step in first.ends] == ["stop"]
    tokens = f"{tmp_path}/small_tokens.json"
    assert first.steps[1].command == ["python", "-m", "pdbench.gates", "--save", tokens]
    assert second.steps[1].command == ["python", "-m", "pdbench.gates", "--against", tokens, "--transport", "cma,sysv"]
    assert " ".join(second.steps[2].command) == (
        f"./run_bm.sh -e small_pack_p1xtp1-d1xtp1 --isl 100 --osl 11 -c 1,2 "
        f"--transport cma,sysv --tokens {tokens} --repeats 2 --results-dir {tmp_path}"
    )
    (figure,) = figure_steps("small", experiment, tmp_path)
    prefix = f"{tmp_path}/gpt-oss-tiny_itl100_otl11_mixed_small"
    assert figure.command == [
        "python", "viz.py", "--exps", f"{prefix}_2xtp1", f"{prefix}_pack_p1xtp1-d1xtp1", "--plot-path", f"{tmp_path}/small.png",
    ]  # fmt: skip


def test_of_one_kind_of_arms_no_stalls_are_compared(write, tmp_path):
    experiment = load_experiment(write(figures=[["--show-itl", "--show-stalls"]]))
    (both,) = figure_steps("small", experiment, tmp_path)
    assert "--show-stalls" in both.command
    for left_out in ARMS:
        (one,) = figure_steps("small", experiment, tmp_path, without=[left_out])
        assert "--show-stalls" not in one.command and "--show-itl" in one.command


def test_without_a_pd_arm_no_transfer_is_drawn(write, tmp_path):
    experiment = load_experiment(write(figures=[[], ["--figure", "network"]]))
    assert len(figure_steps("small", experiment, tmp_path)) == 2
    (one,) = figure_steps("small", experiment, tmp_path, without=[ARMS[1]])
    assert "network" not in one.command and one.command[-1] == f"{tmp_path}/small.png"


@pytest.mark.parametrize("phase", ["mixed", "prefill-only", "decode-only"])
@pytest.mark.parametrize("more", [[], ["--show-decision"]])
def test_what_a_phases_figures_need_is_added_where_viz_takes_it(write, tmp_path, phase, more):
    figures = [["--figure", name, *more] for name in FIGURES if name not in ("heatmap", "shift")]
    arms = [{"layout": "2xtp1"}] + [{"layout": "p1xtp1-d1xtp1", "mode": "pd-pack"}] * (phase != "decode-only")
    experiment = load_experiment(write(figures=figures, arms=arms, workload={"isl": 7, "osl": 3, "phase": phase}))
    steps = figure_steps("small", experiment, tmp_path)
    for step in steps:
        build_parser().parse_args(step.command[2:])
    added = [step for step in steps if set(PHASE_OPTIONS[phase][:1]) <= set(step.command)]
    total = 7 if phase == "decode-only" else 8  # of the network nothing without a PD arm
    assert len(steps) == total and len(added) == (total if more or phase == "mixed" else total - 4)


def test_request_rates_phases_and_transports_reach_the_commands(write, tmp_path):
    arms = [{"layout": "1xtp2"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-spread", "ucx_tls": "tcp", "name": "slow"}]
    changes = {"levels": {"request_rate": [0.5, 2], "num_prompts": 30, "level_limit": 900.5}, "arms": arms}
    experiment = load_experiment(write(**changes, workload={"isl": 7, "osl": 3, "phase": "prefill-only"}))
    one = plan.rounds("small", experiment, tmp_path)[1]
    assert one.steps[0].command[-2:] == ["--ucx-tls", "tcp"]
    text = " ".join(one.steps[2].command)
    assert "-e small_spread_p1xtp1-d1xtp1_slow --isl 7 --osl 3 --mode prefill-only -t request-rate -r 0.5,2 -n 30" in text
    assert "-n 30 --level-limit 900.5" in text


TWO = [{"isl": 100, "osl": 11}, {"isl": 7, "osl": 70}]


def test_one_launch_of_an_arm_serves_several_workloads(write, tmp_path):
    experiment = load_experiment(write(workload=None, workloads=TWO))
    _, pd = plan.rounds("small", experiment, tmp_path)
    assert [step.what for step in pd.steps] == ["launch", "check", "sweep", "sweep"]
    lengths = [step.command[step.command.index("--isl") + 1 :][:3] for step in pd.steps[2:]]
    assert lengths == [["100", "--osl", "11"], ["7", "--osl", "70"]]
    (figure,) = figure_steps("small", experiment, tmp_path)
    drawn = [name for name in map(os.path.basename, figure.command) if name.startswith("gpt-oss")]
    assert [name.split("_")[1:3] for name in drawn] == [["itl100", "otl11"], ["itl7", "otl70"]] * 2


def test_a_slow_link_lies_around_its_arm(write, tmp_path):
    experiment = load_experiment(write(arms=[{"layout": "2xtp1"}, SLOW | {"env": {"A": "b c"}}]))
    one = plan.rounds("small", experiment, tmp_path)[1]
    assert [step.what for step in one.steps] == ["link", "launch", "check", "sweep"]
    assert [step.what for step in one.ends] == ["stop", "link"]
    assert one.steps[0].command == ["python", "-m", "pdbench.slow_link", "start", "--mbit", "50"]
    assert one.steps[1].command[-4:] == ["--env", "UCX_TCP_PORT_RANGE=31744-32767", "--env", "PDBENCH_LINK_MBIT=50"]
    assert ends_of_all(experiment)[-1].command == ["python", "-m", "pdbench.slow_link", "stop"]


def test_phases_are_measured_and_drawn_apart(write, tmp_path):
    arms = [{"layout": "2xtp1", "phase": "prefill-only"}, {"layout": "2xtp1", "phase": "decode-only"}]
    experiment = load_experiment(write(arms=arms))
    prefill, decode = plan.rounds("small", experiment, tmp_path)
    assert [step.what for step in prefill.steps] == ["launch", "sweep"], "no PD arm: no tokens to hold against"
    assert "--decode-bench" in decode.steps[0].command and "--decode-bench" not in prefill.steps[0].command
    assert " ".join(decode.steps[1].command).startswith(
        "./run_bm.sh -e small_decode-only_2xtp1 --isl 100 --osl 11 --mode decode-only"
    )
    first, second = (step.command for step in figure_steps("small", experiment, tmp_path))
    assert first[3:] == [f"{tmp_path}/gpt-oss-tiny_itl100_otl11_prefill-only_small_prefill-only_2xtp1",
                         "--latency-mode", "first_token", "--plot-path", f"{tmp_path}/small_prefill-only.png"]  # fmt: skip
    assert second[-1] == f"{tmp_path}/small_decode-only.png" and "--throughput-metric" in second


def test_a_phase_is_drawn_without_what_only_another_phase_has_the_arms_for(write, tmp_path):
    arms = [{"layout": "1xtp1"}, {"layout": "1xtp1", "mode": "bare"}, {"layout": "1xtp1", "phase": "prefill-only"}]
    experiment = small(write, arms=arms, blocks=2, figures=[["--show-tables", "--show-overhead", "--show-blocks"]])
    mixed, prefill = (step.command for step in figure_steps("small", experiment, tmp_path))
    assert [word for word in mixed if word.startswith("--show")] == ["--show-tables", "--show-overhead"]
    assert [word for word in prefill if word.startswith("--show")] == ["--show-tables"]


def test_as_published_is_one_repeat_in_folders_of_its_own(run_script, write):
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
    experiment = load_experiment(write(arms=CONTROL))
    labels = ["bare_1xtp1", "1xtp1", "bare_p1xtp1-d1xtp1", "pack_p1xtp1-d1xtp1", "bare-spread_p1xtp1-d1xtp1"]
    assert [arm.label for arm in experiment.arms] == labels
    first, second, *pd_arms = plan.rounds("small", experiment, tmp_path)
    assert first.steps[0].command[:6] == ["python", "launch_gptoss.py", "--mode", "bare", "--layout", "1xtp1"]
    tokens = f"{tmp_path}/small_tokens.json"
    assert first.steps[1].command[-2:] == ["--save", tokens] and [step.what for step in second.steps] == ["launch", "sweep"]
    for one in pd_arms:
        assert one.steps[1].command[-2:] == ["--against", tokens] and tokens in one.steps[2].command


def test_overhead_is_shown_where_an_arm_and_its_control_are_left(write, tmp_path):
    experiment = load_experiment(write(arms=CONTROL, figures=[["--show-overhead", "--show-stalls", "--show-sharing"]]))

    def shown(*without):
        (step,) = figure_steps("small", experiment, tmp_path, without=without)
        return {word for word in step.command if word.startswith("--show")}

    assert shown() == {"--show-overhead", "--show-stalls"}
    assert shown("bare_p1xtp1-d1xtp1", "pack_p1xtp1-d1xtp1") == {"--show-overhead"}
    assert shown("1xtp1", "bare_p1xtp1-d1xtp1") == set(), "controls are no arms to compare stalls with"


def test_sharing_is_shown_where_an_arm_with_several_replicas_is_left(write, tmp_path):
    experiment = small(write, figures=[["--show-sharing"]])
    shown = {
        label: "--show-sharing" in figure_steps("small", experiment, tmp_path, without=[label])[0].command for label in ARMS
    }
    assert shown == {"2xtp1": False, "pack_p1xtp1-d1xtp1": True}


def test_blocks_are_compared_where_a_collocated_arm_and_another_are_left(write, tmp_path):
    experiment = small(write, blocks=2, figures=[["--show-blocks"]])
    (step,) = figure_steps("small", experiment, tmp_path)
    assert "--show-blocks" in step.command
    for without in ARMS:
        (step,) = figure_steps("small", experiment, tmp_path, without=[without])
        assert "--show-blocks" not in step.command
    as_published = experiment.model_copy(update={"blocks": None})
    assert "--show-blocks" not in figure_steps("small", as_published, tmp_path)[0].command


def blocks_of(write, number):
    experiment = small(write, blocks=number)
    return experiment.model_copy(update={"arms": [*experiment.arms, Arm(layout="1xtp2"), Arm(layout="1xtp1")]})


def small(write, **changes):
    path = write(**changes)
    path.write_text(path.read_text().replace("repeats: 2\n", ""))
    return load_experiment(path)


def test_a_block_launches_every_arm_once_in_an_order_of_its_own(write, tmp_path):
    experiment = blocks_of(write, 6)
    rounds = plan.rounds("small", experiment, tmp_path)
    orders = [[one.arm.layout for one in rounds if one.block == block] for block in range(1, 7)]
    assert all(sorted(order) == sorted(arm.layout for arm in experiment.arms) for order in orders)
    assert len({tuple(order) for order in orders}) > 3 and len({order[0] for order in orders}) > 1
    assert orders[0][0] == "2xtp1", "its tokens are needed"
    again = plan.rounds("small", blocks_of(write, 6), tmp_path)
    assert [one.arm.layout for one in again] == [one.arm.layout for one in rounds], "the same command plans the same"
    other = plan.rounds("other", experiment, tmp_path)
    assert [one.arm.layout for one in other] != [one.arm.layout for one in rounds]


def test_a_block_measures_each_level_once(write, tmp_path):
    rounds = plan.rounds("small", small(write, blocks=2), tmp_path)
    assert [(one.block, one.repeats) for one in rounds] == [(1, [1]), (1, [1]), (2, [2]), (2, [2])]
    sweeps = [step.command for one in rounds for step in one.steps if step.what == "sweep"]
    assert [command[command.index("--block") + 1] for command in sweeps] == ["1", "1", "2", "2"]
    assert not any("--repeats" in command for command in sweeps)
    assert ", block 2\n" in plan.script("small", small(write, blocks=2), tmp_path)


def test_one_block_alone_has_the_order_that_it_has_among_all(write, tmp_path):
    experiment = blocks_of(write, 3)
    among_all = [one for one in plan.rounds("small", experiment, tmp_path) if one.block == 3]
    assert plan.rounds("small", experiment, tmp_path, only=3) == among_all
    recipe = plan.script("small", experiment, tmp_path, only=3)
    assert recipe.count("--block 3 ") == len(experiment.arms) and "--block 2 " not in recipe


def test_blocks_and_repeats_are_selected_by_their_own_options(write):
    blocks, repeats = small(write, blocks=3), load_experiment(write())
    assert select(blocks, None, None, None, 5).blocks == 5
    with pytest.raises(ValueError, match="this experiment has blocks, which measure each level once: give --blocks"):
        select(blocks, None, None, 2)
    with pytest.raises(ValueError, match="this experiment has no blocks: give --repeats"):
        select(repeats, None, None, None, 2)


def test_a_selection_keeps_the_order_of_the_file(write):
    experiment = select(load_experiment(write()), ["pack_p1xtp1-d1xtp1", "2xtp1"], [2.0], 5)
    assert [arm.layout for arm in experiment.arms] == ["2xtp1", "p1xtp1-d1xtp1"]
    assert experiment.levels.concurrency == [2] and experiment.repeats == 5


def test_the_serving_path_reaches_the_launch(write, tmp_path):
    arm = {"layout": "2xtp1", "serve_env": {"RAY_SERVE_X": "1"}, "llm_options": {"stream_batching_interval_ms": "50"},
           "router": "round-robin", "direct_streaming": True}  # fmt: skip
    (one,) = plan.rounds("small", load_experiment(write(arms=[arm])), tmp_path)
    text = " ".join(one.steps[0].command)
    for words in ("--serve-env RAY_SERVE_X=1", "--llm-option stream_batching_interval_ms=50", "--router round-robin",
                  "--direct-streaming --host 0.0.0.0"):  # fmt: skip
        assert words in text


def test_an_arm_may_have_its_own_number_of_ingress_replicas(write, tmp_path):
    (one,) = plan.rounds("small", load_experiment(write(arms=[{"layout": "2xtp1", "ingress_replicas": 1}])), tmp_path)
    assert "--ingress-replicas 1" in " ".join(one.steps[0].command)
    for arm, why in (({"layout": "2xtp1", "ingress_replicas": 1, "direct_streaming": True}, "leaves the ingress out"),
                     ({"layout": "2xtp1", "ingress_replicas": 1, "mode": "bare"}, "without Ray Serve"),
                     ({"layout": "2xtp1", "ingress_replicas": 0}, "greater than or equal to 1")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            load_experiment(write(arms=[arm]))


def test_direct_streaming_stays_on_loopback_where_engines_stand_on_the_head(write, tmp_path):
    arm = {"layout": "2xtp1", "direct_streaming": True}
    experiment = load_experiment(write(arms=[arm], local_workers=0))
    (one,) = plan.rounds("small", experiment, tmp_path)
    assert "--direct-streaming" in one.steps[0].command and "--host" not in one.steps[0].command
    start, stop = cluster_steps(experiment)
    assert start.command[-2:] == ["--workers", "0"] and stop.command[-1] == "stop"


def test_nodes_of_a_local_cluster_get_gpus_of_their_own(write):
    start, stop = cluster_steps(load_experiment(write(local_workers=2, local_gpus=1)))
    assert start.command[-4:] == ["--workers", "2", "--gpus", "1"] and stop.command[-1] == "stop"

"""The sizes of engines' steps in the planner: CUDA graphs, to which decode steps are padded, and the largest step."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import plan
from pdbench.configs import ROOT
from pdbench.layout import Layout
from pdbench.planner.costs import Engine, costs_of, names_of, start_of
from pdbench.planner.model import Model
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.runs import budget_of, graphs_of, without_sizes
from pdbench.planner.screen import screen
from pdbench.planner.simulator import Workload, simulate


def test_a_decode_step_wakes_experts_for_the_whole_of_its_cuda_graph():
    """12 requests take as long as 16 but for their contexts, as on one H200; above the largest graph nothing is padded."""
    parameters = {name: start_of(name) for name in names_of((1,))} | {"token": 1e-12}
    steps, unpadded = (
        costs_of(Layout.parse("1xtp1"), parameters, engine, 5000, 250, 18).steps
        for engine in (Engine(graphs=(1, 2, 4, 8, 16)), Engine())
    )
    assert steps[8] < steps[9] == pytest.approx(steps[12]) == pytest.approx(steps[16]) and steps[3] == pytest.approx(steps[4])
    assert steps[9] > unpadded[9] and steps[8] == unpadded[8] and steps[17:] == unpadded[17:]


@pytest.mark.parametrize("graphs", [(8, 4), (4, 4), (0, 4)])
def test_graphs_ascend(graphs):
    with pytest.raises(ValueError, match="ascending|greater than 0"):
        Engine(graphs=graphs)


def engines(accelerator="H200", role="collocated", **engine):
    prefill = {"engine_kwargs": {"compilation_config": {"cudagraph_capture_sizes": [7]}}}
    return SimpleNamespace(accelerator=accelerator, llm_configs={"prefill": prefill, role: {"engine_kwargs": engine}})


OWN = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))


@pytest.mark.parametrize(
    ("of", "graphs"),
    [
        (None, OWN),
        (engines(), OWN),
        (engines(compilation_config=3), OWN),
        (engines(compilation_config={"pass_config": {}, "cudagraph_mode": "FULL"}), OWN),
        (engines(role="decode", compilation_config={"cudagraph_capture_sizes": [64, 2, 64, 600]}), (2, 64, 600)),
        (engines(compilation_config='{"cudagraph_capture_sizes": [1, 5]}'), (1, 5)),
        (engines(compilation_config={"max_cudagraph_capture_size": 20}), (1, 2, 4, 8, 16)),
        (engines(compilation_config={"max_cudagraph_capture_size": 544}), (*OWN, 528, 544)),
        (engines(performance_mode="interactivity"), (*range(1, 33), *OWN[7:])),
        (engines(compilation_config={"cudagraph_mode": "none"}), ()),
        (engines(compilation_config={"cudagraph_mode": 0}), ()),
        (engines(enforce_eager=True), ()),
        (engines("CPU"), ()),
    ],
)
def test_which_engines_pad_their_steps(of, graphs):
    assert graphs_of(of) == graphs


@pytest.mark.parametrize(
    "given", [{"cudagraph_capture_sizes": 16}, {"cudagraph_capture_sizes": [0, 4]}, "[", {"cudagraph_capture_sizes": []}]
)
def test_a_config_that_is_none_is_one_line(given):
    with pytest.raises(ValueError, match=r"^the engines' compilation_config: [^\n]+$"):
        graphs_of(engines(compilation_config=given))


OWN_SIZES, FINE = (next(ROOT.glob(f"bm_results/*_h200x1_graphs_bare_1xtp1{name}")) for name in ("", "_fine-graphs"))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "own.json"
    plan.main(["fit", str(OWN_SIZES), "-o", str(path)])
    return path


def checked(capsys, *arguments):
    plan.main(["check", *map(str, arguments)])
    return capsys.readouterr().out


NOTE = ": CUDA graphs of other sizes than the fit's"


def test_runs_with_other_graphs_are_predicted_with_theirs(fitted, tmp_path, capsys):
    """As docs/planner.md says of one H200: 8% more requests/s with 6 and 12 in flight, 4% with 20, as many with 16."""
    assert NOTE in checked(capsys, fitted, FINE, "--json", tmp_path / "c.json")
    (run,) = json.loads((tmp_path / "c.json").read_text())["runs"]
    fine = {level["level"]: level["request_throughput"] for level in run["levels"]}
    measured = [level["request_throughput_measured"] for level in run["levels"]]
    assert list(fine.values()) == pytest.approx(measured, rel=0.06)
    assert list(fine.values())[1:] == pytest.approx(measured[1:], rel=0.03)
    plan.main(["predict", str(fitted), "--layouts", "1xtp1", "--levels", "6,12,16,20", "--json", str(tmp_path / "p.json")])
    own = {
        level["level"]: level["request_throughput"] for level in json.loads((tmp_path / "p.json").read_text())["predictions"]
    }
    assert [fine[level] / own[level] for level in (6, 12, 16, 20)] == pytest.approx([1.08, 1.08, 1.0, 1.045], abs=0.01)


def test_runs_of_both_kinds_are_checked_together_each_with_its_own(fitted, tmp_path, capsys):
    again = changed(tmp_path, OWN_SIZES)
    assert NOTE not in checked(capsys, fitted, again)
    assert NOTE in checked(capsys, fitted, again, FINE)


def changed(tmp_path, run, **engine):
    """A copy of a run, whose manifest says that its engines had other arguments."""
    folder = tmp_path / f"{run.name}-again"
    shutil.copytree(run, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for deployment in (manifest["deployment"], *manifest["earlier"]):
        deployment["llm_configs"]["collocated"]["engine_kwargs"].update(engine)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


PASSES = {"pass_config": {"fuse_allreduce_rms": False}}


@pytest.mark.parametrize(
    "engine",
    [
        {"performance_mode": "interactivity"},
        {"performance_mode": "balanced"},
        {"compilation_config": PASSES},
        {"compilation_config": {"max_cudagraph_capture_size": 64, **PASSES}},
        {"compilation_config": json.dumps({"cudagraph_capture_sizes": [1, 24], **PASSES})},
    ],
)
def test_however_graphs_are_said_runs_are_compared(engine, fitted, tmp_path, capsys):
    assert "\n 1xtp1 bare " in checked(capsys, fitted, changed(tmp_path, OWN_SIZES, **engine))


def test_settings_without_sizes_are_those_that_name_none():
    for given in ({"cudagraph_capture_sizes": [1]}, '{"max_cudagraph_capture_size": 8}', {}, None):
        assert without_sizes({"engine_kwargs": {"compilation_config": given, "seed": 1}}) == {"engine_kwargs": {"seed": 1}}
    assert without_sizes({"engine_kwargs": {"compilation_config": 2}}) == {"engine_kwargs": {"compilation_config": 2}}


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ({"compilation_config": {"pass_config": {}}}, "the model's runs have engines' compilation_config"),
        ({"compilation_config": {"cudagraph_mode": "NONE", **PASSES}}, "the model's runs have engines' compilation_config"),
        ({"enforce_eager": True}, "the model's runs have engines' enforce_eager"),
        ({"performance_mode": "throughput"}, "the model's runs have engines' performance_mode"),
        ({"compilation_config": {"cudagraph_capture_sizes": 16}}, "the manifests: the engines' compilation_config: cudagraph_"),
        ({"compilation_config": "["}, "the manifests: the engines' compilation_config: "),
    ],
)
def test_runs_that_differ_in_more_than_graphs_are_refused(engine, line, fitted, tmp_path, capsys):
    with pytest.raises(SystemExit):
        plan.main(["check", str(fitted), str(changed(tmp_path, FINE, **engine))])
    printed = capsys.readouterr().err
    assert line in printed and printed.count("\n") == 1


def test_a_fit_is_to_one_set_of_graphs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        plan.main(["fit", str(OWN_SIZES), str(FINE), "-o", str(tmp_path / "both.json")])
    assert "runs of different stacks in one fit" in (printed := capsys.readouterr().err)
    assert "has CUDA graphs of 1, 2, 4, 8, 16, 24," in printed and "CUDA graphs of 1, 2, 3, 4, 5," in printed


@pytest.mark.parametrize(
    ("of", "budget"),
    [
        (None, 8192),
        (engines(), 8192),
        (engines(role="decode", max_num_batched_tokens=512), 8192),  # prompts are computed elsewhere
        (engines(role="prefill", max_num_batched_tokens=512), 512),
        (engines(performance_mode="throughput"), 16384),
        (engines(performance_mode="throughput", max_num_batched_tokens=4096), 4096),
    ],
)
def test_the_largest_step_is_that_of_the_engines_that_prefill(of, budget):
    if of and "collocated" in of.llm_configs:
        del of.llm_configs["prefill"]
    assert budget_of(of) == budget


CHUNKS = ROOT / "bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_chunks_bare_1xtp1"


def test_runs_with_smaller_steps_are_predicted_with_theirs(tmp_path, capsys):
    """As docs/planner.md says of one H200: 2 to 2.5% off, and all within their intervals."""
    path, steps = tmp_path / "own.json", (2048, 1024, 512)
    plan.main(["fit", str(CHUNKS), "-o", str(path)])
    printed = checked(capsys, path, *(f"{CHUNKS}_step{tokens}" for tokens in steps), "--json", tmp_path / "c.json")
    for arm, tokens in ((f"1xtp1 bare step{tokens}", tokens) for tokens in steps):
        assert f"\n {arm} " in printed, "a line of its own, that names it"
        assert f"not hold: {arm}: steps of at most {tokens} tokens, fitted to 8192\n" in f"{printed}\n"
    rows = {run["run"].rpartition("_step")[2]: run["levels"] for run in json.loads((tmp_path / "c.json").read_text())["runs"]}
    for tokens, error in zip(steps, (0.020, 0.025, 0.017), strict=True):
        off = [row["request_throughput"] / row["request_throughput_measured"] - 1 for row in rows[str(tokens)]]
        assert sum(map(abs, off)) / len(off) == pytest.approx(error, abs=0.003)
        assert all(row["request_throughput_covered"] for row in rows[str(tokens)])
        waits = [row["max_itl_ms"] / row["max_itl_ms_measured"] for row in rows[str(tokens)]]
        assert min(waits) > 0.8 and max(waits) < 1


@pytest.mark.parametrize("budget", [8192, 2048, 512])
def test_the_closed_form_is_near_the_simulation(tmp_path, capsys, budget):
    """Those who run get a token in each step of a prompt, so that smaller steps stall them for less."""
    plan.main(["fit", str(CHUNKS), "-o", str(tmp_path / "own.json")])
    model = Model.model_validate_json((tmp_path / "own.json").read_text())
    model = model.model_copy(update={"engine": model.engine.model_copy(update={"budget": budget})})
    layout, workload = Layout.parse("1xtp1"), Workload(5000, 250)
    cells = screen(model, [layout], 1, workload)
    for level in (8, 16):
        simulated = simulate(layout, model.parameters, model.engine, workload, [(level, 5 * level)], range(3), watched=True)[0]
        in_flight = [cell.in_flight for cell in cells]
        throughput = np.interp(level, in_flight, [cell.fleet_throughput for cell in cells])
        assert throughput == pytest.approx(simulated[COLUMNS.index("request_throughput")], rel=0.08)
        longest = np.interp(level, in_flight, [cell.values["max_itl_ms"] for cell in cells])
        assert longest == pytest.approx(simulated[COLUMNS.index("max_itl_ms")], rel=0.03)


def test_what_a_step_costs_by_itself_is_that_of_the_engines_that_prefill():
    parameters = {name: start_of(name) for name in names_of((1, 2))} | {"step_tp2": 0.007}
    costs = costs_of(Layout.parse("p1xtp2-d1xtp1"), parameters, Engine(budget=512), 5000, 250, 1)
    assert costs.awake[-1] == pytest.approx(parameters["step_tp2"] + 128 * parameters["expert_tp2"])


def test_a_fit_is_to_one_largest_step_which_must_be_a_number(tmp_path, capsys):
    for engine, line in (
        ({"max_num_batched_tokens": 4096}, "has steps of at most 8192 tokens, but this is steps of at most 4096 tokens in"),
        (
            {"max_num_batched_tokens": "many"},
            "the manifests: the engines' max_num_batched_tokens: 'many' is no number of tokens",
        ),
        ({"max_num_batched_tokens": 0}, "the manifests: the engines' max_num_batched_tokens: 0 is no number of tokens"),
        ({"max_num_batched_tokens": True}, "the manifests: the engines' max_num_batched_tokens: True is no number of tokens"),
    ):
        folder = changed(tmp_path, CHUNKS, **engine)
        with pytest.raises(SystemExit):
            plan.main(["fit", str(OWN_SIZES), str(folder), "-o", str(tmp_path / "both.json")])
        printed = capsys.readouterr().err
        assert line in printed and printed.count("\n") == 1
        shutil.rmtree(folder)


def test_steps_of_throughput_are_twice_as_large(tmp_path, capsys):
    folder = changed(tmp_path, OWN_SIZES, performance_mode="throughput")
    plan.main(["fit", str(folder), "-o", str(tmp_path / "t.json")])
    assert json.loads((tmp_path / "t.json").read_text())["engine"]["budget"] == 16384

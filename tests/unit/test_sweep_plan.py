"""What a sweep is to measure: options, deployment, seeds, and when a folder is gone on with."""

import socket
import time

import pytest

from pdbench import workload
from pdbench.manifest import Manifest
from pdbench.measure import sweep, sweep_options
from pdbench.measure.sweep_plan import SweepError
from pdbench.serve import client
from pdbench.workload import Level
from tests.helpers.planning import FILENAME, NAME, URL, files, measure, options, planned

CONC4, CONC8 = Level("concurrency", 4.0), Level("concurrency", 8.0)


def dead_url():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def seeds(base_seed, level):
    return tuple(workload.level_seed(base_seed, level, purpose) for purpose in ("measure", "warm-up", "again"))


def seeds_of(task):
    return task.seed, task.warmup_seed, task.again_seed


def test_a_plan_writes_the_manifest_and_has_the_levels(server, tmp_path):
    target, tasks = planned(tmp_path)
    assert target.folder == tmp_path / NAME
    assert (target.model, target.tokenizer, target.lengths, target.serving_url) == ("tiny", "tiny", (100, 11), URL)
    assert {level: task.num_prompts for level, task in tasks.items()} == {"conc4": 20, "conc8": 40}
    assert {level: seeds_of(task) for level, task in tasks.items()} == {"conc4": seeds(0, CONC4), "conc8": seeds(0, CONC8)}
    manifest = Manifest.read(tmp_path / NAME)
    assert (manifest.name, manifest.model, manifest.phase) == ("x", "tiny", "mixed")
    assert (manifest.isl, manifest.osl, manifest.base_seed) == (100, 11, 0)
    assert manifest.deployment == server["deployment"] and manifest.repository.commit == "c0ffee" and manifest.levels == []
    (typed,) = manifest.commands
    assert typed.startswith("./run_bm.sh -e x -c 4,8 --isl 100 ")
    assert server["smoked"] == ["tiny"], "a real request before anything is measured"


def test_a_plan_follows_the_options(server, tmp_path):
    more = ["-t", "request-rate", "--mode=prefill-only", "--seed=5", "-m", "org/name", "--tokenizer", "t", "-r", "2.5"]
    target, tasks = planned(tmp_path, *more)
    assert target.folder.name == "name_itl100_otl11_prefill-only_x"
    assert (target.model, target.tokenizer, target.lengths) == ("org/name", "t", (100, 1))
    assert tasks["rr2.5"].num_prompts == 500 and seeds_of(tasks["rr2.5"]) == seeds(5, Level("request-rate", 2.5))
    assert planned(tmp_path, "-n", "9", levels="8")[1]["conc8"].num_prompts == 9
    assert list(planned(tmp_path, levels="all", name="all")[1]) == [f"conc{c}" for c in (4, 8, 16, 32, 48, 64)]


def test_a_server_that_does_not_describe_itself_needs_a_model_name(server, tmp_path):
    server["deployment"] = None
    with pytest.raises(SweepError, match="does not describe itself: name the model with -m"):
        planned(tmp_path)
    assert files(tmp_path) == []
    warned = []
    target, _ = planned(tmp_path, "-m", "m", warned=warned)
    assert (target.model, target.tokenizer) == ("m", "m")
    assert "was not launched by launch_gptoss.py: the manifest will not say what ran there" in warned[0]
    assert Manifest.read(tmp_path / "m_itl100_otl11_mixed_x").deployment is None


def test_decode_bench_sends_whole_prompts_all_at_once(server, tmp_path, make_manifest):
    server["deployment"] = make_manifest("2xtp1", "collocated", decode_bench=True).deployment
    target, tasks = planned(tmp_path, "--mode", "decode-only")
    assert target.lengths == (100, 11)
    assert {level: task.num_prompts for level, task in tasks.items()} == {"conc4": 4, "conc8": 8}
    with pytest.raises(SweepError, match="-n 40: decode alone sends as many requests as are in flight, all at once"):
        planned(tmp_path, "--mode", "decode-only", "-n", "40")
    for more in (["--mode", "mixed"], ["--mode", "decode-only", "-t", "request-rate"]):
        with pytest.raises(SweepError, match="launched with --decode-bench: measure --mode decode-only at a concurrency"):
            planned(tmp_path, *more)


def test_decode_only_without_it_is_an_approximation(server, tmp_path):
    warned = []
    planned(tmp_path, "--mode", "decode-only", warned=warned)
    assert "prompts of one token leave out what a long context costs: launch with --decode-bench" in warned[0]


def test_as_published_all_levels_have_one_seed_and_no_warm_up(server, tmp_path):
    _, tasks = planned(tmp_path, "--as-published", "--seed", "3")
    assert {level: seeds_of(task) for level, task in tasks.items()} == {"conc4": (3, None, 3), "conc8": (3, None, 3)}
    assert Manifest.read(tmp_path / NAME).as_published
    with pytest.raises(SweepError, match="holds results of as_published True, but this is as_published False"):
        planned(tmp_path, "--seed", "3")
    assert options(tmp_path, "--as-published").max_hit_rate == 1 and options(tmp_path).max_hit_rate == 0.02
    assert options(tmp_path, "--as-published", "--max-hit-rate=0.5").max_hit_rate == 0.5


def test_levels_already_measured_are_skipped(server, tmp_path, level_content):
    measure(tmp_path, level_content())
    assert list(planned(tmp_path)[1]) == ["conc8"]
    assert list(planned(tmp_path, "--num-prompts", "9")[1]) == ["conc4", "conc8"], "another number of requests"
    assert len(Manifest.read(tmp_path / NAME).commands) == 3


def test_a_level_counts_as_measured_with_file_and_record_only(server, tmp_path, level_content):
    folder = tmp_path / NAME
    measure(tmp_path, level_content())
    manifest = Manifest.read(folder)
    assert manifest.found(folder, CONC4, 20)
    assert not manifest.found(folder, CONC4, 19) and not manifest.found(folder, CONC8, 40)
    manifest.levels[0].ok = False
    assert not manifest.found(folder, CONC4, 20)
    manifest.levels[0].ok = True
    (folder / "conc4.json").unlink()
    assert not manifest.found(folder, CONC4, 20)


def test_force_measures_again_and_keeps_the_record_of_the_rest(server, tmp_path, level_content):
    folder = tmp_path / NAME
    measure(tmp_path, level_content())
    measure(tmp_path, level_content(concurrency=8, requests=40), level="conc8")
    assert list(planned(tmp_path, "--force", levels="4")[1]) == ["conc4"]
    assert files(folder) == ["conc4.json", "conc8.json", FILENAME], "an interruption now would have lost nothing"
    assert [(record.level, record.ok) for record in Manifest.read(folder).levels] == [("conc4", True), ("conc8", True)]
    with pytest.raises(SweepError):
        measure(tmp_path, level_content(completed=19), "--force")
    assert files(folder) == ["conc4.json.bad", "conc8.json", FILENAME], "what counted before is not taken for the new one"
    measure(tmp_path, level_content())
    assert files(folder) == ["conc4.json", "conc8.json", FILENAME]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "2xtp1"}, "layout p1xtp2-d1xtp2, but this is layout 2xtp1"),
        ({"mode": "pd-pack"}, "mode pd-spread, but this is mode pd-pack"),
        ({"model_checksum": "abc"}, "model_checksum None, but this is model_checksum abc"),
        ({"transport": {"backend": "UCX"}}, "transport backend None, but this is transport backend UCX"),
        (None, "layout p1xtp2-d1xtp2, but this is layout None"),
    ],
)
def test_another_deployment_is_refused_without_force(server, tmp_path, level_content, change, message):
    folder = tmp_path / NAME
    measure(tmp_path, level_content())
    before = (folder / FILENAME).read_text()
    server["deployment"] = change and server["deployment"].model_copy(update=change)
    with pytest.raises(SweepError) as caught:
        planned(tmp_path, "-m", "tiny")
    assert message in str(caught.value) and "--force" in str(caught.value)
    assert (folder / FILENAME).read_text() == before and files(folder) == ["conc4.json", FILENAME]
    assert list(planned(tmp_path, "-m", "tiny", "--force", levels="8")[1]) == ["conc8"]
    assert files(folder) == ["conc4.json.bad", FILENAME], "the other deployment's level is not plotted as this one's"
    assert Manifest.read(folder).levels == []


def test_levels_of_other_engine_arguments_are_not_put_together(server, tmp_path):
    def started_with(**arguments):
        configs = {"decode": {"engine_kwargs": {"tensor_parallel_size": 1} | arguments}}
        server["deployment"] = server["deployment"].model_copy(update={"llm_configs": configs})

    started_with()
    planned(tmp_path)
    started_with(compilation_config={"level": 0})
    with pytest.raises(
        SweepError, match='of decode compilation_config None, but this is decode compilation_config {"level": 0}'
    ):
        planned(tmp_path)


def test_another_base_seed_is_refused_and_another_launch_is_not(server, tmp_path):
    planned(tmp_path)
    with pytest.raises(SweepError, match="holds results of base seed 0, but this is base seed 1"):
        planned(tmp_path, "--seed", "1")
    server["deployment"] = server["deployment"].model_copy(update={"launched": "later"})
    assert list(planned(tmp_path)[1]) == ["conc4", "conc8"]


def test_levels_without_a_manifest_are_not_vouched_for(server, tmp_path, write_folder):
    folder = write_folder(tmp_path, NAME, {"conc16.json": "{}", "notes.txt": ""})
    planned(tmp_path)
    assert files(folder) == ["conc16.json.bad", FILENAME, "notes.txt"]


# From here on, the command line.


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["run_bm", *map(str, args)])
    try:
        status = sweep.main()
    except SystemExit as left:
        status = left.code
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.out == "", said.err
    return status, said.err.rstrip("\n")


def words(tmp_path, **change):
    usual = {"exp-name": "x", "isl": 100, "osl": 11, "concurrency": "4"}
    where = {"base-url": dead_url(), "results-dir": tmp_path}
    return [f"--{key}={value}" for key, value in (usual | where | change).items()]


def test_a_dead_server_is_reported_within_seconds_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    url, start = dead_url(), time.monotonic()
    status, line = run(monkeypatch, capsys, *words(tmp_path, **{"base-url": url}))
    assert time.monotonic() - start < client.CONNECT_TIMEOUT_S + 2
    assert status == 2 and line.startswith(f"run_bm: error: no server answers at {url}: ")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"concurrency": "4,x"}, "concurrency 'x' is not allowed: give 'all' or whole numbers like 4,8,16"),
        ({"concurrency": "4,4"}, "concurrency '4,4' names a level twice"),
        ({"request-rate": "0", "type": "request-rate"}, "request-rate '0' is not allowed"),
        ({"isl": "many"}, "argument --isl: 'many' is not a whole number of at least 1"),
        ({"osl": 0}, "argument --osl: '0' is not a whole number of at least 1"),
        ({"num-prompts": -1}, "argument -n/--num-prompts: '-1' is not a whole number of at least 1"),
        ({"seed": "x"}, "argument --seed: invalid int value: 'x'"),
        ({"mode": "both"}, "argument --mode: invalid choice: 'both'"),
        ({"type": "speed"}, "argument -t/--type: invalid choice: 'speed'"),
        ({"base-url": "nonsense"}, "argument -u/--base-url: 'nonsense' is not a base URL: write http://nonsense"),
        ({"surprise": 1}, "unrecognized arguments: --surprise=1"),
        ({"num": 1}, "unrecognized arguments: --num=1"),  # not short for --num-prompts
        ({"max-hit-rate": 7}, "argument --max-hit-rate: '7' is not a number from 0 to 1"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(tmp_path, monkeypatch, capsys, change, said):
    status, line = run(monkeypatch, capsys, *words(tmp_path, **change))
    assert status == 2 and line.startswith("run_bm: error: ") and said in line
    assert files(tmp_path) == []


def test_tokens_that_cannot_be_compared_are_refused_before_a_level_is_measured(server, tmp_path, monkeypatch, capsys):
    status, line = run(monkeypatch, capsys, *words(tmp_path, tokens=tmp_path / "none.json"))
    assert status == 2 and f"{tmp_path / 'none.json'}: " in line and files(tmp_path) == []
    (tmp_path / "tokens.json").write_text('{"model": "another", "checksum": null, "prompts": [[1]], "tokens": [[2]]}')
    status, line = run(monkeypatch, capsys, *words(tmp_path, tokens=tmp_path / "tokens.json"))
    assert status == 2 and "holds tokens of another model than the one that runs" in line
    assert files(tmp_path) == ["tokens.json"]


def test_a_results_folder_that_cannot_be_written_is_named(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    status, line = run(monkeypatch, capsys, *words(tmp_path, **{"results-dir": tmp_path / "file"}))
    assert status == 2 and line.startswith("run_bm: error: ") and str(tmp_path / "file") in line


def test_the_names_that_older_recipes_use_are_accepted_but_not_shown():
    parser = sweep_options.build_parser()
    args = parser.parse_args(["-e", "x", "--itl", "100", "--otl", "11"])
    assert (args.isl, args.osl) == (100, 11)
    assert "--isl" in parser.format_help() and "--itl" not in parser.format_help()


def engines_on(server, **machine):
    """Say that the engines run on this machine."""
    deployment = server["deployment"]
    changed = deployment.machines[0].model_copy(update=machine)
    server["deployment"] = deployment.model_copy(update={"machines": [changed]})


def test_a_block_is_the_nth_measurement_and_its_record_says_where(server, tmp_path, level_content):
    engines_on(server, id="here")
    measure(tmp_path, level_content(), "--block", "2")
    (record,) = Manifest.read(tmp_path / NAME).levels
    assert (record.level, record.block, record.machines, record.commit) == ("conc4_rep2", 2, ["here"], "c0ffee")
    assert list(planned(tmp_path, "--block", "2")[1]) == ["conc8_rep2"]


def test_what_another_machine_measured_is_no_part_of_a_block_here(server, tmp_path, level_content):
    engines_on(server, id="there")
    measure(tmp_path, level_content(), "--block", "1")
    engines_on(server, id="here")
    assert list(planned(tmp_path, "--block", "1", levels="4")[1]) == ["conc4"]
    assert files(tmp_path / NAME) == ["conc4.json", FILENAME], "kept until it is measured"
    assert list(planned(tmp_path, levels="4")[1]) == [], "outside blocks a level counts wherever it was measured"


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"gpus": ["H200"]}, "accelerators H100, but this is accelerators H200"),
        ({"gpus": []}, "accelerators H100, but this is accelerators c"),
        ({"versions": {"vllm": "0.30"}}, "vllm 0.29, but this is vllm 0.30"),
    ],
)
def test_levels_of_other_accelerators_or_versions_are_not_put_together(server, tmp_path, level_content, machine, message):
    engines_on(server, gpus=["H100", "H100"], versions={"vllm": "0.29", "driver": "1"})
    measure(tmp_path, level_content())
    engines_on(server, gpus=["H100"], versions={"vllm": "0.29", "driver": "2"})
    assert list(planned(tmp_path)[1]) == ["conc8"], "fewer of the same, and another driver, are the same"
    engines_on(server, **machine)
    with pytest.raises(SweepError) as caught:
        planned(tmp_path)
    assert message in str(caught.value)

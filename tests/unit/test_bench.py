"""The bookkeeping of a sweep: which levels count, what is written, when a folder is gone on with."""

import json
import math
import shutil
import socket
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdbench import bench, client, workload
from pdbench.bench import BenchError, problems_of
from pdbench.manifest import FILENAME, Gate, Manifest, Repository
from pdbench.workload import Level

URL = "http://127.0.0.1:1"
CONC4, CONC8 = Level("concurrency", 4.0), Level("concurrency", 8.0)
LEVEL = {
    "completed": 20, "failed": 0, "total_output_tokens": 220, "duration": 2.0, "request_throughput": 10.0,
    "median_ttft_ms": 50.0, "median_tpot_ms": 10.0, "p99_itl_ms": 27.0,
}  # fmt: skip


def dead_url():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def test_a_level_as_asked_counts(level_content):
    assert problems_of(LEVEL, asked=20, osl=11) == []
    assert problems_of(level_content(detailed=True), asked=20, osl=11) == []
    assert problems_of(LEVEL | {"total_output_tokens": 20, "median_tpot_ms": 0.0, "p99_itl_ms": 0}, 20, 1) == []


NO_NUMBER = "not a number of at least 0"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"completed": 19, "total_output_tokens": 209}, ["19 of 20 requests completed"]),
        ({"completed": 21, "total_output_tokens": 231}, ["21 of 20 requests completed"]),
        ({"total_output_tokens": 219}, ["219 output tokens instead of 220"]),
        ({"total_output_tokens": 221}, ["221 output tokens instead of 220"]),
        ({"failed": 2}, ["2 requests failed: the client gives no reason"]),
        ({"failed": 1, "errors": ["", "Internal\n  Server Error"]}, ["1 requests failed: Internal Server Error"]),
        ({"failed": 1, "errors": ["", ""]}, ["1 requests failed: the client gives no reason"]),
        ({"failed": 1, "errors": None}, ["1 requests failed: the client gives no reason"]),
        ({"failed": 1, "errors": 7}, ["1 requests failed: the client gives no reason"]),
        ({"completed": 0, "failed": 20, "total_output_tokens": 0, "errors": ["x" * 999]},
         ["0 of 20 requests completed", "20 requests failed: " + "x" * 300]),
        ({"completed": 18, "failed": 2, "total_output_tokens": 1},
         ["18 of 20 requests completed", "2 requests failed: the client gives no reason",
          "1 output tokens instead of 198"]),
        ({"completed": None}, [f"completed is None, {NO_NUMBER}"]),
        ({"completed": True}, [f"completed is True, {NO_NUMBER}"]),
        ({"completed": "20"}, [f"completed is '20', {NO_NUMBER}"]),
        ({"completed": [20]}, [f"completed is [20], {NO_NUMBER}"]),
        ({"failed": False}, [f"failed is False, {NO_NUMBER}"]),
        ({"failed": -1}, [f"failed is -1, {NO_NUMBER}"]),
        ({"total_output_tokens": math.inf}, [f"total_output_tokens is inf, {NO_NUMBER}"]),
        ({"duration": math.nan}, [f"duration is nan, {NO_NUMBER}"]),
        ({"median_ttft_ms": math.nan}, [f"median_ttft_ms is nan, {NO_NUMBER}"]),
    ],
)  # fmt: skip
def test_why_a_level_does_not_count(change, problems):
    assert problems_of(LEVEL | change, asked=20, osl=11) == problems


@pytest.mark.parametrize("key", LEVEL)
def test_a_missing_number_is_named(key):
    rest = {k: v for k, v in LEVEL.items() if k != key}
    assert problems_of(rest, asked=20, osl=11) == [f"{key} is None, {NO_NUMBER}"]


@pytest.mark.parametrize("result", [None, [], [LEVEL], "text", 5, True, math.nan])
def test_a_result_that_is_no_object_does_not_count(result):
    (problem,) = problems_of(result, asked=20, osl=11)
    assert problem.startswith("the result is ") and problem.endswith(", not a JSON object")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*LEVEL, "errors"]), anything), st.integers(1, 100), st.integers(1, 100))
@example({"completed": 10**4000}, 20, 11)
@example({"failed": 1, "errors": [[], {"a": "\n"}]}, 20, 11)
def test_whatever_a_result_holds_its_problems_are_listed(change, asked, osl):
    problems = problems_of(LEVEL | change, asked, osl)
    assert all(isinstance(problem, str) and problem and "\n" not in problem for problem in problems)
    if not problems:
        result = LEVEL | change
        assert (result["completed"], result["failed"]) == (asked, 0)
        assert result["total_output_tokens"] == asked * osl


# From here on, folders: what `begin` writes and prints, and what `finish` makes of a level's file.


@pytest.fixture
def server(monkeypatch, make_manifest):
    """A stand-in for what runs: `server["deployment"]` is what it says of itself."""
    deployment = make_manifest(layout="p1xtp2-d1xtp2", mode="pd-spread").deployment
    found = {"deployment": deployment, "smoked": [], "gates": [], "after": []}

    async def smoke(base_url, model, max_tokens):
        found["smoked"].append(model)

    manifest = make_manifest()
    monkeypatch.setattr(bench, "describe_deployment", lambda base_url: found["deployment"])
    first = lambda url, base_seed, levels, described: {v: bench._first_unseen(base_seed, v, set()) for v in levels}  # noqa: E731
    monkeypatch.setattr(bench, "unseen_seeds", first)
    monkeypatch.setattr(client, "smoke", smoke)
    monkeypatch.setattr(bench.level_gates, "check", lambda *args: list(found["gates"]))
    monkeypatch.setattr(bench.level_gates, "between", lambda *args: found["after"].append(args) or [])
    monkeypatch.setattr(bench.stack, "machine", lambda: manifest.client.model_dump())
    monkeypatch.setattr(bench.stack, "repository", lambda root: Repository(commit="c0ffee", dirty=False))
    return found


def begin(capsys, results, *more, levels="4,8", name="x"):
    """Run `begin` and return (folder, second line's fields, {level: the rest of its line})."""
    args = ["begin", "--exp-name", name, "--levels", levels, "--isl", "100", "--osl", "11"]
    args += ["--base-url", URL, "--results-dir", str(results), "--typed", "./run_bm.sh -x", *more]
    capsys.readouterr()
    bench.begin(bench.parse_args(args))
    folder, model, *todo = capsys.readouterr().out.splitlines()
    return folder, model.split("\t"), {line.split("\t")[0]: line.split("\t")[1:] for line in todo}


def finish(folder, level="conc4", status=0, num_prompts=20, attempt=1):
    bench.finish(bench.parse_args([
        "finish", str(folder), level, "--status", str(status), "--command", "vllm bench serve", "--started", "then",
        "--num-prompts", str(num_prompts), "--seed", "7", "--warmup-seed", "8", "--attempt", str(attempt),
        "--base-url", URL, "--client", "1", "0", "2",
    ]))  # fmt: skip


def measure(folder, level_content, level="conc4", **change):
    (folder / f"{level}.json.part").write_text(json.dumps(level_content(**change)))
    finish(folder, level, num_prompts=int(level.removeprefix("conc")) * 5)


def seeds(base_seed, level):
    return [str(workload.level_seed(base_seed, level, purpose)) for purpose in ("measure", "warm-up", "again")]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_begin_writes_the_manifest_and_prints_the_levels(server, tmp_path, capsys):
    folder, model, todo = begin(capsys, tmp_path)
    assert folder == str(tmp_path / "tiny_itl100_otl11_mixed_x")
    assert model == ["tiny", "tiny", "100", "11", URL]
    assert todo == {"conc4": ["4", "20", *seeds(0, CONC4)], "conc8": ["8", "40", *seeds(0, CONC8)]}
    manifest = Manifest.read(tmp_path / "tiny_itl100_otl11_mixed_x")
    assert (manifest.name, manifest.model, manifest.phase) == ("x", "tiny", "mixed")
    assert (manifest.isl, manifest.osl, manifest.base_seed) == (100, 11, 0)
    assert manifest.deployment == server["deployment"] and manifest.commands == ["./run_bm.sh -x"]
    assert manifest.repository.commit == "c0ffee" and manifest.levels == []
    assert server["smoked"] == ["tiny"], "a real request before anything is measured"


def test_begin_sends_what_the_options_say(server, tmp_path, capsys):
    more = ["--type", "request-rate", "--mode", "prefill-only", "--seed", "5"]
    more += ["--model", "org/name", "--tokenizer", "t"]
    folder, model, todo = begin(capsys, tmp_path, *more, levels="2.5")
    assert folder.endswith("/name_itl100_otl11_prefill-only_x")
    assert model == ["org/name", "t", "100", "1", URL]
    assert todo == {"rr2.5": ["2.5", "500", *seeds(5, Level("request-rate", 2.5))]}
    assert begin(capsys, tmp_path, "--num-prompts", "3", levels="8")[2]["conc8"][1] == "3"
    assert list(begin(capsys, tmp_path, levels="all", name="all")[2]) == [f"conc{c}" for c in (4, 8, 16, 32, 48, 64)]


def test_a_server_that_says_nothing_of_itself_needs_a_model_name(server, tmp_path, capsys):
    server["deployment"] = None
    with pytest.raises(BenchError, match="does not describe itself: name the model with -m"):
        begin(capsys, tmp_path)
    assert files(tmp_path) == []
    bench.begin(bench.parse_args(["begin", *options(tmp_path, model="m")]))
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split("\t")[:4] == ["m", "m", "100", "11"]
    assert "was not launched by launch_gptoss.py: the manifest will not say what ran there" in said.err
    assert Manifest.read(tmp_path / "m_itl100_otl11_mixed_x").deployment is None


def test_a_level_that_counts_gets_its_name(server, tmp_path, capsys, level_content):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    measure(folder, level_content)
    assert files(folder) == ["conc4.json", FILENAME]
    assert capsys.readouterr().out == "10.00 requests/s, TTFT 50 ms, TPOT 10.0 ms, inter-token p99 27.0 ms\n"
    (record,) = Manifest.read(folder).levels
    assert (record.level, record.ok, record.problems, record.num_prompts) == ("conc4", True, [], 20)
    assert (record.seed, record.warmup_seed, record.command, record.started) == (7, 8, "vllm bench serve", "then")
    assert record.launched == server["deployment"].launched and record.ended > "2" and record.attempt == 1


@pytest.mark.parametrize(
    ("content", "status", "problem"),
    [
        ("bad", 0, "19 of 20 requests completed"),
        ("good", 3, "the bench client exited with code 3"),
        ('{"completed": 20', 0, "conc4.json.part: "),
        ("[" * 99999, 0, "conc4.json.part: "),
        ("\xff", 0, "conc4.json.part: "),
        ("[]", 0, "the result is [], not a JSON object"),
        ("", 0, "conc4.json.part: "),
    ],
)
def test_a_level_that_does_not_count_is_set_aside(server, tmp_path, capsys, level_content, content, status, problem):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    good = level_content()
    text = {"good": json.dumps(good), "bad": json.dumps(good | {"completed": 19})}.get(content, content)
    (folder / "conc4.json.part").write_text(text, encoding="latin-1")
    with pytest.raises(BenchError) as caught:
        finish(folder, status=status)
    message = str(caught.value)
    assert message.startswith("level conc4 does not count: ") and problem in message and "\n" not in message
    assert files(folder) == ["conc4.json.bad", FILENAME], "no plot reads it"
    (record,) = Manifest.read(folder).levels
    assert not record.ok and problem in record.problems[0]
    assert list(begin(capsys, tmp_path)[2]) == ["conc4", "conc8"], "it is measured again"
    measure(folder, level_content)
    assert files(folder) == ["conc4.json", FILENAME]


def test_a_level_whose_gate_fails_does_not_count(server, tmp_path, capsys, level_content):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    known = {"time": "now", "expected": "at most 1.0%", "advice": "choose another --seed"}
    server["gates"] = [Gate(name="requests", passed=True, seen="24", **known),
                       Gate(name="prefix-cache", passed=False, seen="40.0% cached", **known)]  # fmt: skip
    problem = "prefix-cache: 40.0% cached; expected at most 1.0%; choose another --seed"
    with pytest.raises(BenchError, match=f"level conc4 does not count: {problem}"):
        measure(folder, level_content)
    assert files(folder) == ["conc4.json.bad", FILENAME]
    (record,) = Manifest.read(folder).levels
    assert (record.ok, record.problems, record.gates) == (False, [problem], server["gates"])


def test_a_server_that_dies_at_the_gates_fails_its_level(server, tmp_path, capsys, level_content, monkeypatch):
    def gone(*args):
        raise client.ServerError("no server answers")

    begin(capsys, tmp_path)
    monkeypatch.setattr(bench.level_gates, "check", gone)
    with pytest.raises(BenchError, match="no server answers"):
        measure(tmp_path / "tiny_itl100_otl11_mixed_x", level_content)


def test_decode_bench_sends_whole_prompts_all_at_once(server, tmp_path, capsys, make_manifest):
    server["deployment"] = make_manifest("2xtp1", "collocated", decode_bench=True).deployment
    folder, model, todo = begin(capsys, tmp_path, "--mode", "decode-only")
    assert model[2:4] == ["100", "11"] and {level: fields[1] for level, fields in todo.items()} == {"conc4": "4", "conc8": "8"}
    for more in (["--mode", "mixed"], ["--mode", "decode-only", "--type", "request-rate"]):
        with pytest.raises(BenchError, match="launched with --decode-bench: measure --mode decode-only at a concurrency"):
            begin(capsys, tmp_path, *more)


def test_decode_only_without_it_is_an_approximation(server, tmp_path, capsys):
    bench.begin(bench.parse_args(["begin", *options(tmp_path), "--mode", "decode-only"]))
    assert "prompts of one token leave out what a long context costs: launch with --decode-bench" in capsys.readouterr().err


def test_as_published_all_levels_have_one_seed_and_no_warm_up(server, tmp_path, capsys):
    todo = begin(capsys, tmp_path, "--as-published", "--seed", "3")[2]
    assert todo == {"conc4": ["4", "20", "3", "-", "3"], "conc8": ["8", "40", "3", "-", "3"]}
    assert Manifest.read(tmp_path / "tiny_itl100_otl11_mixed_x").as_published
    with pytest.raises(BenchError, match="holds results of as_published True, but this is as_published False"):
        begin(capsys, tmp_path, "--seed", "3")


def test_a_client_that_wrote_nothing_leaves_no_level(server, tmp_path, capsys):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    for status, problem in ((1, "the bench client exited with code 1"), (0, "conc4.json.part: ")):
        with pytest.raises(BenchError, match=problem):
            finish(folder, status=status)
    assert files(folder) == [FILENAME]
    assert len(Manifest.read(folder).levels) == 1, "the last word on a level is the one kept"


@given(content=st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
def test_no_content_of_a_file_is_an_unlisted_error(tmp_path_factory, make_manifest, content):
    folder = tmp_path_factory.mktemp("results")
    make_manifest().write(folder)
    (folder / "conc4.json.part").write_bytes(content)
    with pytest.raises(BenchError, match="level conc4 does not count"):
        finish(folder)
    assert files(folder) == ["conc4.json.bad", FILENAME]
    shutil.rmtree(folder)


def test_levels_already_measured_are_skipped(server, tmp_path, capsys, level_content):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    measure(folder, level_content)
    assert list(begin(capsys, tmp_path)[2]) == ["conc8"]
    assert list(begin(capsys, tmp_path, "--num-prompts", "3")[2]) == ["conc4", "conc8"], "another number of requests"
    begin(capsys, tmp_path)
    assert Manifest.read(folder).commands == ["./run_bm.sh -x"] * 4


def test_a_level_counts_as_measured_with_file_and_record_only(server, tmp_path, capsys, level_content):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    measure(folder, level_content)
    manifest = Manifest.read(folder)
    assert manifest.has(folder, CONC4, 20)
    assert not manifest.has(folder, CONC4, 19) and not manifest.has(folder, CONC8, 40)
    manifest.levels[0].ok = False
    assert not manifest.has(folder, CONC4, 20)
    manifest.levels[0].ok = True
    (folder / "conc4.json").unlink()
    assert not manifest.has(folder, CONC4, 20)


def test_force_measures_again_and_keeps_the_record_of_the_rest(server, tmp_path, capsys, level_content):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    measure(folder, level_content)
    measure(folder, level_content, "conc8", concurrency=8, requests=40)
    assert list(begin(capsys, tmp_path, "--force", levels="4")[2]) == ["conc4"]
    assert files(folder) == ["conc4.json", "conc8.json", FILENAME], "an interruption now would have lost nothing"
    assert [(record.level, record.ok) for record in Manifest.read(folder).levels] == [("conc4", True), ("conc8", True)]
    with pytest.raises(BenchError):
        measure(folder, level_content, completed=19)
    assert files(folder) == ["conc4.json.bad", "conc8.json", FILENAME], "what counted before is not taken for the new one"
    measure(folder, level_content)
    assert files(folder) == ["conc4.json", "conc8.json", FILENAME]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "2xtp1"}, "layout p1xtp2-d1xtp2, but this is layout 2xtp1"),
        ({"mode": "pd-pack"}, "mode pd-spread, but this is mode pd-pack"),
        ({"model_checksum": "abc"}, "model_checksum None, but this is model_checksum abc"),
        ({"transport": {"backend": "UCX"}}, "transport None, but this is transport {'backend': 'UCX'}"),
        (None, "layout p1xtp2-d1xtp2, but this is layout None"),
    ],
)
def test_another_deployment_is_refused_without_force(server, tmp_path, capsys, level_content, change, message):
    folder = tmp_path / "tiny_itl100_otl11_mixed_x"
    begin(capsys, tmp_path)
    measure(folder, level_content)
    before = (folder / FILENAME).read_text()
    server["deployment"] = change and server["deployment"].model_copy(update=change)
    with pytest.raises(BenchError) as caught:
        begin(capsys, tmp_path, "--model", "tiny")
    advice = "choose another --exp-name, or --force to measure anew"
    assert str(caught.value) == f"{folder} holds results of {message}: {advice}"
    assert (folder / FILENAME).read_text() == before and files(folder) == ["conc4.json", FILENAME]
    assert list(begin(capsys, tmp_path, "--model", "tiny", "--force", levels="8")[2]) == ["conc8"]
    assert files(folder) == ["conc4.json.bad", FILENAME], "the other deployment's level is not plotted as this one's"
    assert Manifest.read(folder).levels == []


def test_another_base_seed_is_refused_and_another_launch_is_not(server, tmp_path, capsys):
    begin(capsys, tmp_path)
    with pytest.raises(BenchError, match="holds results of base seed 0, but this is base seed 1"):
        begin(capsys, tmp_path, "--seed", "1")
    server["deployment"] = server["deployment"].model_copy(update={"launched": "later"})
    assert list(begin(capsys, tmp_path)[2]) == ["conc4", "conc8"]


def test_levels_without_a_manifest_are_not_vouched_for(server, tmp_path, capsys, write_folder):
    folder = write_folder(tmp_path, "tiny_itl100_otl11_mixed_x", {"conc16.json": "{}", "notes.txt": ""})
    begin(capsys, tmp_path)
    assert files(folder) == ["conc16.json.bad", FILENAME, "notes.txt"]


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["bench", *map(str, args)])
    try:
        status = bench.main()
    except SystemExit as left:
        status = left.code
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.out == "", said.err
    return status, said.err.rstrip("\n")


def options(tmp_path, **change):
    usual = {"exp-name": "x", "isl": 100, "osl": 11, "levels": "4", "typed": "t"}
    where = {"base-url": dead_url(), "results-dir": tmp_path}
    return [f"--{key}={value}" for key, value in (usual | where | change).items()]


def test_a_dead_server_is_told_within_seconds_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    url, start = dead_url(), time.monotonic()
    status, line = run(monkeypatch, capsys, "begin", *options(tmp_path, **{"base-url": url}))
    assert time.monotonic() - start < bench.client.CONNECT_TIMEOUT_S + 2
    assert status == 2 and line.startswith(f"run_bm: error: no server answers at {url}: ")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": "4,x"}, "concurrency 'x' is not allowed: give 'all' or whole numbers like 4,8,16"),
        ({"levels": "4,4"}, "concurrency '4,4' names a level twice"),
        ({"levels": "0", "type": "request-rate"}, "request-rate '0' is not allowed"),
        ({"isl": "many"}, "argument --isl: 'many' is not a whole number of at least 1"),
        ({"osl": 0}, "argument --osl: '0' is not a whole number of at least 1"),
        ({"num-prompts": -1}, "argument --num-prompts: '-1' is not a whole number of at least 1"),
        ({"seed": "x"}, "argument --seed: invalid int value: 'x'"),
        ({"mode": "both"}, "argument --mode: invalid choice: 'both'"),
        ({"type": "speed"}, "argument --type: invalid choice: 'speed'"),
        ({"base-url": "nonsense"}, "no server answers at nonsense: "),
        ({"surprise": 1}, "unrecognized arguments: --surprise=1"),
        ({"max-hit-rate": 7}, "argument --max-hit-rate: '7' is not a number from 0 to 1"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(tmp_path, monkeypatch, capsys, change, words):
    status, line = run(monkeypatch, capsys, "begin", *options(tmp_path, **change))
    assert status == 2 and line.startswith("run_bm: error: ") and words in line
    assert files(tmp_path) == []


def test_tokens_that_cannot_be_compared_are_told_before_a_level_is_measured(server, tmp_path, monkeypatch, capsys):
    status, line = run(monkeypatch, capsys, "begin", *options(tmp_path, tokens=tmp_path / "none.json"))
    assert status == 2 and f"{tmp_path / 'none.json'}: " in line and files(tmp_path) == []
    other = {"model": "another", "checksum": None, "prompts": [[1]], "tokens": [[2]]}
    (tmp_path / "tokens.json").write_text(json.dumps(other))
    status, line = run(monkeypatch, capsys, "begin", *options(tmp_path, tokens=tmp_path / "tokens.json"))
    assert status == 2 and "holds tokens of another model than the one that runs" in line
    assert files(tmp_path) == ["tokens.json"]


def test_a_results_folder_that_cannot_be_written_is_named(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    status, line = run(monkeypatch, capsys, "begin", *options(tmp_path, **{"results-dir": tmp_path / "file"}))
    assert status == 2 and line.startswith("run_bm: error: ") and str(tmp_path / "file") in line


def test_a_bad_level_makes_the_command_fail(server, tmp_path, monkeypatch, capsys, make_manifest, write_folder):
    folder = write_folder(tmp_path, "x", {"conc4.json.part": "{}"})
    args = ["--status=0", "--command=c", "--started=s", "--num-prompts=20", "--seed=1", "--warmup-seed=2"]
    args += ["--attempt=1", "--base-url=http://127.0.0.1:1", "--client", "0", "0", "0"]
    status, line = run(monkeypatch, capsys, "finish", folder, "conc4", *args)
    assert status == 1 and line.startswith("run_bm: error: ") and FILENAME in line
    make_manifest().write(folder)
    status, line = run(monkeypatch, capsys, "finish", folder, "conc4", *args)
    assert (status, line) == (1, f"run_bm: error: level conc4 does not count: completed is None, {NO_NUMBER}")

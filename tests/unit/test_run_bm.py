"""run_bm.sh, with a small server and a stand-in for vLLM's bench client: no Ray, no vLLM."""

import json
import shlex
import signal
import socket
import time

import psutil
import pytest

from pdbench.manifest import FILENAME, Manifest
from pdbench.serve.client import past_proxies
from pdbench.workload import Level, level_seed
from tests.helpers.sweeping import NAMES, FakeServer, serving, sweeper


@pytest.fixture
def server(make_manifest):
    deployment = make_manifest("2xtp1", "collocated").deployment
    with serving(FakeServer(json.loads(deployment.model_dump_json()))) as server:
        yield server


@pytest.fixture
def dead_url():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture
def sweep(tmp_path, level_content):
    return sweeper(tmp_path, level_content())


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_help_names_every_option(sweep, tmp_path):
    status, out, err = sweep("--help")
    assert (status, err) == (0, "") and out.startswith("usage: ./run_bm.sh -e NAME --isl N --osl N [options]")
    for option in (
        "-e NAME, --exp-name", "--type", "-c LIST, --concurrency", "-r LIST, --request-rate", "--isl N",
        "--osl N", "--mode",
        "-u URL, --base-url", "-m NAME, --served-model-name", "--tokenizer", "-n N, --num-prompts", "--repeats",
        "--seed", "--results-dir", "--force", "-s, --smoke", "--transport", "--tokens", "--max-hit-rate", "--as-published",
        "--request-limit S", "--level-limit S",
    ):  # fmt: skip
        assert f"{option} " in out or f"{option}\n" in out, option
    assert files(tmp_path) == ["vllm"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*NAMES, "--surprise", "1"], "unrecognized arguments: --surprise 1"),
        ([*NAMES, "surprise"], "unrecognized arguments: surprise"),
        (["--isl=100"], "--exp-name, --isl and --osl are needed (or --phases"),
        (["-u"], "argument -u/--base-url: expected one argument"),
        ([], "--exp-name, --isl and --osl are needed (or --phases"),
        (["-e", "x", "--itl", "100"], "--exp-name, --isl and --osl are needed (or --phases"),
        ([*NAMES, "-e", "../x"], "argument -e/--exp-name: '../x' may hold letters, digits, '.', '_' and '-' only"),
        ([*NAMES, "-e", "a b"], "argument -e/--exp-name: 'a b' may hold letters, digits, '.', '_' and '-' only"),
        ([*NAMES, "-c", "4,x"], "concurrency 'x' is not allowed: give 'all' or whole numbers like 4,8,16"),
        ([*NAMES, "-t", "speed"], "argument -t/--type: invalid choice: 'speed'"),
        ([*NAMES, "-n", "0"], "argument -n/--num-prompts: '0' is not a whole number of at least 1"),
    ],
)
def test_a_mistake_is_reported_in_one_line_and_nothing_is_written(sweep, tmp_path, dead_url, options, words):
    status, out, err = sweep("-u", dead_url, *options)
    assert (status, out) == (2, "")
    assert err.startswith("run_bm: error: ") and words in err and err.count("\n") == 1
    assert files(tmp_path) == ["vllm"]


def test_a_dead_server_is_reported_within_seconds(sweep, tmp_path, dead_url):
    start = time.monotonic()
    status, out, err = sweep(*NAMES, "-u", dead_url)
    assert (status, out) == (2, "") and time.monotonic() - start < 15
    assert err.startswith(f"run_bm: error: no server answers at {dead_url}: ") and err.count("\n") == 1
    status, out, err = sweep("--smoke", "-u", dead_url)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: no server answers at {dead_url}: ") and err.count("\n") == 1
    assert files(tmp_path) == ["vllm"]


def test_a_sweep_measures_stops_at_a_bad_level_and_goes_on_later(sweep, server, tmp_path):
    options = [*NAMES, "-u", server.url + "/", "-c", "1,2", "-n", "20", "--seed", "3"]
    folder = tmp_path / "results" / "tiny_itl100_otl11_mixed_x"

    status, out, err = sweep(*options, FAILS="conc2.json.part")
    assert status == 1, err
    assert "run_bm: level conc1 (1 of 2): 20 requests of 100:11 tokens\n" in out
    assert "run_bm: level conc2 (2 of 2): 20 requests of 100:11 tokens, about " in out and out.endswith(" s left\n")
    assert "10.00 requests/s, TTFT 50 ms, TPOT 10.0 ms, inter-token p99 27.0 ms\n" in out
    assert "RuntimeError: no such luck" in err, "the client's own last words"
    assert err.endswith("run_bm: error: level conc2 does not count: the bench client exited with code 1\n")
    assert [name for name in files(folder) if name[0] != "."] == ["conc1.json", FILENAME]

    status, out, err = sweep(*options)
    assert status == 0 and err == f"run_bm: {folder}: 1 of 2 levels to measure\n"
    assert out.startswith("run_bm: level conc2 (1 of 1): ")
    assert out.splitlines()[-1].startswith("run_bm: 1 levels in ") and out.endswith(f" s: {folder}\n")
    assert files(folder) == ["conc1.json", "conc2.json", FILENAME]

    manifest = Manifest.read(folder)
    assert manifest.commands == [shlex.join(["./run_bm.sh", "--results-dir", str(tmp_path / "results"), *options])] * 2
    assert [(record.level, record.ok, record.num_prompts) for record in manifest.levels] == [
        ("conc1", True, 20), ("conc2", True, 20),
    ]  # fmt: skip
    seeds = {record.level: record.seed for record in manifest.levels}
    one, two = (Level("concurrency", float(c)) for c in (1, 2))
    assert seeds == {"conc1": level_seed(3, one), "conc2": level_seed(3, two, attempt=2)}, "level 2 was tried twice"
    arguments = json.loads((folder / "conc2.json").read_text())["arguments"]
    reported = dict(zip(arguments, arguments[1:]))
    assert "--ignore-eos" in arguments and "--save-detailed" in arguments
    assert (reported["--max-concurrency"], reported["--seed"]) == ("2", str(seeds["conc2"]))
    lengths = reported["--random-prefix-len"], reported["--random-input-len"], reported["--random-output-len"]
    assert lengths == ("8", "92", "11"), "prompts of 100 tokens that no other level has"
    assert (reported["--base-url"], reported["--model"], reported["--tokenizer"]) == (server.url, "tiny", "tiny")
    assert f"seed={seeds['conc2']}" in arguments, "written to the result's metadata"

    status, out, err = sweep(*options)
    assert status == 0 and out == "run_bm: nothing to do: all levels are measured (--force measures again)\n"
    warmups = [request for request in server.requests if len(request["prompt"]) == 100]
    assert len(warmups) == 1 + 2 + 2, "each level is warmed up with as many requests as it has in flight"
    prompts = {tuple(request["prompt"]) for request in server.requests}
    assert len(prompts) == len(server.requests), "no prompt twice"
    assert len(set(server.seeds)) == len(server.seeds) == 9, "the deployment knows what it was given"


def test_requests_go_where_a_control_arm_takes_them(sweep, server, tmp_path):
    """Its servers are asked for tokens, and what describes the deployment for everything else."""
    with serving(FakeServer()) as engine:
        server.deployment |= {"mode": "bare", "serving_url": engine.url}
        server.behind, server.models = [engine], None
        status, out, err = sweep(*NAMES, "-u", server.url, "-c", "1,2", "-n", "20")
        assert status == 0, err
        assert server.requests == [] and engine.finished == 40 and engine.seeds == [] and len(server.seeds) == 6
        folder = tmp_path / "results" / "tiny_itl100_otl11_mixed_x"
        arguments = json.loads((folder / "conc2.json").read_text())["arguments"]
        assert arguments[arguments.index("--base-url") + 1] == engine.url
        before = len(engine.requests)
        status, out, err = sweep("--smoke", "-u", server.url)
        assert status == 0 and out.startswith("served: ") and len(engine.requests) == before + 1


def test_a_client_that_dies_is_a_level_that_does_not_count(sweep, server, tmp_path):
    status, out, err = sweep(*NAMES, "-u", server.url, "-c", "1,2", "-n", "20", DIES="conc1.json.part")
    assert status == 1 and "level conc2" not in out, err
    assert err.endswith("run_bm: error: level conc1 does not count: the bench client exited with code 1\n")


def test_one_client_measures_all_levels(sweep, server, tmp_path):
    sweep(*NAMES, "-u", server.url, "-c", "1,2", "-n", "20")
    folder = tmp_path / "results" / "tiny_itl100_otl11_mixed_x"
    one, two = (json.loads((folder / f"conc{c}.json").read_text())["pid"] for c in (1, 2))
    assert one == two and not psutil.pid_exists(one)


def test_repeats_measure_every_level_again_with_prompts_of_their_own(sweep, server, tmp_path):
    options = [*NAMES, "-u", server.url, "-c", "1,2", "-n", "20"]
    folder = tmp_path / "results" / "tiny_itl100_otl11_mixed_x"
    sweep(*options)
    before = (folder / "conc1.json").stat().st_mtime_ns
    status, out, err = sweep(*options, "--repeats", "2")
    assert status == 0 and "2 of 4 levels to measure" in err and "level conc1_rep2 (1 of 2)" in out
    assert files(folder) == ["conc1.json", "conc1_rep2.json", "conc2.json", "conc2_rep2.json", FILENAME]
    assert (folder / "conc1.json").stat().st_mtime_ns == before
    records = Manifest.read(folder).levels
    assert len({record.seed for record in records}) == 4 and all(record.ok for record in records)


def test_an_interrupted_sweep_leaves_no_process_and_no_part(sweep, server, tmp_path):
    options = [*NAMES, "-u", server.url, "-t", "request-rate", "-r", "2.5", "-n", "20", "--mode", "decode-only"]
    process = sweep(*options, start=True, HANGS="1")
    folder = tmp_path / "results" / "tiny_itl100_otl11_decode-only_x"
    pid_file, deadline = folder / "rr2.5.json.part.pid", time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    arguments = json.loads((folder / "rr2.5.json.part").read_text())["arguments"]
    reported = dict(zip(arguments, arguments[1:]))
    assert reported["--request-rate"] == "2.5" and "--max-concurrency" not in reported
    assert (reported["--random-input-len"], reported["--random-output-len"]) == ("1", "11"), "decode-only is 1:OSL"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.endswith("interrupted; the same command continues at this level\n")
    assert not psutil.pid_exists(int(pid_file.read_text()))
    assert not list(folder.glob("*.part")) and not list(folder.glob("rr*.json"))


def test_a_server_that_does_not_describe_itself_needs_a_name(sweep, server, tmp_path):
    server.deployment = None
    status, out, err = sweep(*NAMES, "-u", server.url)
    assert (status, out) == (2, "")
    assert err == f"run_bm: error: {server.url} does not describe itself: name the model with -m\n"
    assert files(tmp_path) == ["vllm"]


def test_smoke_prints_one_completion_with_its_times(sweep, server, tmp_path):
    status, out, err = sweep("-s", "-u", server.url, "-m", "named")
    first, second = out.splitlines()
    assert (status, err) == (0, "") and first == f"named: {'ab ' * 32!r}"
    assert second.startswith("TTFT ") and " ms, inter-token time mean " in second and second.endswith(", 32 pieces")
    (request,) = server.requests
    assert request["model"] == "named" and request["stream"] and request["ignore_eos"]
    assert files(tmp_path) == ["vllm"]


KEY = "sk-nobody-else-knows"


def test_a_server_that_wants_a_key_gets_it_and_no_file_does(sweep, server, tmp_path):
    server.key = KEY
    options = [*NAMES, "-u", server.url, "-c", "1", "-n", "20"]
    status, out, err = sweep(*options, OPENAI_API_KEY=KEY)
    assert status == 0, err
    status, smoked, err = sweep("-s", "-u", server.url, OPENAI_API_KEY=KEY)
    assert status == 0, err
    written = "".join(path.read_text() for path in (tmp_path / "results").rglob("*") if path.is_file())
    assert "vllm bench serve" in written and KEY not in written + out + smoked


@pytest.mark.parametrize(
    ("given", "words"), [({}, " (it wants a key: set OPENAI_API_KEY)\n"), ({"OPENAI_API_KEY": f"{KEY}-old"}, "wrong key: ")]
)
def test_a_wrong_key_is_one_line_that_does_not_repeat_it(sweep, server, monkeypatch, given, words):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.key = KEY
    status, out, err = sweep(*NAMES, "-u", server.url, "-c", "1", **given)
    assert (status, out, err.count("\n")) == (2, "", 1) and "answered 401" in err and words in err and KEY not in err


def test_a_key_that_no_header_may_have_is_reported(sweep, server):
    status, out, err = sweep("-s", "-u", server.url, OPENAI_API_KEY="sk\nx")
    assert (status, out) == (1, "") and err.startswith("error: OPENAI_API_KEY is not a key: ") and err.count("\n") == 1


@pytest.mark.parametrize("more", [{}, {"NO_PROXY": "example.org"}, {"no_proxy": "example.org"}])
def test_no_client_goes_to_the_deployment_through_a_proxy(sweep, server, dead_url, more, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    status, out, err = sweep(*NAMES, "-u", server.url, "-c", "1", "-n", "20", http_proxy=dead_url, https_proxy=dead_url, **more)
    assert status == 0 and "10.00 requests/s" in out, err
    spared = ",".join([*more.values(), "127.0.0.1"])
    assert f"a proxy is set, but requests to the deployment do not go through it: no_proxy={spared}\n" in err


def test_a_proxy_that_is_not_in_the_way_is_no_matter(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert past_proxies("http://127.0.0.1:8000") == {}
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert past_proxies("http://127.0.0.1:8000") == {} != past_proxies("https://127.0.0.1:8000")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "host.example.org")
    assert past_proxies("http://host.example.org:8000") == {}
    assert past_proxies("http://[::1]:8000")["no_proxy"] == "host.example.org,::1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--request-limit", "2"], "12 of 20 requests ended, then none for 2 s (--request-limit): the others hang, see the "
         "engines' logs"),
        (["--level-limit", "2"], "12 of 20 requests ended within 2 s (--level-limit)"),
    ],
)  # fmt: skip
def test_a_level_that_never_ends_is_stopped_and_does_not_count(sweep, server, tmp_path, options, words):
    start = time.monotonic()
    status, out, err = sweep(*NAMES, "-u", server.url, "-c", "1,2", "-n", "20", *options, STALLS="12", TQDM_DISABLE="1")
    assert (status, time.monotonic() - start < 30) == (1, True) and "level conc2" not in out
    assert err.endswith(f"run_bm: error: level conc1 does not count: {words}\n"), err
    folder = tmp_path / "results" / "tiny_itl100_otl11_mixed_x"
    assert not psutil.pid_exists(int((folder / "conc1.json.part.pid").read_text()))
    assert json.loads((folder / "conc1.json.bad").read_text()) == {"problem": words, "ended": 12, "num_prompts": 20}
    (record,) = Manifest.read(folder).levels
    assert not record.ok and record.problems == [words]
    status, out, err = sweep(*NAMES, "-u", server.url, "-c", "1,2", "-n", "20")
    assert status == 0 and "2 of 2 levels" in err and not (folder / "conc1.json.bad").exists()


def test_fewer_requests_than_are_to_be_in_flight_are_refused_before_anything_is_sent(sweep, server, tmp_path):
    status, out, err = sweep(*NAMES, "-u", server.url, "-c", "4,64", "-n", "10")
    assert (status, out, server.requests) == (2, "", [])
    assert err == "run_bm: error: -n 10: 10 requests cannot keep 64 in flight: give at least 64\n"
    assert files(tmp_path) == ["vllm"]


@pytest.mark.parametrize(("rate", "warned"), [("10", False), ("50", True)])
def test_a_rate_that_is_not_served_is_reported_at_once(sweep, server, rate, warned):
    status, out, err = sweep(*NAMES, "-u", server.url, "-t", "request-rate", "-r", rate, "-n", "20")
    assert status == 0 and ("level rr50: 10 of 50 requests/s were served: latencies are those of a queue" in err) == warned


def test_a_warm_up_that_never_ends_is_one_line(sweep, server):
    server.hangs_at = 3  # the smoke test, and two of the four requests of the warm-up
    status, out, err = sweep(*NAMES, "-u", server.url, "-c", "4", "-n", "20", "--request-limit", "1.5")
    assert status == 1 and "Traceback" not in err
    assert err.endswith("level conc4 was not measured: its warm-up failed: 3 of 4 requests ended, another one did not "
                        "within 1.5 s\n"), err  # fmt: skip

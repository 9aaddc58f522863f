"""The collocated arm for real: launch, checks, sweep, faults, stop. Saves the tokens that PD is compared with."""

import json
import os
import re
import signal
import subprocess

import psutil
import pytest

from pdbench.manifest import Deployment, Manifest
from pdbench.measure import level_gates
from pdbench.measure.bench_client import Used
from tests.helpers.commands import BIN, ROOT, URL, bench, deployment, environment, launch, level, module, run, stop, wait_for

FOLDER = "gpt-oss-tiny_itl300_otl16_mixed_{}"
WORKLOAD = ("--isl", "300", "--osl", "16")


EXPERIMENT = """\
shows: that a killed run goes on
model: configs/models/gpt-oss-tiny.yaml
hardware: configs/hardware/cpu.yaml
workload: {isl: 300, osl: 16}
levels: {concurrency: [1, 2], num_prompts: 60}
repeats: 1
timeout_s: 600
arms: [{layout: 1xtp1}]
figures: [[--show-itl]]
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """What runs an experiment of one arm and two levels, and where its results go."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "small.yaml").write_text(EXPERIMENT)
    command = [str(BIN / "python"), "run_experiment.py", str(folder / "small.yaml"), "--results-dir", str(folder / "results")]
    return command, folder / "results"


@pytest.fixture(scope="module")
def running(local_cluster, experiment):
    """The deployment that an experiment leaves when it is killed in the middle of its second level."""
    command, results = experiment
    killed = subprocess.Popen(command, cwd=ROOT, env=environment(MARKED="killed"), stdout=subprocess.DEVNULL)
    folder = results / FOLDER.format("small_1xtp1")
    wait_for(lambda: (folder / "conc1.json").exists(), 400)
    wait_for(lambda: re.search(r"\b[1-9]\d*/60 ", client_log(folder)))
    killed.kill()
    killed.wait()
    wait_for(lambda: not marked("killed"), 30)
    yield
    stop()


def test_launch_returns_when_every_replica_has_answered(running):
    found = deployment()
    assert found["layout"] == "1xtp1" and found["mode"] == "collocated"
    roles = [r["role"] for r in found["replicas"]]
    assert sorted(roles) == ["collocated", "ingress"]
    engine = next(r for r in found["replicas"] if r["role"] == "collocated")
    assert engine["node_ip"] == "127.0.0.3" and psutil.pid_exists(engine["pid"])
    readiness = found["gates"][0]
    assert readiness["name"] == "readiness" and engine["replica_id"] in readiness["seen"]
    assert found["machines"][0]["versions"]["ray"] == "2.60.0" and len(found["model_checksum"]) == 64


def test_status_and_second_launch(running):
    status = launch("--status")
    assert json.loads(status.stdout)["status"] == "RUNNING"
    again = launch("--collocated", check=False)
    assert again.returncode == 1 and "running already" in again.stderr


def test_the_server_binds_loopback_only(running):
    listening = [c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == 8000]
    assert set(listening) == {"127.0.0.1"}


def test_smoke_streams_real_tokens(running):
    done = bench(ROOT, "--smoke")
    assert "gpt-oss-tiny:" in done.stdout and "TTFT" in done.stdout and "p99" in done.stdout


def test_save_tokens_and_equal_to_itself(running, shared):
    module("gates", "--save", str(shared / "tokens.json"))
    again = module("gates", "--against", str(shared / "tokens.json"))
    assert "ok   token-equality: 36 of 36" in again.stdout


def test_the_kv_gate_fails_where_no_kv_cache_moved(running):
    """A deployment that computes the prompts itself answers correctly and moves nothing."""
    import asyncio

    from pdbench.measure import gates, tokens

    async def check():
        before = await gates._kv_counters(URL)
        await tokens.greedy_choices(URL, "gpt-oss-tiny", [list(range(300, 500))], [8], lambda *_: None)
        return await gates.kv_moved(URL, before, 1)

    old, gates.COUNTERS_TIMEOUT_S = gates.COUNTERS_TIMEOUT_S, 3.0
    try:
        gate = asyncio.run(check())
    finally:
        gates.COUNTERS_TIMEOUT_S = old
    assert not gate.passed and gate.seen.startswith("0 transfers, 0.0 MiB")


def test_sweep_writes_levels_and_resumes(running, tmp_path):
    bench(tmp_path, "-e", "sweep", *WORKLOAD, "-c", "1,2")
    folder = tmp_path / FOLDER.format("sweep")
    assert sorted(p.name for p in folder.iterdir()) == ["conc1.json", "conc2.json", "manifest.json"]
    one, two = level(folder, "conc1.json"), level(folder, "conc2.json")
    assert (one["completed"], two["completed"], two["failed"]) == (5, 10, 0)
    assert two["total_output_tokens"] == 160 and two["total_input_tokens"] == 3000
    assert one["seed"] != two["seed"] and len(two["ttfts"]) == 10
    manifest = Manifest.read(folder)
    assert [r.seed for r in manifest.levels] == [int(one["seed"]), int(two["seed"])]
    assert manifest.deployment.layout == "1xtp1" and manifest.client.versions["vllm"] == "0.29.0+cpu"
    assert "vllm bench serve " in manifest.levels[0].command and " --random-input-len 292 " in manifest.levels[0].command

    before = (folder / "conc1.json").stat().st_mtime_ns
    more = bench(tmp_path, "-e", "sweep", *WORKLOAD, "-c", "1,2,3")
    assert "1 of 3 levels to measure" in more.stderr and (folder / "conc1.json").stat().st_mtime_ns == before
    assert len(Manifest.read(folder).commands) == 2

    figure = tmp_path / "figure.png"
    shown = run(str(BIN / "python"), "viz.py", "--exps", str(folder), "--show-tables", "--plot-path", str(figure))
    assert "1xtp1" in shown.stdout and figure.stat().st_size > 10_000


def test_prompts_that_were_seen_before_fail_their_level(running, tmp_path):
    """The published procedure sends conc1's prompts again at conc2; without its allowance the gate says so."""
    done = bench(tmp_path, "-e", "seen", *WORKLOAD, "-c", "1,2", "--as-published", "--max-hit-rate", "0.01", check=False)
    assert done.returncode == 1
    assert re.search(r"level conc2 does not count: prefix-cache: \d\d\.\d% of \d+ prompt tokens were cached", done.stderr)
    first, second = Manifest.read(tmp_path / FOLDER.format("seen")).levels
    gates = {gate.name: gate for gate in second.gates}
    assert first.ok and first.seed == second.seed == 0 and first.warmup_seed is None
    assert 0.3 < gates.pop("prefix-cache").value < 0.6, "5 of the 10 prompts are conc1's"
    assert set(gates) == {"same-replicas", "requests", "no-debug-logging", "no-compilation", "client", "serving-path"}
    assert all(gate.passed for gate in gates.values())


def test_request_rate_and_prefill_only(running, tmp_path):
    bench(tmp_path, "-e", "rate", *WORKLOAD, "-t", "request-rate", "-r", "4", "-n", "8", "--mode", "prefill-only")
    found = level(tmp_path / "gpt-oss-tiny_itl300_otl16_prefill-only_rate", "rr4.json")
    assert found["request_rate"] == 4 and found["total_output_tokens"] == found["completed"] == 8


def test_interrupted_sweep_leaves_no_process_and_no_part(running, tmp_path):
    sweep = subprocess.Popen(
        ["./run_bm.sh", "-e", "stopped", *WORKLOAD, "-c", "4", "-n", "2000", "--results-dir", str(tmp_path)],
        cwd=ROOT, env=environment(MARKED="interrupted"), start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / FOLDER.format("stopped")
    wait_for(lambda: "Starting main benchmark" in client_log(folder))
    os.killpg(sweep.pid, signal.SIGINT)
    assert sweep.wait(60) == 130 and "continues at this level" in sweep.stderr.read()
    assert marked("interrupted") == []
    assert not [p.name for p in folder.glob("conc*")]


def test_a_killed_replica_fails_its_level_and_the_next_sweep_succeeds(running, tmp_path):
    found, before = Deployment.model_validate(deployment()), level_gates.snapshot(URL)
    sweep = subprocess.Popen(
        ["./run_bm.sh", "-e", "killed", *WORKLOAD, "-c", "4,2", "-n", "400", "--results-dir", str(tmp_path)],
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    folder = tmp_path / FOLDER.format("killed")
    wait_for(lambda: re.search(r"\b[1-9]\d*/400 ", client_log(folder)))  # requests are under way
    engine = next(r for r in deployment()["replicas"] if r["role"] == "collocated")
    psutil.Process(engine["pid"]).kill()
    assert sweep.wait(300) == 1
    assert "level conc4 does not count" in sweep.stderr.read()
    assert not (folder / "conc4.json").exists() and not (folder / "conc2.json").exists()
    assert (folder / "conc4.json.bad").exists() and not Manifest.read(folder).levels[0].ok

    wait_for(lambda: any(r["role"] == "collocated" and r["pid"] != engine["pid"] for r in deployment()["replicas"]), 300)
    asked, used = level_gates.Asked(requests=0, isl=300), Used(cpu=0, waited=0, wall=1)
    restarted = next(g for g in level_gates.check(URL, before, found, asked, used)[0] if g.name == "same-replicas")
    assert not restarted.passed and engine["replica_id"] in restarted.seen.split("gone ")[1]
    bench(tmp_path, "-e", "killed", *WORKLOAD, "-c", "4,2", "-n", "8")
    assert level(folder, "conc4.json")["completed"] == 8 and not (folder / "conc4.json.bad").exists()


def test_the_killed_experiment_goes_on_where_it_ended(running, experiment):
    command, results = experiment
    folder = results / FOLDER.format("small_1xtp1")
    assert sorted(p.name for p in folder.glob("conc*")) == ["conc1.json"], "nothing is left of the level that was cut off"
    before, launched = (folder / "conc1.json").stat().st_mtime_ns, deployment()["launched"]
    done = run(*command)
    assert "the last run was interrupted: stopping what it left" in done.stdout and "1 of 2 levels to measure" in done.stdout
    assert (folder / "conc1.json").stat().st_mtime_ns == before
    first, second = Manifest.read(folder).levels
    assert (first.level, first.ok, first.launched) == ("conc1", True, launched)
    assert (second.level, second.ok) == ("conc2", True) and second.launched > launched
    assert (results / "small.png").stat().st_size > 10_000 and (results / "small.sh").read_text().count("run_bm.sh") == 1
    times = json.loads((results / "small_times.json").read_text())["1xtp1"]
    assert set(times) == {"launches", "loading", "launching", "measuring", "waiting", "stopping"} and times["launches"] == 2
    assert all(seconds > 0 for seconds in times.values())
    assert launch("--status", check=False).returncode == 3, "what it launched is stopped"


def client_log(folder) -> str:
    path = folder / ".client.log"
    return path.read_text() if path.exists() else ""


def marked(value: str) -> list[str]:
    """Command lines of living processes with MARKED=value in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARKED") == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found

"""The control arms for real: plain `vllm serve` and vLLM's router, with the gates of every other arm, and no process left."""

import os
import signal
import subprocess

import psutil

from pdbench.manifest import Manifest
from pdbench.nodes.local_cluster import state
from pdbench.nodes.marked import marked
from tests.helpers.commands import BIN, ROOT, STACK, bench, deployment, environment, launch, level, module, wait_for

FOLDER = "gpt-oss-tiny_itl300_otl16_mixed_{}"
WORKLOAD = ("--isl", "300", "--osl", "16", "-c", "2,1")
AROUND = {"same-replicas", "requests", "prefix-cache", "no-debug-logging", "no-compilation", "client", "readiness"}


def servers() -> list[str]:
    """Living processes of servers, engines and routers of the local cluster."""
    found = []
    for process in marked(state()["mark"]):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if line.startswith(("VLLM::", "vllm::")) or "vllm serve" in line or "ray::Keeper" in line:
            found.append(line)
    return found


def processes() -> str:
    """All processes of this machine, also the dead whom nobody has reaped: a server that ended may still have threads."""
    of = ["pid", "ppid", "status", "num_threads", "name", "cmdline"]
    return "\n".join(str(list(process.info.values())) for process in psutil.process_iter(of))


def cores(pid: int) -> set[int]:
    (worker,) = (p for p in psutil.Process(pid).children(recursive=True) if p.name().startswith("VLLM::Worker"))
    return set(worker.cpu_affinity())


def hold_against(tokens) -> str:
    """Gates against the collocated arm's tokens."""
    return module("gates", "--against", str(tokens)).stdout


def test_one_replica(deployed, tokens, tmp_path):
    deployed("--bare", "--layout", "1xtp1")
    found = deployment()
    assert (found["mode"], found["serving_url"]) == ("bare", "http://127.0.0.3:8010"), "nothing runs in front of one server"
    (engine,) = found["replicas"]
    assert (engine["role"], engine["node_ip"]) == ("collocated", "127.0.0.3")
    assert list(found["servers"]) == ["collocated-0"] and " vllm serve " in found["servers"]["collocated-0"]
    passed = {"readiness": True, "ports": True, "core-per-rank": True}
    assert {gate["name"]: gate["passed"] for gate in found["gates"]} == passed
    assert cores(engine["pid"]) == {0}
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port in (8000, 8010)}
    assert listening == {"127.0.0.1", "127.0.0.3"}, "loopback only"
    assert "ok   token-equality: 36 of 36" in hold_against(tokens)
    assert "gpt-oss-tiny:" in bench(ROOT, "--smoke").stdout

    bench(tmp_path, "-e", "bare", *WORKLOAD)
    folder = tmp_path / FOLDER.format("bare")
    assert level(folder, "conc2.json")["completed"] == 10
    manifest = Manifest.read(folder)
    first, second = ({g.name: g for g in record.gates} for record in manifest.levels)
    assert set(first) == set(second) == AROUND and second["requests"].seen == "7 requests finished"
    assert " --base-url http://127.0.0.3:8010 " in manifest.levels[0].command

    assert launch("--collocated", check=False).returncode == 1, "one deployment at a time"
    pids = [p.pid for p in (psutil.Process(engine["pid"]), *psutil.Process(engine["pid"]).children(recursive=True))]
    assert len(pids) >= 3 and servers()
    launch("--stop")
    assert servers() == [] and not any(map(psutil.pid_exists, pids))
    assert launch("--status", check=False).returncode == 3


def test_pd_behind_the_router_and_a_crash(deployed, tokens, tmp_path):
    deployed("--bare-pd", "--layout", "p1xtp1-d1xtp1")
    found = deployment()
    assert found["serving_url"] == "http://127.0.0.1:8001" and set(found["servers"]) == {"prefill-0", "decode-0", "router"}
    assert sorted(r["role"] for r in found["replicas"]) == ["decode", "ingress", "prefill"]
    pids = {r["role"]: r["pid"] for r in found["replicas"]}
    assert sorted(cores(pids[role]) for role in ("prefill", "decode")) == [{0}, {1}]
    lines = hold_against(tokens)
    assert "ok   token-equality: 36 of 36" in lines and "ok   kv-transfer: 36 transfers" in lines
    assert "ok   transport: cma/memory" in lines
    bench(tmp_path, "-e", "bare-pd", *WORKLOAD, "--tokens", str(tokens))
    records = Manifest.read(tmp_path / FOLDER.format("bare-pd")).levels
    first, second = ({g.name: g for g in record.gates} for record in records)
    assert set(first) == set(second) == AROUND | {"kv-transfer", "transport", "token-equality"}
    # As behind Ray Serve: D was asked, then 4 prompts, a warm-up and 5 requests; each with a transfer.
    assert second["requests"].seen == "11 requests finished" and second["kv-transfer"].seen.startswith("11 transfers")

    # The API server of decode, then the actor of prefill: neither can stop its engine, which must not stay all the same.
    psutil.Process(pids["decode"]).kill()
    wait_for(lambda: len([line for line in servers() if line.startswith("VLLM::EngineCore")]) == 1, seen=processes)
    assert "decode" not in {r["role"] for r in deployment()["replicas"]}
    keeper = psutil.Process(pids["prefill"]).parent()
    keeper.parent().kill()
    wait_for(lambda: not [line for line in servers() if line.startswith("VLLM::")], seen=processes)
    launch("--stop")
    assert servers() == []


def test_a_server_that_cannot_start_says_why(local_cluster, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss", "architectures": ["NoSuchModel"]}')
    done = launch("--bare", "--layout", "1xtp1", "--model-source", str(tmp_path), check=False)
    assert done.returncode == 1 and done.stderr.endswith("launch_gptoss.py: error: collocated-0 ended before it was up\n")
    assert "an engine said: pydantic_core._pydantic_core.ValidationError" in done.stderr
    assert servers() == []


def test_interrupted_launch_leaves_nothing(local_cluster):
    started = subprocess.Popen(
        [str(BIN / "python"), "launch_gptoss.py", *STACK, "--bare", "--layout", "1xtp1"],
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: [line for line in servers() if line.startswith("VLLM::")])
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(180) == 130, started.stderr.read()
    assert servers() == []

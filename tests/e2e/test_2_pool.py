"""A pool of three equal engines for real: every ratio and a change between them give the collocated arm's tokens."""

import contextlib
import itertools
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import psutil
import requests

from pdbench.manifest import Manifest
from pdbench.serve.controller import Tick
from tests.helpers.commands import BIN, URL, bench, deployment, launch, module, run, wait_for


def roles(found: dict) -> dict[str, str]:
    return {replica["replica_id"]: replica["role"] for replica in found["replicas"] if replica["role"] != "ingress"}


def test_a_pool_changes_its_ratio_while_it_serves(deployed, tokens, tmp_path):
    deployed("--pd-pool", "--layout", "p1xtp1-d2xtp1")
    before = roles(deployment())
    assert sorted(before.values()) == ["decode", "decode", "prefill"]
    # Prompts are asked one after the other: some before the change, some after it.
    asking = [str(BIN / "python"), "-m", "pdbench.gates", "--against", str(tokens)]
    with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as asked:
        said = launch("--roles", "p2-d1").stdout
        lines = asked.communicate(timeout=120)[0]
    first, second = said.splitlines()
    assert re.fullmatch(r"layout p1xtp1-d2xtp1 -> p2xtp1-d1xtp1: table changed in \d+ ms", first)
    assert re.fullmatch(r"\w+: decode -> prefill; its first request there ended after \d+\.\d s", second)
    assert "ok   token-equality: 36 of 36" in lines and "ok   kv-transfer" in lines and "ok   transport: cma/memory" in lines
    after = roles(deployment())
    assert before.keys() == after.keys(), "no engine was restarted"
    assert [name for name in before if before[name] != after[name]] == [second.split(":")[0]]

    bench(tmp_path, "-e", "pool", "--isl", "300", "--osl", "16", "-c", "2", "--tokens", str(tokens))
    manifest = Manifest.read(tmp_path / "gpt-oss-tiny_itl300_otl16_mixed_pool")
    assert (manifest.deployment.mode, manifest.deployment.layout) == ("pd-pool", "p2xtp1-d1xtp1")
    gates = {gate.name: gate for gate in manifest.levels[0].gates}
    assert gates["roles"].passed and gates["token-equality"].passed and gates["kv-transfer"].passed
    assert launch("--roles", "p2-d1").stdout == "layout p2xtp1-d1xtp1: nothing to change\n"
    follows_the_load(tmp_path, tokens)


def follows_the_load(tmp_path, tokens):
    """A controller gives the second engine to whom the load needs it: decode, then prefill; its end leaves the ratio."""
    assert "a controller moves the roles every 0.5 s" in launch("--control", "ttft=1500,tpot=60,tick=0.5").stdout
    by_hand = launch("--roles", "p1-d2", check=False)
    assert by_hand.returncode == 1 and "a controller moves the roles: stop it with --control off" in by_hand.stderr
    load = ("--phases", "32:96:6:10,2000:4:4:10", "--load", "1")
    bench(tmp_path, "-e", "shift", *load, "--tokens", str(tokens))
    (folder,) = tmp_path.glob("*_shift_shift")
    manifest = Manifest.read(folder)
    assert manifest.deployment.controller == {"ttft_ms": 1500, "tpot_ms": 60, "tick_s": 0.5}
    gates = {gate.name: gate for gate in manifest.levels[0].gates}
    assert {"roles", "lost"} <= set(gates) and all(gate.passed for gate in gates.values())
    ticks = [Tick.model_validate_json(line) for line in (folder / "shift1.ticks.jsonl").read_text().splitlines()]
    seen = [prefill for prefill, _ in itertools.groupby(tick.prefill for tick in ticks)]
    assert 1 in seen and 2 in seen[seen.index(1) :], [tick.reason for tick in ticks]
    figure = tmp_path / "shift.png"
    run(str(BIN / "python"), "viz.py", "--exps", str(folder), "--figure", "shift", "--sla", "ttft=1500,tpot=60",
        "--plot-path", str(figure))  # fmt: skip
    assert figure.stat().st_size > 10_000

    last = deployment()  # what a level's own gates ask may have moved an engine once more
    title = "ray::ServeReplica:pdbench-describe:Describe"
    (loop,) = (p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0] == title)
    loop.kill()
    loop.wait(30)
    wait_for(describes_itself)
    found = deployment()
    assert (found["layout"], roles(found)) == (last["layout"], roles(last)), "learned from the engines"
    assert last["controller"] and found.get("controller") is None, "nobody moves them now"
    lines = module("gates", "--against", str(tokens)).stdout
    assert "ok   token-equality: 36 of 36" in lines, "the last table stays"
    loses_an_engine()


def loses_an_engine():
    """Requests that come after an engine died are answered by the others, long before another one is loaded."""
    cores = [p for p in psutil.process_iter(["cmdline"]) if "EngineCore" in " ".join(p.info["cmdline"] or [])]
    assert len(cores) == 3
    replica = cores[0].parent()
    cores[0].kill()
    replica.wait(10)  # it ends with its engine
    with ThreadPoolExecutor(3) as clients:
        answered = list(clients.map(answer, range(24)))
    assert answered == [8] * 24


def answer(number: int) -> int | str:
    """Return how many tokens a request got, or what came instead."""
    asked = {"model": "gpt-oss-tiny", "prompt": list(range(number, number + 200)), "max_tokens": 8, "ignore_eos": True}
    got = requests.post(f"{URL}/v1/completions", json=asked, timeout=60)
    return got.json()["usage"]["completion_tokens"] if got.ok else got.text


def describes_itself() -> bool:
    """Whether what describes the deployment is there again."""
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{URL}/pdbench/deployment", timeout=30).ok
    return False

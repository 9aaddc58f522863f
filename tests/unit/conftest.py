"""Result folders shaped like those of `vllm bench serve`, for the tests of the reading wing."""

import json
import os
import subprocess
from pathlib import Path

# Before NumPy is imported. Where two processes with two threads each share two cores, one decomposition in a fit of the planner
# takes up to 0.2 s, with one thread 0.5 ms.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from pdbench.configs import ROOT
from pdbench.manifest import Deployment, Gate, LevelRecord, Machine, Manifest, Replica, Repository

# A shared machine is now fast, now slow: how long one example takes says nothing.
settings.register_profile("shared", deadline=None, database=None)
settings.load_profile("shared")

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "published"


def _level_content(concurrency=4, rate=None, requests=None, isl=100, osl=11, duration=None, detailed=False, **more):
    """What the client writes for one level; the defaults: 20 requests, 1000 tokens/s in and 110 tokens/s out, no details.

    What a test does not give is fitted to what it gives, so that the level obeys `pdbench/read/laws.py`.
    """
    requests = requests or max(20, concurrency or 0)
    content = {
        "date": "20251021-000022", "endpoint_type": "vllm", "backend": "vllm", "label": None,
        "model_id": "tiny", "tokenizer_id": "tiny", "num_prompts": requests, "request_rate": rate or "inf",
        "burstiness": 1.0, "max_concurrency": concurrency,
        "duration": duration or requests / 10, "completed": requests, "failed": 0, "total_input_tokens": requests * isl,
        "total_output_tokens": requests * osl,
        "request_throughput": 0.0, "request_goodput": None, "output_throughput": 0.0, "total_token_throughput": 0.0,
        "max_output_tokens_per_s": 792.0, "max_concurrent_requests": 8,
    }  # fmt: skip
    for metric, median in (("ttft", 50.0), ("tpot", 10.0), ("itl", 9.0)):
        one_token = osl == 1 and metric != "ttft"
        for factor, statistic in ((1.1, "mean"), (1.0, "median"), (0.2, "std"), (3.0, "p99")):
            content[f"{statistic}_{metric}_ms"] = 0.0 if one_token else median * factor
    if detailed:
        content |= {
            "input_lens": [isl] * requests, "output_lens": [osl] * requests, "ttfts": [0.05] * requests,
            "itls": [[0.01] * (osl - 1)] * requests, "start_times": [1.5 + 0.15 * (i // concurrency) for i in range(requests)],
            "generated_texts": ["abc"] * requests, "errors": [""] * requests,
        }  # fmt: skip
    return _lawful(content | more, more | ({"duration": duration} if duration else {}))


def _lawful(content, given=()):
    """Fit what is not among the keys `given`: means to the load, or a summary and a duration to the requests' own times."""
    given = {key: content[key] for key in given}
    requests, osl = content["completed"], content["total_output_tokens"] // content["completed"]
    at_once = min(content["max_concurrency"] or requests, requests) if content["request_rate"] == "inf" else None
    if "itls" in content:
        ttft, itl = np.array(content["ttfts"]), [np.array(gaps) for gaps in content["itls"]]
        values = {"ttft": ttft, "tpot": np.array([gaps.sum() for gaps in itl]) / max(1, osl - 1), "itl": np.concatenate(itl)}
        for metric, of in values.items() if osl > 1 else [("ttft", ttft)]:
            for name, value in (
                ("mean", of.mean()),
                ("median", np.median(of)),
                ("p99", np.percentile(of, 99)),
                ("std", of.std()),
            ):
                content[f"{name}_{metric}_ms"] = 1e3 * float(value)
        took = ttft + [gaps.sum() for gaps in itl]
        span = float(np.max(np.array(content["start_times"]) + took) - np.min(content["start_times"]))
        content["duration"] = max(span, float(took.sum()) / (0.95 * at_once)) if at_once else span
    elif at_once:
        each = 950 * at_once * content["duration"] / requests  # ms of a request where 95% of the load is in flight
        content["mean_tpot_ms"] = min(content["mean_tpot_ms"], each / 2 / max(1, osl - 1))
        content["mean_ttft_ms"] = each - content["mean_tpot_ms"] * (osl - 1)
        for metric in ("ttft", "tpot", "itl"):
            content[f"p99_{metric}_ms"] = 3 * content[f"median_{metric}_ms"]
    content |= given
    prompts, answers = content["total_input_tokens"], content["total_output_tokens"]
    counts = {"request_throughput": requests, "output_throughput": answers, "total_token_throughput": prompts + answers}
    return content | {key: given.get(key, count / content["duration"]) for key, count in counts.items()}


def _write_folder(root, name, levels):
    """Make `root/name` with a file for each `{file name: content}`."""
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    for filename, content in levels.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / filename).write_text(text, encoding="utf-8")
    return folder


def _manifest(layout="p1xtp2-d1xtp2", mode="pd-spread", isl=100, osl=11, phase="mixed", **deployment):
    """A manifest with one deployment; keywords change the deployment."""
    machine = Machine(node_ip="127.0.0.1", hostname="h", cpu="c", cores=2, memory_gib=8.0, versions={})
    repository = Repository(commit=None, dirty=None)
    replica = Replica(role="decode", replica_id="r", node_id="n", node_ip="127.0.0.1", pid=7)
    fields = {
        "layout": layout, "mode": mode, "gpus": 4, "gpus_per_node": 4, "accelerator": "CPU",
        "model_id": "tiny", "model_source": "tiny", "model_checksum": None, "transport": None,
        "command": "launch", "launched": "now", "replicas": [replica], "machines": [machine],
        "repository": repository, "llm_configs": {},
    }  # fmt: skip
    return Manifest(
        name="x", model="tiny", phase=phase, isl=isl, osl=osl, base_seed=0, commands=["run_bm.sh"],
        deployment=Deployment(**fields | deployment), client=machine, repository=repository,
    )  # fmt: skip


def _speed_record(stem, speed):
    """What a manifest says of a level whose KV transfers reached `speed` GB/s."""
    gate = Gate(name="kv-transfer", passed=True, seen="", expected="", time="", value=speed)
    return LevelRecord(level=stem, command="", launched=None, seed=1, warmup_seed=None, num_prompts=20, started="", ended="",
                       ok=True, gates=[gate])  # fmt: skip


@pytest.fixture(scope="session")
def speed_record():
    return _speed_record


@pytest.fixture(scope="session")
def lawful():
    """Fits a level's summary and duration to its details, after a test has replaced some."""
    return _lawful


@pytest.fixture(scope="session")
def level_content():
    return _level_content


@pytest.fixture(scope="session")
def write_folder():
    return _write_folder


@pytest.fixture(scope="session")
def make_manifest():
    return _manifest


@pytest.fixture(scope="session")
def published():
    """The public study's results, which lie beside the repository where they are to be had."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published results in {PUBLISHED}")
    return PUBLISHED


@pytest.fixture
def server(monkeypatch):
    """A stand-in for what runs: `server["deployment"]` is what it reports of itself, `server["gates"]` what a level's are."""
    from pdbench.measure import level_gates, sweep_plan
    from pdbench.nodes import stack
    from pdbench.serve import client

    found = {"deployment": _manifest().deployment, "smoked": [], "gates": [], "after": []}

    async def smoke(base_url, model, max_tokens):
        found["smoked"].append(model)

    monkeypatch.setattr(sweep_plan, "describe_deployment", lambda base_url: found["deployment"])
    first = lambda url, base_seed, levels, described: {v: sweep_plan.first_unseen(base_seed, v, set()) for v in levels}  # noqa: E731
    monkeypatch.setattr(sweep_plan, "unseen_seeds", first)
    monkeypatch.setattr(client, "smoke", smoke)
    after = level_gates.Snapshot(counters={}, replicas={})
    monkeypatch.setattr(level_gates, "check", lambda *args: (list(found["gates"]), after))
    monkeypatch.setattr(level_gates, "between", lambda *args: (found["after"].append(args) or [], []))
    monkeypatch.setattr(stack, "machine", lambda: _manifest().client.model_dump())
    monkeypatch.setattr(stack, "repository", lambda root: Repository(commit="c0ffee", dirty=False))
    return found


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs run_experiment.py in this process, in which all that it imports is there already."""
    import run_experiment  # of the serve wing, which few of these tests need

    monkeypatch.chdir(ROOT)

    def run(*args):
        monkeypatch.setattr("sys.argv", ["run_experiment.py", *map(str, args)])
        try:
            status = run_experiment.main()
        except SystemExit as left:
            status = left.code
        return subprocess.CompletedProcess(args, status, *capsys.readouterr())

    return run

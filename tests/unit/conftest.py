"""Result folders shaped like those of `vllm bench serve`, for the tests of the reading wing."""

import json
from pathlib import Path

import pytest
from hypothesis import settings

from pdbench.manifest import Deployment, Gate, LevelRecord, Machine, Manifest, Replica, Repository

# A shared machine is now fast, now slow: how long one example takes says nothing.
settings.register_profile("shared", deadline=None, database=None)
settings.load_profile("shared")

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "published"


def _level_content(concurrency=4, rate=None, requests=20, isl=100, osl=11, duration=2.0, detailed=False, **more):
    """What the client writes for one level; the defaults make 1000 tokens/s in and 110 tokens/s out."""
    content = {
        "date": "20251021-000022", "endpoint_type": "vllm", "backend": "vllm", "label": None,
        "model_id": "tiny", "tokenizer_id": "tiny", "num_prompts": requests, "request_rate": rate or "inf",
        "burstiness": 1.0, "max_concurrency": concurrency,
        "duration": duration, "completed": requests, "failed": 0, "total_input_tokens": requests * isl,
        "total_output_tokens": requests * osl,
        "request_throughput": requests / duration, "request_goodput": None,
        "output_throughput": requests * osl / duration,
        "total_token_throughput": requests * (isl + osl) / duration, "max_output_tokens_per_s": 792.0,
        "max_concurrent_requests": 8,
    }  # fmt: skip
    for metric, median in (("ttft", 50.0), ("tpot", 10.0), ("itl", 9.0)):
        one_token = osl == 1 and metric != "ttft"
        for factor, statistic in ((1.1, "mean"), (1.0, "median"), (0.2, "std"), (3.0, "p99")):
            content[f"{statistic}_{metric}_ms"] = 0.0 if one_token else median * factor
    if detailed:
        content |= {
            "input_lens": [isl] * requests, "output_lens": [osl] * requests, "ttfts": [0.05] * requests,
            "itls": [[0.01] * (osl - 1)] * requests, "start_times": [1.5] * requests,
            "generated_texts": ["abc"] * requests, "errors": [""] * requests,
        }  # fmt: skip
    return content | more


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

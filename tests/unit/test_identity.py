"""What makes two deployments the same measurement, and what a level keeps of its own."""

import json

import pytest

from pdbench.manifest import LevelRecord, Manifest, differences
from pdbench.read.level_file import ResultError, digest_of
from pdbench.read.level_json import load_level
from pdbench.read.results import read_results

NAME = "tiny_itl100_otl11_mixed_x"
PATH = {"env": {"RAY_SERVE_X": "1", "RAY_SERVE_HAPROXY_MAXCONN": "4096"}, "router": "power-of-two"}
ENGINE = {"engine_kwargs": {"block_size": 16}, "runtime_env": {"env_vars": {"UCX_TCP_TX_SEG_SIZE": "8k"}}}
KNOWN = {"llm_configs": {"decode": ENGINE}, "serving_path": PATH, "transport": {"backend": "UCX", "ucx_tls": None}}


def env(**changed):
    return {"decode": ENGINE | {"runtime_env": {"env_vars": changed}}}


@pytest.mark.parametrize(
    ("change", "different"),
    [
        ({"llm_configs": env(UCX_TCP_TX_SEG_SIZE="1m")}, 'decode UCX_TCP_TX_SEG_SIZE "8k", but this is decode'),
        ({"llm_configs": env()}, 'decode UCX_TCP_TX_SEG_SIZE "8k", but this is decode UCX_TCP_TX_SEG_SIZE None'),
        (
            {"llm_configs": {"decode": ENGINE | {"engine_kwargs": {}}}},
            "decode block_size 16, but this is decode block_size None",
        ),
        ({"serving_path": PATH | {"router": "round-robin"}}, "serving_path router"),
        ({"serving_path": PATH | {"env": {}}}, 'serving_path RAY_SERVE_X "1", but this is serving_path RAY_SERVE_X None'),
        ({"transport": KNOWN["transport"] | {"ucx_tls": "tcp"}}, "transport ucx_tls None, but this is transport ucx_tls tcp"),
        ({"model_checksum": "abc"}, "model_checksum None, but this is model_checksum abc"),
        ({"model_id": "other"}, "model_id tiny, but this is model_id other"),
        ({"decode_bench": True}, "decode_bench None, but this is decode_bench True"),
    ],
)
def test_what_makes_two_deployments_differ(make_manifest, change, different):
    was, now = (make_manifest(**KNOWN | more).identity for more in ({}, change))
    assert different in differences(was, now)[0] and differences(now, was)
    assert differences(was, make_manifest(**KNOWN).identity) == []


def test_machines_with_other_limits_ports_and_caches_have_the_same_identity(make_manifest):
    path = PATH | {"env": PATH["env"] | {"RAY_SERVE_HAPROXY_MAXCONN": "1536"}}
    place = env(
        UCX_TCP_TX_SEG_SIZE="8k",
        PROMETHEUS_MULTIPROC_DIR="/dev/shm/8010",
        VLLM_DISABLE_COMPILE_CACHE="1",
        TRITON_CACHE_DIR="/shared/triton",
    )
    assert (
        differences(
            make_manifest(**KNOWN).identity, make_manifest(**KNOWN | {"serving_path": path, "llm_configs": place}).identity
        )
        == []
    )


def test_another_bench_client_is_another_measurement(make_manifest):
    old, new, unknown = make_manifest(), make_manifest(), make_manifest()
    old.client = old.client.model_copy(update={"versions": {"vllm": "0.26.0"}})
    new.client = new.client.model_copy(update={"versions": {"vllm": "0.29.0"}})
    assert differences(old.identity, new.identity) == ["bench client vLLM 0.26.0, but this is bench client vLLM 0.29.0"]
    assert differences(unknown.identity, new.identity) == [], "of an older manifest nothing is known"


def record(stem, launched, commit):
    return LevelRecord(level=stem, command="", launched=launched, seed=1, warmup_seed=2, num_prompts=20, started="", ended="",
                       ok=True, commit=commit)  # fmt: skip


@pytest.fixture
def two_launches(tmp_path, write_folder, make_manifest, level_content):
    """A folder with a repeat of a level on each of two launches, and its manifest."""
    folder = write_folder(tmp_path, NAME, {"conc4.json": level_content(), "conc4_rep2.json": level_content()})
    first, second = (make_manifest(**KNOWN | {"launched": when}) for when in ("monday", "tuesday"))
    second.earlier = [first.deployment]
    second.levels = [record("conc4", "monday", "aaa"), record("conc4_rep2", "tuesday", "bbb")]
    second.write(folder)
    return folder, second


def test_each_level_keeps_the_deployment_that_it_was_measured_on(two_launches):
    folder, manifest = two_launches
    assert [Manifest.read(folder).deployment_of(one).launched for one in manifest.levels] == ["monday", "tuesday"]
    assert list(read_results([folder])["commit"]) == ["aaa", "bbb"]


def test_of_a_level_that_the_manifest_lacks_nothing_is_known(two_launches, level_content):
    folder, _ = two_launches
    (folder / "conc8.json").write_text(json.dumps(level_content(8)))
    table = read_results([folder]).set_index("level")
    assert table.loc[8, ["commit", "engine", "vllm", "machines"]].tolist() == [""] * 4
    assert set(table.loc[4, "engine"]) == {"block_size 16"}


def test_repeats_on_other_deployments_are_no_repeats(two_launches):
    folder, manifest = two_launches
    changed = manifest.earlier[0].model_copy(update={"llm_configs": env(UCX_TCP_TX_SEG_SIZE="1m")})
    manifest.model_copy(update={"earlier": [changed]}).write(folder)
    with pytest.raises(ResultError, match='holds levels of decode UCX_TCP_TX_SEG_SIZE "1m", but this is .* "8k"'):
        read_results([folder])


def test_a_digest_is_of_the_summary_and_stays_without_the_details(tmp_path, write_folder, level_content):
    folder = write_folder(tmp_path, NAME, {"conc4.json": level_content(detailed=True, requests=400, concurrency=8)})
    whole, edges = (load_level(folder / "conc4.json", details) for details in (True, False))
    assert digest_of(whole) == digest_of(edges) != digest_of(whole | {"duration": whole["duration"] * 1.001})

"""The audit of what differs between arms, or repeats, and is not what is compared."""

import json

import pytest

from pdbench.analysis.audit import audit
from pdbench.analysis.audit_mixed import in_short
from pdbench.configs import ROOT
from pdbench.read.results import read_study
from tests.helpers.audits import MIXED, found, seen, writer


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    return writer(tmp_path, write_folder, level_content)


def test_a_client_of_another_version(arm):
    old, new, newer = arm("2xtp1"), arm("1xtp2"), arm("1xtp4")
    for path in old.glob("conc*.json"):
        content = json.loads(path.read_text())
        del content["failed"]
        path.write_text(json.dumps(content))
    assert found(old, new, newer) == [("mixed versions", [old.name])]
    reported = "the client's key failed: present in 2 of 3 folders, absent in 1 of 3 folders"
    assert seen("mixed versions", old, new, newer) == reported


@pytest.mark.parametrize(
    ("used", "named"),
    [("meta/llama", "llama"), ("/models/tiny", ""), ("hub/models--x--tiny/snapshots/0a1b", ""),
     ("hub/models--x--big/snapshots/0a1b", "big")],
)  # fmt: skip
def test_another_tokenizer_than_the_models_own(arm, make_manifest, used, named):
    """Where a manifest says what the model is: without one its name may be any that the server was given."""
    folder = arm("2xtp1", manifest=make_manifest("2xtp1", "collocated", gpus=2), tokenizer_id=used)
    says = f"conc4, conc8 and conc16: the client's tokenizer is {named}, the model is tiny"
    assert [one.seen for one in audit(read_study([folder])) if one.kind == "another tokenizer"] == [says] * bool(named)


def test_engines_of_other_versions(arm, make_manifest):
    manifests = [make_manifest("2xtp1", "collocated", gpus=2), make_manifest("1xtp2", "collocated", gpus=2)]
    for manifest, version in zip(manifests, ("0.11.0", "0.29.0"), strict=True):
        manifest.deployment.machines = [manifest.client.model_copy(update={"versions": {"vllm": version}})]
    folders = [arm(m.deployment.layout, manifest=m) for m in manifests]
    assert seen("mixed versions", *folders) == "engines' vllm: 0.29.0 in 1 of 2 folders, 0.11.0 in 1 of 2 folders"


@pytest.mark.parametrize(
    ("kind", "change", "reported"),
    [
        ("mixed clients", {"backend": "openai-chat"}, "backend: openai-chat in 1 of 2 folders, vllm in 1 of 2 folders"),
        ("mixed clients", {"tokenizer_id": "a/b"}, "tokenizer_id: b in 1 of 2 folders, tiny in 1 of 2 folders"),
        ("mixed models", {"model_id": "other"}, "model_id: other in 1 of 2 folders, tiny in 1 of 2 folders"),
        ("mixed loads", {"burstiness": 0.1}, "burstiness: 0.1 in 1 of 2 folders, 1.0 in 1 of 2 folders"),
    ],
)
def test_what_the_client_was_asked_for_otherwise(arm, kind, change, reported):
    folders = arm("2xtp1"), arm("1xtp2", **change)
    assert [name for name, _ in found(*folders)] == [kind] and seen(kind, *folders) == reported


@pytest.mark.parametrize(
    ("kind", "change", "reported"),
    [
        ("mixed clients", {"backend": "openai-chat"}, "backend within the folder: vllm in conc4, openai-chat in conc4_rep2"),
        ("mixed models", {"model_id": "other"}, "model_id within the folder: tiny in conc4, other in conc4_rep2"),
        ("mixed loads", {"burstiness": 0.1}, "burstiness within the folder: 1.0 in conc4, 0.1 in conc4_rep2"),
    ],
)
def test_repeats_that_were_asked_otherwise_are_no_repeats(tmp_path, write_folder, level_content, kind, change, reported):
    levels = {"conc4.json": level_content(4, requests=100, seed="1"),
              "conc4_rep2.json": level_content(4, requests=100, seed="2", **change)}  # fmt: skip
    assert seen(kind, write_folder(tmp_path, MIXED + "2xtp1", levels)) == reported


def test_pieces_of_other_sizes_are_named(tmp_path, write_folder, level_content, lawful):
    single = level_content(detailed=True, requests=100)
    several = lawful(single | {"itls": [[0.05] * 2] * 100})
    folders = [write_folder(tmp_path, MIXED + name, {"conc4.json": content})
               for name, content in (("2xtp1", single), ("1xtp2", several), ("1xtp4", single | {"seed": "2"}))]  # fmt: skip
    found = [f for f in audit(read_study(folders)) if f.kind == "mixed pieces"]
    assert [(f.folders, f.seen) for f in found] == [((str(folders[1]),), "5 tokens a piece against 1")]
    assert "mixed pieces" not in [f.kind for f in audit(read_study(folders, details=False))], "unknown without details"


def test_numbers_of_requests_count_at_a_rate_only(arm, tmp_path, write_folder, level_content):
    assert found(arm("2xtp1"), arm("1xtp2", requests=300, duration=3.1)) == []
    rates = [write_folder(tmp_path, MIXED + name, {"rr8.json": level_content(None, rate=8.0, requests=n, duration=n / 8)})
             for name, n in (("4xtp1", 200), ("8xtp1", 300))]  # fmt: skip
    assert seen("mixed loads", *rates) == "requests at 8/s: 300 in 1 of 2 folders, 200 in 1 of 2 folders"


def test_engines_with_other_settings(arm, make_manifest):
    """Sizes and transport are what arms differ in; a setting that one manifest has is `default` in the other."""
    ours = {"tensor_parallel_size": 2, "max_num_batched_tokens": 512, "speculative_config": {"method": "ngram"}}
    configs = {
        "2xtp1": {"engine_kwargs": ours, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "8", "UCX_TLS": "tcp"}}},
        "1xtp2": {"engine_kwargs": {"tensor_parallel_size": 1, "max_num_batched_tokens": 3200},
                  "experimental_configs": {"stream_batching_interval_ms": 50}},
    }  # fmt: skip
    folders = [
        arm(layout, manifest=make_manifest(layout, "collocated", gpus=2, llm_configs={"collocated": config}))
        for layout, config in configs.items()
    ]
    reported = [f.seen for f in audit(read_study(folders, details=False)) if f.kind == "mixed engines"]
    assert sorted(line.split(":")[0] for line in reported) == [
        "OMP_NUM_THREADS", "max_num_batched_tokens", "speculative_config", "stream_batching_interval_ms",
    ]  # fmt: skip
    assert "max_num_batched_tokens: 3200 in 1 of 2 folders, 512 in 1 of 2 folders" in reported
    assert any(line.startswith("stream_batching_interval_ms: ") and "default in 1 of 2" in line for line in reported)


SIZES = json.dumps(list(range(1, 21)))


@pytest.mark.parametrize(
    ("values", "reported"),
    [
        ([f'{{"a": {SIZES}, "b": 1}}', '{"a": [1], "b": 1}'], ("x.a", ["20 values ending in 20", "[1]"])),
        (['{"a": {"c": [1, 2]}, "b": 1}', '{"a": {"c": [1]}, "b": 1}'], ("x.a.c", ["[1, 2]", "[1]"])),
        (['{"a": 1, "b": "n", "c": 2}', '{"a": 2, "c": 2}'], ("x", ["{a: 1, b: n}", "{a: 2}"])),
        (['{"a": 1, "c": 2}', '{"c": 2}'], ("x.a", ["1", "default"])),
        ([f'{{"a": {SIZES}}}', "default"], ("x", ["{a: 20 values ending in 20}", "default"])),
        (['"fp8"', '"auto"'], ("x", ['"fp8"', '"auto"'])),
        (["1" * 50 + "a" + "2" * 90, "1" * 50 + "b"], ("x", ["..." + "1" * 10 + "a" + "2" * 69 + "...", "1" * 50 + "b"])),
        ([f'{{"a": {SIZES}}} and {{"a": 1}}', "default"], ("x", [f'{{"a": {SIZES}}} a...', "default"])),
    ],
)  # fmt: skip
def test_of_long_values_what_distinguishes_them_is_shown(values, reported):
    assert in_short("x", values) == reported


def test_long_lists_that_differ_in_their_middle_are_distinguished():
    ours, theirs = [*range(90)], [*range(50), 7, *range(51, 90)]
    what, texts = in_short("x", [json.dumps({"a": sizes}) for sizes in (ours, theirs)])
    assert what == "x.a" and texts[0].startswith("..., 48, 49, 50, 51") and texts[1].startswith("..., 48, 49, 7, 51")


def test_our_runs_with_other_largest_steps_differ_in_lines_that_can_be_read():
    """Their CUDA graphs follow from max_num_batched_tokens, and are 160 to 340 characters of JSON."""
    folders = sorted((ROOT / "bm_results").glob("*_h200x1_chunks_*"))
    reported = sorted(f.seen for f in audit(read_study(folders, details=False)) if f.kind == "mixed engines")
    assert [line.split(":")[0] for line in reported] == [
        "compilation_config.cudagraph_capture_sizes", "max_num_batched_tokens",
    ]  # fmt: skip
    assert "21 values ending in 512 in 1 of 4 folders" in reported[0] and max(map(len, reported)) < 250

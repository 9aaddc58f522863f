"""Whatever a manifest or a level holds, viz.py answers or says in one line what is wrong: seeded mutations of both."""

import copy
import json
import random
import time

import pytest

import viz
from pdbench.manifest import Gate

SEEDS = range(8)
EACH = 50
SECONDS = 60  # of all mutations of a seed
VALUES = (
    None, True, False, 0, -1, 3, 1e-9, 10**30, -0.5, "", "x", "inf", "NaN", "\x1b[31m", "1", [], [1], [None], [[]], {},
    {"a": 1}, {"a": None}, float("nan"), float("inf"), "2xtp1", "p1xtp2-d1xtp2", "conc4", "2025-01-01", [{}], [{"a": 1}],
)  # fmt: skip


def places(content, path=()):
    """Every place in a document, from the outside in."""
    yield path
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(inside)[:6] if isinstance(content, list) else inside:
        yield from places(value, (*path, key))


def mutated(content, rng):
    """One change: a value replaced, a key or an entry removed, doubled or renamed."""
    content = copy.deepcopy(content)
    *parents, last = rng.choice([path for path in places(content) if path])
    at = content
    for key in parents:
        at = at[key]
    what = rng.choice(("replace", "replace", "replace", "remove", "double", "wrap", "rename"))
    if what == "replace":
        at[last] = rng.choice(VALUES)
    elif what == "remove":
        del at[last]
    elif what == "double" and isinstance(at, list):
        at.append(copy.deepcopy(at[last]))
    elif what == "rename" and isinstance(at, dict):
        other = rng.choice(list(at))
        at[other] = at.pop(last)
    else:
        at[last] = rng.choice(([at[last]], {"a": at[last]}, str(at[last])))
    return content


@pytest.fixture
def documents(level_content, make_manifest, speed_record):
    """A manifest in which every optional part is there, and two levels, one with details."""
    gate = Gate(name="transport", passed=True, seen="tcp", expected="tcp", time="", value=1.0)
    env = {"env_vars": {"VLLM_X": "1"}}
    engines = {
        "engine_kwargs": {"max_num_seqs": 4},
        "runtime_env": env,
        "experimental_configs": {"stream_batching_interval_ms": 50},
    }
    manifest = make_manifest(
        "p1xtp1-d1xtp2", "pd-spread", gates=[gate], llm_configs={"prefill": engines, "decode": engines}, kv_cache={"layers": 2},
        transport={"backend": "UCX", "ucx_tls": None}, servers={"a": "b"}, serving_path={"env": {}, "router": None},
    )  # fmt: skip
    manifest.levels += [speed_record("conc4", 1.0), speed_record("conc8", 2.0)]
    levels = {"conc4.json": level_content(4, detailed=True), "conc8.json": level_content(8)}
    return {"manifest.json": json.loads(manifest.model_dump_json())} | levels


@pytest.mark.parametrize("seed", SEEDS)
def test_no_mutation_is_a_traceback(tmp_path, monkeypatch, capsys, write_folder, documents, level_content, seed):
    rng, begin = random.Random(seed), time.monotonic()
    monkeypatch.chdir(tmp_path)
    other = write_folder(
        tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": level_content(4), "conc8.json": level_content(8)}
    )
    folder = write_folder(tmp_path, "tiny_itl100_otl11_mixed_spread_p1xtp1-d1xtp2", {})
    answered = 0
    for number in range(EACH):
        changed = rng.choice(["manifest.json"] * 3 + ["conc4.json", "conc8.json"])
        written = documents | {changed: mutated(documents[changed], rng)}
        write_folder(tmp_path, folder.name, written)
        try:
            asked = ["--audit", "--include-refuted", "--show-tables", "--show-stalls", "--export", "a.csv"]
            viz.main([*asked, "--exps", str(folder), str(other)])
            answered += 1
            capsys.readouterr()  # of the folder without a manifest it says what is assumed
        except SystemExit as stopped:
            *notes, error = capsys.readouterr().err.splitlines()
            assert stopped.code == 2 and error.startswith("viz.py: error: "), (number, changed, error)
            assert all(line.startswith("viz.py: no manifest") for line in notes), (number, changed, notes)
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}, {changed}: {json.dumps(written[changed])}") from error
        assert time.monotonic() - begin < SECONDS
    assert 0 < answered < EACH  # some changes are harmless, and some are not

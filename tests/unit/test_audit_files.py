"""Level files that are not those of their manifests, and folders that cannot be compared with the others."""

import json

import pytest

from pdbench.analysis.audit import audit, refuted
from pdbench.manifest import Gate, LevelRecord, Manifest
from pdbench.read.level_file import digest_of
from pdbench.read.results import read_study


def record(stem, digest, seed=1):
    return LevelRecord(level=stem, command="", launched="now", seed=seed, warmup_seed=2, num_prompts=200, started="", ended="",
                       ok=True, digest=digest)  # fmt: skip


@pytest.fixture
def folder(tmp_path, write_folder, level_content, make_manifest):
    """Writes a measured arm of two levels; `seeds` are the client's."""

    def write(layout, seeds=(1, 2), measured=True, mode="collocated"):
        levels = {
            f"conc{c}": level_content(c, requests=200, seed=seed, label=layout) for c, seed in zip((4, 8), seeds, strict=True)
        }
        path = write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{layout}", {f"{stem}.json": of for stem, of in levels.items()})
        if measured:
            manifest = make_manifest(layout, mode, gpus=2)
            manifest.levels = [record(stem, digest_of(content), content["seed"]) for stem, content in levels.items()]
            manifest.write(path)
        return path

    return write


def findings(*folders):
    found = audit(read_study(folders))
    return {finding.kind: finding for finding in found}, refuted(found)


def test_files_that_are_those_of_the_manifest_pass(folder):
    assert findings(folder("2xtp1"), folder("1xtp2")) == ({}, {})


def test_a_file_whose_numbers_changed_is_named_and_left_out(folder):
    path, other = folder("2xtp1"), folder("1xtp2")
    content = json.loads((path / "conc8.json").read_text())
    (path / "conc8.json").write_text(json.dumps(content | {"median_tpot_ms": content["median_tpot_ms"] * 0.9}))
    found, left_out = findings(path, other)
    assert found["changed file"].seen == "the client's summary is not the one that was recorded: conc8"
    assert left_out == {str(path): ["changed file"]}
    (path / "conc8.json").write_text(json.dumps(content, indent=1))
    assert findings(path, other) == ({}, {}), "white space is no change"


def test_a_file_without_a_record_is_named_and_left_out(folder, level_content):
    path = folder("2xtp1")
    (path / "conc16.json").write_text(json.dumps(level_content(16, requests=200, seed=3)))
    found, left_out = findings(path, folder("1xtp2"))
    assert found["not in the manifest"].seen == "levels: conc16" and left_out == {str(path): ["not in the manifest"]}


def test_a_manifest_without_digests_is_no_fault(folder):
    path = folder("2xtp1")
    manifest = Manifest.read(path)
    manifest.levels = [of.model_copy(update={"digest": None}) for of in manifest.levels]
    manifest.write(path)
    assert findings(path) == ({}, {})


def test_replayed_prompts_are_not_compared_with_unseen_ones(folder):
    replayed, unseen = folder("2xtp1", seeds=(1, 1)), folder("1xtp2")
    found, left_out = findings(replayed, unseen)
    assert found["mixed prompts"].folders == (str(replayed),) and left_out == {str(replayed): ["mixed prompts"]}
    found, left_out = findings(replayed, folder("1xtp1", seeds=(1, 1)))
    assert "mixed prompts" not in found and left_out == {}, "among themselves they can be compared"


def test_folders_without_a_manifest_are_named_beside_others(folder):
    bare = folder("1xtp2", measured=False)
    found, left_out = findings(folder("2xtp1"), bare)
    assert found["no manifest"].folders == (str(bare),) and left_out == {str(bare): ["no manifest"]}
    assert "no manifest" not in findings(bare)[0]


def test_of_copies_one_stays(folder, tmp_path):
    path = folder("2xtp1", measured=False)
    copy = tmp_path / f"{path.name}-again"
    copy.mkdir()
    for file in path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert findings(path, copy)[1] == {str(copy): ["same results"]}


def test_copies_as_repeats_are_no_repeats(folder):
    path = folder("2xtp1", measured=False)
    for repeat in (2, 3):
        for stem in ("conc4", "conc8"):
            (path / f"{stem}_rep{repeat}.json").write_bytes((path / f"{stem}.json").read_bytes())
    assert findings(path)[1] == {str(path): ["same results"]}


def test_a_level_that_was_taken_with_a_failed_gate_is_named(folder):
    path = folder("2xtp1")
    manifest = Manifest.read(path)
    gate = Gate(name="prefix-cache", passed=False, seen="45% were cached", expected="at most 2%", time="")
    manifest.levels[0].gates = [gate]
    manifest.write(path)
    found, left_out = findings(path)
    assert found["failed gate"].seen == "conc4: prefix-cache: 45% were cached, expected at most 2%"
    assert left_out == {str(path): ["failed gate"]}


def test_a_record_of_other_requests_is_not_that_of_the_file(folder):
    path = folder("2xtp1")
    manifest = Manifest.read(path)
    manifest.levels[1].num_prompts, manifest.levels[1].digest = 999, None
    manifest.write(path)
    assert findings(path)[0]["changed file"].seen.endswith("recorded: conc8")


@pytest.fixture
def written(tmp_path, write_folder, level_content, make_manifest):
    """A folder as run_bm.sh of an older version wrote it: the client's metadata, and records without digests."""

    def write(name, start, command="vllm bench serve --result-dir 'r/{}'", measured=True):
        folder = f"tiny_itl100_otl11_mixed_{name}"
        seeds = {f"conc{c}": start + c for c in (4, 8)}
        levels = {
            f"{stem}.json": level_content(c, None, 200, seed=str(seeds[stem]), level=stem, exp_name=name, duration=20.0 + start)
            for c, stem in zip((4, 8), seeds, strict=True)
        }  # fmt: skip
        path = write_folder(tmp_path, folder, levels)
        if measured:
            manifest = make_manifest("2xtp1", "collocated", gpus=2).model_copy(update={"name": name})
            manifest.levels = [record(stem, None, seed).model_copy(update={"command": command.format(folder)})
                               for stem, seed in seeds.items()]  # fmt: skip
            manifest.write(path)
        return path

    return write


def test_a_level_of_another_folder_is_named_and_left_out(written):
    here, other = written("a_2xtp1", 1), written("b_2xtp1", 2)
    assert findings(here, other) == ({}, {})
    (here / "conc8.json").write_bytes((other / "conc8.json").read_bytes())
    found, left_out = findings(here)
    assert found["another folder's level"].seen == "conc8: exp_name is b_2xtp1, here a_2xtp1; seed is 10, here 9"
    assert left_out == {str(here): ["another folder's level"]}


def test_without_a_manifest_the_folders_name_is_what_a_level_must_be_of(written):
    here, other = (written(name, start, measured=False) for name, start in (("a_2xtp1", 1), ("b_2xtp1", 2)))
    (here / "conc8.json").write_bytes((other / "conc8.json").read_bytes())
    assert findings(here)[0]["another folder's level"].seen == "conc8: exp_name is b_2xtp1, here a_2xtp1"


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"model_id": "m/small"}, "model is small, here tiny"),
        ({"level": "conc8_rep2"}, "level is conc8_rep2, here conc8"),
        ({"model_id": "m/tiny"}, None),
    ],
)
def test_what_else_a_level_says_of_itself(written, change, seen):
    here = written("a_2xtp1", 1)
    path = here / "conc8.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = findings(here)[0].get("another folder's level")
    assert (found and found.seen) == (seen and f"conc8: {seen}")


def test_a_record_whose_command_wrote_elsewhere(written):
    found = findings(written("a_2xtp1", 1, "vllm bench serve --result-dir r/tiny_itl100_otl11_mixed_c_2xtp1"))[0]
    of = "is tiny_itl100_otl11_mixed_c_2xtp1, here tiny_itl100_otl11_mixed_a_2xtp1"
    assert found["another folder's level"].seen == f"conc4 and conc8: the result folder {of}"
    assert findings(written("d_2xtp1", 5, "vllm 'bench"))[0] == {}


def test_a_folder_that_was_renamed_keeps_its_levels(written, tmp_path):
    here = written("a_2xtp1", 1).rename(tmp_path / "tiny_itl100_otl11_mixed_better_2xtp1")
    assert findings(here) == ({}, {})

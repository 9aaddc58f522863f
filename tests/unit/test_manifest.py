"""manifest.json: written whole or not at all, read strictly."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench import files
from pdbench.files import read_json, write_atomically
from pdbench.manifest import FILENAME, LevelRecord, Manifest


def test_what_is_written_is_read_back(tmp_path, make_manifest):
    written = make_manifest(transport={"kind": "ucx", "tls": ["tcp"]})
    what = {"level": "conc4", "command": "vllm bench serve", "num_prompts": 9, "ok": False, "problems": []}
    when = {"launched": None, "started": "a", "ended": "b", "seed": 1, "warmup_seed": None}
    written.levels.append(LevelRecord(**what, **when))
    written.write(tmp_path / "new" / "folder")
    assert Manifest.read(tmp_path / "new" / "folder") == written
    assert json.loads((tmp_path / "new" / "folder" / FILENAME).read_text())["schema_version"] == 1


def changed(make_manifest, path, value):
    content = json.loads(make_manifest().model_dump_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (["surprise"], 1, "surprise: Extra inputs"),
        (["deployment", "surprise"], 1, "deployment.surprise: Extra inputs"),
        (["schema_version"], 2, "schema_version"),
        (["isl"], "many", "isl"),
        (["deployment", "mode"], "pd", "deployment.mode"),
        (["deployment", "replicas", 0, "role"], "router", "deployment.replicas.0.role"),
    ],
)
def test_what_the_schema_does_not_know_is_refused(tmp_path, make_manifest, path, value, where):
    (tmp_path / FILENAME).write_text(changed(make_manifest, path, value))
    with pytest.raises(ValueError, match=where) as caught:
        Manifest.read(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / FILENAME))
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_refused(tmp_path, make_manifest):
    content = json.loads(make_manifest().model_dump_json())
    del content["client"]
    (tmp_path / FILENAME).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="client: Field required"):
        Manifest.read(tmp_path)


@given(st.data())
def test_a_truncated_manifest_is_refused(tmp_path_factory, make_manifest, data):
    text = make_manifest().model_dump_json()
    folder = tmp_path_factory.mktemp("manifest")
    (folder / FILENAME).write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(ValueError, match=FILENAME):
        Manifest.read(folder)


def test_no_manifest_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Manifest.read(tmp_path)


def test_writing_replaces_the_whole_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("a long content that was there before")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.json"]


@pytest.mark.parametrize("content", ["", "{", '{"a": 1', "[1,]", "\u00e4".encode("latin-1")])
def test_json_that_is_not_whole_is_refused_by_name(tmp_path, content):
    path = tmp_path / "level.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="level.json"):
        read_json(path)

"""Levels measured elsewhere, added to the folders here: what is added, what is refused, and that nothing is half-written."""

import sys

import pytest

from pdbench.manifest import Manifest
from pdbench.measure import gather
from pdbench.read.results import read_results

NAME = "tiny_itl100_otl11_mixed_x_1xtp1"


@pytest.fixture
def folder(tmp_path, write_folder, level_content, speed_record, make_manifest):
    """Make a result folder in `tmp_path/where` with levels, each as (stem, when it was measured)."""

    def make(where, *levels, name=NAME, **deployment):
        files = {f"{stem}.json": level_content(4) for stem, _ in levels}
        made = write_folder(tmp_path / where, name, files)
        manifest = make_manifest("1xtp1", "collocated", **deployment)
        manifest.levels = [
            speed_record(stem, 1.0).model_copy(update={"started": started, "block": 1, "machines": [where]})
            for stem, started in levels
        ]
        manifest.commands = [f"on {where}"]
        manifest.write(made)
        return made

    return make


def run(monkeypatch, here, *folders):
    monkeypatch.setattr(sys, "argv", ["gather", *map(str, folders), "--results-dir", str(here)])
    return gather.main()


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_only_elsewhere_is_added_and_read(folder, tmp_path, monkeypatch, capsys):
    here = folder("here", ("conc4", "1"))
    there = folder("there", ("conc4", "1"), ("conc4_rep2", "2"))
    assert run(monkeypatch, here.parent, there) == 0
    assert capsys.readouterr().out == f"gather: {here}: 1 levels added\n"
    manifest = Manifest.read(here)
    assert [(r.level, r.machines) for r in manifest.levels] == [("conc4", ["here"]), ("conc4_rep2", ["there"])]
    assert manifest.commands == ["on here", "on there"]
    assert (here / "conc4_rep2.json").read_bytes() == (there / "conc4_rep2.json").read_bytes()
    assert sorted(read_results([here])["repeat"]) == [1, 2]
    before = contents(here)
    assert run(monkeypatch, here.parent, there) == 0 and "0 levels added" in capsys.readouterr().out
    assert contents(here) | {here / "manifest.json": b""} == before | {here / "manifest.json": b""}
    assert Manifest.read(here) == manifest, "again, it adds nothing"


def test_a_folder_that_is_not_here_comes_whole(folder, tmp_path, monkeypatch):
    there = folder("there", ("conc4", "1"))
    assert run(monkeypatch, tmp_path / "here", there) == 0
    assert contents(tmp_path / "here").keys() == {tmp_path / "here" / NAME / name for name in ("conc4.json", "manifest.json")}


def test_a_level_that_did_not_count_here_is_taken_from_elsewhere(folder, monkeypatch):
    here, there = folder("here", ("conc4", "1"), ("conc8", "1")), folder("there", ("conc8", "2"))
    manifest = Manifest.read(here)
    manifest.levels[1].ok = False
    manifest.write(here)
    (here / "conc8.json").rename(here / "conc8.json.bad")
    assert run(monkeypatch, here.parent, there) == 0
    assert [(r.level, r.ok, r.started) for r in Manifest.read(here).levels] == [("conc4", True, "1"), ("conc8", True, "2")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": [("conc4", "2")]}, "both hold conc4, measured 1 and 2: measure one of them as another block"),
        (
            {"accelerator": "GPU", "model_checksum": "f00"},
            "holds results of model_checksum None, but this is model_checksum f00",
        ),
        (
            {"llm_configs": {"collocated": {"engine_kwargs": {"block_size": 64}}}},
            "block_size None, but this is collocated block_size 64",
        ),
    ],
    ids=["a level of both", "another model", "other engine arguments"],
)
def test_what_must_not_be_put_together_is_refused_before_anything_is_written(
    folder, tmp_path, monkeypatch, capsys, change, words
):
    here, first = folder("here", ("conc4", "1")), folder("first", ("conc8", "1"), name=NAME.replace("x_1xtp1", "y_1xtp1"))
    change = dict(change)
    there = folder("there", *change.pop("levels", [("conc8", "2")]), **change)
    before = contents(here.parent)
    assert run(monkeypatch, here.parent, first, there) == 2
    printed = capsys.readouterr()
    assert (
        (printed.out, printed.err.count("\n")) == ("", 1) and printed.err.startswith("gather: error: ") and words in printed.err
    )
    assert contents(here.parent) == before


def test_wrong_folders_are_one_line(folder, tmp_path, monkeypatch, capsys):
    here, lost = folder("here", ("conc4", "1")), folder("lost", ("conc8", "1"))
    (lost / "conc8.json").unlink()
    again = folder("again", ("conc8", "1"))
    for folders, words in (
        ([lost], "conc8.json is missing, which its manifest names"),
        ([here], "is the folder of that name in"),
        ([again, again], f"{NAME} is named twice"),
        ([tmp_path / "none"], "none: no manifest.json: name a result folder"),
    ):
        assert run(monkeypatch, here.parent, *folders) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error

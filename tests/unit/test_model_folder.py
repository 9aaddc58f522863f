"""Folders of weights: reproducible, checked, fixed, with room for them; and given ones that are no whole model."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import ClassVar

import numpy
import pytest
from safetensors.numpy import save_file

from pdbench.configs import ROOT, ModelConfig
from pdbench.manifest import Strict
from pdbench.model import model_folder as folders
from pdbench.model.kv_cache import KVCache
from pdbench.model.model_folder import CHECKSUM_FILE, ModelError, check_weights, ensure_model, verified_checksum
from pdbench.serve import deployment


class Numbers(Strict):
    """The smallest model there is: numbers that follow from a seed."""

    record: ClassVar[str] = "numbers_spec.json"
    count: int = 100
    seed: int = 0

    @property
    def bytes(self) -> int:
        return 8 * self.count

    def write(self, folder: Path) -> None:
        save_file({"numbers": numpy.random.default_rng(self.seed).random(self.count)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")


class Others(Numbers):
    record: ClassVar[str] = "others_spec.json"


FILES = [CHECKSUM_FILE, "config.json", "model.safetensors", "numbers_spec.json"]


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "models" / "m"
    return folder, ensure_model(folder, Numbers())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(folder):
    """What shows that its files are still the same ones."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_same_spec_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    folder, checksum = made
    assert names(folder) == FILES and len(checksum) == 64 and verified_checksum(folder) == checksum
    assert ensure_model(tmp_path / "again", Numbers()) == checksum and contents(tmp_path / "again") == contents(folder)
    assert ensure_model(tmp_path / "other", Numbers(seed=1)) != checksum
    assert names(tmp_path / "models") == ["m"] and names(tmp_path) == ["again", "models", "other"], "nothing half-made stays"


def test_a_whole_folder_is_left_as_it_is(made):
    folder, checksum = made
    before = written(folder)
    assert ensure_model(folder, Numbers()) == checksum and written(folder) == before


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_folder_is_made_again(made, name):
    folder, checksum = made
    whole = contents(folder)
    for damage in (flip, Path.unlink):
        damage(folder / name)
        assert verified_checksum(folder) is None
        assert ensure_model(folder, Numbers()) == checksum and contents(folder) == whole


@pytest.mark.parametrize("text", ["", "garbage\n", "0" * 64 + "  model.safetensors\n"])
def test_a_damaged_list_of_checksums_vouches_for_nothing(made, text):
    (made[0] / CHECKSUM_FILE).write_text(text)
    assert verified_checksum(made[0]) is None


def test_a_list_that_lacks_a_file_vouches_for_nothing(made):
    whole = (made[0] / CHECKSUM_FILE).read_text()
    (made[0] / CHECKSUM_FILE).write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert verified_checksum(made[0]) is None, "a file that is not in it could be any"


def test_a_folder_with_a_file_too_many_is_made_again(made):
    folder, checksum = made
    (folder / "adapter.safetensors").write_bytes(b"")
    assert verified_checksum(folder) is None
    assert ensure_model(folder, Numbers()) == checksum and names(folder) == FILES


@pytest.mark.parametrize("spec", [Numbers(seed=1), Numbers(count=7), Others()])
def test_a_folder_that_was_made_from_another_spec_is_made_again(made, spec):
    folder, checksum = made
    assert ensure_model(folder, spec) != checksum
    assert json.loads((folder / spec.record).read_text()) == spec.model_dump() and len(names(folder)) == 4


def test_too_little_room_is_reported_in_one_line_and_leaves_what_was_there(made, tmp_path):
    folder, checksum = made
    huge = Numbers(count=10**15)
    for target, there in ((folder, folder.parent), (tmp_path / "none" / "m", tmp_path)):
        with pytest.raises(ModelError) as caught:
            ensure_model(target, huge)
        message = str(caught.value)
        assert message.startswith(f"{target} needs 8000000.0 GB, {there} has ") and "\n" not in message
        assert message.endswith(" GB free: make room there, or name another folder as model_source in the model's file")
    assert verified_checksum(folder) == checksum and names(tmp_path) == ["models"] and names(folder.parent) == ["m"]


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("missing", "of_it", "outcome"), [(0, 0, "stays"), (1, 0, "goes"), (0, 1, "goes"), (1, 1, "refused")])
def test_what_is_there_already_goes_first_only_where_it_must(made, monkeypatch, missing, of_it, outcome):
    """The file system has `missing` bytes too few, and `of_it` times what the old model holds."""
    folder, _ = made
    held = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    free = Numbers().bytes + folders.BESIDE_WEIGHTS - missing - of_it * held
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    if outcome == "refused":
        with pytest.raises(ModelError, match="make room there"):
            folders.make_room(folder, Numbers())
    else:
        folders.make_room(folder, Numbers())
    assert folder.exists() == (outcome != "goes")


ENDLESS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_model_folder import Numbers
from pdbench.model.model_folder import ensure_model

class Endless(Numbers):
    def write(self, folder):
        super().write(folder)
        print("writing", flush=True)
        time.sleep(300)

ensure_model(Path(sys.argv[1]), Endless())
"""


def test_what_a_killed_run_left_is_removed_and_that_of_a_living_one_kept(tmp_path):
    folder = tmp_path / "m"
    run = subprocess.Popen([sys.executable, "-c", ENDLESS, folder, Path(__file__).parent], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert run.stdout.readline() == b"writing\n"
        half = f".m.{run.pid}"
        ensure_model(folder, Numbers())
        assert names(tmp_path) == [half, "m"] and names(tmp_path / half) == ["config.json", "model.safetensors"]
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    (tmp_path / f".n.{run.pid}").mkdir()
    (tmp_path / ".m.backup").mkdir()
    assert ensure_model(folder, Numbers()) and names(tmp_path / half), "nothing is to be made: nothing is removed"
    ensure_model(folder, Numbers(seed=1))
    assert names(tmp_path) == [".m.backup", f".n.{run.pid}", "m"], "what others have put there stays"


def test_a_killed_run_may_have_had_our_number(tmp_path):
    """Containers begin to count again, and their folders of models stay."""
    mine = tmp_path / f".m.{folders.os.getpid()}"
    mine.mkdir()
    (mine / "half").write_text("")
    ensure_model(tmp_path / "m", Numbers())
    assert names(tmp_path) == ["m"] and names(tmp_path / "m") == FILES


@pytest.mark.parametrize("path", ["m/weights.safetensors", "m/deep/file", ".m.backup/file", "m"])
def test_what_was_not_made_here_is_never_removed(tmp_path, path):
    """A folder of others, and what lies beside the model's under a name like ours; "m" alone is a file."""
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("mine")
    if path.startswith("m"):
        with pytest.raises(ModelError, match="holds something that was not made here"):
            ensure_model(tmp_path / "m", Numbers())
        assert len(names(tmp_path)) == 1
    else:
        ensure_model(tmp_path / "m", Numbers())
    assert (tmp_path / path).read_text() == "mine"


class Failing(Numbers):
    def write(self, folder):
        super().write(folder)
        raise OSError("no space left")


def test_a_making_that_fails_leaves_what_was_there(made):
    folder, checksum = made
    with pytest.raises(OSError, match="no space left"):
        ensure_model(folder, Failing(seed=1))
    assert verified_checksum(folder) == checksum and names(folder.parent) == ["m"]


# From here on, folders that are given: whole by their index and the lengths that safetensors files state.


@pytest.fixture
def given(tmp_path):
    """A model of two files, as the hub has them."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for part in ("a", "b"):
        save_file({part: numpy.zeros((3, 5), dtype="float32")}, folder / f"{part}.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    )
    return folder


def test_a_whole_model_passes_with_and_without_an_index(given):
    check_weights(given)
    (given / "model.safetensors.index.json").unlink()
    check_weights(given)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("config.json", Path.unlink, "{folder} is no model: it has no config.json"),
        ("b.safetensors", Path.unlink, "{folder} is incomplete: b.safetensors of its index is missing; copy the model again"),
        ("b.safetensors", cut, "{path} is half-written: {size} bytes instead of {whole}; copy the model again"),
        ("a.safetensors", lambda path: path.write_bytes(b""), "{path} is half-written: its header cannot be read; "),
        ("a.safetensors", lambda path: path.write_bytes(b"\x08" + bytes(7) + b'{"a": 1}'), "{path} is half-written: its"),
        ("a.safetensors", lambda path: path.write_bytes(path.read_bytes()[:30]), "{path} is half-written: its header"),
        ("a.safetensors", lambda path: path.write_bytes(b"version https://git-lfs"), "{path} is half-written: its header"),
        ("a.safetensors", lambda path: path.write_bytes(path.read_bytes() + b"x"), "{path} is half-written: {size} bytes"),
        ("model.safetensors.index.json", cut, "{path} cannot be read: copy the model again"),
        ("model.safetensors.index.json", lambda path: path.write_text("[]"), "{path} cannot be read: copy the model again"),
    ],
    ids=lambda value: None,
)
def test_half_a_model_is_reported_in_one_line(given, name, damage, words):
    path = given / name
    whole = path.stat().st_size
    damage(path)
    size = path.stat().st_size if path.exists() else 0
    with pytest.raises(ModelError) as caught:
        check_weights(given)
    reported = words.format(folder=given, path=path, size=size, whole=whole)
    assert str(caught.value).startswith(reported) and "\n" not in str(caught.value)


def model(source, **more):
    cache = {} if more else {"kv_cache": KVCache(heads=1, head_dim=8, layers=2)}
    return ModelConfig(model_id="m", model_source=source and str(source), max_model_len=9, **cache, **more)


def test_a_launch_checks_a_given_folder_and_leaves_a_hubs_id_to_vllm(given, made):
    assert deployment.prepare_weights(model(None)) is None
    assert deployment.prepare_weights(model("openai/gpt-oss-20b")) is None
    assert deployment.prepare_weights(model(given)) is None, "it has no list of checksums"
    assert deployment.prepare_weights(model(made[0])) == made[1]
    shutil.rmtree(given)
    for missing in (given, "./no-such-folder", "../no-such-folder"):
        with pytest.raises(ModelError, match=f"model_source {missing}: no such folder"):
            deployment.prepare_weights(model(missing))
    given.mkdir()
    with pytest.raises(ModelError, match="is no model: it has no config.json"):
        deployment.prepare_weights(model(given))


def test_a_launch_makes_what_is_to_be_made_and_says_so(tmp_path, capsys):
    sizes = {"vocab_size": 1024, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 32, "num_experts": 2}
    checksum = deployment.prepare_weights(model(tmp_path / "tiny", tiny=sizes))
    assert checksum == verified_checksum(tmp_path / "tiny")
    said = f"launch: model m: making it in {tmp_path / 'tiny'}, or checking what is there\n"
    assert capsys.readouterr().err.startswith(said)
    assert deployment.prepare_weights(model(tmp_path / "tiny", tiny=sizes)) == checksum
    assert capsys.readouterr().err == said

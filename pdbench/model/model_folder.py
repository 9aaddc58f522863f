"""Check folders of weights: those that are made on this machine, whole and with a checksum, and those that are given."""

import contextlib
import hashlib
import json
import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import psutil

CHECKSUM_FILE = "SHA256SUMS"
SPEC_SUFFIX = "_spec.json"  # of every spec's `record`
# What a spec's `bytes` leaves out: tokenizer, configuration, headers.
BESIDE_WEIGHTS = 50_000_000


class Spec(Protocol):
    """What a model is made from: a pydantic model of sizes and a seed.

    Attributes:
        record: name of the file in the folder that keeps the spec.
        bytes: of the weights.
    """

    record: str

    @property
    def bytes(self) -> int: ...

    def write(self, folder: Path) -> None:
        """Write configuration, tokenizer and weights into an empty folder."""


class ModelError(ValueError):
    """A folder of weights cannot be made or used; one line."""


def ensure_model(folder: Path, spec: Spec) -> str:
    """Make the model in `folder` unless it is there and whole; return its checksum (hex SHA-256).

    The same spec with the same libraries gives the same bytes. A folder that is damaged or was made from another spec is
    made again.

    Raises:
        ModelError: there is not enough room, or the folder holds something that was not made here.
    """
    checksum = verified_checksum(folder)
    record = folder / spec.record
    if checksum and record.is_file() and json.loads(record.read_text()) == spec.model_dump():
        return checksum
    if not _is_replaceable(folder):
        raise ModelError(f"{folder} holds something that was not made here, and making the model would remove it: name "
                         "another folder as model_source in the model's file")  # fmt: skip
    _remove_leftovers(folder)
    make_room(folder, spec)
    # The process's number shows a later run whether it is still in work.
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        spec.write(temporary)
        (temporary / spec.record).write_text(spec.model_dump_json(indent=2))
        _write_checksums(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _sha256(folder / CHECKSUM_FILE)


def _is_replaceable(folder: Path) -> bool:
    """Whether a folder is absent, empty, or has a mark of a model that was made here: its spec, or the list of checksums."""
    if not folder.exists():
        return True
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    return not names or CHECKSUM_FILE in names or any(name.endswith(SPEC_SUFFIX) for name in names)


def make_room(folder: Path, spec: Spec) -> None:
    """Check that the file system of `folder` has room for the model; what is there already goes first where it must.

    Raises:
        ModelError: there is too little; says how much is needed and what there is.
    """
    there = next(path for path in folder.absolute().parents if path.exists())
    free, needed = shutil.disk_usage(there).free, spec.bytes + BESIDE_WEIGHTS
    old = sum(path.stat().st_blocks * 512 for path in folder.iterdir()) if folder.is_dir() else 0
    if free + old < needed:
        raise ModelError(f"{folder} needs {needed / 1e9:.1f} GB, {there} has {free / 1e9:.1f} GB free: make room there, "
                         "or name another folder as model_source in the model's file")  # fmt: skip
    if free < needed:
        shutil.rmtree(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove what runs that were killed have left half-written beside `folder`."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if not path.suffix[1:].isdigit():
            continue  # somebody else's
        number = int(path.suffix[1:])
        # This process has written nothing yet: its number is that of a process of before, as in a new container.
        if number == os.getpid() or not psutil.pid_exists(number):
            shutil.rmtree(path, ignore_errors=True)


def verified_checksum(folder: Path) -> str | None:
    """Return SHA-256 over the folder's list of checksums, or None if it is not that of the files that are there."""
    sums = folder / CHECKSUM_FILE
    if not sums.is_file():
        return None
    lines = [line.partition("  ") for line in sums.read_text(errors="replace").splitlines()]
    names = [name for _, _, name in lines]
    if set(names) != {path.name for path in folder.iterdir()} - {CHECKSUM_FILE}:
        return None
    if not all((folder / name).is_file() for name in names):
        return None
    return _sha256(sums) if _digests(folder, names) == [digest for digest, _, _ in lines] else None


def _write_checksums(folder: Path) -> None:
    names = sorted(p.name for p in folder.iterdir())
    lines = [f"{digest}  {name}\n" for digest, name in zip(_digests(folder, names), names, strict=True)]
    (folder / CHECKSUM_FILE).write_text("".join(lines))


def _digests(folder: Path, names: list[str]) -> list[str]:
    # hashlib lets other threads run: 65 GB take one core 40 s.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda name: _sha256(folder / name), names))


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(folder: Path) -> None:
    """Check that a folder of weights is whole, by its index and the lengths that its safetensors files state.

    The format: https://huggingface.co/docs/safetensors/index#format.

    Raises:
        ModelError: names the first file that is missing or too short.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no model: it has no config.json")
    index = folder / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(f"{index} cannot be read: copy the model again") from None
    for path in [folder / name for name in names] or sorted(folder.glob("*.safetensors")):
        if not path.is_file():
            raise ModelError(f"{folder} is incomplete: {path.name} of its index is missing; copy the model again")
        stated = _stated_length(path)
        if stated is None:
            raise ModelError(f"{path} is half-written: its header cannot be read; copy the model again")
        if path.stat().st_size != stated:
            raise ModelError(f"{path} is half-written: {path.stat().st_size} bytes instead of {stated}; copy the model again")


def _stated_length(path: Path) -> int | None:
    """Bytes that a safetensors file must have by its own header; None where it has no readable header."""
    with path.open("rb") as file, contextlib.suppress(ValueError, struct.error, AttributeError, KeyError, TypeError):
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, 100_000_000)))
        return 8 + length + max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
    return None

"""Find the level files of a result folder, and read its manifest and what that says of its levels."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pdbench.manifest import FILENAME as MANIFEST
from pdbench.manifest import Deployment, Manifest, differences
from pdbench.read import foreign
from pdbench.read.level_file import naming
from pdbench.read.level_json import check_regular, load_level
from pdbench.workload import Level, RunName

VERSIONS = ("vllm", "ray", "nixl")
SMALL = 32 * 2**20  # bytes of files whose details are read unasked (2026-11-27: 22 MiB took a second)
FEW = 3  # names of files that a line lists
# The public study's spelling of a level measured again: rr9-1.json beside rr9.json.
_AGAIN = re.compile(r"(?P<level>(?:conc|rr)\d+(?:\.\d+)?)-(?P<again>[1-9]\d*)\.json", re.ASCII)


def folders_among(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Path], list[Path]]:
    """Return what a pattern such as bm_results/* matched: folders, and files, which are no result folders.

    Where there are files only they are returned as folders: reading them says what is wrong.
    """
    given = list(map(Path, paths))
    files = [path for path in given if os.path.exists(path) and not os.path.isdir(path)]
    return (given, []) if len(files) == len(given) else ([path for path in given if path not in files], files)


def left_out_words(files: Sequence[Path]) -> str:
    """Say in one line which files were left out."""
    names = ", ".join(path.name for path in files[:FEW]) + (f" and {len(files) - FEW} more" if len(files) > FEW else "")
    return f"left out, no folder{'s' * (len(files) > 1)}: {names}"


def check_folder(path: Path) -> None:
    """Refuse what is no folder.

    Raises:
        OSError: it may not be looked at.
        ValueError: it is a file, a link that leads nowhere, or not there.
    """
    if not path.is_dir():
        nowhere = "is a link that leads nowhere" if path.is_symlink() else "no such folder"
        raise ValueError("is not a folder" if path.exists() else nowhere)


def are_small(folders: Iterable[str | os.PathLike[str]]) -> bool:
    """Return whether their files of JSON are so few that reading the details of every request takes a moment."""
    return sum(path.stat().st_size for folder in folders for path in Path(folder).glob("*.json") if path.is_file()) <= SMALL


def find_levels(folder: Path) -> dict[Level, Path]:
    """Return the level files of a result folder; other kinds of file are not looked at.

    Raises:
        ValueError: it holds none, a file of JSON that is none, or one level twice.
    """
    levels: dict[Level, Path] = {}
    others = []
    paths = sorted(folder.iterdir())
    for path in paths:
        if path.suffix != ".json" or path.name == MANIFEST or path.name.startswith("."):
            continue
        if level := _level_of_name(path.name):
            _add(levels, level, path)
        else:
            others.append(path)
    if levels:
        for path in others:
            _refuse(path)
        return levels
    for path in foreign.find(folder):
        with naming(path):
            _add(levels, foreign.level_of(path, load_level(path, details=False), levels), path)
    for path in others:
        if not (levels and (foreign.is_read(path.name) or _matches(path.name, foreign.BESIDE))):
            _refuse(path)
    if not levels:
        raise ValueError(f"holds no level: expected conc<K>.json, rr<R>.json or shift<X>.json{_instead(paths)}")
    return levels


def _level_of_name(name: str) -> Level | None:
    again = _AGAIN.fullmatch(name)
    try:
        if again:
            level = Level.from_filename(f"{again['level']}.json")
            return Level(level.kind, level.value, 1 + int(again["again"]))
        return Level.from_filename(name)
    except ValueError:
        return None


def _add(levels: dict[Level, Path], level: Level, path: Path) -> None:
    if level in levels:
        one, other = (each.name if levels[level].parent == path.parent else str(each) for each in (levels[level], path))
        raise ValueError(f"{one} and {other} are the same level")
    levels[level] = path


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(Path(name).match(pattern) for pattern in patterns)


def _refuse(path: Path) -> None:
    """Say what a file of JSON is that is no level."""
    if tool := foreign.of_file(path):
        raise ValueError(f"{path.name} {foreign.in_words(tool)}")
    if foreign.is_read(path.name):
        raise ValueError(f"{path.name} is of another tool than the levels beside it: give it a result folder of its own")
    raise ValueError(f"{path.name!r} is not a level: expected conc<K>.json, rr<R>.json or shift<X>.json")


def _instead(paths: Iterable[Path]) -> str:
    """What a folder without levels holds of other tools."""
    found = next(((path, tool) for path in paths if (tool := foreign.of_file(path))), None)
    return f"; {found[0].name} {foreign.in_words(found[1])}" if found else ""


def read_manifest(folder: Path, run: RunName, levels: set[str]) -> Manifest | None:
    """Read the manifest of a result folder; None where there is none.

    Args:
        run: what the folder's name says.
        levels: stems of its level files.

    Raises:
        ResultError: it is malformed, is of another workload, or says that a level does not count.
    """
    with naming(folder / MANIFEST):
        try:
            check_regular(folder / MANIFEST)
            manifest = Manifest.read(folder)
        except FileNotFoundError:
            return None
        recorded, named = (manifest.isl, manifest.osl, manifest.phase), (run.isl, run.osl, run.phase)
        if recorded != named:
            raise ValueError(f"is of {recorded}, but the folder's name says {named}")
        for deployment in filter(None, (manifest.deployment, *manifest.earlier)):
            _check_deployment(deployment)
            if manifest.deployment and (different := differences(deployment.identity, manifest.deployment.identity)):
                raise ValueError(f"holds levels of {different[0]}: they are no repeats of each other")
        for record in manifest.levels:
            if record.level in levels and not record.ok:
                raise ValueError(f"{record.level} does not count: {'; '.join(record.problems)}")
        return manifest


def _check_deployment(deployment: Deployment) -> None:
    """Check the form of what a manifest keeps of others: an engine's configuration."""
    if not deployment.machines:
        raise ValueError("deployment.machines is empty: it must say where engines ran")
    path = deployment.serving_path or {"env": {}}
    _check_object("deployment.serving_path.env", path.get("env"))
    for role, config in deployment.llm_configs.items():
        where = f"deployment.llm_configs.{role}"
        _check_object(where, config)
        for key in ("engine_kwargs", "runtime_env", "experimental_configs"):
            _check_object(f"{where}.{key}", config.get(key, {}), optional=key != "engine_kwargs")
        _check_object(f"{where}.runtime_env.env_vars", (config.get("runtime_env") or {}).get("env_vars", {}))


def _check_object(where: str, value: Any, optional: bool = False) -> None:
    if not isinstance(value, dict) and not (optional and value is None):
        raise ValueError(f"{where} must be an object, not {value!r:.80}")


def provenance(manifest: Manifest | None, level: Level) -> dict[str, Any]:
    """Return what was running when a level was measured, and where, as far as a manifest says so; see `read_results`."""
    records = {record.level: record for record in manifest.levels} if manifest else {}
    record = records.get(level.stem)
    if manifest is None or (records and not record):  # nothing says what a file was measured on that the manifest lacks
        return dict.fromkeys(("commit", "engine", *VERSIONS, "machines"), "") | {"as_published": False, "block": 0}
    deployment = manifest.deployment_of(record)
    machine = next(iter(deployment.machines if deployment else []), manifest.client)
    settings = deployment.engine_settings if deployment else {}
    commit = (record.commit if record else None) or (deployment or manifest).repository.words
    return {name: machine.versions.get(name) or "" for name in VERSIONS} | {
        "commit": commit or "", "engine": "\n".join(f"{name} {value}" for name, value in sorted(settings.items())),
        "as_published": manifest.as_published, "block": (record.block or 0) if record else 0,
        "machines": ",".join(record.machines) if record else "",
    }  # fmt: skip

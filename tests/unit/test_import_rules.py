"""The import rules of pyproject.toml: every module is under one, and what breaks one is found."""

import subprocess
import sys
import tomllib
from pathlib import Path

from pdbench.configs import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_every_module_is_under_a_rule():
    ruled = {name for contract in CONTRACTS for name in contract.get("source_modules", [])}
    ruled |= {name for contract in CONTRACTS for layer in contract.get("layers", []) for name in layer.split(" | ")}
    packages = {f"pdbench.{path.parent.name}" for path in (ROOT / "pdbench").glob("*/__init__.py")}
    modules = {path.stem: path.read_text() for path in (ROOT / "pdbench").glob("*.py") if path.stem != "__init__"}
    commands = {name for name, text in modules.items() if text.startswith(f'"""The command `python -m pdbench.{name}`."""')}
    assert sorted(ruled) == sorted(packages | {f"pdbench.{name}" for name in modules.keys() - commands})
    assert commands == {"gates", "local_cluster", "shape", "slow_link"}


def test_a_plot_that_launches_is_found(tmp_path):
    """A copy whose reader imports the serve wing, inside a function."""
    for path in (ROOT / "pdbench").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    with (tmp_path / "pdbench/analysis/decision.py").open("a") as file:
        file.write("\n\ndef launch():\n    from pdbench.serve import deployment\n\n    return deployment\n")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "pdbench.analysis.decision -> pdbench.serve.deployment" in done.stdout

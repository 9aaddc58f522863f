"""A recipe beside our own results holds the commands that made them, and no other."""

import re

import pytest

from pdbench.manifest import Manifest
from tests.helpers.commands import ROOT

RESULTS = ROOT / "bm_results"


def measured(name):
    """Arm, block and level of all that lies there of an experiment."""
    folders = [path.parent for path in RESULTS.glob(f"*_{name}_*/manifest.json")]
    return {
        (folder.name.split(f"_{name}_", 1)[1], record.block, re.sub(r"_rep\d+$", "", record.level))
        for folder in folders for record in Manifest.read(folder).levels
    }  # fmt: skip


def commanded(recipe):
    """Arm, block and level of each sweep in a recipe."""
    name, found = re.escape(recipe.stem), set()
    sweeps = re.findall(rf"^\./run_bm\.sh -e {name}_(\S+) (.*)$", recipe.read_text(), re.MULTILINE)
    for arm, options in sweeps:
        kind, levels = re.search(r"(?:^| )(-c|--load) (\S+)", options).groups()
        block = re.search(r"--block (\d+)", options)
        prefix = {"-c": "conc", "--load": "shift"}[kind]
        found |= {(arm, block and int(block[1]), f"{prefix}{level}") for level in levels.split(",")}
    return found


@pytest.mark.parametrize("recipe", sorted(RESULTS.glob("*.sh")), ids=lambda path: path.stem)
def test_a_recipe_holds_what_ran(recipe):
    asked = commanded(recipe)
    assert asked and asked <= measured(recipe.stem)

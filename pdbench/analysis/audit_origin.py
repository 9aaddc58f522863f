"""Compare what a level's file and its record say of where it was measured with the folder that it lies in."""

import shlex
from pathlib import Path
from typing import Any

from pdbench.manifest import LevelRecord
from pdbench.read.results import Folder
from pdbench.workload import Level, RunName


def elsewhere(folder: Folder, level: Level, content: dict[str, Any], record: LevelRecord | None) -> str:
    """Return in words what shows that a level is of another folder; "" where nothing does.

    `run_bm.sh` has the client write exp_name, level and seed into the file, and its record holds the command. Only what is
    recorded on both sides is compared: of a folder that was renamed, its manifest has the name that it was measured under.

    Args:
        content: the client's summary.
        record: the manifest's, of a level of that name.
    """
    manifest, named = folder.manifest, folder.arm.run
    run = RunName(manifest.model, manifest.isl, manifest.osl, manifest.phase, manifest.name) if manifest else named
    pairs = {"level": (content.get("level"), level.stem)}
    if "exp_name" in content:  # the client was started by run_bm.sh, which names folders after what it asks for
        model = str(content.get("model_id", run.model)).rsplit("/", 1)[-1]
        pairs |= {"exp_name": (content["exp_name"], run.name), "model": (model, run.model)}
    if record:
        pairs |= {"seed": (content.get("seed"), record.seed), "the result folder": (_result_folder(record.command), run)}
    differ = [f"{what} is {found}, here {here}" for what, (found, here) in pairs.items()
              if found is not None and str(found) != str(here)]  # fmt: skip
    return "; ".join(differ)


def _result_folder(command: str) -> str | None:
    """The folder that a recorded command of the bench client wrote to; None where it names none."""
    try:
        words = shlex.split(command)
        return Path(words[words.index("--result-dir") + 1]).name
    except (ValueError, IndexError):
        return None

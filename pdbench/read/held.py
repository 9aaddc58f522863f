"""Say how to give the result folders that a folder holds, where that folder was given in their place."""

import os
import shlex
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

from pdbench.layout import Layout
from pdbench.workload import PHASES, RunName

FEW = 3  # experiments that are named
PLACEMENTS = ("pack", "spread", "pool", "bare")


def run_name(folder: Path) -> RunName:
    """Read a result folder's name.

    Raises:
        ValueError: it is not that of a result folder; where it holds some, says how to give them.
    """
    try:
        return RunName.parse(Path(os.path.abspath(folder)).name)
    except ValueError as error:
        raise ValueError(held_words(folder) or str(error)) from None


def held_words(folder: Path) -> str:
    """Say how to give the result folders that a folder holds; "" where it holds none."""
    runs = {path.name: run for path in sorted(folder.iterdir()) if path.is_dir() and (run := _run(path.name))}
    if not runs:
        return ""
    found: dict[str, list[RunName]] = defaultdict(list)
    for run in runs.values():
        found[_experiment(run)].append(run)

    def fits(experiment: str) -> bool:
        """Whether its pattern matches its own folders alone, several of one workload, so that they can be compared."""
        mine = found[experiment]
        matched = sum(fnmatch(name, f"*_{experiment}_*") for name in runs)
        is_one = len({(run.model, run.isl, run.osl, run.phase) for run in mine}) == 1 and mine[0].phase in PHASES
        return is_one and 1 < len(mine) == matched

    given, names = shlex.quote(str(folder)), sorted(filter(fits, filter(None, found)))
    holds = f"is no result folder, but holds {len(runs)}: give"
    if not names:
        return f"{holds} {given}/*, or some of them"
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    listed = f" (experiments: {', '.join(names[:FEW])}{more})" if len(names) > 1 else ""
    return f"{holds} those of one experiment, such as {given}/*_{names[0]}_*{listed}"


def _run(name: str) -> RunName | None:
    try:
        return RunName.parse(name)
    except ValueError:
        return None


def _experiment(run: RunName) -> str:
    """The words of a folder's name before those of its arm (phase, placement, layout); "" where there are none."""
    words = run.name.split("_")
    layouts = {at: layout for at, word in enumerate(words) if (layout := _layout(word))}
    end = next(iter(layouts), len(words))
    placements = PLACEMENTS if end in layouts and layouts[end].is_pd else ("bare",)
    for ends in (placements, PHASES):
        end -= end > 0 and words[end - 1] in ends
    return "_".join(words[:end])


def _layout(word: str) -> Layout | None:
    try:
        return Layout.parse_published(word)[0]
    except ValueError:
        return None

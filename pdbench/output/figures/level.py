"""Select the requests of one level of every arm, for the figures that show them one by one."""

import pandas as pd

from pdbench.output.figures.view import View, level_words, one_kind
from pdbench.read.level_file import ResultError
from pdbench.read.requests import Requests
from pdbench.read.results import Study


def chosen_level(table: pd.DataFrame, view: View) -> float:
    """Return `view.level`, or else the highest level that every arm has.

    Raises:
        ResultError: an arm lacks it.
    """
    kind, of_arm = one_kind(table), table.groupby("arm", sort=False)["level"].agg(set)
    shared = set.intersection(*of_arm)
    if view.level is None and shared:
        return max(shared)
    for arm, levels in of_arm.items():
        if view.level not in levels:
            wanted = level_words(kind, view.level) if view.level is not None else "a level that all arms have"
            raise ResultError(f"{arm} was not measured at {wanted}: it has {', '.join(f'{x:g}' for x in sorted(levels))}")
    return view.level


def requests_at(table: pd.DataFrame, level: float, study: Study) -> dict[str, list[Requests]]:
    """Return by arm, the requests of each repeat of a level.

    Raises:
        ResultError: a level's file holds no per-request details.
    """
    found = {}
    for (arm, folder), _ in table.groupby(["arm", "folder"], sort=False):
        found[arm] = []
        for at, file in study.folders[folder].levels.items():
            if at.value != level:
                continue
            if file.requests is None:
                raise ResultError(f"{folder}: {at.filename} holds no per-request details: run_bm.sh saves them")
            found[arm].append(file.requests)
    return found

"""Result folders of layouts whose levels the planner's own simulator made, with parameters that a fit does not know."""

from pathlib import Path

from pdbench.layout import Layout
from pdbench.planner.costs import HOLD, Engine, names_of, start_of
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.simulator import Workload, simulate

LEVELS = (2, 4, 8, 16)
# What the fit has to find: each parameter is a little off where the fit begins.
TRUE = {name: start_of(name) * (1.2 if number % 2 else 0.8) for number, name in enumerate(names_of((1, 2, 4)))}
TRUE[HOLD] = 2e-3  # where no fit begins


def write_run(root, layout, write_folder, level_content, levels=LEVELS, isl=5000, osl=250, name="", **more):
    """Write one result folder without a manifest; `more` goes into each level's file. Returns the folder."""
    parsed = Layout.parse(layout)
    counts = [(level, 20 * level) for level in levels]
    rows = simulate(parsed, TRUE, Engine(), Workload(isl, osl), counts, (11, 12))
    files = {}
    for (level, requests), row in zip(counts, rows, strict=True):
        values = dict(zip(COLUMNS, map(float, row), strict=True))
        duration = requests / values.pop("request_throughput")
        values |= {"mean_itl_ms": values["mean_tpot_ms"], "median_itl_ms": min(values["mean_tpot_ms"], values["p99_itl_ms"])}
        files[f"conc{level}.json"] = level_content(level, None, requests, isl, osl, duration, **values | more)
    return write_folder(Path(root), f"gptoss_itl{isl}_otl{osl}_mixed_{name or layout}", files)

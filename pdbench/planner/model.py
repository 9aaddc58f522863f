"""Keep a fit in one file: its parameters, what they were found from, and how far layouts that were left out are missed."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from math import ceil, exp, inf, isfinite, log
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from pdbench.files import first_line, write_atomically
from pdbench.layout import Layout
from pdbench.manifest import Strict
from pdbench.planner.costs import HOLD, Engine, names_of
from pdbench.planner.replicas import COLUMNS, FITTED, WAITS

NOMINAL = 0.9  # of measurements, that an interval is to hold
FEWEST_LEFT_OUT = 6  # layouts; of fewer their errors say too little, and intervals are those of the fit, widened
WIDENED = 2.0
# Never narrower than this, as a factor up and down, where fewer layouts were left out: the intervals of the public study's 18,
# and of waits, which it does not have, those of the runs on H200s that no fit knew (docs/planner.md), collocated and PD.
LEAST = dict(zip(FITTED, (1.11, 1.14, 1.41, 1.17, 1.50, 1.20, 1.50)))
LEAST_WAITS = {False: dict(zip(WAITS, (1.45, 1.55))), True: dict(zip(WAITS, (2.1, 1.75)))}
_NEAR = 3  # calibrated levels whose errors make the interval at a level


class PlanError(ValueError):
    """What cannot be fitted, predicted or recommended; one line."""


class Errors(Strict):
    """How far one level of a layout was missed: logarithms of measured over predicted, by column."""

    layout: str
    level: int
    ratios: dict[str, float]

    @cached_property
    def is_pd(self) -> bool:
        """Whether the layout is disaggregated."""
        return Layout.parse(self.layout).is_pd


class Model(Strict):
    """A fitted model, as `model.json` has it.

    Attributes:
        parameters: those of its TP sizes, and `HOLD` where a PD run has its longest waits.
        runs: names of the result folders that it was fitted to.
        layouts: of these that decode, in the project's notation.
        prefilled: layouts of those that have prefill alone.
        workloads: ISL:OSL of those that decode.
        as_published: whether they replayed prompts (one seed, no warm-up).
        levels: the least and the most requests in flight of those that decode.
        most_running: the most requests in flight per decode replica of these.
        ingress: the most ingress replicas of all, by whose memory replicas are chosen; 0: by true loads.
        asked: whether ingress replicas ask for loads each time, instead of remembering them.
        launch: options of launch_gptoss.py that all runs were launched with, such as `--model FILE`.
        stack: what all manifests say alike of versions, hardware and engines; empty without manifests.
        left_out: whether `errors` are of layouts left out of the fit; else they are the fit's own.
    """

    # 1: fitted with routers that knew at once what a replica had; 2: without CUDA graphs; 3: with these in its settings;
    # 4: with the largest step in them, and without what a step costs by itself; 5: without waits from token to token; 6: with
    # routers that ask, which saw at once what others had sent.
    schema_version: Literal[8] = 8
    name: str
    accelerator: str
    gpus_per_node: int = Field(ge=1)
    engine: Engine
    parameters: dict[str, float]
    runs: list[str]
    layouts: list[str] = Field(min_length=1)
    prefilled: list[str] = []
    workloads: list[str]
    as_published: bool
    levels: tuple[int, int]
    most_running: float
    ingress: int = Field(default=0, ge=0)
    asked: bool = False
    launch: list[str] = []
    stack: dict[str, str]
    left_out: bool
    errors: list[Errors]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """A file that somebody has edited may lack what a prediction needs."""
        if set(self.parameters) - {HOLD} != set(names_of(self.sizes)):
            raise ValueError("its parameters are not those of its layouts")
        if wrong := [name for name, value in self.parameters.items() if not 0 < value < inf]:
            raise ValueError(f"its parameter {wrong[0]} is not above 0 and finite")
        if not 1 <= self.levels[0] <= self.levels[1] or not 1 <= self.most_running < inf:
            raise ValueError("its levels are not requests in flight, the least and the most")
        if self.ingress and self.asked:
            raise ValueError("its routers cannot both remember and ask: with asked, ingress has to be 0")
        if not self.workloads or not all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", text, re.ASCII) for text in self.workloads):
            raise ValueError("its workloads are not like 5000:250")
        if any(error.level < 1 or not all(map(isfinite, error.ratios.values())) for error in self.errors):
            raise ValueError("its errors are not numbers at levels")
        return self

    @classmethod
    def read(cls, path: Path) -> "Model":
        """Read a model's file.

        Raises:
            PlanError: it is not there, or no such file.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise PlanError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            raise PlanError(f"{path} is no model of plan.py fit: {first_line(error)}") from error

    def write(self, path: Path) -> None:
        """Write it whole or not at all; raises PlanError."""
        try:
            write_atomically(path, self.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise PlanError(f"{path}: {error.strerror}") from error

    @cached_property
    def calibrated(self) -> list[Layout]:
        """The layouts of its runs that decode."""
        return [Layout.parse(text) for text in self.layouts]

    @cached_property
    def sizes(self) -> list[int]:
        """The TP sizes of all its runs, ascending."""
        every = [*self.calibrated, *map(Layout.parse, self.prefilled)]
        return sorted({pool.tp for one in every for pool in (one.prefill, one.decode) if pool})

    def lacks(self, layout: Layout) -> list[str]:
        """Return which runs a prediction of a layout lacks."""
        return missing(layout, self.calibrated, map(Layout.parse, self.prefilled))

    def width(self, column: str, level: int, is_pd: bool = False) -> float:
        """Return the half-width of the interval of a column at a level, as a logarithm; of waits by errors of its own kind."""
        errors = [e for e in self.errors if column not in WAITS or is_pd == e.is_pd]
        levels = sorted({error.level for error in errors}, key=lambda known: abs(log(known / level)))
        near = [e for e in errors if e.level in levels[:_NEAR] and column in e.ratios]
        found = quantile([e.ratios[column] for e in near]) if near else 0.0
        return found if self.left_out and near else max(WIDENED * found, log((LEAST | LEAST_WAITS[is_pd])[column]))

    def interval(self, column: str, level: int, value: float, is_pd: bool = False) -> tuple[float, float]:
        """Return the interval that nominally holds 90% of measurements."""
        factor = exp(self.width(column, level, is_pd))
        return value / factor, value * factor


def errors_of(layout: Layout, levels: Iterable[tuple[int, int]], ratios: np.ndarray) -> list[Errors]:
    """Return the errors of one run's levels; `ratios` has a row for each, columns `COLUMNS`."""
    return [
        Errors(
            layout=str(layout), level=level, ratios={c: float(v) for c, v in zip(COLUMNS, row, strict=True) if np.isfinite(v)}
        )
        for (level, _), row in zip(levels, ratios, strict=True)
    ]


def quantile(ratios: Sequence[float]) -> float:
    """Return the half-width that holds the nominal share of one more such ratio (split conformal prediction)."""
    ordered = sorted(map(abs, ratios))
    return ordered[min(ceil((len(ordered) + 1) * NOMINAL), len(ordered)) - 1]


def missing(layout: Layout, calibrated: Iterable[Layout], prefilled: Iterable[Layout] = ()) -> list[str]:
    """Return which runs a prediction of a layout lacks; none where it is calibrated.

    Args:
        calibrated: layouts of the runs that decode.
        prefilled: of those that have prefill alone.
    """
    known = list(calibrated)
    found = []
    prefills = {(one.prefill or one.decode).tp for one in (*known, *prefilled)}
    if (size := (layout.prefill or layout.decode).tp) not in prefills:
        found.append(f"a run that prefills at TP{size}")
    if layout.decode.tp not in {one.decode.tp for one in known}:
        found.append(f"a run that decodes at TP{layout.decode.tp}")
    if not layout.prefill:
        return found if any(not one.prefill for one in known) else [*found, "a collocated run"]
    kinds = {_kind(one) for one in known if one.prefill}
    if _kind(layout) not in kinds:
        found.append(f"a PD run whose prefill TP is {_kind(layout)} its decode TP")
    return found


def _kind(layout: Layout) -> str:
    assert layout.prefill
    above = layout.prefill.tp - layout.decode.tp
    return "equal to" if not above else "above" if above > 0 else "below"

"""Check what a study says, as claims that results can contradict: a claims file against result folders.

Arms are found by layout, placement, transport and its settings, never by a folder's name, so that the same file can be asked of
one's own results. Verdicts: `holds` where every comparison is as claimed, `partly` where at least half are, or where
an arm of the claim was not measured, `fails` where fewer are, `no-data` where none can be made.
"""

import math
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, field_validator, model_validator

from pdbench import configs
from pdbench.analysis.audit import Finding
from pdbench.analysis.audit_source import Source
from pdbench.analysis.claim_evidence import COPIES, DOUBTFUL, REFUTED, Evidence, Spec
from pdbench.analysis.claim_rules import RATE, RULES, Point, judge
from pdbench.analysis.decision import judged
from pdbench.analysis.pieces import coarser
from pdbench.manifest import Strict

# Findings that a verdict does not turn on: it rests on medians, at levels that all its arms have.
ASIDE = ("same results", "few requests", "missing levels", "name and manifest")
# Throughput and TPOT of two runs of one published layout differ by 8 and 11% (the 95th of 100): this is about twice that.
MOST_TOLERANCE = 0.2
VERDICTS = ("holds", "partly", "fails", "no-data")
# Columns of the tidy table that claims may be about.
LATENCY = "((mean|median|p99|max)_(ttft|tpot|itl)|chunk_latency)_ms"
THROUGHPUT = "(input|output|total|request)_throughput(_per_node)?"
NEEDED = {"order_by": 2, "about_equal": 2, "dominated_by": 1, "far_below": 1, "best_of": 1, "best_by_regime": 0}


class Regime(Strict):
    """A range of throughput and the arm that is best in it."""

    best: str
    since: float | None = Field(default=None, gt=0, description="tokens/s per node; where it overtakes, if absent")
    reaches: float | None = Field(default=None, gt=0, description="most requests/s per node that the arm attains")


class Claim(Strict):
    """One thing that a study says."""

    id: str = Field(pattern="^[a-z0-9-]+$")
    says: str = Field(min_length=1)
    rule: Literal["order_by", "dominated_by", "best_by_regime", "best_of", "about_equal", "far_below"]
    arms: list[str] = Field(default=[], description="those that the claim is about; order_by: best first")
    than: str | None = Field(default=None, description="the arm that they are compared with")
    among: Literal["one node", "PD on one node"] | None = Field(default=None, description="best_of: all layouts such as")
    regimes: list[Regime] = []
    metric: str = Field(default="input_throughput_per_node", pattern=f"^({LATENCY}|{THROUGHPUT})$")
    latency: str = Field(default="median_tpot_ms", pattern=f"^{LATENCY}$")
    at: Literal["latencies", "levels", "low levels", "high levels"] = "levels"
    above: float = Field(default=0, ge=0, description="dominated_by: only where an arm attains this throughput")
    tolerance: float = Field(default=0.03, description="smaller differences do not count: a share, 0.03, or in percent, 3%")

    @field_validator("arms", "than", mode="after")
    @classmethod
    def _arms_are_layouts(cls, value):
        for text in [value] if isinstance(value, str) else value or []:
            Spec.parse(text)
        return value

    @field_validator("tolerance", mode="before")
    @classmethod
    def _tolerance_is_small(cls, value):
        percent = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value, re.ASCII) if isinstance(value, str) else None
        share = float(percent[1]) / 100 if percent else value
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= MOST_TOLERANCE:
            allowed = f"a share from 0 to {MOST_TOLERANCE:g}, or percent as in 3%"
            raise ValueError(f"{value!r} is not {allowed}: more would hide that a claim is false")
        return share

    @model_validator(mode="after")
    def _a_rule_has_what_it_needs(self):
        if len(self.arms) < NEEDED[self.rule] or (self.rule == "about_equal" and len(self.arms) > 2):
            raise ValueError(f"{self.id}: {self.rule} needs {NEEDED[self.rule]} arms")
        if (self.than is None) == (self.rule in ("dominated_by", "far_below")):
            raise ValueError(f"{self.id}: `than` goes with dominated_by and far_below")
        if bool(self.regimes) != (self.rule == "best_by_regime"):
            raise ValueError(f"{self.id}: `regimes` goes with best_by_regime")
        if self.by_latency and self.metric.endswith("_ms"):
            raise ValueError(f"{self.id}: at equal latency throughputs are compared, not {self.metric}")
        for regime in self.regimes:
            Spec.parse(regime.best)
        return self

    @property
    def by_latency(self) -> bool:
        """Whether arms are compared at equal latency, not at equal load."""
        return self.at == "latencies" or self.rule in ("dominated_by", "best_by_regime", "best_of")

    @property
    def named(self) -> list[str]:
        """Every arm that the claim names."""
        return list(dict.fromkeys([*self.arms, *([self.than] if self.than else []), *(r.best for r in self.regimes)]))


class Claims(Strict):
    """A claims file."""

    claims: list[Claim] = Field(min_length=1)

    @property
    def of_details(self) -> bool:
        """Whether one is about what only the details of requests say: the longest of a latency."""
        return any(name.startswith("max_") for claim in self.claims for name in (claim.metric, claim.latency))

    @model_validator(mode="after")
    def _ids_are_unique(self):
        ids = [claim.id for claim in self.claims]
        if double := {i for i in ids if ids.count(i) > 1}:
            raise ValueError(f"several claims are called {double.pop()!r}")
        return self


@dataclass(frozen=True)
class Verdict:
    """What the results say of a claim.

    Attributes:
        points: the comparisons made.
        runs: the folder taken for each arm.
        missing: arms of the claim without a run that could be taken.
        others: (arm, folder, verdict) with another run of the arm in place of the one taken.
        warnings: the audit's findings on the runs taken.
        refused: why other runs of the arms were not even tried.
        repeats: fewest and most times that a level of these runs was measured; 0 without runs.
    """

    claim: Claim
    verdict: str
    points: list[Point] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    others: list[tuple[str, str, str]] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)
    repeats: tuple[int, int] = (0, 0)

    @property
    def within(self) -> int:
        """Comparisons that are as claimed only within the tolerance."""
        return sum(bool(point.true) and not point.exact for point in self.points)

    def as_json(self) -> dict[str, Any]:
        """Return `id`, `verdict` and `numbers`, and their evidence; what is not attained is null."""
        numbers = [
            {"at": point.at, "as_claimed": bool(point.true)}
            | {"values": {arm: None if math.isnan(value) else float(value) for arm, value in point.values.items()}}
            for point in self.points
        ]  # fmt: skip
        return {
            "id": self.claim.id, "verdict": self.verdict, "numbers": numbers, "says": self.claim.says,
            "rule": RULES[self.claim.rule], "tolerance": self.claim.tolerance, "only_within_tolerance": self.within,
            "repeats": self.repeats[0], "runs": self.runs, "missing": self.missing,
            "other_runs": [{"arm": arm, "folder": folder, "verdict": verdict} for arm, folder, verdict in self.others],
            "warnings": _findings_as_json(self.warnings), "refused": _findings_as_json(self.refused),
        }  # fmt: skip


def _findings_as_json(found: list[Finding]) -> list[dict[str, Any]]:
    return [{"kind": finding.kind, "seen": finding.seen, "folders": list(finding.folders)} for finding in found]


def check(claims: Claims, evidence: Evidence) -> list[Verdict]:
    """Return a verdict on each claim."""
    return [_check(claim, evidence) for claim in claims.claims]


def load(path: str | Path) -> Claims:
    """Read a claims file; raises `configs.ConfigError`."""
    return configs.load(Claims, path, "configs/claims")


def _check(claim: Claim, evidence: Evidence) -> Verdict:
    named = [*claim.named, *(evidence.among(claim.among) if claim.among else [])]
    known = {arm: evidence.candidates(arm) for arm in dict.fromkeys(named)}
    taken = _of_alike_pieces(claim, _first_of_each(known))
    missing = [arm for arm in claim.named if arm not in taken]
    points = _points(claim, taken)
    if not points:
        taken = {}
    others = [
        (arm, run.name, _verdict(_points(claim, _of_alike_pieces(claim, taken | {arm: run}), exact=False), missing))
        for arm in taken for run in known[arm][1:]
        if run not in taken.values()
        if not any(taken[arm].name in finding.folders for finding in evidence.doubts(run, *COPIES))
    ]  # fmt: skip
    runs = {arm: source.name for arm, source in taken.items()}
    layouts = [Spec.parse(arm).layout for arm in known]
    refused = {s.name for s in evidence.sources if s.arm.layout in layouts and evidence.doubts(s, *REFUTED)}
    of_refused = [finding for finding in _about(evidence.found, refused) if finding.kind in (*REFUTED, DOUBTFUL)]
    counts = [number for source in taken.values() for number in source.levels.groupby("level").size()] or [0]
    warnings = _about(evidence.found, set(runs.values()))
    return Verdict(
        claim, _verdict(points, missing), points, runs, missing, others, warnings, of_refused, (min(counts), max(counts))
    )


def _first_of_each(known: dict[str, list[Source]]) -> dict[str, Source]:
    """The first run of each arm, in the order of `known`; none is two arms: that which names more of it comes first."""
    found: dict[str, Source] = {}
    for arm in sorted(known, key=lambda arm: -len(Spec.parse(arm).settings)):
        if run := next((run for run in known[arm] if run not in found.values()), None):
            found[arm] = run
    return {arm: found[arm] for arm in known if arm in found}


def _of_alike_pieces(claim: Claim, taken: dict[str, Source]) -> dict[str, Source]:
    """The runs without those whose inter-token latency, if the claim is about it, is between coarser pieces."""
    if not taken or "_itl_" not in f"{claim.metric} {claim.latency * claim.by_latency}":
        return taken
    coarse = coarser(pd.concat([source.levels for source in taken.values()]))
    return {arm: source for arm, source in taken.items() if source.columns["arm"][0] not in coarse}


def _about(found: list[Finding], names: set[str]) -> list[Finding]:
    """The findings on these folders, and of their folders these only."""
    cut = [replace(f, folders=tuple(name for name in f.folders if name in names)) for f in found if f.kind not in ASIDE]
    return [finding for finding in cut if finding.folders]


def _points(claim: Claim, taken: dict[str, Source], exact: bool = True) -> list[Point]:
    """The claim's comparisons; `exact` says whether it is asked which hold without the tolerance, too."""
    asked = (claim.metric, *[claim.latency] * claim.by_latency)
    return judge(claim, {arm: _rows(source, asked, claim.latency) for arm, source in taken.items()}, exact)


@lru_cache(maxsize=10_000)
def _rows(source: Source, asked: tuple[str, ...], latency: str) -> pd.DataFrame:
    """The levels that can be judged by what is asked, with the columns that rules read: the same table for each claim of it."""
    names = dict.fromkeys(("level", "block", "machines", *asked, latency, RATE, "served_share", "cap_reached"))
    return judged(pd.DataFrame({name: source.columns[name] for name in names}), asked)


def _verdict(points: list[Point], missing: list[str]) -> str:
    true = sum(point.true for point in points)
    if not points:
        return "no-data"
    if true == len(points) and not missing:
        return "holds"
    return "partly" if 2 * true >= len(points) else "fails"

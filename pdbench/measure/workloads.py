"""What an experiment file says of its requests: their lengths, or phases or a trace whose lengths and rates shift."""

from functools import cached_property
from typing import Self

from pydantic import Field, model_validator

from pdbench.configs import ROOT
from pdbench.files import first_line
from pdbench.manifest import Strict
from pdbench.read.trace import Phase as ShiftPhase
from pdbench.read.trace import Shift, checked, read_trace
from pdbench.workload import SHIFT, Phase


class OnePhase(Strict):
    """Says what is sent in one phase of load that shifts: tokens of each request, requests/s, and for how many seconds."""

    isl: int
    osl: int
    request_rate: float
    seconds: float


class Workload(Strict):
    """Says how many tokens go in and come out of each request (ISL, OSL), and which phase of it is sent.

    Where load shifts, `phases` or a `trace` say it of each; then isl and osl are the longest, and phase is `shift`.
    """

    isl: int = Field(default=0, ge=1)
    osl: int = Field(default=0, ge=1)
    phase: Phase = "mixed"
    phases: list[OnePhase] = Field(default=[], min_length=1, description="load that shifts, in this order")
    cycles: int = Field(default=1, ge=1, description="how often the phases are sent, one after the other")
    trace: str | None = Field(
        default=None, description="instead of phases: a file in run_bm.sh's form, from the repository's root"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = self.model_fields_set - {"phases", "cycles", "trace"}
        if self.phases and self.trace:
            raise ValueError("give either phases or a trace")
        if "cycles" in self.model_fields_set and not self.phases:
            raise ValueError("cycles is of phases")
        if not (self.phases or self.trace):
            if missing := {"isl", "osl"} - given:
                raise ValueError(f"{min(missing)} is missing: give isl and osl, or phases, or a trace")
            if self.phase == SHIFT:
                raise ValueError("phase shift is that of phases or a trace: give some")
        elif given:
            raise ValueError(f"{min(given)} is of requests that are all alike: phases or a trace say each one's")
        elif self.shift:
            self.isl, self.osl = self.shift.longest
            self.phase = SHIFT
        return self

    @cached_property
    def shift(self) -> Shift | None:
        """Return the load that shifts, if it does.

        Raises:
            ValueError: a phase cannot be sent, or the trace cannot be read.
        """
        if self.trace:
            try:
                return read_trace(ROOT / self.trace)
            except OSError as error:
                raise ValueError(f"trace {self.trace}: {error.strerror or first_line(error)}") from error
        phases = [ShiftPhase(one.isl, one.osl, one.request_rate, one.seconds) for one in self.phases]
        return Shift(phases=tuple(map(checked, phases * self.cycles))) if phases else None

    @property
    def options(self) -> list[str]:
        """Return run_bm.sh's options for these requests."""
        if self.trace:
            return ["--trace", self.trace]
        return ["--phases", self.shift.identity] if self.shift else ["--isl", str(self.isl), "--osl", str(self.osl)]

"""Load experiments, `configs/experiments/*.yaml`, and select what is to be measured of them."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from pdbench.configs import load
from pdbench.layout import CONTROLS, POOL, Layout, Mode, placed_as
from pdbench.manifest import Strict
from pdbench.measure.workloads import Workload
from pdbench.serve import roles
from pdbench.serve.serving_path import Router
from pdbench.workload import ALL_AT_ONCE, SHIFT, Level, Phase


class Levels(Strict):
    """Lists the loads of a sweep: requests in flight, requests per second, or of load that shifts how many times as fast."""

    concurrency: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    request_rate: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=1)
    load: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=1)
    num_prompts: int | None = Field(default=None, ge=1, description="per level; run_bm.sh's default if absent")
    request_limit: float | None = Field(
        default=None, gt=0, description="seconds without the end of a request, after which it hangs"
    )
    level_limit: float | None = Field(default=None, gt=0, description="seconds; both are run_bm.sh's default if absent")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if [self.concurrency, self.request_rate, self.load].count(None) != 2:
            raise ValueError("give either concurrency or request_rate, or load where it shifts")
        if self.load and self.num_prompts:
            raise ValueError("num_prompts is of requests that are all alike: phases or a trace say how many there are")
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"{self.kind} names a level twice")
        if self.concurrency and self.num_prompts and self.num_prompts < max(self.concurrency):
            raise ValueError(f"num_prompts {self.num_prompts} cannot keep {max(self.concurrency)} in flight")
        return self

    @property
    def kind(self) -> str:
        """Return the key that is given."""
        return next(name for name in ("concurrency", "request_rate", "load") if getattr(self, name))

    @property
    def values(self) -> list[float]:
        """Return the loads: requests in flight, requests per second, or how many times as fast."""
        return getattr(self, self.kind)

    @property
    def measured(self) -> list[Level]:
        """Return the levels, each measured once."""
        return [Level(SHIFT if self.load else self.kind.replace("_", "-"), float(value)) for value in self.values]


class Arm(Strict):
    """Describes one arm: a layout, its placement, and what carries its KV cache."""

    layout: str
    mode: Mode = Field(default="collocated", description="bare, bare-pd: a control without Ray Serve")
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+$", description="if others have its layout")
    phase: Phase | None = Field(default=None, description="instead of the workload's")
    backend: Literal["UCX", "LIBFABRIC"] = "UCX"
    ucx_tls: str | None = Field(default=None, description="UCX_TLS of the engines")
    transport: list[str] | None = Field(default=None, min_length=1, description="of these UCX must name one, and no other")
    env: dict[str, str] = Field(default={}, description="further environment variables of the engines")
    engine_args: dict[str, Any] = Field(default={}, description="engine arguments, over those of the model and the hardware")
    serve_env: dict[str, str] = Field(default={}, description="of Ray Serve, instead of those of configs/serve.yaml")
    llm_options: dict[str, str] = Field(default={}, description="options of Ray Serve LLM, over configs/serve.yaml's")
    direct_streaming: bool = Field(default=False, description="no ingress; binds every address, unless local_workers is 0")
    router: Router | None = Field(default=None, description="request routing policy")
    ingress_replicas: int | None = Field(default=None, ge=1, description="instead of the hardware file's")
    control: str | None = Field(
        default=None, description="pd-pool: a controller moves the roles to keep ttft=1000,tpot=12 (ms)"
    )
    link_mbit: int | None = Field(default=None, ge=1, description="slow UCX over TCP on one machine down to N Mbit/s")
    needs_vllm: str | None = Field(default=None, pattern=r"^\d+(\.\d+)*$", description="the oldest vLLM that can")

    @field_validator("layout")
    @classmethod
    def _spelled_right(cls, text: str) -> str:
        return str(Layout.parse(text))

    @model_validator(mode="after")
    def _is_controlled_rightly(self) -> Self:
        if self.control and self.mode != POOL:
            raise ValueError(f"arm {self.layout}: control is of mode {POOL}, whose roles can be moved")
        if self.control:
            roles.bounds_of(self.control)
        if self.phase == SHIFT:
            raise ValueError(f"arm {self.layout}: phase {SHIFT} is of a workload with phases or a trace")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if Layout.parse(self.layout).is_pd != self.is_pd:
            raise ValueError(f"layout {self.layout} does not go with mode {self.mode}")
        if not self.is_pd and (self.ucx_tls or self.transport or self.link_mbit or self.backend != "UCX"):
            raise ValueError(f"arm {self.layout} is collocated: it has no KV transfer to configure")
        if self.backend == "LIBFABRIC" and (self.ucx_tls or self.transport):
            raise ValueError("ucx_tls and transport are about UCX, not LIBFABRIC")
        of_serve = self.serve_env or self.llm_options or self.direct_streaming or self.router or self.ingress_replicas
        if self.mode in CONTROLS and of_serve:
            raise ValueError(f"arm {self.layout} is a control: it runs without Ray Serve")
        if self.direct_streaming and self.ingress_replicas:
            raise ValueError(f"arm {self.layout}: direct_streaming leaves the ingress out, so it has no ingress_replicas")
        if self.link_mbit and self.ucx_tls != "tcp":
            raise ValueError(f"arm {self.layout}: link_mbit slows TCP down, so it needs ucx_tls: tcp")
        return self

    @property
    def is_pd(self) -> bool:
        """Return whether prefill and decode have engines of their own."""
        return placed_as(self.mode) != "collocated"

    def shares_pool(self, other: "Arm") -> bool:
        """Return whether both are fixed ratios of one pool."""
        mine, its = Layout.parse(self.layout), Layout.parse(other.layout)
        alike = self.model_copy(update={"layout": other.layout, "name": other.name}) == other
        fixed = self.mode == POOL and not (self.link_mbit or self.control)
        return fixed and alike and (mine.gpus, mine.decode.tp) == (its.gpus, its.decode.tp)

    @property
    def label(self) -> str:
        """Return its name in the experiment.

        `2xtp4`, `pack_p1xtp4-d1xtp4`, `spread_p1xtp4-d1xtp4_tcp`; `decode-only_2xtp4` (own phase), `bare_2xtp4`;
        `pool_p1xtp1-d2xtp1_control`.
        """
        words: list[str] = [self.phase] if self.phase else []
        words += {"collocated": [], "bare-pd": ["bare"]}.get(self.mode, [self.mode.replace("pd-", "")])
        return "_".join([*words, self.layout, *(["control"] if self.control else []), *([self.name] if self.name else [])])


class Experiment(Strict):
    """Describes the arms, what is asked of each, how they are measured, and what is drawn from them."""

    shows: str = Field(min_length=1, description="what the experiment is to show")
    cannot_show: str | None = Field(default=None, description="what must not be concluded from it; printed at the end")
    model: str
    hardware: str
    local_workers: int | None = Field(default=None, ge=0, description="start a local cluster of N nodes besides the head; "
                                      "0: engines run on the head")  # fmt: skip
    local_gpus: int = Field(default=0, ge=0, description="GPUs of each node of the local cluster that holds engines")
    workload: Workload | None = None
    workloads: list[Workload] = Field(default=[], description="instead of one: each is swept, in this order, in one launch")
    levels: Levels
    max_hit_rate: float | None = Field(default=None, ge=0, le=1, description="prefix cache; else run_bm.sh's default")
    as_published: bool = Field(default=False, description="by the public study's procedure: one seed, no warm-up")
    repeats: int = Field(default=3, ge=1, description="measurements of each level, all in one launch of its arm")
    blocks: int | None = Field(default=None, ge=1, description="instead of repeats: each block launches every arm once, in an "
                               "order drawn for it, and measures every level once, all on one machine")  # fmt: skip
    doctor: bool = Field(default=True, description="check the nodes first, and before each launch; stop if a check fails")
    arms: list[Arm] = Field(min_length=1)
    figures: list[list[str]] = Field(default=[[]], min_length=1, description="further options of viz.py, a figure each")
    timeout_s: int = Field(default=1800, ge=1, description="for one launch")
    _has_pd: bool = PrivateAttr(default=False)  # among all arms of the file, of which --arms may select others

    @property
    def asked(self) -> list[Workload]:
        """Return the workloads: one or several."""
        return self.workloads or ([self.workload] if self.workload else [])

    @property
    def reference(self) -> Arm | None:
        """Return the arm whose greedy tokens PD arms are compared with; None if none can be, or the file has no PD arm.

        Where only some arms are measured, the first of them that can be: PD arms may follow in a later run.
        """
        able = (arm for arm in self.arms if not arm.is_pd and self.phase_of(arm) != "decode-only")
        return next(able, None) if self._has_pd else None

    def phase_of(self, arm: Arm) -> Phase:
        """Return the phase of the arm's requests: its own, or that of the workloads, which share one."""
        return arm.phase or self.asked[0].phase

    def share_launch(self, one: Arm, other: Arm) -> bool:
        """Return whether one launch serves both: ratios of one pool, or prefill alone and both phases of one arm."""
        phases = {self.phase_of(one), self.phase_of(other)}
        # Decode alone has another KV connector; a slowed link and a controller begin with their launch.
        alike = one.model_copy(update={"phase": other.phase}) == other and not (one.link_mbit or one.control)
        return one.shares_pool(other) or (alike and phases == {"mixed", "prefill-only"})

    @model_validator(mode="after")
    def _workloads_are_distinct(self) -> Self:
        if (self.workload is None) == (not self.workloads):
            raise ValueError("give either workload or workloads")
        lengths = [f"{one.isl}:{one.osl}" for one in self.asked]
        if twice := sorted({text for text in lengths if lengths.count(text) > 1}):
            raise ValueError(f"workloads names {twice[0]} twice")
        if len({one.phase for one in self.asked}) > 1:
            raise ValueError("workloads of one experiment have one phase: an arm may have another")
        return self

    @model_validator(mode="after")
    def _load_shifts_rightly(self) -> Self:
        shifts = [one.shift for one in self.asked if one.shift]
        if bool(shifts) != bool(self.levels.load):
            raise ValueError("load of levels goes with phases or a trace of a workload, and they with it")
        for shift, level in ((shift, level) for shift in shifts for level in self.levels.measured):
            shift.sent(level.value, 0)  # refuses a phase without a request
        if shifts and self.as_published:
            raise ValueError("as_published is of requests that are all alike")
        if shifts and any(arm.phase for arm in self.arms):
            raise ValueError("where load shifts no arm has a phase of its own")
        for options in self.figures if shifts else ():
            if not {"--figure", "shift", "--sla"} <= set(options):
                raise ValueError(
                    "figures: load that shifts is drawn by [--figure, shift, --sla, 'ttft=1000,tpot=12'], each with its bounds"
                )
        return self

    @model_validator(mode="after")
    def _arms_are_distinct(self) -> Self:
        if self.local_gpus and self.local_workers is None:
            raise ValueError("local_gpus is for a local cluster: give local_workers, too")
        if self.levels.num_prompts and any(self.phase_of(arm) == "decode-only" for arm in self.arms):
            raise ValueError(f"num_prompts: {ALL_AT_ONCE}")
        labels = [arm.label for arm in self.arms]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two arms are both {twice[0]}: give one a name")
        if self.blocks and "repeats" in self.model_fields_set:
            raise ValueError("give either repeats or blocks: a block measures each level once")
        if pd := [arm.label for arm in self.arms if arm.is_pd and self.phase_of(arm) == "decode-only"]:
            raise ValueError(f"arm {pd[0]}: decode alone is measured collocated")
        self._has_pd = any(arm.is_pd for arm in self.arms)
        if self._has_pd and self.arms[0] is not self.reference:
            raise ValueError("the first arm must be collocated, not decode alone: PD arms are compared with its tokens")
        return self


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment file; raises ConfigError like `configs.load_model`."""
    return load(Experiment, path, "configs/experiments")


def select(
    experiment: Experiment, arms: list[str] | None, levels: list[float] | None, repeats: int | None = None,
    blocks: int | None = None,
) -> Experiment:  # fmt: skip
    """Select the part of an experiment that --arms, --levels, --repeats and --blocks name.

    Raises:
        ValueError: the experiment has no such arm or level, or no blocks, or no repeats but blocks.
    """
    if repeats and experiment.blocks:
        raise ValueError("this experiment has blocks, which measure each level once: give --blocks")
    if blocks and not experiment.blocks:
        raise ValueError("this experiment has no blocks: give --repeats")
    update: dict[str, Any] = {key: number for key, number in (("repeats", repeats), ("blocks", blocks)) if number}
    if arms:
        update["arms"] = _select_arms(experiment, arms)
    if levels:
        update["levels"] = _select_levels(experiment.levels, levels)
    return experiment.model_copy(update=update)


def _select_arms(experiment: Experiment, labels: list[str]) -> list[Arm]:
    known = [arm.label for arm in experiment.arms]
    if unknown := [label for label in labels if label not in known]:
        raise ValueError(f"no arm {unknown[0]} in this experiment: there are {', '.join(known)}")
    return [arm for arm in experiment.arms if arm.label in labels]


def _select_levels(levels: Levels, values: list[float]) -> Levels:
    if unknown := [value for value in values if value not in levels.values]:
        raise ValueError(f"no level {unknown[0]:g} in this experiment: there are {', '.join(map(str, levels.values))}")
    return levels.model_copy(update={levels.kind: [value for value in levels.values if value in values]})

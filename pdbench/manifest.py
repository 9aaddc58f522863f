"""Read and write `manifest.json`: the provenance beside every result folder's numbers."""

import datetime
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pdbench import workload
from pdbench.files import first_line, write_atomically
from pdbench.layout import Mode

SCHEMA_VERSION = 1
FILENAME = "manifest.json"


def now() -> str:
    """Return the time in the form of manifests (UTC, ISO 8601)."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Strict(BaseModel):
    """Data of which every key is known."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Replica(Strict):
    """Where one replica of the running app runs."""

    role: Literal["collocated", "prefill", "decode", "ingress"]
    replica_id: str
    node_id: str
    node_ip: str
    pid: int


class Gate(Strict):
    """The outcome of one check: what was seen, what was expected."""

    name: str
    passed: bool
    seen: str
    expected: str
    time: str
    advice: str | None = None
    value: float | None = Field(default=None, description="what was seen, as a number: a rate, a share, GB/s")


class Repository(Strict):
    commit: str | None
    dirty: bool | None

    @property
    def words(self) -> str | None:
        """The commit, with -dirty after it where files differ from it."""
        return f"{self.commit}{'-dirty' if self.dirty else ''}" if self.commit else None


class Machine(Strict):
    """Versions, hardware and the environment variables that matter of one node."""

    node_ip: str
    id: str | None = Field(default=None, description="distinguishes this machine, since its start, from others")
    hostname: str
    cpu: str
    cores: int
    memory_gib: float
    gpus: list[str] = Field(default_factory=list)
    versions: dict[str, str | None]
    environment: dict[str, str] = Field(default_factory=dict)


# Not of what an engine serves, but how long its launch takes, and where it counts, with the port that it was launched at.
NOT_SETTINGS = ("VLLM_DISABLE_COMPILE_CACHE", "TRITON_CACHE_DIR", "PROMETHEUS_MULTIPROC_DIR")
# Of an engine's settings, what arms that are compared may differ in: size, role and transport.
LINK_MBIT = "PDBENCH_LINK_MBIT"  # of the engines' environment: of a slow link, see network.slow_link
OF_AN_ARM = ("tensor_parallel_size", "kv_transfer_config", "UCX_", "NIXL_", "VLLM_NIXL_", LINK_MBIT)
# HAProxy's connections fit each machine's limit, and no level is measured with more requests in flight.
NOT_PATH = ("env", "RAY_SERVE_HAPROXY_MAXCONN")
# How Ray Serve chooses a replica, by default: the less loaded of two, by what a router remembers for so long.
ROUTER = "power-of-two"
REMEMBERS = "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S"
STACK = ("ray", "ray_commit", "vllm", "nixl", "ucx", "torch", "cuda")
MAY_LACK = (*STACK, "accelerators", "bench client", "kv_cache", "made", "core_per_rank", f"prefill {LINK_MBIT}",
            f"decode {LINK_MBIT}", "serving_path direct_streaming", "serving_path router", "serving_path llm",
            "serving_path ingress_replicas")  # fmt: skip


def settings_of(config: dict[str, Any]) -> dict[str, str]:
    """Return how the engines of one role were started: arguments, environment and batching of streams, by name, as JSON."""
    found = config.get("engine_kwargs", {}) | (config.get("runtime_env") or {}).get("env_vars", {})
    if batching := (config.get("experimental_configs") or {}).get("stream_batching_interval_ms"):
        found |= {"stream_batching_interval_ms": batching}
    return {name: json.dumps(value, sort_keys=True) for name, value in found.items() if name not in NOT_SETTINGS}


def planned_identity(record: dict[str, Any]) -> dict[str, str]:
    """Return the part of a `Deployment.identity` that is known before a launch; `record` has its fields that are."""
    found = {name: str(record[name]) for name in ("layout", "mode", "model_id")}
    found |= controlled_identity(record) if record.get("controller") else {}
    found |= {"decode_bench": "True"} if record["decode_bench"] else {}
    found |= {f"transport {name}": str(value) for name, value in (record["transport"] or {}).items()}
    found |= {"core_per_rank": str(record["core_per_rank"])} if record.get("core_per_rank") is not None else {}
    path = record["serving_path"] or {"env": {}}
    for name, value in {**path, **path["env"]}.items():
        if name not in NOT_PATH:
            found[f"serving_path {name}"] = json.dumps(value, sort_keys=True)
    for role, config in record["llm_configs"].items():
        found |= {f"{role} {name}": value for name, value in settings_of(config).items()}
    return found


def controlled_identity(record: dict[str, Any]) -> dict[str, str]:
    """Return what a controller makes of a `Deployment.identity`: the layout is the one of the moment."""
    return {"layout": f"{record['gpus']} GPUs", "controller": json.dumps(record["controller"], sort_keys=True)}


def stack_of(versions: list[dict[str, str | None]]) -> dict[str, str]:
    """Return the versions that an identity has, by name, of all machines that record them."""
    known = {name: {str(of[name]) for of in versions if name in of} for name in STACK}
    return {name: " and ".join(sorted(values)) for name, values in known.items() if values}


def differences(was: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return what differs between two identities, such as `layout 2xtp1, but this is layout 1xtp2`.

    What older manifests do not record (MAY_LACK) is compared only where both do.
    """
    names = [name for name in {**was, **now} if (name in was and name in now) or name not in MAY_LACK]
    return [f"{name} {was.get(name)}, but this is {name} {now.get(name)}" for name in names if was.get(name) != now.get(name)]


class Deployment(Strict):
    """What is running, as the deployment itself says (never as the bench's caller claims)."""

    layout: str
    mode: Mode
    gpus: int
    gpus_per_node: int
    accelerator: str
    model_id: str
    model_source: str
    model_checksum: str | None
    kv_cache: dict[str, Any] | None = Field(default=None, description="shape, as in the model's file")
    made: dict[str, Any] | None = Field(default=None, description="sizes and seed that a model made here has")
    kv_tokens: dict[str, int] | None = Field(
        default=None, description="that an engine's KV cache holds, by role: the smallest's"
    )
    core_per_rank: bool | None = Field(default=None, description="whether each engine rank has a core of its own")
    transport: dict[str, Any] | None
    decode_bench: bool = Field(default=False, description="prompts' KV caches are filled, not computed")
    counters_every_s: float | None = Field(default=None, description="of older manifests: how often counters were exported")
    serving_url: str | None = Field(default=None, description="where requests go, where it is not what describes itself")
    servers: dict[str, str] = Field(default={}, description="command lines of a control arm's processes, by name")
    serving_path: dict[str, Any] | None = Field(
        default=None, description="Ray Serve's own settings: env, direct_streaming, router, llm, ingress_replicas"
    )
    controller: dict[str, float] | None = Field(default=None, description="bounds (ms) that a pool's roles are moved to keep")
    command: str
    launched: str
    replicas: list[Replica]
    machines: list[Machine]
    repository: Repository
    llm_configs: dict[str, Any]
    gates: list[Gate] = Field(default_factory=list)

    @property
    def prefix_caching_off(self) -> bool:
        """Whether engines that compute prompts keep none of them; by default vLLM does."""
        config = self.llm_configs.get("prefill") or self.llm_configs.get("collocated") or {}
        return config.get("engine_kwargs", {}).get("enable_prefix_caching") is False

    @property
    def engine_settings(self) -> dict[str, str]:
        """How vLLM was started, all roles together; without what is an arm's own (OF_AN_ARM)."""
        found: dict[str, set[str]] = {}
        for config in self.llm_configs.values():
            for name, value in settings_of(config).items():
                if not name.startswith(OF_AN_ARM):
                    found.setdefault(name, set()).add(value)
        return {name: " and ".join(sorted(values)) for name, values in found.items()}

    @property
    def identity(self) -> dict[str, str]:
        """What must be equal for two deployments to be measured as one, by name.

        What one of them does not record, such as the versions of an older manifest, is not there.
        """
        versions = stack_of([machine.versions for machine in self.machines])
        kinds = sorted({kind for machine in self.machines for kind in machine.gpus or [machine.cpu]})
        found = planned_identity(self.model_dump()) | versions
        found["model_checksum"] = str(self.model_checksum)
        return found | ({"accelerators": " and ".join(kinds)} if kinds else {})

    @property
    def machine_ids(self) -> list[str]:
        """Ids of the machines with the engines, sorted; empty where a manifest is older than they are."""
        return sorted({machine.id for machine in self.machines if machine.id})

    def takes_requests(self, base_url: str) -> str:
        """Return where requests go; `base_url` is where the deployment describes itself."""
        return self.serving_url or base_url


class LevelRecord(Strict):
    """One measured level: the exact command, its seeds and times, and whether it counts."""

    level: str
    command: str
    # When and where the deployment that was measured was launched: a resumed sweep may span two launches.
    launched: str | None
    machines: list[str] = Field(default=[], description="ids of the machines with the engines")
    commit: str | None = Field(default=None, description="of this repository; ends in -dirty with local changes")
    block: int | None = Field(default=None, description="of the experiment: all arms, launched again in an order of its own")
    seed: int
    warmup_seed: int | None
    num_prompts: int
    attempt: int = Field(default=1, description="2: kernels were compiled during the first measurement, which was not kept")
    started: str
    ended: str
    digest: str | None = Field(default=None, description="of the level's file, see level_file.digest_of; None of older ones")
    ok: bool
    problems: list[str] = Field(default_factory=list)
    gates: list[Gate] = Field(default_factory=list)


class Manifest(Strict):
    """Schema of `manifest.json`; `schema_version` rises when a reader has to care."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    model: str
    phase: str
    isl: int
    osl: int
    base_seed: int
    shift: str | None = Field(default=None, description="load that shifts: `trace.Shift.identity`; isl and osl are the longest")
    as_published: bool = Field(default=False, description="one seed for all levels and no warm-up, as in the public study")
    commands: list[str]
    deployment: Deployment | None = Field(description="of the last sweep")
    earlier: list[Deployment] = Field(default=[], description="other launches that levels here were measured on")
    client: Machine
    repository: Repository
    levels: list[LevelRecord] = Field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read `folder/manifest.json`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not valid JSON of this schema; names the file and the reason.
        """
        path = folder / FILENAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {first_line(error)}") from error

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens (in, out) that each request really has."""
        return workload.phase_lengths(self.phase, self.isl, self.osl, bool(self.deployment and self.deployment.decode_bench))

    @property
    def transport_gates(self) -> list[Gate]:
        """What UCX was seen to carry KV caches with: before measuring, and around each level, in this order."""
        gates = [*(self.deployment.gates if self.deployment else []), *(gate for level in self.levels for gate in level.gates)]
        return [gate for gate in gates if gate.name == "transport"]

    def deployment_of(self, record: LevelRecord | None) -> Deployment | None:
        """Return the deployment that a level was measured on; of older manifests, which kept one, the last."""
        known = [one for one in (self.deployment, *self.earlier) if one and record and one.launched == record.launched]
        return known[0] if known else self.deployment

    @property
    def identity(self) -> dict[str, str]:
        """What must be equal for levels of two manifests to be put together, by name; see `Deployment.identity`."""
        found = {"base seed": str(self.base_seed), "as_published": str(self.as_published)}
        found |= {"shift": self.shift} if self.shift else {}
        if client := self.client.versions.get("vllm"):
            found["bench client"] = f"vLLM {client}"
        return found | (self.deployment.identity if self.deployment else {})

    def found(self, folder: Path, level: workload.Level, num_prompts: int) -> LevelRecord | None:
        """Return the record of `level` if it was measured with that number of requests, counts, and its file is in `folder`."""
        record = next((r for r in self.levels if r.level == level.stem), None)
        counts = record and record.ok and record.num_prompts == num_prompts and (folder / level.filename).is_file()
        return record if counts else None

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json` atomically."""
        write_atomically(folder / FILENAME, self.model_dump_json(indent=2) + "\n")


def kept_launches(manifests: list[Manifest], records: list[LevelRecord], last: Deployment | None) -> list[Deployment]:
    """Return the deployments of these manifests, other than the last, that some of the records were measured on."""
    needed = {record.launched for record in records} - {last.launched if last else None}
    known = {one.launched: one for old in manifests for one in (*old.earlier, old.deployment) if one}
    return [one for launched, one in known.items() if launched in needed]

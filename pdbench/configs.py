"""Load typed configuration files: `configs/models/*.yaml`, `configs/hardware/*.yaml` and `configs/serve.yaml`."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from pdbench.cli import is_secret
from pdbench.files import first_line
from pdbench.manifest import Strict
from pdbench.model.kv_cache import KVCache, check_transferred
from pdbench.model.shape import ShapeSpec
from pdbench.model.tiny import TinySpec

ROOT = Path(__file__).resolve().parent.parent


# Engine arguments that are decided elsewhere, or would make other engines than the layout says.
_DECIDED = {
    "tensor_parallel_size": "the layout decides it",
    "max_model_len": "it is a key of the model file",
    "kv_transfer_config": "the mode and --backend decide it",
    **dict.fromkeys(
        ("data_parallel_size", "data_parallel_size_local", "pipeline_parallel_size", "enable_expert_parallel",
         "prefill_context_parallel_size", "decode_context_parallel_size"),
        "layouts know tensor parallelism only, and GPUs would be counted wrong",
    ),
}  # fmt: skip


PDRole = Literal["prefill", "decode"]
PD_ROLES: dict[str, PDRole] = {role: role for role in get_args(PDRole)}
# What the bytes of a KV transfer follow from.
_OF_THE_KV_CACHE = ("block_size", "dtype", "kv_cache_dtype")


def check_free(engine_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the engine arguments; raises ValueError for one that something else decides."""
    if secret := next((key for key in engine_kwargs if is_secret(key)), None):
        raise ValueError(f"{secret} would be recorded with the results: set it in the nodes' environment, as HF_TOKEN")
    if taken := next((key for key in engine_kwargs if key in _DECIDED), None):
        raise ValueError(f"{taken} cannot be set here: {_DECIDED[taken]}")
    return engine_kwargs


def check_role(engine_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return one role's engine arguments; raises ValueError for one that P and D must share, or that something else decides."""
    if shared := next((key for key in engine_kwargs if key in _OF_THE_KV_CACHE), None):
        raise ValueError(f"{shared} must be the same for P and D: how many bytes their transfers have would not be known")
    return check_free(engine_kwargs)


EngineArguments = Annotated[dict[str, Any], AfterValidator(check_free)]


class ConfigError(ValueError):
    """A configuration file is missing or wrong; one line that names the file and the key."""


class ModelConfig(Strict):
    """A model and how its engine is started."""

    model_id: str = Field(min_length=1, description="name that clients send")
    model_source: str | None = Field(default=None, description="hub id or folder; model_id if absent")
    tiny: TinySpec | None = Field(default=None, description="make a tiny model here with these sizes")
    shape: ShapeSpec | None = Field(default=None, description="make a model of a gpt-oss' shape here with random weights")
    kv_cache: KVCache | None = Field(default=None, description="its shape; that of a model made here follows from its sizes")
    max_model_len: int = Field(ge=1, description="tokens of prompt and output together")
    engine_kwargs: EngineArguments = Field(default_factory=dict)
    role_kwargs: dict[PDRole, Annotated[dict[str, Any], AfterValidator(check_role)]] = Field(
        default={}, description="engine arguments of one role of PD, over engine_kwargs"
    )

    @model_validator(mode="after")
    def _the_kv_cache_has_one_shape(self):
        if [bool(self.tiny), bool(self.shape), bool(self.kv_cache)].count(True) != 1:
            raise ValueError("give one of kv_cache, tiny and shape")
        return self

    @property
    def made(self) -> TinySpec | ShapeSpec | None:
        """What the model is made from, where it is made on this machine."""
        return self.tiny or self.shape

    @property
    def kv(self) -> KVCache:
        """Shape of the KV cache in an engine with this file's arguments."""
        return self.kv_given.under(self.engine_kwargs)

    @property
    def kv_given(self) -> KVCache:
        """Shape of the KV cache as the file gives it, whatever the engine's arguments."""
        return self.made.kv_cache if self.made else self.kv_cache

    def check_kv(self, hardware_kwargs: dict[str, Any], is_pd: bool) -> None:
        """Check that the bytes of a KV transfer are known; raises ValueError like `KVCache.check`."""
        engine = hardware_kwargs | self.engine_kwargs
        if self.kv_cache:
            self.kv_cache.check(engine)
        if is_pd:
            check_transferred(engine)

    @property
    def source(self) -> str:
        """Hub id, or the absolute path of a folder; a relative path of a model that is made is one of this repository."""
        source = self.model_source or self.model_id
        return str(ROOT / source) if self.made else source


class HardwareConfig(Strict):
    """One kind of node and what engines need there."""

    name: str
    accelerator: Literal["GPU", "CPU"]
    accelerators_per_node: int = Field(ge=1, description="also the node of per-node throughput")
    accelerator_type: str | None = Field(default=None, description="Ray's name, for example H100")
    kv_buffer_device: Literal["cuda", "cpu"]
    kv_connector_extra_config: dict[str, Any] = Field(default_factory=dict, description="further NixlConnector options")
    ingress_replicas: int = Field(ge=1, description="the same in every arm, so that arms compare fairly")
    core_per_rank: bool = Field(default=False, description="pin each engine rank to a core of its own")
    pad_steps_to: int | None = Field(
        default=None, ge=16, description="CUDA graphs of all sizes, in multiples of N tokens: vLLM pads each step to one"
    )
    engine_kwargs: EngineArguments = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict, description="environment of every engine")


class LLMOptions(Strict):
    """Ray Serve LLM's own options: https://docs.ray.io/en/master/serve/llm/ and `experimental_configs` of its LLMConfig."""

    stream_batching_interval_ms: float = Field(default=0, ge=0, description="how long tokens of a stream wait for the next")
    pd_tokenize_once: bool = Field(default=False, description="D takes a prompt's tokens from P")
    prewarm_prefill_decode: bool = Field(default=False, description="a starting D reads from every P once")


class ServeConfig(Strict):
    """How Ray Serve itself is set, in every arm: `configs/serve.yaml`."""

    env: dict[str, str] = Field(description="environment of its controller, proxy, ingress and replicas")
    llm: LLMOptions


def load_model(path: str | Path) -> ModelConfig:
    """Read a model file.

    Raises:
        ConfigError: it is missing, not YAML, or a key is unknown, missing or wrong.
    """
    return load(ModelConfig, path, "configs/models")


def load_hardware(path: str | Path) -> HardwareConfig:
    """Read a hardware file, and the file beside it that it names as its `base`; raises ConfigError like `load_model`."""
    return load(HardwareConfig, path, "configs/hardware")


def load_serve() -> ServeConfig:
    """Read `configs/serve.yaml`; raises ConfigError like `load_model`."""
    return load(ServeConfig, ROOT / "configs/serve.yaml", "configs")


def load(kind: type[BaseModel], path: str | Path, folder: str):
    """Read a YAML file as a `kind`; `folder` is where such files are, for the message if there is none.

    Raises:
        ConfigError: it is missing, not YAML, or a key is unknown, missing or wrong.
    """
    path = Path(path)
    data = _read(path, folder)
    if kind is HardwareConfig and "base" in data:
        base = _read(path.parent / str(data.pop("base")), folder)
        if "base" in base:
            raise ConfigError(f"{path}: its base has a base itself: name that one")
        data = base | data
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, kind)}") from None


def _read(path: Path, folder: str) -> dict:
    if not path.is_file():
        have = ", ".join(sorted(f"{folder}/{p.name}" for p in (ROOT / folder).glob("*.yaml")))
        raise ConfigError(f"no such file: {path} (there are: {have})")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(data).__name__}")
    return data


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say what is wrong with the data of a `kind`, in one line."""
    # A misspelt key is unknown and, under its right name, missing: the first says more.
    first = next((e for e in error.errors() if e["type"] == "extra_forbidden"), None)
    if first is None:
        return first_line(error)
    *parents, key = first["loc"]
    for parent in parents:
        if not isinstance(parent, int):  # a place in a list
            annotation = kind.model_fields[parent].annotation
            kind = next(a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields"))
    known = list(kind.model_fields)
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(known)}"
    return f"unknown key {'.'.join(map(str, first['loc']))!r}: {hint}"

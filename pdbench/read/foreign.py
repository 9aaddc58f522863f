"""Know the result files of other tools: read what holds the same numbers, name the rest and say what they lack.

A file of `vllm bench sweep` is the client's own. What aiperf writes is put in the client's words (aiperf.py).
"""

import fnmatch
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pdbench.read import aiperf
from pdbench.workload import Level

SWEEP, SWEEP_SUMMARY = "run=*.json", "summary.json"
READ = "what is read are levels of vllm bench serve, vllm bench sweep and aiperf"
# Written by these two beside what is read; no level.
BESIDE = (
    SWEEP_SUMMARY, "inputs.json", "profile_export_aiperf_timeslices.json", "profile_export_aiperf_aggregate.json",
    "server_metrics_export.json", "gpu_telemetry_export.json", "*.pytorch.json",
)  # fmt: skip
# Requests per second that no server reaches: the client sent all prompts at once.
UNLIMITED_RATE = 1e6
# The first bytes of a file of JSON lines: its first object where that is no longer.
FIRST_LINE = 1 << 16


class Tool(NamedTuple):
    """A tool whose files are known and not read.

    Attributes:
        lacks: what its files do not say, as a relative clause.
        knows: whether the content of a JSON file is of this tool.
        files: patterns of names that only this tool writes.
    """

    name: str
    lacks: str
    knows: Callable[[Any], bool]
    files: tuple[str, ...] = ()


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda content: isinstance(content, dict) and all(key in content for key in keys)


def _is_list_with(*keys: str) -> Callable[[Any], bool]:
    return lambda content: isinstance(content, list) and bool(content) and _has(*keys)(content[0])


def _is_genai_perf(content: Any) -> bool:
    settings = content.get("input_config") if isinstance(content, dict) else None
    return isinstance(settings, dict) and ("perf_analyzer" in settings or "genai-perf" in str(settings.get("cli_command")))


TOOLS = (
    Tool("vllm bench sweep (its summary)", "repeats the files beside it (run=0.json): keep those",
         _is_list_with("run_number", "completed"), ("summary.csv",)),
    Tool("guidellm", "has a mean time between tokens for each request, and not every such time",
         lambda content: _has("benchmarks")(content) and ("guidellm" in str(content)[:4000] or "metadata" in content),
         ("benchmarks.csv", "benchmarks.yaml", "benchmarks.html")),
    Tool("InferenceX", "has no number of requests or tokens and no duration: give the bench client's file that it was made of",
         lambda content: _has("tput_per_gpu")(content) or _is_list_with("tput_per_gpu")(content)),
    Tool("sglang.bench_serving", "lacks num_prompts, so that nobody sees whether requests failed",
         _has("total_output_tokens_retokenized")),
    Tool("genai-perf", "lacks benchmark_duration, and has a mean time between tokens for each request, not every such time",
         _is_genai_perf, ("profile_export_genai_perf.*",)),
    Tool("aiperf (each request)", "has no summary: keep profile_export_aiperf.json",
         lambda content: _has("metadata", "metrics")(content) and "request_latency" in (content["metrics"] or ()),
         ("profile_export.jsonl", "profile_export_aiperf.csv")),
    Tool("vllm bench throughput", "has no latencies: it sends all prompts at once, to no server",
         _has("elapsed_time", "requests_per_second")),
    Tool("vllm bench latency", "has no TTFT: it runs one batch, on no server", _has("avg_latency", "latencies")),
    Tool("vLLM's copy for PyTorch's dashboard", "lacks most numbers: the file beside it has them",
         _is_list_with("benchmark", "metric"), ("*.pytorch.json",)),
    Tool("llm-d-benchmark", "is a report of its own form", lambda content: False, ("benchmark_report*",)),
)  # fmt: skip


def in_clients_words(content: Any) -> Any:
    """Return a file's content in the keys of `vllm bench serve`; what is of no other tool stays as it is.

    Raises:
        ValueError: it is of a tool that is not read, or lacks what a level needs.
    """
    if aiperf.is_of(content):
        return aiperf.in_clients_words(content)
    if tool := next((tool for tool in TOOLS if tool.knows(content)), None):
        raise ValueError(in_words(tool))
    return content


def in_words(tool: Tool) -> str:
    """Say what a file of this tool is, and what is read instead."""
    return f"is a file of {tool.name}, which {tool.lacks}; {READ}"


def of_file(path: Path) -> Tool | None:
    """Return the tool that wrote a file, by its name or else by the object that it begins with; None if that is unknown."""
    if named := next((tool for tool in TOOLS for pattern in tool.files if fnmatch.fnmatchcase(path.name, pattern)), None):
        return named
    if path.suffix not in (".json", ".jsonl") or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.readline(FIRST_LINE) if path.suffix == ".jsonl" else file.read()
    try:
        content = json.JSONDecoder().raw_decode(text.lstrip("\ufeff \n\r\t"))[0]
    except (ValueError, RecursionError):  # longer than what was read of it: its keys are known all the same
        content = dict.fromkeys(re.findall(r'"(\w+)": ', text))
    return next((tool for tool in TOOLS if tool.knows(content)), None)


def is_read(name: str) -> bool:
    """Whether a file of this name is one of another tool's that is read as a level."""
    return name == aiperf.FILENAME or fnmatch.fnmatchcase(name, SWEEP)


def level_of(path: Path, content: dict[str, Any], earlier: Iterable[Level]) -> Level:
    """Return the level that a run of another tool is, by its load.

    Args:
        content: in the client's words.
        earlier: levels of the files before it: aiperf does not number the runs of one load.

    Raises:
        ValueError: its load is no level.
    """
    rate, concurrency = content.get("request_rate", "inf"), content.get("max_concurrency")
    limited = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < UNLIMITED_RATE
    value = rate if limited else concurrency
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < UNLIMITED_RATE:
        raise ValueError(f"is no level: max_concurrency is {concurrency!r} and request_rate {rate!r}")
    kind = "request-rate" if limited else "concurrency"
    number = re.fullmatch(r"run=(\d+)\.json", path.name, re.ASCII)
    if number:
        return Level(kind, float(value), int(number[1]) + 1)
    return Level(kind, float(value), 1 + sum((level.kind, level.value) == (kind, value) for level in earlier))


def find(folder: Path) -> list[Path]:
    """Return the files of other tools, at any depth of a result folder, that are read as levels.

    Raises:
        ValueError: they are of servers with different settings, which are different arms.
    """
    paths = sorted(path for path in folder.rglob("*.json") if is_read(path.name) and "aggregate" not in path.parts)
    # A folder of the sweep is SERVE-{settings of the server}-BENCH-{of the load}.
    servers = dict.fromkeys(path.parent.name.partition("BENCH-")[0] for path in paths if path.name != aiperf.FILENAME)
    if len(servers) > 1:
        listed = " and ".join(name.rstrip("-") or "none" for name in list(servers)[:2])
        raise ValueError(f"holds runs of servers with different settings ({listed}): give each a result folder of its own")
    return paths

"""Put what aiperf wrote of a run, profile_export_aiperf.json, in the words of `vllm bench serve`.

Its inter_token_latency is a mean for each request, TPOT here; its inter_chunk_latency is every time between two pieces of an
answer, ITL here. Both tools count from the request to the first piece with text, and leave warm-up out.
"""

import datetime
from typing import Any

FILENAME = "profile_export_aiperf.json"
STATISTICS = {"avg": "mean", "p50": "median", "p99": "p99", "std": "std"}
OPTIONAL = {"p90": "p90", "p95": "p95", "max": "max"}
METRICS = {"time_to_first_token": "ttft", "inter_token_latency": "tpot", "inter_chunk_latency": "itl"}
ARRIVALS = {"poisson": 1.0, "constant": "constant", "gamma": "gamma"}  # of requests, as burstiness has it


def is_of(content: Any) -> bool:
    """Whether a JSON file is aiperf's summary of a run; other summaries look like those of its first versions."""
    if not isinstance(content, dict) or not isinstance(settings := content.get("input_config"), dict):
        return False
    named = str(settings.get("cli_command") or (_dict(content, "run_info")).get("cli_command") or "")
    known = "loadgen" in settings or "phases" in settings or "aiperf" in named.split("profile")[0]
    return "perf_analyzer" not in settings and ("aiperf_version" in content or known)


def in_clients_words(content: dict[str, Any]) -> dict[str, Any]:
    """Return what the bench client would have written of this run.

    Raises:
        ValueError: it lacks what a level needs, or its load is none of this project's; one line.
    """
    if content.get("was_cancelled"):
        raise ValueError("aiperf's run was cancelled")
    settings = _dict(content, "input_config")
    endpoint = _dict(settings, "endpoint")
    if endpoint.get("streaming") is False:
        raise ValueError("aiperf ran without --streaming, so there is no time_to_first_token")
    completed = _whole(content, "request_count")
    failed = _whole(content, "error_request_count") if "error_request_count" in content else 0
    load = _load(settings)
    tokens = {kind: _tokens(content, kind, completed) for kind in ("input", "output")}
    duration = _duration(content, completed)
    backend = f"aiperf {endpoint.get('type') or ''}".strip()
    started = str(content.get("start_time") or "")
    words = {
        "date": _date(started), "endpoint_type": backend, "backend": backend, "model_id": _model(settings, endpoint),
        "num_prompts": load.pop("requests") or completed + failed, "completed": completed, "failed": failed,
        "duration": duration, "total_input_tokens": tokens["input"], "total_output_tokens": tokens["output"],
        "output_throughput": _rate(content, "output_token_throughput", tokens["output"] / duration),
        "total_token_throughput": _rate(content, "total_token_throughput", sum(tokens.values()) / duration),
        "request_throughput": _rate(content, "request_throughput", completed / duration),
        "seed": _seed(content, settings, started),
    }  # fmt: skip
    return words | load | _latencies(content, single=tokens["output"] == completed)


def _latencies(content: dict[str, Any], single: bool) -> dict[str, float]:
    """Every statistic in ms; 0, as the client has it, of what a single output token does not have."""
    found: dict[str, float] = {}
    for theirs, ours in METRICS.items():
        if single and ours != "ttft":
            found |= {f"{statistic}_{ours}_ms": 0.0 for statistic in STATISTICS.values()}
            continue
        metric = _metric(content, theirs, f"{ours.upper()} here", "ms")
        for name, statistic in (STATISTICS | {key: word for key, word in OPTIONAL.items() if key in metric}).items():
            if metric.get(name) is None:
                raise ValueError(f"aiperf's {theirs} ({ours.upper()} here) has no {name}")
            found[f"{statistic}_{ours}_ms"] = metric[name]
    return found


def _load(settings: dict[str, Any]) -> dict[str, Any]:
    """The load in the client's words, and as `requests` how many were to be sent, None where that is not said."""
    listed = settings.get("phases")
    phases = [phase for phase in listed if isinstance(phase, dict)] if isinstance(listed, list) else []
    measured = [phase for phase in phases if not phase.get("exclude_from_results") and phase.get("name") != "warmup"]
    if len(measured) > 1:
        raise ValueError(f"aiperf measured {len(measured)} phases: run one level at a time")
    load = measured[0] if measured else _dict(settings, "loadgen")
    if ramp := next((key for key, value in load.items() if "ramp" in key and value), None):
        raise ValueError(f"aiperf's load rose during the run ({ramp})")
    rate, concurrency = load.get("rate") or load.get("request_rate"), load.get("concurrency")
    kind = str(load.get("type") or load.get("arrival_pattern") or load.get("request_rate_mode") or "")
    if not rate and not concurrency:
        raise ValueError(f"aiperf's load ({kind or 'unknown'}) is neither a concurrency nor a request rate")
    if rate and kind not in ARRIVALS:
        raise ValueError(f"aiperf's arrivals are {kind or 'unknown'}: what is read are {', '.join(ARRIVALS)}")
    burstiness = (load.get("smoothness") or load.get("arrival_smoothness") or ARRIVALS[kind]) if rate else 1.0
    requests = load.get("requests") or load.get("request_count")
    return {"request_rate": rate or "inf", "max_concurrency": concurrency, "burstiness": burstiness, "requests": requests}


def _tokens(content: dict[str, Any], kind: str, completed: int) -> int:
    """All tokens of a kind: their sum, or in older versions the mean of a request times the requests."""
    short, long = ("total_isl", "input_sequence_length") if kind == "input" else ("total_osl", "output_sequence_length")
    if short in content:
        return _whole(content, short)
    lengths = _metric(content, long, f"{kind} tokens of a request", "tokens")
    total = lengths.get("sum") or _number(lengths, "avg", long) * completed
    if isinstance(total, bool) or not isinstance(total, int | float) or abs(total - round(total)) > 1e-3:
        raise ValueError(f"aiperf's {long} has no whole sum, but {total!r}")
    return round(total)


def _duration(content: dict[str, Any], completed: int) -> float:
    """Seconds from the first request to the last answer; older versions have the requests/s only."""
    if "benchmark_duration" in content:
        value = _number(_metric(content, "benchmark_duration", "duration here", "sec"), "avg", "benchmark_duration")
    else:
        rate = _number(_metric(content, "request_throughput", "for the duration", "requests/sec"), "avg", "request_throughput")
        value = completed / rate if rate else 0.0
    if not value > 0:
        raise ValueError("aiperf's run has no duration")
    return value


def _metric(content: dict[str, Any], name: str, ours: str, unit: str) -> dict[str, Any]:
    metric = content.get(name)
    if not isinstance(metric, dict):
        raise ValueError(f"aiperf's {name} ({ours}) is missing")
    if metric.get("unit") != unit:
        raise ValueError(f"aiperf's {name} is in {metric.get('unit')!r}, not in {unit}")
    return metric


def _number(metric: dict[str, Any], key: str, name: str) -> float:
    value = metric.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"aiperf's {name} must be a number, not {value!r}")
    return value


def _whole(content: dict[str, Any], name: str) -> int:
    value = _number(_dict(content, name), "avg", name)
    if value != value or abs(value) == float("inf") or value != int(value):
        raise ValueError(f"aiperf's {name} must be a whole number, not {value!r}")
    return int(value)


def _rate(content: dict[str, Any], name: str, otherwise: float) -> Any:
    return _dict(content, name).get("avg", otherwise)


def _dict(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _model(settings: dict[str, Any], endpoint: dict[str, Any]) -> str | None:
    models = _dict(settings, "models").get("items") or endpoint.get("model_names")
    first = models[0] if isinstance(models, list) and models else None
    return first.get("name") if isinstance(first, dict) else first


def _seed(content: dict[str, Any], settings: dict[str, Any], started: str) -> Any:
    """Of its prompts; without one they are new in every run, which its start distinguishes."""
    seeds = (_dict(content, "run_info").get("random_seed"), _dict(settings, "input").get("random_seed"), started)
    return next(seed for seed in seeds if seed is not None)


def _date(started: str) -> str:
    """In the client's form, so that runs of both tools sort by time."""
    try:
        return datetime.datetime.fromisoformat(started).strftime("%Y%m%d-%H%M%S")
    except ValueError:
        return started

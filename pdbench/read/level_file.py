"""Read one level's file, as the bench client wrote it. What is not whole or not what its name says is an error."""

import hashlib
import json
import math
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pdbench.cli import visible
from pdbench.files import first_line
from pdbench.read import laws
from pdbench.read.level_json import DETAILS, load_level
from pdbench.read.requests import PERCENTILES, Requests, decode_steps, end_to_end, goodput, percentiles
from pdbench.read.trace import Sent, sent_of
from pdbench.workload import SHIFT, Level, RunName, phase_lengths

METRICS = ("ttft", "tpot", "itl")
STATISTICS = ("mean", "median", "p99", "std")
OPTIONAL = ("p90", "p95", "max")
END_TO_END = ("mean", "median", *(f"p{p}" for p in PERCENTILES[1:]), "max")
TOKENS = ("input", "output", "total")
ASK_FOR = "measure with --percentile-metrics ttft,tpot,itl --metric-percentiles 99"


class ResultError(ValueError):
    """Results that cannot be read or compared; one line that names the file and the reason."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any complaint into a ResultError of one line that begins with `path`."""
    try:
        yield
    except ResultError:  # it names its own file
        raise
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror or first_line(error)}") from error
    except ValueError as error:
        raise ResultError(f"{path}: {first_line(error).removeprefix(f'{path}: ')}") from error


class LevelFile(NamedTuple):
    """What one level's file holds.

    Attributes:
        row: date, completed, duration (s), the latency statistics (ms), the throughputs (tokens/s, requests/s) and what
            follows from per-request details.
        summary: the client's file without its per-request lists, `errors` apart.
        requests: None where the file has no per-request details, or they were not asked for.
        sent: where load shifts, what the trace beside the file says of each request; else empty.
    """

    row: dict[str, Any]
    summary: dict[str, Any]
    requests: Requests | None
    sent: Sequence[Sent] = ()


def read_level(
    path: Path, level: Level, run: RunName, sla: dict[str, float] | None = None, decode_bench: bool = False,
    details: bool = True,
) -> LevelFile:  # fmt: skip
    """Read one level's file, checking that it is whole and that it is what its name says.

    Raises:
        ResultError: see the module's first line; the message names `path`.
    """
    with naming(path):
        if (run.phase == SHIFT) != (level.kind == SHIFT):
            raise ValueError(f"a level of {level.kind}, but the folder's name says {run.phase}")
        content = load_level(path, details or decode_bench or level.kind == SHIFT)
        isl, osl = run.isl, phase_lengths(run.phase, run.isl, run.osl)[1]
        completed = _check_requests(content, level, level.cap_of(path.name))
        duration = _number(content, "duration", positive=True)
        sent = sent_of(path, content.get("trace")) if level.kind == SHIFT else ()
        tokens = _check_shifting(content, sent) if sent else _check_tokens(content, completed, isl, osl, run.phase)
        _check_details(content, completed, None if sent else osl)
        row = {"date": visible(str(content.get("date", ""))), "completed": completed, "duration": duration}
        row |= (latencies := _latencies(content, osl))
        for kind in TOKENS:
            row[f"{kind}_throughput"] = tokens[kind] / duration
        row["request_throughput"] = completed / duration
        _check_throughput(content, row)
        requests = Requests.of(content)
        laws.check(content, level, osl, requests, sent)
        row |= _of_load(content, level, osl, requests)
        row["tokens_per_piece"] = requests.tokens_per_piece if requests else math.nan
        row["ttft_share"] = requests.ttft_share if requests else math.nan
        row |= {key: value for key, value in percentiles(requests).items() if math.isnan(latencies[key])}
        row |= end_to_end(requests) if requests else _stated_end_to_end(content)
        if decode_bench:
            row |= _pure_decode(requests)
        row |= {"goodput": goodput(requests, duration, sla)} if sla else {}
        summary = {key: value for key, value in content.items() if key not in DETAILS or key == "errors"}
        return LevelFile(row, summary, requests if details or sent else None, sent)


def _of_load(content: dict[str, Any], level: Level, osl: int, requests: Requests | None) -> dict[str, float]:
    """Return the columns of the row that depend on the kind of load; see `results.read_results`."""
    names = ("in_flight", "steady_request_throughput", "full_share", "served_share", "cap_reached")
    row = dict.fromkeys(names, math.nan)
    if level.kind == SHIFT:
        assert requests, "laws.check refuses such a level without them"
        return row | {"in_flight": float((requests.end - requests.start).sum()) / content["duration"]}
    row["in_flight"] = laws.in_flight(content, osl)
    if level.kind == "request-rate":
        row["served_share"] = laws.served_share(content, level.value, osl)
        row["cap_reached"] = laws.cap_reached(content, level.value, osl)
        return row
    row["steady_request_throughput"] = level.value / laws.end_to_end(content, osl)
    if requests:
        row["full_share"] = requests.share_of_time(min(level.value, content["completed"]))
    return row


def digest_of(summary: dict[str, Any]) -> str:
    """Return the digest (SHA-256) that ties a level's file to its manifest: of the client's summary, whose laws tie it to the
    details, so that it can be had without reading these, and stays when a folder is trimmed."""
    kept = {key: value for key, value in summary.items() if key not in DETAILS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def falls_behind(row: dict[str, Any]) -> bool:
    """Return whether a level's requests came faster than they were served."""
    return row["served_share"] < laws.SERVED


def came_in_one_go(row: dict[str, Any], osl: int) -> bool:
    """Return whether a level's answers came at their end (`laws.in_one_go`)."""
    return laws.in_one_go(row["ttft_share"], row["median_tpot_ms"], osl)


def _pure_decode(requests: Requests | None) -> dict[str, float]:
    """Return the row of a deployment that fills KV caches: decode steps only, and nothing of prompts."""
    if requests is None:
        raise ValueError("decode steps need per-request details")
    nothing = [f"{statistic}_ttft_ms" for statistic in (*STATISTICS, *OPTIONAL)]
    nothing += [f"{statistic}_e2e_ms" for statistic in END_TO_END]
    nothing += ["input_throughput", "total_throughput", "request_throughput"]
    return dict.fromkeys(nothing, math.nan) | decode_steps(requests)


def _check_requests(content: dict[str, Any], level: Level, cap: int | None) -> int:
    """Requests completed: all that were asked, at the load that the file's name says, and its cap of them in flight."""
    asked, completed = _count(content, "num_prompts", positive=True), _count(content, "completed")
    # Clients before vLLM 0.11.1 do not count failures; `completed` shows them all the same.
    failed = _count(content, "failed") if "failed" in content else 0
    if failed or completed != asked:
        errors = content.get("errors")
        reason = next(filter(None, errors), "") if isinstance(errors, list) else ""
        first = f": {' '.join(str(reason).split())[-300:]}" if reason else ""
        raise ValueError(f"{completed} of {asked} requests completed, {failed} counted as failed{first}")
    if level.kind == SHIFT:  # by its trace alone
        if content.get("request_rate") != "inf" or content.get("max_concurrency") is not None:
            raise ValueError("request_rate or max_concurrency is given, so the trace was not the load, as the file's name says")
        return completed
    key = {"concurrency": "max_concurrency", "request-rate": "request_rate"}[level.kind]
    if _number(content, key, positive=True) != level.value:
        raise ValueError(f"{key} is {content[key]}, but the file's name says {level.value:g}")
    if cap and content.get("max_concurrency") != cap:
        raise ValueError(f"max_concurrency is {content.get('max_concurrency')}, but the file's name says {cap}")
    return completed


def _check_tokens(content: dict[str, Any], completed: int, isl: int, osl: int, phase: str) -> dict[str, int]:
    """Tokens in, out and both; every request must have OSL tokens out and about ISL in."""
    tokens = {kind: _count(content, f"total_{kind}_tokens", positive=True) for kind in ("input", "output")}
    if tokens["output"] != completed * osl:
        raise ValueError(f"total_output_tokens is {tokens['output']}, not {completed * osl}: {completed} requests of {osl}")
    # Decode-only is 1:OSL here; the public study's decode-only folders hold prompts of ISL tokens.
    lengths = (isl, 1) if phase == "decode-only" else (isl,)
    # Random prompts change length a little when decoded and encoded again: near is enough.
    if not any(abs(tokens["input"] - completed * n) <= completed * (0.1 * n + 8) for n in lengths):
        mean = tokens["input"] / completed
        raise ValueError(f"prompts have {mean:g} tokens on average, but the folder's name says {isl}")
    return tokens | {"total": tokens["input"] + tokens["output"]}


def _check_shifting(content: dict[str, Any], sent: Sequence[Sent]) -> dict[str, int]:
    """Tokens in, out and both: of each request what the trace says, in its order."""
    tokens = {kind: _count(content, f"total_{kind}_tokens", positive=True) for kind in ("input", "output")}
    for kind, asked in (("input", [one.isl for one in sent]), ("output", [one.osl for one in sent])):
        seen = content.get(f"{kind}_lens")
        if seen is None:
            raise ValueError(f"{kind}_lens are missing: where load shifts each request counts: measure with --save-detailed")
        if seen != asked:
            raise ValueError(f"{kind}_lens are not those of the {len(sent)} requests of its trace")
        if tokens[kind] != sum(asked):
            raise ValueError(f"total_{kind}_tokens is {tokens[kind]}, but by its trace it is {sum(asked)}")
    return tokens | {"total": tokens["input"] + tokens["output"]}


def _check_throughput(content: dict[str, Any], row: dict[str, float]) -> None:
    """The client's own throughputs must follow from its counts: else the file was edited or mixed up."""
    keys = {"output_throughput": "output", "total_token_throughput": "total", "request_throughput": "request"}
    for key, kind in keys.items():
        stated, counted = _number(content, key), row[f"{kind}_throughput"]
        if not math.isclose(stated, counted, rel_tol=1e-3):
            what = "requests" if kind == "request" else "tokens"
            raise ValueError(f"{key} is {stated:g}, but {what} / duration is {counted:g}")


def _check_details(content: dict[str, Any], completed: int, osl: int | None) -> None:
    """Per-request lists, which only `--save-detailed` writes; `osl` is None where a trace says it."""
    details = {key: content[key] for key in DETAILS if key in content}
    for key, values in details.items():
        if not isinstance(values, list) or len(values) != completed:
            raise ValueError(f"{key} must be a list of {completed} entries, not {reprlib.repr(values)}")
    for error in details.get("errors", []):
        if error:
            raise ValueError(f"a request failed: {reprlib.repr(error)}")
    for length in details.get("output_lens", []) if osl is not None else []:
        if _value("an entry of output_lens", length) != osl:
            raise ValueError(f"a request has {length} output tokens, not {osl}")
    for key in ("input_lens", "ttfts", "start_times"):
        for value in details.get(key, []):
            _value(f"an entry of {key}", value, positive=key == "input_lens")
    for gaps in details.get("itls", []):
        if not isinstance(gaps, list):
            raise ValueError(f"an entry of itls must be a list, not {reprlib.repr(gaps)}")
        for gap in gaps:
            _value("an entry of itls", gap)
    if "input_lens" in details and sum(details["input_lens"]) != content["total_input_tokens"]:
        raise ValueError(f"input_lens add up to {sum(details['input_lens'])}, not to total_input_tokens")


def _latencies(content: dict[str, Any], osl: int) -> dict[str, float]:
    """Every statistic of every metric, in ms; the client writes 0 where there was no second token."""
    latencies = {}
    for metric in METRICS:
        for statistic in STATISTICS:
            key = f"{statistic}_{metric}_ms"
            defined = osl > 1 or metric == "ttft"
            if key not in content:
                raise ValueError(f"{key} is missing: {ASK_FOR}")
            number = _number(content, key, positive=defined and statistic == "median" and metric != "itl")
            latencies[key] = number if defined else math.nan
        for key in (f"{statistic}_{metric}_ms" for statistic in OPTIONAL):  # there only if the client was asked, or writes them
            latencies[key] = _number(content, key) if defined and key in content else math.nan
    return latencies


def _stated_end_to_end(content: dict[str, Any]) -> dict[str, float]:
    """As `end_to_end`, of the client's summary, which has it only if the client was asked for it."""
    keys = {name: f"{name}_e2el_ms" for name in END_TO_END}
    return {f"{name}_e2e_ms": _number(content, key) if key in content else math.nan for name, key in keys.items()}


def _number(content: dict[str, Any], key: str, positive: bool = False) -> float:
    if key not in content:
        raise ValueError(f"{key} is missing")
    return _value(key, content[key], positive)


def _count(content: dict[str, Any], key: str, positive: bool = False) -> int:
    _number(content, key, positive)
    if not isinstance(content[key], int):
        raise ValueError(f"{key} must be a whole number, not {content[key]!r}")
    return content[key]


def _value(name: str, value: Any, positive: bool = False) -> float:
    """A finite number that is not negative, or above 0 if `positive`; true and "1" are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, not {reprlib.repr(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        allowed = "above 0" if positive else "at least 0"
        raise ValueError(f"{name} must be finite and {allowed}, not {reprlib.repr(value)}")
    return number

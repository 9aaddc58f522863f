"""Levels of load that shifts, as `vllm bench serve --dataset-name timed_trace` writes them."""

import json
from pathlib import Path

import numpy as np

from pdbench.read.trace import Sent, digest_of_trace, parse_phases, read_sent, trace_path, trace_text

PHASES = "100:11:4:5,20:31:2:5"  # 20 requests, then 10
BEGAN = 1000.0  # of the client's clock, when the level began
CLOCK = 1.7e9  # what that clock lacks to Unix time


def replayed(sent, digest, ttft=0.05, gap=0.01, late=0.0, clock=CLOCK):
    """What the client writes of a trace; ttft and gap (s) may be functions of a request, the last request is sent late."""
    of = lambda given, one: given(one) if callable(given) else given  # noqa: E731
    ttfts = np.array([of(ttft, one) for one in sent])
    itls = [[of(gap, one)] * (one.osl - 1) for one in sent]
    starts = np.array([BEGAN + one.at for one in sent])
    starts[-1] += late
    duration = float((starts + ttfts + [sum(gaps) for gaps in itls]).max() - BEGAN)
    tokens = {"input": sum(one.isl for one in sent), "output": sum(one.osl for one in sent)}
    content = {
        "date": "20251021-000022", "endpoint_type": "vllm", "backend": "vllm", "model_id": "tiny", "tokenizer_id": "tiny",
        "num_prompts": len(sent), "seed": "7", "trace": digest, "clock": str(clock), "request_rate": "inf", "burstiness": 1.0,
        "max_concurrency": None, "duration": duration, "completed": len(sent), "failed": 0,
        "total_input_tokens": tokens["input"], "total_output_tokens": tokens["output"],
        "request_throughput": len(sent) / duration, "output_throughput": tokens["output"] / duration,
        "total_token_throughput": sum(tokens.values()) / duration,
        "input_lens": [one.isl for one in sent], "output_lens": [one.osl for one in sent], "ttfts": list(ttfts), "itls": itls,
        "start_times": list(starts), "generated_texts": ["a"] * len(sent), "errors": [""] * len(sent),
    }  # fmt: skip
    tpots = [sum(gaps) / len(gaps) for gaps in itls]
    for metric, values in (("ttft", ttfts), ("tpot", tpots), ("itl", np.concatenate(itls))):
        found = {"mean": np.mean(values), "median": np.median(values), "std": np.std(values), "p99": np.percentile(values, 99)}
        content |= {f"{name}_{metric}_ms": 1e3 * float(value) for name, value in found.items()}
    return content


def write_level(folder, level="shift1", phases=PHASES, seed=0, load=1.0, change=None, **how):
    """Write a level and its trace into a result folder; `change` are keys of its file that are replaced. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    sent = parse_phases(phases).sent(load, seed)
    path, text = folder / f"{level}.json", trace_text(sent, seed)
    trace_path(path).write_text(text)
    path.write_text(json.dumps(replayed(sent, digest_of_trace(text.encode()), **how) | (change or {})))
    return path


def content_of(words, **how):
    """What the client writes that was started with these words."""
    given = dict(zip(words, words[1:], strict=False))
    data = Path(given["--dataset-path"]).read_bytes()
    metadata = dict(word.split("=", 1) for word in words[words.index("--metadata") + 1 :])
    sent: list[Sent] = read_sent(data, Path(given["--dataset-path"]))
    return replayed(sent, digest_of_trace(data), **how) | metadata

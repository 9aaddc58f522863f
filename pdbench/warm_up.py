"""Warm up a running deployment for a level, until its engines compile nothing more."""

import asyncio
import sys
from pathlib import Path

from pdbench import client
from pdbench.compilations import Compilations
from pdbench.level_gates import READY_TIMEOUT_S, Snapshot, compilations_now
from pdbench.manifest import Deployment

MAX_ROUNDS = 4  # while kernels are still compiled
# vLLM 0.29's default kernels for MXFP4 experts on Hopper (OpenAI's triton_kernels) take the number of a step's tokens, rounded
# up to 32, as a constant: they are compiled for each, of which a level meets others than its warm-up. vLLM's default for the
# largest step on such GPUs is 8192.
STEP_UNIT, STEP_TOKENS = 32, 8192
STEPS_AT_ONCE = 16


def warm_up(base_url: str, path: Path, load: client.Load, deployment: Deployment) -> None:
    """Send prompts of the level's shape until the engines compile nothing more, and note in `path` what was sent.

    Args:
        path: the snapshot before the level.
        load: as many requests in flight as the level has, with prompts of their own.
    """
    sent, compiled = asyncio.run(_send(base_url, load, deployment))
    before = Snapshot.read(path)
    before.model_copy(update={"since": before.since + sent, "compiled": compiled}).write(path)


async def _send(base_url: str, load: client.Load, deployment: Deployment) -> tuple[list[int], Compilations]:
    """Prompt tokens of what was sent, and what is compiled after it."""
    sent = [load.isl] * await client.warm_up(load)
    seen = await compilations_now(base_url)
    for _ in range(MAX_ROUNDS if seen.monitored else 0):
        before = len(seen.kernels)
        # One request after the other ends and the next one comes, as in the level: prefills of all sizes among decodes.
        sent += [load.isl] * await client.warm_up(load, staggered=True)
        seen = await compilations_now(base_url)
        if len(seen.kernels) == before:
            break
        sent += await _fill_steps(base_url, deployment)
        seen = await compilations_now(base_url)
    return sent, seen


async def _fill_steps(base_url: str, deployment: Deployment) -> list[int]:
    """Have every replica that computes prompts meet every step size once; returns prompt tokens of what answers count."""
    role = "collocated" if "collocated" in deployment.llm_configs else "prefill"
    engine = deployment.llm_configs[role]["engine_kwargs"]
    most = min(engine.get("max_num_batched_tokens", STEP_TOKENS), engine["max_model_len"] - 1)
    lengths, sent = list(range(STEP_UNIT, most + 1, STEP_UNIT)), []
    async with client.session(base_url, total_s=READY_TIMEOUT_S) as opened:
        for first in range(0, len(lengths), STEPS_AT_ONCE):
            asked = lengths[first : first + STEPS_AT_ONCE]
            if met := await client.post(opened, "/pdbench/steps", asked):
                sent += met
                print(f"run_bm: warm for steps of up to {asked[-1]} of {most} tokens", file=sys.stderr, flush=True)
    return sent if role == "collocated" else []

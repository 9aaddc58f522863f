"""Check, before anything is measured, that PD says what collocated says, and moves the KV cache as expected.

python -m pdbench.gates --base-url URL --save tokens.json      (on the collocated arm)
python -m pdbench.gates --base-url URL --against tokens.json   (on each PD arm)
"""

import asyncio
import sys
import time
from pathlib import Path

from pdbench.cli import Parser, add_base_url
from pdbench.files import write_atomically
from pdbench.layout import Layout, placed_as
from pdbench.manifest import Deployment, Gate, now
from pdbench.measure.tokens import (
    NEW_TOKENS,
    Tokens,
    agree,
    choices_at_once,
    compare,
    decided_prompts,
    greedy_choices,
    read_tokens,
    varied,
)
from pdbench.network.transport import transport_gate
from pdbench.serve.api import deployed, record_gate
from pdbench.serve.client import ServerError

NO_TRANSFER = "see the engines' logs for NIXL's errors; a decode replica that computed prompts itself is not PD"
EXPIRED = ("KV blocks of requests that were aborted, as by Ctrl-C in a sweep, expire half a minute later: run the same command "
           "again; if nothing was aborted, ")  # fmt: skip
# An engine counts a request or a transfer a moment after its answer; so long may that take.
COUNTERS_TIMEOUT_S = 10.0


async def _kv_counters(base_url: str) -> dict[str, float]:
    async with deployed(base_url) as running:
        roles = (await running.counters()).values()
    return {k: sum(role.get(k, 0.0) for role in roles) for k in ("kv_bytes", "kv_transfers", "kv_failed", "kv_expired")}


def transfers_each(deployment: Deployment) -> int:
    """Return how many NIXL transfers a request's KV cache takes at least.

    Each rank of D reads its heads: from one rank of P, or where P has more ranks from all that share these heads between them.
    With more ranks of P than the cache has heads some hold the same ones, and D need not read all.
    """
    layout = Layout.parse(deployment.layout)
    if not layout.prefill:
        return 1
    prefill, decode = layout.prefill.tp, layout.decode.tp
    heads = (deployment.kv_cache or {}).get("heads", 1)
    return max(prefill, decode) if prefill <= heads else decode


async def kv_moved(base_url: str, before: dict[str, float], requests: int, each: int = 1) -> Gate:
    """Return gate `kv-transfer`: NIXL moved a KV cache for each request; equal tokens alone could be a recompute.

    Counters are read until all transfers show or time is up.

    Args:
        each: transfers that a request takes, see `transfers_each`.
    """
    deadline = time.monotonic() + COUNTERS_TIMEOUT_S
    while True:
        after = await _kv_counters(base_url)
        moved = {k: after[k] - before[k] for k in after}
        enough = moved["kv_transfers"] >= each * requests and moved["kv_bytes"] > 0
        if enough or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    seen = (f"{moved['kv_transfers']:.0f} transfers, {moved['kv_bytes'] / 2**20:.1f} MiB, "
            f"{moved['kv_failed']:.0f} failed, {moved['kv_expired']:.0f} expired")  # fmt: skip
    passed = enough and not moved["kv_failed"] and not moved["kv_expired"]
    return Gate(name="kv-transfer", passed=passed, seen=seen, time=now(),
                expected=f"at least {each * requests} transfers, none failed or expired",
                advice=transfer_advice(moved["kv_expired"]))  # fmt: skip


def transfer_advice(expired: float) -> str:
    """Say what to do about transfers that failed, or of which KV blocks expired."""
    return f"{EXPIRED if expired else ''}{NO_TRANSFER}"


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total:
        start = "\r" if sys.stderr.isatty() else ""
        print(f"{start}greedy tokens: {done} of {total} prompts", end="\n" if done == total else "", file=sys.stderr)


async def transports_named(base_url: str) -> list[str]:
    """Return UCX transports that have carried KV reads since the launch, and how, in UCX's words."""
    async with deployed(base_url) as running:
        return await running.transports()


async def _deployment(base_url: str) -> Deployment:
    async with deployed(base_url) as running:
        return await running.deployment()


async def equal_tokens(base_url: str, deployment: Deployment, saved: Tokens, report=lambda done, total: None) -> Gate:
    """Return gate `token-equality`, on GPUs `token-agreement`: the running deployment repeats what was saved."""
    url = deployment.takes_requests(base_url)
    choices = await greedy_choices(url, saved.model, saved.prompts, list(map(len, saved.tokens)), report)
    if deployment.accelerator == "CPU":
        return compare(saved.prompts, saved.tokens, [choice["token_ids"] for choice in choices])
    return agree(saved.tokens, choices)


async def save(base_url: str, path: Path, seed: int) -> None:
    """Write the running deployment's greedy tokens to `path` (JSON: model, checksum, prompts, tokens)."""
    deployment = await _deployment(base_url)
    engine = next(iter(deployment.llm_configs.values()))["engine_kwargs"]
    longest = engine["max_model_len"] - NEW_TOKENS
    url = deployment.takes_requests(base_url)
    prompts, tokens = await decided_prompts(url, deployment.model_id, seed, longest, _progress)
    if not varied(tokens):
        raise ServerError("the model's greedy continuations do not depend on the prompt: comparing them proves nothing")
    # Another batch rounds differently; what PD is to repeat must not follow from that.
    again = agree(tokens, await choices_at_once(url, deployment.model_id, prompts, list(map(len, tokens))))
    if not again.passed:
        raise ServerError(f"rounding decides the model's greedy tokens: asked for all at once, {again.seen}; expected "
                          f"{again.expected}: comparing them proves nothing")  # fmt: skip
    saved = Tokens(model=deployment.model_id, checksum=deployment.model_checksum, prompts=prompts, tokens=tokens)
    write_atomically(path, saved.model_dump_json())
    print(f"saved the greedy tokens of {len(prompts)} prompts of layout {deployment.layout} to {path}")


async def check(base_url: str, path: Path, wanted: list[str] | None = None) -> list[Gate]:
    """Compare the running deployment's greedy tokens with those in `path`; records the gates with it."""
    deployment = await _deployment(base_url)
    saved = read_tokens(path, deployment)
    is_pd = placed_as(deployment.mode) != "collocated"
    before = await _kv_counters(base_url) if is_pd else {}
    gates = [await equal_tokens(base_url, deployment, saved, _progress)]
    if is_pd:
        gates.append(await kv_moved(base_url, before, len(saved.prompts), transfers_each(deployment)))
        if deployment.transport["backend"] == "UCX":
            gates.append(transport_gate(await transports_named(base_url), deployment.transport["ucx_tls"], wanted))
    for gate in gates:
        await record_gate(base_url, gate)
    return gates


def main() -> int:
    parser = Parser(prog="python -m pdbench.gates", description=__doc__.splitlines()[0])
    add_base_url(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the random prompts (default: %(default)s)")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--save", type=Path, metavar="FILE", help="write the collocated arm's greedy tokens to this file")
    action.add_argument("--against", type=Path, metavar="FILE", help="compare with the tokens that --save wrote")
    parser.add_argument("--transport", metavar="LIST", help="UCX transports that must have carried the KV cache: cuda_ipc")
    args = parser.parse_args()
    try:
        if args.save:
            asyncio.run(save(args.base_url, args.save, args.seed))
            return 0
        gates = asyncio.run(check(args.base_url, args.against, args.transport and args.transport.split(",")))
    except (ServerError, ValueError, KeyError) as error:
        print(f"gates: error: {error}", file=sys.stderr)
        return 2
    for gate in gates:
        print(f"{'ok  ' if gate.passed else 'FAIL'} {gate.name}: {gate.seen} (expected: {gate.expected})")
        if not gate.passed:
            print(f"     {gate.advice}")
    return 0 if all(gate.passed for gate in gates) else 1

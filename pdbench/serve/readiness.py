"""Check that every replica completes a real request: a sleep or /v1/models proves nothing."""

import asyncio
import contextlib
import random
import time
from typing import Any

from pdbench.manifest import Gate, now
from pdbench.serve.client import REQUEST_LIMIT_S, ServerError, post, random_prompt, session

PROMPT_TOKENS = 20
NEW_TOKENS = 2
REQUESTS_PER_REPLICA = 16
REMOTE_DECODE = {"do_remote_decode": True, "do_remote_prefill": False} | dict.fromkeys(
    ("remote_engine_id", "remote_block_ids", "remote_host", "remote_port"))  # fmt: skip


def short_completion(model: str) -> dict[str, Any]:
    """Return the fields of a request with a prompt that no engine has seen."""
    prompt = random_prompt(random.Random(time.time_ns()), PROMPT_TOKENS)
    return {"model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "stream": True}


class _Completion:
    """Arrives as a CompletionRequest: only where it arrives is vLLM, which takes 10 s to import, loaded anyway."""

    def __init__(self, model: str):
        self.fields = short_completion(model)

    def __reduce__(self) -> tuple[Any, ...]:
        return _request, (self.fields,)


def _request(fields: dict[str, Any]) -> Any:
    from ray.serve.llm.openai_api_models import CompletionRequest

    return CompletionRequest(**fields)


async def ask_each(counts: dict[str, int], app: str, model: str) -> dict[str, list[str]]:
    """Have every replica complete one request.

    Args:
        counts: number of replicas by deployment name.

    Returns:
        Ids of the replicas that answered, by deployment; all of them.

    Raises:
        RuntimeError: a replica answered with an error.
    """
    return {name: sorted(await _ask_each_of(name, app, model, count)) for name, count in counts.items()}


async def _ask_each_of(deployment: str, app: str, model: str, count: int) -> set[str]:
    from ray import serve

    method = serve.get_deployment_handle(deployment, app).options(stream=True).completions
    answered: set[str] = set()
    while len(answered) < count:
        # Places held on replicas that have answered push the router to the others.
        async with contextlib.AsyncExitStack() as held:
            for _ in range(2 * count):
                request = _Completion(model)
                replica = await held.enter_async_context(method.choose_replica(request))
                if replica.replica_id in answered:
                    continue
                said = "".join([str(piece) async for piece in method.dispatch(replica, request, None)])
                if "[DONE]" not in said:
                    raise RuntimeError(f"replica {replica.replica_id} of {deployment}: {said[-500:]}")
                answered.add(replica.replica_id)
    return answered


async def ask_servers(found: list[dict[str, Any]], model: str) -> dict[str, list[str]]:
    """Have every plain server complete one request; those of decode one whose prompt a prefill server has computed.

    Args:
        found: of `bare_servers.replicas`: role, replica_id, url and runs.

    Returns:
        Names of the servers that answered, by role; all of them.

    Raises:
        ServerError: one was answered with an error.
    """
    running = [state for state in found if state["runs"] and state["role"] != "ingress"]
    prefill = [state for state in running if state["role"] == "prefill"]
    answered: dict[str, list[str]] = {}
    for number, server in enumerate(running):
        prompt, more = random_prompt(random.Random(time.time_ns()), PROMPT_TOKENS), {}
        if server["role"] == "decode":
            if not prefill:
                raise ServerError("no prefill server runs")
            # As a proxy of NixlConnector does: https://docs.vllm.ai/en/latest/features/nixl_connector_usage/
            computed = await _complete(prefill[number % len(prefill)], model, prompt, 1, {"kv_transfer_params": REMOTE_DECODE})
            more = {"kv_transfer_params": computed["kv_transfer_params"]}
        await _complete(server, model, prompt, NEW_TOKENS, more)
        answered.setdefault(server["role"], []).append(server["replica_id"])
    return answered


async def _complete(server: dict[str, Any], model: str, prompt: list[int], tokens: int, more: dict[str, Any]) -> Any:
    async with session(server["url"], REQUEST_LIMIT_S) as opened:
        return await post(opened, "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": tokens} | more)


def can_address_replicas() -> bool:
    """Return whether a request can be sent to one replica: from Ray 2.55 on."""
    from ray.serve.handle import DeploymentHandle

    return hasattr(DeploymentHandle, "choose_replica")


async def ask_router(base_url: str, model: str, replicas: int) -> int:
    """Send, where Ray cannot address one replica, many requests at once, of which the router gives some to each.

    Returns:
        How many requests were answered: all.

    Raises:
        ServerError: one was answered with an error.
    """
    number = REQUESTS_PER_REPLICA * replicas
    async with session(base_url, REQUEST_LIMIT_S) as opened:
        bodies = ({"model": model, "prompt": random_prompt(random.Random(), PROMPT_TOKENS), "max_tokens": NEW_TOKENS}
                  for _ in range(number))  # fmt: skip
        await asyncio.gather(*(post(opened, "/v1/completions", body) for body in bodies))
    return number


def gate(answered: dict[str, list[str]], counts: dict[str, int]) -> Gate:
    """Return gate `readiness`, of what `ask_each` returned."""
    seen = "; ".join(f"{name}: {', '.join(ids)}" for name, ids in answered.items())
    expected = "; ".join(f"{name}: {count}" for name, count in counts.items())
    passed = {name: len(ids) for name, ids in answered.items()} == counts
    return Gate(name="readiness", passed=passed, seen=seen, expected=f"{expected} replicas answer", time=now(),
                advice="read the log of the replica that is missing, then launch again")  # fmt: skip


def router_gate(requests: int, replicas: int) -> Gate:
    """Return gate `readiness`, of what `ask_router` returned."""
    seen = f"{requests} requests at once answered; which replica took which is not known"
    return Gate(name="readiness", passed=True, seen=seen, expected=f"all, over {replicas} replicas", time=now())

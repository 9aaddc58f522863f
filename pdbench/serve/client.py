"""Send OpenAI completions for checks, warm-up and the smoke test; measuring is `vllm bench serve`'s."""

import asyncio
import contextlib
import json
import logging
import math
import os
import random
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

CONNECT_TIMEOUT_S = 5.0
REQUEST_LIMIT_S = 600.0  # for one request; what takes longer hangs
# Ids that every vocabulary has: prompts are sent as ids, so that no tokenizer is needed here.
TOKEN_IDS = range(300, 1000)

# An interrupt may cut off a connection that aiohttp is opening: that it was not closed is no news then, as of a session it is.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Unclosed connection"))

# The variable from which vLLM's bench client takes the key that it sends.
KEY = "OPENAI_API_KEY"


class ServerError(RuntimeError):
    """The server cannot be reached or answered with an error; one line."""

    def __init__(self, text: str):
        super().__init__(without_key(text))


def without_key(text: str) -> str:
    """Return the text with the API key taken out: a server may repeat it, and what is printed may be recorded."""
    key = os.environ.get(KEY)
    return text.replace(key, f"<{KEY}>") if key and len(key) > 3 else text  # a shorter one is no secret, but part of words


def _bearer() -> dict[str, str]:
    """The header with the API key, as the bench client sends it; none where no key is set."""
    key = os.environ.get(KEY)
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ServerError(f"{KEY} is not a key: it holds a blank, a line's end or another character that no header may have")
    return {"Authorization": f"Bearer {key}"} if key else {}


@dataclass
class Completion:
    """One streamed answer: its text and when each piece came, in seconds since the request was sent."""

    text: str = ""
    times: list[float] = field(default_factory=list)

    @property
    def ttft_ms(self) -> float:
        return self.times[0] * 1e3

    @property
    def inter_token_ms(self) -> list[float]:
        """Times between pieces: tokens, where the server does not batch its stream."""
        return [(b - a) * 1e3 for a, b in zip(self.times, self.times[1:])]


def random_prompt(rng: random.Random, length: int) -> list[int]:
    """Return `length` random token ids."""
    return rng.choices(TOKEN_IDS, k=length)


def past_proxies(base_url: str) -> dict[str, str]:
    """Return variables with which a process that follows `http_proxy` reaches `base_url` directly, as this client does.

    Proxies stay as they are for what else such a process loads, as a tokenizer from the hub. Empty where none is in the way.
    """
    url = urlsplit(base_url)
    if url.scheme not in urllib.request.getproxies() or urllib.request.proxy_bypass(url.hostname or ""):
        return {}
    names = ("no_proxy", "NO_PROXY")
    spared = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return dict.fromkeys(names, ",".join(filter(None, (spared, url.hostname))))


@contextlib.asynccontextmanager
async def session(base_url: str, total_s: float | None = None):
    """Open an HTTP session that turns connection troubles into one-line ServerErrors, and sends the API key if one is set."""
    timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(f"{base_url.rstrip('/')}/", timeout=timeout, headers=_bearer()) as opened:
            yield opened
    except TimeoutError as error:
        limit = CONNECT_TIMEOUT_S if isinstance(error, aiohttp.ServerTimeoutError) else total_s
        raise ServerError(f"{base_url} did not answer within {limit:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise ServerError(f"no server answers at {base_url}: {error}") from None


async def post(opened: aiohttp.ClientSession, path: str, body: dict[str, Any] | list[Any]) -> Any:
    """POST JSON and return the answer's JSON.

    Raises:
        ServerError: the status is not 200.
    """
    async with opened.post(path.lstrip("/"), json=body) as response:  # behind the base URL's route prefix
        await _check(response)
        return await response.json()


async def get(opened: aiohttp.ClientSession, path: str) -> Any:
    """GET JSON; raises ServerError like `post`."""
    async with opened.get(path.lstrip("/")) as response:
        await _check(response)
        return await response.json()


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        text = " ".join((await response.text()).split())
        hint = f" (it wants a key: set {KEY})" if response.status == 401 and KEY not in os.environ else ""
        raise ServerError(f"{response.url} answered {response.status}: {without_key(text)[:300]}{hint}")


async def stream(opened: aiohttp.ClientSession, model: str, prompt: str | list[int], max_tokens: int) -> Completion:
    """Stream one greedy completion of exactly `max_tokens` tokens."""
    body = {
        "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
        "ignore_eos": True, "stream": True,
    }  # fmt: skip
    done, start = Completion(), time.perf_counter()
    async with opened.post("v1/completions", json=body) as response:
        await _check(response)
        async for line in response.content:
            data = line.decode().removeprefix("data: ").strip()
            if not data or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise ServerError(f"{response.url} answered with an error: {event['error']}")
            done.text += "".join(choice["text"] for choice in event["choices"])
            done.times.append(time.perf_counter() - start)
    if not done.times:
        raise ServerError(f"{response.url} sent no tokens")
    return done


async def first_model(opened: aiohttp.ClientSession) -> str:
    """Ask the served model's name, from /v1/models."""
    answer = await get(opened, "/v1/models")
    try:
        return answer["data"][0]["id"]
    except (LookupError, TypeError):
        raise ServerError("the server serves no model") from None


async def takes_requests(base_url: str) -> str:
    """Return where the deployment that describes itself at `base_url` takes requests; `base_url` where nothing is said."""
    async with session(base_url, total_s=30) as opened:
        try:
            return (await get(opened, "/pdbench/deployment")).get("serving_url") or base_url
        except ServerError:
            return base_url


async def smoke(base_url: str, model: str | None, max_tokens: int = 32, prompt_tokens: int = 64) -> tuple[str, Completion]:
    """Stream one completion; returns the model's name and the answer."""
    async with session(base_url, total_s=300) as opened:
        model = model or await first_model(opened)
        prompt = random_prompt(random.Random(time.time_ns()), prompt_tokens)
        return model, await stream(opened, model, prompt, max_tokens)


@dataclass
class Load:
    """Requests of one shape: `in_flight` at a time, of `isl` tokens in and `osl` out, with prompts drawn from `rng`."""

    base_url: str
    model: str
    isl: int
    osl: int
    in_flight: int
    rng: random.Random
    limit_s: float = REQUEST_LIMIT_S


async def warm_up(load: Load, staggered: bool = False) -> int:
    """Send `in_flight` requests at once; returns how many were sent.

    Args:
        staggered: of first answers of all lengths up to `osl`, each followed by a whole one, so that twice as many are sent.

    Raises:
        ServerError: one was answered with an error, or not within the load's limit.
    """
    ended = 0
    lengths = [[load.osl]] * load.in_flight
    if staggered:
        lengths = [[math.ceil(load.osl * (n + 1) / load.in_flight), load.osl] for n in range(load.in_flight)]

    async def one_after_the_other(opened: aiohttp.ClientSession, tokens: list[int]) -> None:
        nonlocal ended
        for osl in tokens:
            await stream(opened, load.model, random_prompt(load.rng, load.isl), osl)
            ended += 1

    sent = sum(map(len, lengths))
    async with session(load.base_url, total_s=load.limit_s) as opened:
        try:
            await asyncio.gather(*(one_after_the_other(opened, tokens) for tokens in lengths))
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):  # no connection
                raise
            raise ServerError(f"{ended} of {sent} requests ended, another one did not within {load.limit_s:g} s") from None
    return sent


def _print_smoke(model: str, done: Completion) -> None:
    gaps = sorted(done.inter_token_ms) or [0.0]
    print(f"{model}: {done.text!r}")
    p99 = gaps[min(len(gaps) - 1, round(0.99 * (len(gaps) - 1)))]
    print(f"TTFT {done.ttft_ms:.1f} ms, inter-token time mean {sum(gaps) / len(gaps):.2f} ms, p99 {p99:.2f} ms, "
          f"{len(done.times)} pieces")  # fmt: skip


def print_smoke(base_url: str, model: str | None) -> int:
    """Stream one completion and print it with its times; returns an exit status."""
    try:
        url = asyncio.run(takes_requests(base_url))
        _print_smoke(*asyncio.run(smoke(url, model)))
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

"""Ask a deployment for greedy tokens, and compare them with another's: PD must say what collocated says."""

import asyncio
import math
import random
import uuid
from pathlib import Path

from pdbench.files import first_line, read_json
from pdbench.manifest import Deployment, Gate, Strict, now
from pdbench.serve.client import REQUEST_LIMIT_S, ServerError, post, random_prompt, session

PROMPT_LENGTHS = (1, 2, 15, 16, 17, 63, 128, 250, 511, 512, 1000, 2047)
PROMPTS_PER_LENGTH = 3
NEW_TOKENS = 8
# Where the best two tokens are closer than this (nats), rounding may decide, since a prefill, a decode step
# and another TP size multiply matrices of other shapes; what follows is not compared. With the tiny model
# rounding moves that distance by up to 0.11 (tiny.py).
MARGIN = 0.15
MIN_DECIDED = 3
# On GPUs another batch multiplies with other kernels: this share of the leading tokens agrees, and where they part,
# the expected token is that close (nats) to the chosen one.
AGREEMENT, MAX_GAP = 0.95, 0.5
MAX_DRAWS = 300  # with the depth of gpt-oss, one random prompt in 5 to 24 is decided for so long
OTHER_CACHE = "the KV cache that arrives is not the one that was computed: see vLLM's issues on this pair of TP sizes"


class Tokens(Strict):
    """Greedy continuations of one deployment: what another must repeat.

    Attributes:
        prompts, tokens: token ids; a continuation for each prompt, as far as the model is decided.
    """

    model: str
    checksum: str | None
    prompts: list[list[int]]
    tokens: list[list[int]]

    def some(self, number: int) -> "Tokens":
        """Return `number` of the prompts, at least 2, from the shortest to the longest."""
        rows = sorted({i * (len(self.prompts) - 1) // (number - 1) for i in range(number)})
        return self.model_copy(update={name: [getattr(self, name)[i] for i in rows] for name in ("prompts", "tokens")})

    @property
    def lengths(self) -> list[int]:
        return list(map(len, self.prompts))


def read_tokens(path: Path, deployment: Deployment) -> Tokens:
    """Read what `save` wrote.

    Raises:
        ServerError: it is of another model than `deployment`'s.
        ValueError: it cannot be read.
    """
    try:
        saved = Tokens.model_validate(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {first_line(error).removeprefix(f'{path}: ')}") from error
    if (deployment.model_id, deployment.model_checksum) != (saved.model, saved.checksum):
        raise ServerError(f"{path} holds tokens of another model than the one that runs")
    return saved


async def decided_prompts(base_url: str, model: str, seed: int, longest: int, report) -> tuple[list, list]:
    """Find prompts, and the greedy tokens on which the model is decided: what another arm must repeat exactly.

    A few dozen prompts with lengths around block boundaries, within the sliding window and far beyond
    it. A prompt on which the model wavers before `MIN_DECIDED` tokens is drawn again.

    Raises:
        ServerError: the model wavers on all prompts of a length.
    """
    rng = random.Random(seed)
    prompts, tokens = [], []
    lengths = [n for n in PROMPT_LENGTHS if n <= longest for _ in range(PROMPTS_PER_LENGTH)]
    async with session(base_url, REQUEST_LIMIT_S) as opened:
        for length in lengths:
            for _ in range(MAX_DRAWS):
                prompt = random_prompt(rng, length)
                continuation = _decided(await _greedy(opened, model, prompt))
                if len(continuation) >= MIN_DECIDED:
                    break
            else:
                raise ServerError(f"the model is undecided on {MAX_DRAWS} prompts of {length} tokens: nothing to compare")
            prompts.append(prompt)
            tokens.append(continuation)
            report(len(prompts), len(lengths))
    return prompts, tokens


async def greedy_choices(base_url: str, model: str, prompts: list[list[int]], lengths: list[int], report) -> list[dict]:
    """Ask for greedy continuations of `lengths` tokens, one after another: another batch could round differently.

    Returns:
        The answers' choices, each with `token_ids` and `logprobs`.
    """
    found = []
    async with session(base_url, REQUEST_LIMIT_S) as opened:
        for prompt, length in zip(prompts, lengths, strict=True):
            found.append(await _greedy(opened, model, prompt, length))
            report(len(found), len(prompts))
    return found


async def choices_at_once(base_url: str, model: str, prompts: list[list[int]], lengths: list[int]) -> list[dict]:
    """As `greedy_choices`, all in one batch."""
    async with session(base_url, REQUEST_LIMIT_S) as opened:
        asked = (_greedy(opened, model, prompt, length) for prompt, length in zip(prompts, lengths, strict=True))
        return await asyncio.gather(*asked)


async def _greedy(opened, model: str, prompt: list[int], length: int = NEW_TOKENS) -> dict:
    body = {
        "model": model, "prompt": prompt, "max_tokens": length, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True, "logprobs": 2, "return_tokens_as_token_ids": True,
        # A salt of its own keeps an earlier check's prefix cache from standing in for the transfer.
        "cache_salt": uuid.uuid4().hex,
    }  # fmt: skip
    return (await post(opened, "/v1/completions", body))["choices"][0]


def _decided(choice: dict) -> list[int]:
    """The leading tokens of a continuation that beat the second best by `MARGIN`."""
    decided = []
    for token, best in zip(choice["token_ids"], choice["logprobs"]["top_logprobs"], strict=True):
        # Tokens of the same text, such as halves of a character, share a key: then nobody knows the margin.
        first, second = (*sorted(best.values(), reverse=True), None)[:2]
        if second is None or first - second < MARGIN:
            break
        decided.append(token)
    return decided


def compare(prompts: list[list[int]], expected: list[list[int]], got: list[list[int]]) -> Gate:
    """Return gate `token-equality`: every continuation equal, token for token, as far as `expected` goes."""
    wrong = [i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b[: len(a)]]
    seen = f"{len(got) - len(wrong)} of {len(got)} continuations equal, {sum(map(len, expected))} tokens compared"
    if wrong:
        i = wrong[0]
        a, b = expected[i], got[i][: len(expected[i])]
        at = next(k for k in range(len(a)) if a[k : k + 1] != b[k : k + 1])
        seen += f"; prompt {i} ({len(prompts[i])} tokens) differs from token {at} on: {b} instead of {a}"
    passed = bool(expected) and all(expected) and not wrong  # nothing compared proves nothing
    return Gate(name="token-equality", passed=passed, seen=seen, expected="all equal to the collocated arm", time=now(),
                advice=OTHER_CACHE)  # fmt: skip


def agree(expected: list[list[int]], choices: list[dict]) -> Gate:
    """Return gate `token-agreement`, for GPUs: the leading tokens agree, and where they part, by little."""
    lead = [next((k for k, token in enumerate(a) if token != c["token_ids"][k]), len(a))
            for a, c in zip(expected, choices, strict=True)]  # fmt: skip
    gaps = [_gap(c, k, a[k]) for a, c, k in zip(expected, choices, lead, strict=True) if k < len(a)]
    asked = sum(map(len, expected))
    share, widest = (sum(lead) / asked if asked else 0.0), max(gaps, default=0.0)
    return Gate(
        name="token-agreement", passed=share >= AGREEMENT and widest <= MAX_GAP, value=share, time=now(),
        seen=f"{share:.1%} of {asked} leading tokens agree; at {len(gaps)} divergences the expected token is at most "
             f"{widest:.2f} nats behind",
        expected=f"at least {AGREEMENT:.0%}, at most {MAX_GAP} nats",
        advice=OTHER_CACHE,
    )  # fmt: skip


def _gap(choice: dict, at: int, expected: int) -> float:
    """How far the expected token is behind the chosen one, in nats; infinite if it is not the second best."""
    best = choice["logprobs"]["top_logprobs"][at]
    chosen = best.get(f"token_id:{choice['token_ids'][at]}", math.inf)
    return chosen - best.get(f"token_id:{expected}", -math.inf)


def varied(continuations: list[list[int]]) -> bool:
    """Return whether continuations can distinguish a right KV cache from a wrong one: they differ, and are not one token."""
    distinct = {tuple(c) for c in continuations}
    return len(distinct) > 0.9 * len(continuations) and sum(len(set(c)) > 1 for c in distinct) > 0.9 * len(distinct)

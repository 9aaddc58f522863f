"""Count the tokens of an engine of a pool: sums since its start, and what is under way. What they are for: ratio/policy.py."""

import contextlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from pdbench.ratio.policy import SUMS

CHARACTERS = 4.0  # of a token, until a prompt that came as text has been computed
# What is expected of an answer of unknown length: the mean of so many that have ended; before the first, so many tokens.
REMEMBERED = 100
EXPECTED = 256.0
USAGE = re.compile(r'"usage":\{[^}]*"completion_tokens":(\d+)')


class Answer:
    """An answer that is under way; `count` takes the tokens of each piece."""

    def __init__(self, expected: float, count: Callable[["Answer", int], None]) -> None:
        self.expected, self.come, self._count = expected, 0, count

    def take(self, pieces: Any) -> None:
        """Count the tokens of what an engine yields: a piece of a stream or a list of them, or a whole response.

        A piece counts as one token, until the stream's last says how many there were (`include_usage`).
        """
        for piece in pieces if isinstance(pieces, list) else [pieces]:
            if not isinstance(piece, str):
                usage = getattr(piece, "usage", None)
                self._count(self, usage.completion_tokens - self.come if usage else 0)
            elif match := USAGE.search(piece):
                self._count(self, int(match[1]) - self.come)
            else:
                self._count(self, piece.count("data: {"))


class Work:
    """The tokens of one engine, as `policy.Report` has them.

    A prompt that comes as text is counted by its characters until it is computed; how many a token has is learned from others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sums = dict.fromkeys(SUMS, 0.0)
        self._waiting: dict[object, float] = {}
        self._answers: set[Answer] = set()
        self._decoding, self._summed_until = 0, clock()  # requests that have their first token; s, of their time
        self._busy_since, self._characters = 0.0, CHARACTERS
        self._lengths: deque[int] = deque(maxlen=REMEMBERED)

    @contextlib.contextmanager
    def prefill(self, prompt: Any) -> Iterator[Callable[[int], None]]:
        """Count a prompt while it is computed; yields what takes its number of tokens at the end, without which it was not.

        Args:
            prompt: text, token ids, or the messages of a chat.
        """
        size = _size(prompt)
        expected = size if _is_ids(prompt) else size / self._characters

        def computed(tokens: int) -> None:
            self._sums["prefilled"] += tokens
            if tokens and not _is_ids(prompt):
                self._characters = size / tokens

        self._sums["prompt_asked"] += expected
        if not self._waiting:
            self._busy_since = self._clock()
        key = object()
        self._waiting[key] = expected
        try:
            yield computed
        finally:
            del self._waiting[key]
            if not self._waiting:
                self._sums["prefill_busy_s"] += self._clock() - self._busy_since

    @contextlib.contextmanager
    def answer(self, most: int | None) -> Iterator[Answer]:
        """Count an answer from its request on; `most` is the number of tokens asked for."""
        one = Answer(float(most) if most else self._expected(), self._count)
        self._sums["output_asked"] += one.expected
        self._answers.add(one)
        try:
            yield one
        finally:
            self._pass_time()
            self._answers.discard(one)
            if one.come:
                self._decoding -= 1
                self._lengths.append(one.come)

    def _count(self, answer: Answer, tokens: int) -> None:
        """Count tokens of an answer: how long its first took says nothing of decode steps, nor what comes with it."""
        self._pass_time()
        if answer.come:
            self._sums["decoded"] += max(tokens, 0)
        elif tokens > 0:
            self._decoding += 1
        answer.come += max(tokens, 0)

    def _pass_time(self) -> None:
        now = self._clock()
        if self._decoding:
            self._sums["decode_busy_s"] += now - self._summed_until
            self._sums["decode_batch_s"] += self._decoding * (now - self._summed_until)
        self._summed_until = now

    def _expected(self) -> float:
        return sum(self._lengths) / len(self._lengths) if self._lengths else EXPECTED

    def report(self) -> dict[str, float]:
        """Return the fields of `policy.Report` apart from engine and role."""
        self._pass_time()
        now = self._summed_until
        sums = self._sums | {"time_s": now}
        if self._waiting:
            sums["prefill_busy_s"] += now - self._busy_since
        return sums | {
            "waiting": sum(self._waiting.values()),
            "to_come": float(sum(max(one.expected - one.come, 0.0) for one in self._answers)),
        }


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)


def _size(prompt: Any) -> float:
    """Tokens of ids; characters of all else: text, several of it, or the contents of messages."""
    if isinstance(prompt, list) and not _is_ids(prompt):
        return sum(_size(part.get("content") if isinstance(part, dict) else part) for part in prompt)
    return float(len(prompt or ()))

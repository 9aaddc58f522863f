"""End a command by SIGINT and SIGTERM alike, wherever it was started.

A shell without job control, as every shell script is, has what it starts with `&` ignore SIGINT. Children inherit that, Python
then installs no handler of its own, and bash cannot trap the signal.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 130  # as shells report a command that SIGINT ended


def interruptible() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM; programs started from now on have their default actions again."""
    for number in SIGNALS:
        # execve(2) gives a handled signal its default action back, but leaves an ignored one ignored.
        signal.signal(number, signal.default_int_handler)


def run(main: Callable[[], int | None], name: str) -> int | None:
    """Run a script's `main` and return its status; when a signal ends it, say so in one line that begins with `name`."""
    interruptible()
    try:
        return main()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return STATUS


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers back that the body replaces, as ray.init() does: with its own, SIGTERM exits without a word."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

"""End a command by SIGINT and SIGTERM alike, wherever it was started.

A shell without job control, as every shell script is, has what it starts with `&` ignore SIGINT. Children inherit that, Python
then installs no handler of its own, and bash cannot trap the signal.
"""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 130  # as shells report a command that SIGINT ended
UNREAD = 141  # and one that SIGPIPE did


def interruptible() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM; programs started from now on have their default actions again."""
    for number in SIGNALS:
        # execve(2) gives a handled signal its default action back, but leaves an ignored one ignored.
        signal.signal(number, signal.default_int_handler)


def run(main: Callable[[], int | None], name: str) -> int | None:
    """Run a script's `main` and return its status; when a signal ends it, say so in one line that begins with `name`.

    Where nobody reads its output any more, as after `| head`, it ends without a word.
    """
    interruptible()
    try:
        status = main()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return STATUS
    except BrokenPipeError:
        if not _is_unread():
            raise  # another pipe
        return UNREAD


def _is_unread() -> bool:
    """Whether the reader of our output is gone; then what is left of it goes nowhere."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers back that the body replaces, as ray.init() does: with its own, SIGTERM exits without a word."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

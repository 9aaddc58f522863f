"""End a command by SIGINT and SIGTERM alike, wherever it was started.

A shell without job control, as every shell script is, has what it starts with `&` ignore SIGINT. Children inherit that, Python
then installs no handler of its own, and bash cannot trap the signal.
"""

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 130  # as shells report a command that SIGINT ended
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNREAD = 141  # and one that SIGPIPE did


def interruptible() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM; programs started from now on have their default actions again."""
    for number in SIGNALS:
        # execve(2) gives a handled signal its default action back, but leaves an ignored one ignored.
        signal.signal(number, signal.default_int_handler)


def run(main: Callable[[], int | None], name: str) -> int | None:
    """Run a script's `main` and return its status; when a signal ends it, say so in one line that begins with `name`.

    Where nobody reads its output any more, as after `| head`, it ends without a word; where there is no room for it, in a line.
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
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"{name}: error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        _write_nowhere()
        return 2


def _is_unread() -> bool:
    """Whether the reader of our output is gone; then what is left of it goes nowhere."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    _write_nowhere()
    return True


def _write_nowhere() -> None:
    """Let what is left of our output go nowhere: Python writes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers back that the body replaces, as ray.init() does: with its own, SIGTERM exits without a word."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

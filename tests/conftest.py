"""What all tests need: pytest reacts to signals wherever it was started, and so does what it starts."""

from pdbench.interrupts import interruptible


def pytest_configure():
    # Else bash, which cannot trap a signal that it was started to ignore, would not end as it does in a terminal; and SIGTERM
    # would end pytest without its fixtures' teardown.
    interruptible()

"""Parse command lines; report bad input in one line."""

import argparse
import math
from typing import NoReturn

# A line of launch_gptoss.py that run_experiment.py reads: from the start of the engines until they run.
ENGINES_LOADED = "engines loaded in {} s"


class Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line, without the usage in front; exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole(text: str) -> int:
    """Parse a whole number from 0 on."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> int:
    """Parse a whole number from 1 on."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def port(text: str) -> int:
    """Parse a TCP port."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 1 to 65535")
    return int(text)


def seconds(text: str) -> float:
    """Parse a time limit."""
    return _above_zero(text, "a number of seconds above 0")


def above_zero(text: str) -> float:
    """Parse a number above 0."""
    return _above_zero(text, "a number above 0")


def _above_zero(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def not_empty(text: str) -> str:
    """Parse a text that is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: leave the option out, or name something")
    return text


def variable(text: str) -> tuple[str, str]:
    """Parse an environment variable, `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value

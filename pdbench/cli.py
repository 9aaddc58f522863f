"""Parse command lines; report bad input in one line."""

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000"
ENDPOINT = re.compile(r"/v1(/(completions|chat/completions|models))?$")
# A line of launch_gptoss.py that run_experiment.py reads: from the start of the engines until they run.
ENGINES_LOADED = "engines loaded in {} s"
# What a terminal or a browser obeys instead of showing it: control characters but for tab and newline, marks that turn the
# direction of text around, line separators; and halves of characters, which are no UTF-8.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Ends the names of variables and options whose values are keys.
_KEY = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Return whether a variable or option of this name may hold a key: such values are written nowhere."""
    return bool(_KEY.search(name))


class Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line, without the usage in front; exits with 2."""

    def error(self, message: str) -> NoReturn:
        line = visible(message).replace("\n", "\\n")
        self.exit(2, f"{self.prog}: error: {line}\n")


def visible(text: str) -> str:
    """Return a text with its control characters as escapes, such as \\x1b, so that no name of a folder steers a terminal."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Visible:
    """A stream that writes what it is given made visible; `stream` is what it writes to."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(visible(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Make visible what the body prints."""
    with contextlib.redirect_stdout(_Visible(sys.stdout)):
        yield


def note(message: str) -> None:
    """Print one line on standard error."""
    print(visible(message).replace("\n", "\\n"), file=sys.stderr)


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
    if is_secret(name):  # the text is not repeated
        raise argparse.ArgumentTypeError(
            f"{name} would be recorded with the results: set it on the nodes before Ray starts there"
        )
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def base_url(text: str) -> str:
    """Parse the URL of a deployment: `http://HOST:PORT`, with a route prefix behind it where there is one.

    What clients add to it is taken off, since that is how other tools take such a URL: `/v1`, `/v1/completions`, slashes.
    """
    if "@" in text:  # the text would be recorded with the results
        raise argparse.ArgumentTypeError("a URL with a user or a password is not taken: a key goes in OPENAI_API_KEY")
    try:
        url = urlsplit(text)
        host, number = url.hostname, url.port
    except ValueError as error:  # such as a port out of range
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL: {error}; write {DEFAULT_URL}") from None
    if url.scheme not in ("http", "https") or not host or re.search(r"\s", text) or url.query or url.fragment or number == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a base URL: write {_as_base_url(text)}")
    return f"{url.scheme}://{url.netloc}{_prefix(url.path)}"


def _prefix(path: str) -> str:
    return ENDPOINT.sub("", path.rstrip("/")).rstrip("/")


def _as_base_url(text: str) -> str:
    """The URL that was probably meant."""
    words = re.sub(r"^\w+:/+|^/+", "", text.strip()).split("#")[0].split("?")[0]
    secure = "https" if text.startswith("https:") else "http"
    try:
        url = urlsplit(f"{secure}://{words}")
        if url.hostname and url.port != 0 and re.fullmatch(r"[\w.:\[\]-]+", url.netloc):
            return f"{secure}://{url.netloc}{_prefix(url.path)}"
    except ValueError:
        pass
    return DEFAULT_URL


def add_base_url(parser: argparse.ArgumentParser, *short: str) -> None:
    """Add the option `--base-url`, and its `short` form, to a parser."""
    parser.add_argument(*short, "--base-url", type=base_url, default=DEFAULT_URL, metavar="URL",
                        help=f"of the deployment, with its route prefix if it has one (default: {DEFAULT_URL})")  # fmt: skip

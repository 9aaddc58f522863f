"""The part of the packaging that pyproject.toml cannot hold: dependencies, read from the requirements files, so that each
version is pinned in one place. setuptools can read such files itself, but not the constraints (-c) that they name."""

from pathlib import Path

from setuptools import setup

EXTRAS = {"serve": "requirements.txt", "test": "requirements-test.txt", "dev": "requirements-test.txt"}


def read(name: str) -> list[str]:
    """Return the requirements of a file, without comments and options."""
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


setup(
    install_requires=read("requirements-viz.txt"),
    extras_require={extra: read(name) for extra, name in EXTRAS.items()},
)

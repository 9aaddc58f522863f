"""A real cluster of a head and two workers on loopback, for all end-to-end tests."""

from pathlib import Path

import pytest

from tests.helpers.commands import launch, module, stop


@pytest.fixture(scope="session")
def local_cluster():
    """One cluster for all tests; fails if one runs in this checkout already."""
    module("local_cluster", "start", "--workers", "2")
    yield
    module("local_cluster", "stop")


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def tokens(local_cluster, shared) -> Path:
    """The collocated arm's greedy tokens: saved by test_1_collocated.py, or else from an arm that is launched for them."""
    path = shared / "tokens.json"
    if not path.exists():
        try:
            launch("--collocated")
            module("gates", "--save", str(path))
        finally:
            launch("--stop")
    return path


@pytest.fixture
def deployed(local_cluster):
    """Launch with `deployed(...)`; whatever the test leaves running is stopped."""
    yield launch
    stop()

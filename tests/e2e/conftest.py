"""A real cluster of a head and two workers on loopback, for all end-to-end tests."""

from pathlib import Path

import pytest

from tests.helpers.commands import launch, module


@pytest.fixture(scope="session")
def local_cluster():
    """One cluster for all tests; fails if one runs in this checkout already."""
    module("local_cluster", "start", "--workers", "2")
    yield
    module("local_cluster", "stop")


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def tokens(shared) -> Path:
    """The collocated arm's greedy tokens."""
    if not (shared / "tokens.json").exists():
        pytest.fail("the collocated tokens are missing: run the e2e tests together, test_1_collocated.py saves them")
    return shared / "tokens.json"


@pytest.fixture
def deployed(local_cluster):
    """Launch with `deployed(...)`; whatever the test leaves running is stopped."""
    yield launch
    launch("--stop")

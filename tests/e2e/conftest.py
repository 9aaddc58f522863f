"""A real cluster of a head and two workers on loopback, for all end-to-end tests."""

from pathlib import Path

import pytest
from commands import launch, module


@pytest.fixture(scope="session")
def local_cluster():
    """One cluster for all tests; fails if one runs in this checkout already."""
    # Every check around a level waits until Ray has exported what it did. Its default, every 10 s, is kept where speed is
    # measured: on two cores, exporting every second takes a quarter of the throughput behind Ray Serve.
    module("local_cluster", "start", "--workers", "2", RAY_metrics_report_interval_ms="2000")
    yield
    module("local_cluster", "stop")


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def deployed(local_cluster):
    """Launch with `deployed(...)`; whatever the test leaves running is stopped."""
    yield launch
    launch("--stop")

"""What tests with a server share beside the server: a sweep of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dynamicdet.datasets.truth import read_objects
from dyndet_bench.sweep.sweep import sweep
from dyndet_builder.server.triton import TritonServer
from tests.support.sweeps import PLAN, Swept


@pytest.fixture(scope="session")
def sweep_again(
    server: TritonServer, demo_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Swept]:
    """Sweeps both routes of the shared server: one request at a time, three at a time, and at a rate."""

    def measured() -> Swept:
        folder = tmp_path_factory.mktemp("swept") / "out"
        truth = read_objects(demo_images.parent)
        return Swept(sweep(server.grpc_url, folder, images=demo_images, plan=PLAN, truth=truth), folder)

    return measured


@pytest.fixture(scope="session")
def swept(sweep_again: Callable[[], Swept]) -> Swept:
    """A sweep for all tests that look at one."""
    return sweep_again()

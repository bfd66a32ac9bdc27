"""A detector that is one graph, on the real server: the embedded one runs its file in the Python backend."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dyndet_bench.measuring.interleaved import measure_interleaved
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import measure
from dyndet_bench.measuring.open_loop import measure_open_loop
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.workload import Workload
from dyndet_builder.operating_points import OperatingPoint, OperatingPoints
from dyndet_builder.repository.config_files import publish_points
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.triton import TritonServer
from dyndet_client import AsyncDetector, Detector
from dyndet_client.errors import UnknownOperatingPointError
from tests.support.toy_bundle import NAN, image, write_toy_bundle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("graph")
    models = render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions(topology="graph"))
    points = {"fast": OperatingPoint(threshold=0.75, target="12ms"), "50%": OperatingPoint(threshold=0.25)}
    publish_points(models, "toy", OperatingPoints(default="fast", points=points))
    with TritonServer(models) as running:
        yield running


def test_clients_look_up_operating_points_themselves(server: TritonServer) -> None:
    half, undecided = image(128, blue=200), image(NAN)
    for url in (server.grpc_url, f"http://{server.http_url}"):
        with Detector(url, "toy") as detector:
            points = detector.operating_points
            assert [(name, point.threshold, point.is_default) for name, point in points.items()] == [
                ("fast", 0.75, True),
                ("50%", 0.25, False),
            ]
            assert (points["fast"].target, detector.default_threshold) == ("12ms", 0.75)
            assert detector.detect(half).route == "easy"
            assert detector.detect(half, operating_point="50%").route == "hard"
            assert detector.detect(half, threshold=0.6).route == "easy"
            assert detector.detect(undecided, threshold=1).route == "hard"
            with pytest.raises(UnknownOperatingPointError, match="'50%' and 'fast'"):
                detector.detect(half, operating_point="slow")

    async def routes() -> tuple[str, float]:
        async with AsyncDetector(server.grpc_url, "toy") as detector:
            return (await detector.detect(half, operating_point="50%")).route, await detector.default_threshold

    assert asyncio.run(routes()) == ("hard", 0.75)


def test_measurements_count_routes_by_the_output(server: TritonServer) -> None:
    """Run by run, request by request, and in an open loop; without a threshold the default point is sent."""
    images = [image(30 * number, seed=number) for number in range(8)]  # two exceed 0.75, five 0.33
    with Served(server.grpc_url, "toy") as served, Workload(images) as workload:
        tool: Any = find_perf_analyzer()
        run = measure(served, tool, workload, threshold=None, requests=16)
        assert (run.counts.total, run.counts.hard) == (17, 2)
        assert (run.times.requests, run.times.compute_ms > 0) == (17, True)
        difficulties = served.difficulties(images)
        easy, hard = measure_interleaved(served, tool, workload, difficulties, [1.0, 0.33], requests=8)
        assert (easy.counts.hard, hard.counts.hard) == (0, 5)
        found = measure_open_loop(served, images, load=Load(request_rate=50), threshold=0.33, requests=16)
        assert (found.counts.total, found.counts.hard) == (16, 10)
        assert np.array_equal(served.hard_images(workload, 0.33), difficulties > 0.33)

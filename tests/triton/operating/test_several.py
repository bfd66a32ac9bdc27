"""Several detectors on one server, and a server that polls: what is loaded, when, and whether a request is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dynamicdet.files import whole_file
from dyndet_builder.operating_points import points_file, uncalibrated
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from dyndet_client.detector import Detector
from tests.support.toy_bundle import image, write_toy_bundle

_POLL_S = 1
_DETECTORS = ("split", "whole")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a detector of each topology."""
    bundle = write_toy_bundle(tmp_path / "bundle")
    for name, topology in zip(_DETECTORS, ("bls", "fused"), strict=True):
        options = RenderOptions(name=name, topology=topology, bls_instances=1, threads=1)  # type: ignore[arg-type]
        render(bundle, tmp_path / "models", options, add=True)
    return tmp_path / "models"


@contextmanager
def _requests(url: str) -> Iterator[list[str]]:
    """Requests to both detectors all the time; the routes that they took. An error ends the test."""
    routes: list[str] = []
    errors: list[Exception] = []
    ended = threading.Event()

    def ask(model: str) -> None:
        try:
            with Detector(url, model, timeout=30) as detector:
                while not ended.wait(0.02):
                    routes.append(f"{model} {detector.detect(image(red=140)).route}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(model,)) for model in _DETECTORS]
    for thread in threads:
        thread.start()
    try:
        yield routes
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not errors


def _loads(log: Path) -> list[str]:
    return [line.split("loaded '")[1].split("'")[0] for line in log.read_text().splitlines() if "ly loaded '" in line]


def _wait_for(loaded: int, log: Path) -> None:
    """Wait for so many loads, and for two more polls, which can load too much."""
    end = time.monotonic() + 60
    while len(_loads(log)) < loaded and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2 * _POLL_S)


def test_a_server_that_polls_loads_a_model_again_for_a_change_alone(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    polling = (f"--repository-poll-secs={_POLL_S}",)
    options = ServerOptions(model_control="poll", log_file=log, extra_arguments=polling)
    with TritonServer(repository, options) as server, _requests(server.grpc_url) as routes:
        assert server.detectors == _DETECTORS
        time.sleep(3 * _POLL_S)
        first = _loads(log)
        assert sorted(first) == ["split", "split_backbone1", "split_detector2", "split_head1", "whole"]
        assert set(routes) == {"split hard", "whole hard"}
        for name in _DETECTORS:  # as a calibration does
            with whole_file(points_file(repository, name)) as file:
                file.write_text(uncalibrated(0.9).model_dump_json())
        _wait_for(len(first) + 2, log)
        assert sorted(_loads(log)[len(first) :]) == ["split", "whole"]  # without the stages, and once
        del routes[:]
        time.sleep(0.5)
        assert set(routes) == {"split easy", "whole easy"}
    assert not [path for path in repository.rglob("__pycache__") if path.is_dir()]

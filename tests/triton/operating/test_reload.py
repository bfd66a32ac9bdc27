"""Models that are loaded again while requests arrive: no request is lost or counted twice, whatever the topology."""

from __future__ import annotations

import queue
import re
import shutil
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from tests.support.picture_files import encode
from tests.support.toy_bundle import image, write_toy_bundle

_DETECTORS = ("split", "whole")
"""of topology bls and fused"""
_PUBLIC = (*_DETECTORS, *(f"{name}_encoded" for name in _DETECTORS))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, Path]]:
    """Both topologies, with their variants for image files, on one server in explicit mode."""
    folder = tmp_path_factory.mktemp("reload")
    bundle, models = write_toy_bundle(folder / "bundle"), folder / "models"
    for name, topology in zip(_DETECTORS, ("bls", "fused"), strict=True):
        options = RenderOptions(name=name, topology=topology, encoded=True, bls_instances=1, threads=1)  # type: ignore[arg-type]
        shutil.copytree(render(bundle, folder / name, options), models, dirs_exist_ok=True)
    with TritonServer(models, ServerOptions(model_control="explicit", warm_up=False)) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        for config in sorted(models.glob("*/config.pbtxt"), key=lambda path: path.parent.name in _DETECTORS):
            client.load_model(config.parent.name)
        client.close()
        yield server, models


def _ask(client: triton.InferenceServerClient, model: str) -> None:
    picture = image(red=10)
    if model in _DETECTORS:
        given = triton.InferInput("image", [1, *picture.shape], "UINT8")
        given.set_data_from_numpy(picture[None])
    else:
        given = triton.InferInput("image_bytes", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[encode(picture)]], object))
    client.infer(model, [given], client_timeout=30)


@contextmanager
def _asked_all_the_time(url: str) -> Iterator[Counter[str]]:
    """One client of each public model; counts answers by detector, and errors by their text."""
    results: Counter[str] = Counter()
    ended = threading.Event()

    def ask(model: str) -> None:
        with triton.InferenceServerClient(url) as client:
            while not ended.wait(0.002):
                try:
                    _ask(client, model)
                    results[model.removesuffix("_encoded")] += 1
                except InferenceServerException as error:
                    results[f"{model}: {error}"] += 1

    threads = [threading.Thread(target=ask, args=(model,)) for model in _PUBLIC]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _counted(server: TritonServer) -> Counter[str]:
    """Images that each detector answered, by its own counter."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    found = re.findall(r'^dyndet_routed_total{.*model="(\w+)".*} (\d+)', text, re.MULTILINE)
    counted: Counter[str] = Counter()
    for model, images in found:
        counted[model] += int(images)
    return counted


def _check_counted(server: TritonServer, expected: Counter[str]) -> None:
    """The counters reach what is expected; instances count a little later than they answer."""
    end = time.monotonic() + 10
    while (counted := _counted(server)) != expected and time.monotonic() < end:
        time.sleep(0.1)
    assert counted == expected


def _load(server: TritonServer, models: Path, name: str) -> None:
    """Load a model again; without a change Triton would leave it as it is."""
    (models / name / "1" / "model.py").touch()
    before = _loads(server, name)
    with triton.InferenceServerClient(server.grpc_url) as client:
        client.load_model(name, client_timeout=60)
    assert _loads(server, name) == before + 1


def _loads(server: TritonServer, name: str) -> int:
    return server.log_file.read_text().count(f"successfully loaded '{name}'")


def test_reloading_in_place_loses_no_request_and_counts_each_once(server: tuple[TritonServer, Path]) -> None:
    triton_server, models = server
    before = _counted(triton_server)
    with _asked_all_the_time(triton_server.grpc_url) as results:
        for name in _PUBLIC:
            _load(triton_server, models, name)
    assert triton_server.running
    assert set(results) == set(_DETECTORS), results
    _check_counted(triton_server, before + results)


def test_a_reload_that_fails_leaves_the_loaded_detector_as_it_was(server: tuple[TritonServer, Path]) -> None:
    triton_server, models = server
    before, graph = _counted(triton_server), models / "whole" / "1" / "detector2.onnx"
    good = graph.read_bytes()
    with _asked_all_the_time(triton_server.grpc_url) as results:
        try:
            graph.write_bytes(good[: len(good) // 2])
            with pytest.raises(InferenceServerException, match="detector2"):
                _load(triton_server, models, "whole")
        finally:
            graph.write_bytes(good)
        _load(triton_server, models, "whole")
    assert set(results) == set(_DETECTORS), results
    _check_counted(triton_server, before + results)


def test_what_waits_in_the_queue_of_a_model_is_answered_while_it_is_loaded_again_or_unloaded(
    server: tuple[TritonServer, Path],
) -> None:
    triton_server, models = server
    before = _counted(triton_server)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    given = triton.InferInput("image", [8, *image(240).shape], "UINT8")
    given.set_data_from_numpy(np.stack([image(240)] * 8))

    def unload(name: str) -> None:
        with triton.InferenceServerClient(triton_server.grpc_url) as admin:
            admin.unload_model(name)

    with triton.InferenceServerClient(triton_server.grpc_url) as client:
        for name in _DETECTORS:
            for change in (lambda name: _load(triton_server, models, name), unload):
                for _ in range(40):
                    client.async_infer(name, [given], callback=lambda result, error: ended.put(str(error)))
                assert client.is_server_live()  # its answer means that what was sent before has arrived
                assert ended.get(timeout=30) == "None"
                change(name)
                assert Counter(ended.get(timeout=30) for _ in range(39)) == {"None": 39}
            client.load_model(name)
    _check_counted(triton_server, before + Counter(dict.fromkeys(_DETECTORS, 2 * 40 * 8)))


def test_a_stop_answers_or_refuses_what_is_in_flight(server: tuple[TritonServer, Path]) -> None:
    """The last test here: the server is gone afterwards. UNAVAILABLE means: send it again to another server."""
    triton_server, _ = server
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    given = triton.InferInput("image", [8, *image(240).shape], "UINT8")
    given.set_data_from_numpy(np.stack([image(240)] * 8))
    with triton.InferenceServerClient(triton_server.grpc_url) as client:

        def ended_with(result: object, error: InferenceServerException | None) -> None:
            ended.put("answered" if error is None else f"{error.status()}: {error}")

        for _ in range(40):
            for name in _DETECTORS:
                client.async_infer(name, [given], callback=ended_with)
        first = ended.get(timeout=30)
        triton_server.stop()
        results = Counter([first, *(ended.get(timeout=30) for _ in range(79))])
    assert results["answered"] > 0
    assert all(text == "answered" or text.startswith("StatusCode.UNAVAILABLE") for text in results), results

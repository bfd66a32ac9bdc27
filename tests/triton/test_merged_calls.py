"""One image that fails harms no other that Triton has merged with it, whether or not a backend parts them itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dyndet_builder.repository.backends import BACKENDS, Backend
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.templates import TEMPLATES
from tests.support.rendered.metrics import metric
from tests.support.toy_bundle import FAIL_BACKBONE1, FAIL_DETECTOR2, image, write_toy_bundle

FALLBACK, HARD, FAILED = -2, 2, 0
_PARTS = "return [self._answer(request) for request in requests]"
_ROUNDS = 6


def _sharing_backend(folder: Path) -> Backend:
    """The python backend, without what parts merged requests: if one fails, all get its error, as with onnxruntime."""
    python = BACKENDS["python"]
    folder.mkdir()
    code = (python.template / "model.py").read_text()
    assert _PARTS in code
    error = 'pb_utils.InferenceResponse(error=pb_utils.TritonError("onnx runtime error 2: indices out of bounds"))'
    (folder / "model.py").write_text(code.replace(_PARTS, f"return [{error} for _ in requests]"))
    shutil.copy(python.template / "graph.py", folder)
    (folder / "config.pbtxt.jinja").write_text((TEMPLATES / "stages/python/config.pbtxt.jinja").read_text())
    return Backend(triton="python", template=folder, files=python.files, parameters=python.parameters)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A detector on each kind of backend. Its stages wait for a batch of four, from both instances that call them."""
    folder = tmp_path_factory.mktemp("merged")
    bundle = write_toy_bundle(folder / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "sharing", _sharing_backend(folder / "sharing_backend"))
        for backend in ("sharing", "python"):
            options = RenderOptions(name=backend, backend=backend, preferred_batches=(4,), queue_delay_us=10_000)
            render(bundle, folder / backend, options)
    others = (f"--model-repository={folder / 'python'}",)
    with TritonServer(folder / "sharing", ServerOptions(extra_arguments=others)) as started:
        yield started


def _routes(client: triton.InferenceServerClient, model: str, images: Any) -> list[int]:
    """The route of each image of a request, at threshold 0; FAILED for all if the request gets an error."""
    given = triton.InferInput("image", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    threshold = triton.InferInput("threshold", [len(images), 1], "FP32")
    threshold.set_data_from_numpy(np.zeros((len(images), 1), np.float32))
    wanted = [triton.InferRequestedOutput(name) for name in ("route", "num_detections")]
    try:
        answer = client.infer(model, [given, threshold], outputs=wanted, client_timeout=30)
    except InferenceServerException as error:
        assert "dyndet/stage-failed: stage" in str(error.message())
        return [FAILED] * len(images)
    routes = [int(route) for route in answer.as_numpy("route").ravel()]
    assert [1 if route == FALLBACK else 2 for route in routes] == answer.as_numpy("num_detections").ravel().tolist()
    return routes


@pytest.mark.parametrize("model", ["sharing", "python"])
def test_one_failing_image_in_four_harms_no_other(server: TritonServer, model: str) -> None:
    failing = np.stack([image(90, green=FAIL_DETECTOR2 if number == 0 else 0, seed=number) for number in range(4)])
    broken = image(90, green=FAIL_BACKBONE1)[None]
    alone = [picture[None] for picture in failing]
    with triton.InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(4) as pool:

        def together(requests: list[Any]) -> list[list[int]]:
            return list(pool.map(lambda images: _routes(client, model, images), requests))

        for _ in range(_ROUNDS):  # in one request, and in four that both instances of the public model take
            assert _routes(client, model, failing) == [FALLBACK, HARD, HARD, HARD]
            assert together(alone) == [[FALLBACK], [HARD], [HARD], [HARD]]
            assert together([broken, *alone[1:]]) == [[FAILED], [HARD], [HARD], [HARD]]
        for stage in ("backbone1", "detector2"):
            found = client.get_inference_statistics(f"{model}_{stage}").model_stats[0]
            assert found.execution_count < 0.9 * found.inference_count, "nothing was merged; this test proved nothing"
    for stage, errors in (("detector2", 2), ("backbone1", 1)):  # calls that were repeated with success are no errors
        assert metric(server, "dyndet_stage_errors_total", model=model, stage=stage) == errors * _ROUNDS

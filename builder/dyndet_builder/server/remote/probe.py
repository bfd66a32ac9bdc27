"""Asks a detector that was just loaded for answers on both routes, before anybody depends on it."""

from __future__ import annotations

import io
import time

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import ServerError
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_builder.server.probe import PARAMETER
from dyndet_client.codec import MASKS, OUTPUTS, OUTPUTS_WITH_MASKS
from dyndet_client.results.masks import mask_values
from dyndet_client.transport import triton_client

_ROUTES = {ALL_EASY: 1, ALL_HARD: 2}
_ROUNDS = 3
_TIMEOUT_S = 60.0


def probe(url: str, model: str, *, metrics_url: str | None) -> float:
    """Warm both routes of a detector and check its answers; returns the slowest answer of the last round, seconds.

    Raises ServerError if it gives no answer, another route than the forced one, numbers that are not finite, or masks
    that are none although its configuration has them.
    """
    slowest = 0.0
    with Served(url, model, metrics_url=metrics_url) as served:
        picture = np.random.default_rng(0).integers(0, 256, served.detector.fit.shape, dtype=np.uint8)
        for _ in range(_ROUNDS):
            slowest = max(_ask(served, picture, threshold) for threshold in _ROUTES)
    return slowest


def probe_encoded(url: str, model: str) -> None:
    """Send one JPEG file to a model that takes image files. Raises ServerError if it gives no answer."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 150)).save(file, "JPEG")
    sent = triton.InferInput("image_bytes", [1, 1], "BYTES")
    sent.set_data_from_numpy(np.array([[file.getvalue()]], np.object_))
    with triton_client(url) as client:
        try:
            client.infer(model, [sent], parameters={PARAMETER: True}, client_timeout=_TIMEOUT_S)
        except InferenceServerException as error:
            reason = " ".join(str(error.message() or "no reason given").split())
            raise ServerError(f"model {model!r} at {url} does not answer a picture: {reason}") from error


def _ask(served: Served, picture: UInt8Array, threshold: float) -> float:
    started = time.perf_counter()
    outputs = OUTPUTS_WITH_MASKS if served.detector.has_masks else OUTPUTS
    answer = served.infer(picture, threshold=threshold, outputs=outputs, parameters={PARAMETER: True})
    passed = time.perf_counter() - started
    route, wanted = int(answer["route"].item()), _ROUTES[threshold]
    if route != wanted:
        raise ServerError(
            f"model {served.name!r} at {served.address} took route {route} where {wanted} was forced; the server's log "
            "says why"
        )
    for name in ("boxes", "scores", "difficulty"):
        if not np.isfinite(answer[name]).all():
            raise ServerError(f"model {served.name!r} at {served.address} answers with {name} that are not finite")
    if served.detector.has_masks:
        try:
            mask_values(answer[MASKS], rows=len(answer["boxes"]))
        except ValueError as error:
            raise ServerError(f"model {served.name!r} at {served.address} gives no proper masks: {error}") from error
    return passed

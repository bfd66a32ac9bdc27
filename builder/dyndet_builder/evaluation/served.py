"""A detector on a Triton server, as it is evaluated: two requests for each image."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import ServerError
from dynamicdet.letterbox import Fit
from dynamicdet.routing.routes import BatchAnswers, RouteResults, check_contract, collect
from dynamicdet.suppression import Detections
from dyndet_bench.measuring.counters import stage_models
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_client.codec import parse_model
from dyndet_client.detections import Detections as Answer
from dyndet_client.detector import Detector
from dyndet_client.errors import ModelNotReadyError
from dyndet_client.transport import GrpcTransport

_TIMEOUT_S = 60.0
_BATCH = 16
_REQUESTS_IN_FLIGHT = 4
_BUNDLE_SHA256 = "dyndet_bundle_sha256"
_OWN_IMAGE = "own_image"
"""input of a pair whose detectors fit images differently: an image file, fitted as detector 1 takes it"""


class ServedSource:
    """A detector on a Triton server; thresholds 1 and 0 force the routes. Raises InputError and ServerError."""

    def __init__(self, url: str, model: str) -> None:
        self.name, self.label = model, f"served detector {model} at {url}"
        self._url, self._model = url, model
        self._config = _config(url, model)
        served = parse_model(self._config)
        self.class_names, self.fit = served.class_names, served.fit
        inputs = {tensor.get("name") for tensor in self._config.get("input", ())}
        self.notes = notes_of(self.fit, has_own=_OWN_IMAGE in inputs)
        self.has_masks = any(tensor.get("name") == "masks" for tensor in self._config.get("output", ()))

    def identity(self) -> Mapping[str, str]:
        """The bundle of the rendering, the backends of the stages, and versions.

        Raises ServerError if the server does not name the bundle.
        """
        parameters = self._config.get("parameters", {})
        bundle = parameters.get(_BUNDLE_SHA256, {}).get("string_value")
        if not bundle:
            raise ServerError(
                f"model {self._model!r} at {self._url} does not name the bundle that it was rendered from (parameter "
                f"{_BUNDLE_SHA256}), so its detections cannot be stored; evaluate it with --no-cache"
            )
        with Served(self._url, self._model) as served:
            versions = served.versions()
        rendered_by = parameters.get("dyndet_version", {}).get("string_value", "")
        return {"served_bundle": bundle, "rendered_by": rendered_by, **versions, **self._backends()}

    def facts(self, data: CocoDataset) -> Mapping[str, str]:
        """What the server says of itself."""
        parameters = self._config.get("parameters", {})
        with Served(self._url, self._model) as served:
            versions = ", ".join(f"{name} {version}" for name, version in served.versions().items())
        found = {
            "served model": self._model,
            "input": str(self.fit),
            "SHA-256 of bundle.json": parameters.get(_BUNDLE_SHA256, {}).get("string_value", ""),
            "evaluated on": versions,
            "stages": ", ".join(f"{stage}: {backend}" for stage, backend in self._backends().items()),
        }
        return {what: value for what, value in found.items() if value}

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Send two requests per image, a few at a time. Raises ServerError if an image takes the other route."""
        check_contract("the served detector", self.class_names, self.fit, data)
        judged = self.has_masks and data.has_masks
        with (
            Detector(self._url, self._model, timeout=_TIMEOUT_S) as detector,
            ThreadPoolExecutor(_REQUESTS_IN_FLIGHT) as pool,
        ):

            def answer(images: slice) -> BatchAnswers:
                pairs = list(pool.map(lambda image: self._both(detector, image, masks=judged), data.images[images]))
                return BatchAnswers(
                    easy=[_as_tensors(easy) for easy, _ in pairs],
                    hard=[_as_tensors(hard) for _, hard in pairs],
                    difficulties=np.array([easy.difficulty for easy, _ in pairs]),
                )

            return collect(data, answer, batch=_BATCH, progress=progress)

    def _both(self, detector: Detector, image: UInt8Array, *, masks: bool) -> tuple[Answer, Answer]:
        """The answers of the easy and the hard route to a fitted image, boxes in pixels of that image."""
        easy = detector.detect(image, threshold=ALL_EASY, min_score=0.0, masks=masks)
        hard = detector.detect(image, threshold=ALL_HARD, min_score=0.0, masks=masks)
        for answer, forced in ((easy, "easy"), (hard, "hard")):
            if answer.route != forced:
                raise ServerError(
                    f"model {self._model!r} at {self._url} took the route {answer.route}, but {forced} was forced "
                    f"(difficulty {answer.difficulty}); the server's log says why"
                )
        return easy, hard

    def _backends(self) -> dict[str, str]:
        """The backend of each stage, if the stages are models of their own."""
        found: dict[str, str] = {}
        for stage, name in stage_models(self._config).items():
            try:
                config = _config(self._url, name)
            except ModelNotReadyError:
                continue
            found[stage] = str(config.get("backend") or config.get("platform", ""))
        return found


def notes_of(fit: Fit, *, has_own: bool) -> tuple[str, ...]:
    """What is unusual in how a pair is evaluated whose detectors fit images differently."""
    if not has_own:
        return ()
    return (
        f"the two detectors fit images differently; both were evaluated on images fitted for detector 2 ({fit}), as "
        "clients send them; for image files, which the server fits for each detector, the AP of detector 1 can differ",
    )


def _config(url: str, model: str) -> dict[str, Any]:
    transport = GrpcTransport(url, model)
    try:
        return transport.model_config(_TIMEOUT_S)
    finally:
        transport.close()


def _as_tensors(answer: Answer) -> Detections:
    boxes, scores, classes = (torch.from_numpy(one) for one in (answer.boxes, answer.scores, answer.classes))
    if answer.masks is None:
        return Detections(boxes, scores, classes)
    masks, frames = (torch.from_numpy(one) for one in (answer.masks.values, answer.masks.boxes))
    return Detections(boxes, scores, classes, masks, frames)

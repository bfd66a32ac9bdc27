"""The three kinds of detector that can be evaluated: a checkpoint, a bundle folder, a detector on a Triton server.

Each gives its identity before it runs, so results of an earlier run can be used instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import InputError, ServerError
from dynamicdet.letterbox import Fit
from dynamicdet.networks.checkpoints import load
from dynamicdet.routing.routes import BatchAnswers, RouteResults, check_contract, collect, run_routes
from dynamicdet.suppression import Detections, suppression_for
from dyndet_bench.measuring.counters import stage_models
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_builder.bundle.manifest import FILE_NAME, OWN, file_sha256, read_bundle
from dyndet_builder.bundle.runner import BundleRunner, Tensors
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


class Source(Protocol):
    """A detector that can be evaluated."""

    label: str
    """for people, such as `checkpoint pico.safetensors`"""
    class_names: tuple[str, ...]
    fit: Fit
    """how images become its input"""
    notes: tuple[str, ...]
    """what is unusual in how it is evaluated"""

    def identity(self) -> Mapping[str, str]:
        """Everything that its detections depend on, except the images: hashes of contents, settings, tool versions."""

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Run all images through both routes. Raises InputError if classes or size do not fit."""


class CheckpointSource:
    """A checkpoint in PyTorch; the only source with known detection losses. Raises CheckpointError."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, architecture: str | None = None) -> None:
        self.label = f"checkpoint {path.name}"
        self._path = path
        self._network = load(path, architecture)
        self.class_names, self.fit = self._network.class_names, Fit.square(self._network.input_size)

    def identity(self) -> Mapping[str, str]:
        """The content of the file, its architecture, the suppression, torch's version."""
        return {
            "checkpoint": file_sha256(self._path),
            "architecture": self._network.spec.name,
            "suppression": json.dumps(asdict(suppression_for(self._network.input_size))),
            **_versions("dyndet", "torch"),
        }

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Run in batches, backbone 1 once for both routes."""
        return run_routes(self._network, data, batch=_BATCH, progress=progress)


class BundleSource:
    """A bundle folder in ONNX Runtime on the CPU. Raises InputError if it is not a bundle or was changed."""

    def __init__(self, folder: Path) -> None:
        self.label = f"bundle {folder.resolve().name}"
        self._folder = folder
        self._bundle = read_bundle(folder)
        self.class_names, self.fit = self._bundle.class_names, self._bundle.fit
        self.notes = _notes(self.fit, has_own=OWN in self._bundle.stages)

    def identity(self) -> Mapping[str, str]:
        """The content of bundle.json (with the stages' hashes and the suppression), and ONNX Runtime's version."""
        return {"bundle": file_sha256(self._folder / FILE_NAME), **_versions("dyndet", "onnxruntime")}

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Run in batches, the first stage once for both routes."""
        check_contract("the bundle", self.class_names, self.fit, data)
        runner = BundleRunner(self._folder)

        def answer(images: slice) -> BatchAnswers:
            easy, hard = runner.both(np.ascontiguousarray(data.images[images]))
            return BatchAnswers(_unpacked(easy.detector), _unpacked(hard.detector), easy.difficulty)

        return collect(data, answer, batch=_BATCH, progress=progress)


class ServedSource:
    """A detector on a Triton server; thresholds 1 and 0 force the routes. Raises InputError and ServerError."""

    def __init__(self, url: str, model: str) -> None:
        self.label = f"served detector {model} at {url}"
        self._url, self._model = url, model
        self._config = _config(url, model)
        served = parse_model(self._config)
        self.class_names, self.fit = served.class_names, served.fit
        inputs = {tensor.get("name") for tensor in self._config.get("input", ())}
        self.notes = _notes(self.fit, has_own=_OWN_IMAGE in inputs)

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

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Send two requests per image, a few at a time. Raises ServerError if an image takes the other route."""
        check_contract("the served detector", self.class_names, self.fit, data)
        with (
            Detector(self._url, self._model, timeout=_TIMEOUT_S) as detector,
            ThreadPoolExecutor(_REQUESTS_IN_FLIGHT) as pool,
        ):

            def answer(images: slice) -> BatchAnswers:
                pairs = list(pool.map(lambda image: self._both(detector, image), data.images[images]))
                return BatchAnswers(
                    easy=[_as_tensors(easy) for easy, _ in pairs],
                    hard=[_as_tensors(hard) for _, hard in pairs],
                    difficulties=np.array([easy.difficulty for easy, _ in pairs]),
                )

            return collect(data, answer, batch=_BATCH, progress=progress)

    def _both(self, detector: Detector, image: UInt8Array) -> tuple[Answer, Answer]:
        """The answers of the easy and the hard route to a fitted image, boxes in pixels of that image."""
        easy = detector.detect(image, threshold=ALL_EASY, min_score=0.0)
        hard = detector.detect(image, threshold=ALL_HARD, min_score=0.0)
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


def open_source(
    source: Path | None, *, url: str | None = None, model: str = "dyndet", architecture: str | None = None
) -> Source:
    """The detector at a path (checkpoint file or bundle folder) or a server's address.

    Raises InputError if neither or both are given, or the path is neither a checkpoint nor a bundle.
    """
    if (source is None) == (url is None):
        raise InputError(
            "evaluate one detector: a checkpoint file, a bundle folder, or a served detector with --url HOST:PORT"
        )
    if url is not None:
        return ServedSource(url, model)
    assert source is not None
    if not source.exists():
        raise InputError(f"{source} does not exist; name a checkpoint file or a bundle folder")
    if source.is_dir():
        return BundleSource(source)
    return CheckpointSource(source, architecture=architecture)


def _notes(fit: Fit, *, has_own: bool) -> tuple[str, ...]:
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


def _versions(*packages: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in packages}


def _unpacked(outputs: Tensors) -> list[Detections]:
    """The used rows of a stage's outputs, for each image."""
    counts = outputs["num_detections"].reshape(-1).tolist()
    boxes, scores, classes = (torch.from_numpy(outputs[name]) for name in ("boxes", "scores", "classes"))
    return [Detections(boxes[i, :n], scores[i, :n], classes[i, :n]) for i, n in enumerate(counts)]


def _as_tensors(answer: Answer) -> Detections:
    return Detections(*(torch.from_numpy(array) for array in (answer.boxes, answer.scores, answer.classes)))

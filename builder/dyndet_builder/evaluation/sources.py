"""The three kinds of detector that can be evaluated: a checkpoint, a bundle folder, a detector on a Triton server.

Each gives its identity before it runs, so results of an earlier run can be used instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.datasets.hold_out import fingerprint
from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dynamicdet.networks.checkpoints import load
from dynamicdet.networks.network import TwoStageDetector
from dynamicdet.networks.origin import TrainedOn
from dynamicdet.networks.two_stage.architectures import TWO_STAGE_ARCHITECTURES
from dynamicdet.routing.answers import detections_of
from dynamicdet.routing.routes import BatchAnswers, RouteResults, check_contract, collect, run_routes
from dynamicdet.suppression import Detections, suppression_for
from dyndet_builder.bundle.manifest import FILE_NAME, OWN, file_sha256, read_bundle
from dyndet_builder.bundle.runner import BundleRunner, Tensors
from dyndet_builder.evaluation.served import ServedSource, notes_of

__all__ = ["BundleSource", "CheckpointSource", "ServedSource", "Source", "open_source"]

_BATCH = 16
_LARGE, _LARGE_BATCH = 448, 1
"""of two-stage networks: the largest input, in pixels, that runs in whole batches; and the batch of others"""


class Source(Protocol):
    """A detector that can be evaluated."""

    name: str
    """of the detector: its file, folder, or model"""
    label: str
    """for people, such as `checkpoint pico.safetensors`"""
    class_names: tuple[str, ...]
    fit: Fit
    """how images become its input"""
    has_masks: bool
    """whether its detections have masks"""
    notes: tuple[str, ...]
    """what is unusual in how it is evaluated"""

    def identity(self) -> Mapping[str, str]:
        """Everything that its detections depend on, except the images: hashes of contents, settings, tool versions."""

    def facts(self, data: CocoDataset) -> Mapping[str, str]:
        """What a model card says about it, by what it is; `data` is what it is evaluated on."""

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Run all images through both routes. Raises InputError if classes or size do not fit."""


class CheckpointSource:
    """A checkpoint in PyTorch; the only source with known detection losses. Raises CheckpointError."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, architecture: str | None = None) -> None:
        self.name, self.label = path.name, f"checkpoint {path.name}"
        self._path = path
        self._network = load(path, architecture)
        self.class_names, self.fit = self._network.class_names, Fit.square(self._network.input_size)
        self.has_masks = isinstance(self._network, TwoStageDetector) and self._network.has_masks

    def identity(self) -> Mapping[str, str]:
        """The content of the file, its architecture, the suppression, torch's version."""
        network = self._network
        if isinstance(network, TwoStageDetector):
            limits = asdict(network.spec.limits)
        else:
            limits = asdict(suppression_for(network.input_size))
        return {
            "checkpoint": file_sha256(self._path),
            "architecture": network.spec.name,
            "suppression": json.dumps(limits),
            **_versions("dyndet", "torch"),
        }

    def facts(self, data: CocoDataset) -> Mapping[str, str]:
        """The network, its file, and whether its detectors were trained on this data."""
        parameters = sum(one.numel() for one in self._network.parameters())
        return {
            "checkpoint": self.name,
            "architecture": self._network.spec.name,
            "parameters": f"{parameters / 1e6:.2f} M",
            "input": str(self.fit),
            "size": _megabytes(self._path.stat().st_size),
            "SHA-256": file_sha256(self._path),
            "detectors trained on": _trained_on(self._network.trained_on, data),
            "evaluated in": f"PyTorch {metadata.version('torch')}",
        }

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Run in batches, backbone 1 once for both routes."""
        batch = _batch(self._network.spec.name, self._network.input_size)
        return run_routes(self._network, data, batch=batch, progress=progress)


class BundleSource:
    """A bundle folder in ONNX Runtime on the CPU. Raises InputError if it is not a bundle or was changed."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.label = f"bundle {self.name}"
        self._folder = folder
        self._bundle = read_bundle(folder)
        self.has_masks = self._bundle.has_masks
        self.class_names, self.fit = self._bundle.class_names, self._bundle.fit
        self.notes = notes_of(self.fit, has_own=OWN in self._bundle.stages)

    def identity(self) -> Mapping[str, str]:
        """The content of bundle.json (with the stages' hashes and the suppression), and ONNX Runtime's version."""
        return {"bundle": file_sha256(self._folder / FILE_NAME), **_versions("dyndet", "onnxruntime")}

    def facts(self, data: CocoDataset) -> Mapping[str, str]:
        """What its description says, and the sizes of its graphs."""
        bundle = self._bundle
        sizes = {name: (self._folder / stage.file).stat().st_size for name, stage in bundle.stages.items()}
        stages = ", ".join(f"{name} {_megabytes(size)}" for name, size in sizes.items())
        found = {"bundle": bundle.name, "architecture": bundle.architecture or "two detectors and a router"}
        if bundle.source is not None:
            found["SHA-256 of the checkpoint"] = bundle.source.sha256
        return {
            **found,
            "precision": bundle.precision,
            "input": str(self.fit),
            "size": f"{_megabytes(sum(sizes.values()))} ({stages})",
            "SHA-256 of bundle.json": file_sha256(self._folder / FILE_NAME),
            "evaluated in": f"ONNX Runtime {metadata.version('onnxruntime')}",
        }

    def run(self, data: CocoDataset, progress: Progress = silent) -> RouteResults:
        """Run in batches, the first stage once for both routes."""
        check_contract("the bundle", self.class_names, self.fit, data)
        runner = BundleRunner(self._folder)
        judged = self.has_masks and data.has_masks

        def answer(images: slice) -> BatchAnswers:
            easy, hard = runner.both(np.ascontiguousarray(data.images[images]))
            found = [_found(one.detector, masks=judged) for one in (easy, hard)]
            return BatchAnswers(found[0], found[1], easy.difficulty)

        batch = _batch(self._bundle.architecture, self._bundle.input_size)
        return collect(data, answer, batch=batch, progress=progress)


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


def _versions(*packages: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in packages}


def _batch(architecture: str | None, input_size: int) -> int:
    """Images that run together; a large two-stage network needs a gigabyte for the features of one image's regions."""
    return _LARGE_BATCH if architecture in TWO_STAGE_ARCHITECTURES and input_size > _LARGE else _BATCH


def _found(outputs: Tensors, *, masks: bool) -> list[Detections]:
    """The detections of a stage's outputs, for each image."""
    names = ("num_detections", "boxes", "scores", "classes", *(("masks",) if masks else ()))
    return detections_of({name: torch.from_numpy(outputs[name]) for name in names})


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _trained_on(origin: TrainedOn | None, data: CocoDataset) -> str:
    if origin is None:
        return "the checkpoint does not say"
    if origin.fingerprint != fingerprint(data):
        return f"other images ({origin.pictures:,} in the last training)"
    held = f"; {origin.held_out:.0%} were held out" if origin.held_out else ""
    return f"the images of this evaluation{held}, so the AP on new images is lower"

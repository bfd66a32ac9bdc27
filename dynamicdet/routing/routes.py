"""One pass of a data set through both routes of a detector: the detections of each route and the difficulties."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicdet.aliases import FloatArray, Progress, silent
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit, Letterboxed
from dynamicdet.networks.network import Network, RoutedNetwork, TwoStageDetector
from dynamicdet.routing.answers import Asked, routes_of
from dynamicdet.suppression import Detections, Suppression
from dynamicdet.text import printable
from dynamicdet.training.loss_weights import LossWeights


@dataclass(frozen=True)
class RouteResults:
    """Detections of every image by each route, in pixels of the original images, and the images' difficulties."""

    easy: tuple[Detections, ...]
    hard: tuple[Detections, ...]
    difficulties: FloatArray
    """(N,), 0..1"""
    loss_gains: FloatArray | None = None
    """(N,) detection loss of detector 1 minus that of detector 2; None if the raw maps were not available"""
    pass_s: float = 0.0
    """seconds that both routes took, suppression included"""
    loss_s: float = 0.0
    """additional seconds for the losses"""

    @property
    def has_masks(self) -> bool:
        """Whether all detections of both routes have masks."""
        return all(one.masks is not None for one in (*self.easy, *self.hard))


@dataclass(frozen=True)
class BatchAnswers:
    """A detector's results for some images, boxes in pixels of the fitted image; see `RouteResults`."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]
    difficulties: npt.NDArray[np.floating[Any]]
    loss_gains: npt.NDArray[np.floating[Any]] | None = None
    loss_s: float = 0.0


def run_routes(
    model: RoutedNetwork,
    data: CocoDataset,
    *,
    batch: int = 16,
    settings: Suppression | None = None,
    loss: LossWeights | None = None,
    watch: Callable[[Mapping[str, Tensor]], None] | None = None,
    progress: Progress = silent,
) -> RouteResults:
    """One pass of all images through both routes of a network, with the detection losses of both.

    `settings` and `loss` are for YOLO networks; a two-stage one has its own limits. The results have masks if both
    the network and the data set have. `watch` is called with the features of each batch, in the order of the images.

    Raises InputError if classes or size do not fit.
    """
    check_fits(model, data)
    network = model.deploy().eval()
    routes = routes_of(network, settings=settings, loss=loss)
    wants_masks = isinstance(network, TwoStageDetector) and network.has_masks

    @torch.inference_mode()
    def answer(images: slice) -> BatchAnswers:
        pictures = torch.from_numpy(np.array(data.images[images]))  # torch warns of memory that cannot be written
        x = pictures.permute(0, 3, 1, 2).float().div_(255)
        features = network.features(x)
        difficulties = network.route(features).numpy()
        if watch is not None:
            watch(features)
        found = routes(x, features, Asked.of(data, images, masks=wants_masks))
        return BatchAnswers(found.easy, found.hard, difficulties, found.loss_gains, found.loss_s)

    return collect(data, answer, batch=batch, progress=progress)


def collect(
    data: CocoDataset, answer: Callable[[slice], BatchAnswers], *, batch: int, progress: Progress = silent
) -> RouteResults:
    """Get the answers for each slice of `batch` images, one after the other; map the boxes to the original images."""
    easy: list[Detections] = []
    hard: list[Detections] = []
    difficulties: list[npt.NDArray[np.floating[Any]]] = []
    gains: list[npt.NDArray[np.floating[Any]]] = []
    pass_s = loss_s = 0.0
    for first in range(0, len(data), batch):
        start = time.perf_counter()
        answers = answer(slice(first, first + batch))
        pass_s += time.perf_counter() - start - answers.loss_s
        loss_s += answers.loss_s
        for found, kept in ((answers.easy, easy), (answers.hard, hard)):
            kept.extend(in_original(data, first, found))
        difficulties.append(answers.difficulties)
        if answers.loss_gains is not None:
            gains.append(answers.loss_gains)
        progress("run both routes", len(easy), len(data))
    return RouteResults(
        easy=tuple(easy),
        hard=tuple(hard),
        difficulties=np.concatenate(difficulties).astype(np.float64),
        loss_gains=np.concatenate(gains).astype(np.float64) if gains else None,
        pass_s=pass_s,
        loss_s=loss_s,
    )


def check_fits(model: Network, data: CocoDataset) -> None:
    """Raise InputError unless classes and size of network and data are the same."""
    check_contract("the checkpoint", model.class_names, Fit.square(model.input_size), data)


def check_contract(detector: str, class_names: Sequence[str], fit: Fit, data: CocoDataset) -> None:
    """Raise InputError unless a detector's classes and input are those of the data; it names the `detector`."""
    check_classes(detector, class_names, data.class_names, data.folder)
    if tuple(class_names) != data.class_names:
        raise InputError(f"{detector} has the classes of {printable(data.folder)} in another order")
    if fit != data.fit:
        raise InputError(f"{detector} reads images of {fit}, but the data set was read for images of {data.fit}")


def check_classes(detector: str, class_names: Sequence[str], others: Sequence[str], data: Path) -> None:
    """Raise InputError unless a detector and the data at a path have the same class names, in any order."""
    sides = (("only the detector has", class_names, others), ("only the data set has", others, class_names))
    found = []
    for words, own, other in sides:
        names = [name for name in own if name not in set(other)]
        if names:
            found.append(f"{words} {_listed(names)}")
    if found:
        raise InputError(
            f"{detector} has other classes than {printable(data)} ({len(class_names)} and {len(others)}): "
            f"{', '.join(found)}; a detector is trained and evaluated with the same class names"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(repr(name), limit=60) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def in_original(data: CocoDataset, first: int, found: Sequence[Detections]) -> list[Detections]:
    """Detections in fitted images, of which the first has the number `first`, in pixels of the original images.

    Boxes are clipped to the images. A mask fills its box as it was before, which may reach into the borders.
    """
    return [_in_original(data.placements[index], one) for index, one in enumerate(found, first)]


def _in_original(place: Letterboxed, found: Detections) -> Detections:
    boxes = torch.from_numpy(place.to_original(found.boxes.numpy()))
    if found.masks is None:
        return replace(found, boxes=boxes)
    frames = found.boxes if found.frames is None else found.frames
    return replace(found, boxes=boxes, frames=torch.from_numpy(place.to_original(frames.numpy(), clipped=False)))

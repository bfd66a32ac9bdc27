"""What both detectors of a network answer to a batch of images, and their losses on each image."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.networks.network import DynamicDetector, Route, RoutedNetwork, TwoStageDetector
from dynamicdet.suppression import Detections, Suppression, suppress_rows, suppression_for
from dynamicdet.training.assignment import Objects
from dynamicdet.training.batches import objects_of
from dynamicdet.training.loss_weights import LossWeights
from dynamicdet.training.losses import DetectionLoss
from dynamicdet.training.two_stage.images import image_losses

_ROUTES: tuple[Route, ...] = ("easy", "hard")


class Found(NamedTuple):
    """What both detectors found in some images, boxes in pixels of the fitted image."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]
    losses: tuple[Tensor, Tensor]
    """(B,) of detector 1, and of detector 2; on the CPU"""
    loss_s: float
    """seconds for the losses"""

    @property
    def loss_gains(self) -> npt.NDArray[np.floating[Any]]:
        """(B,) loss of detector 1 minus that of detector 2."""
        gains: npt.NDArray[np.floating[Any]] = (self.losses[0] - self.losses[1]).numpy()
        return gains


class Asked(NamedTuple):
    """The objects of some images, as a network's losses need them."""

    objects: Objects
    """on the network's device"""
    masks: Sequence[Tensor] | None
    """of each image, (n, S, S) 0 or 1, on the network's device; None: not known"""
    usual: float
    """mean number of objects in an image of the data set"""

    @classmethod
    def of(cls, data: CocoDataset, images: slice, *, masks: bool) -> Asked:
        """Those of some images of a data set; with `masks`, if it has them."""
        known = masks and data.has_masks
        places = range(*images.indices(len(data)))
        return cls(
            objects=objects_of(list(data.labels[images])),
            masks=[torch.from_numpy(data.masks(index)) for index in places] if known else None,
            usual=data.objects_per_image,
        )


class Routes(Protocol):
    """Both detectors of a network."""

    def __call__(self, x: Tensor, features: Mapping[str, Tensor], asked: Asked) -> Found:
        """Their answers to some images (B, 3, S, S), from backbone 1's features, and their losses."""


class YoloRoutes:
    """Both detectors of a YOLO network."""

    def __init__(
        self, network: DynamicDetector, *, settings: Suppression | None = None, loss: LossWeights | None = None
    ) -> None:
        self.network = network
        self.settings = settings or suppression_for(network.input_size)
        self.losses = DetectionLoss(network.anchors, network.spec.strides, loss)

    def __call__(self, x: Tensor, features: Mapping[str, Tensor], asked: Asked) -> Found:
        """See `Routes`."""
        network, size = self.network, float(x.shape[-1])
        maps = (network.head1(features), network.detector2(x, features))
        easy, hard = (suppress_rows(network.decode(one).cpu(), self.settings, size=size) for one in maps)
        start = time.perf_counter()
        loss1, loss2 = (self.losses(one, asked.objects, objects_per_image=asked.usual).total.cpu() for one in maps)
        return Found(easy, hard, (loss1, loss2), time.perf_counter() - start)


class TwoStageRoutes:
    """Both detectors of a two-stage network."""

    def __init__(self, network: TwoStageDetector) -> None:
        self.network = network

    def __call__(self, x: Tensor, features: Mapping[str, Tensor], asked: Asked) -> Found:
        """See `Routes`. With masks if those of the objects are known. The losses are those on the same boxes."""
        network = self.network
        pyramids = {route: network.pyramid(route, features) for route in _ROUTES}
        easy, hard = (self._found(route, pyramids[route], masks=asked.masks is not None) for route in _ROUTES)
        start = time.perf_counter()
        losses = image_losses(network, pyramids, asked.objects, masks=asked.masks, objects_per_image=asked.usual)
        return Found(easy, hard, (losses["easy"].cpu(), losses["hard"].cpu()), time.perf_counter() - start)

    def _found(self, route: Route, pyramid: Sequence[Tensor], *, masks: bool) -> list[Detections]:
        proposals = self.network.proposals(*self.network.region_outputs(route, pyramid))
        answers = self.network.finish(route, pyramid, proposals)._asdict()
        outputs = {name: None if one is None else one.cpu() for name, one in answers.items()}
        return detections_of(outputs if masks else {**outputs, "masks": None})


def routes_of(
    network: RoutedNetwork, *, settings: Suppression | None = None, loss: LossWeights | None = None
) -> Routes:
    """Both detectors of a network of any kind; `settings` and `loss` are for YOLO networks."""
    if isinstance(network, TwoStageDetector):
        return TwoStageRoutes(network)
    if isinstance(network, DynamicDetector):
        return YoloRoutes(network, settings=settings, loss=loss)
    raise TypeError(f"{type(network).__name__} is no network with two routes")


def detections_of(outputs: Mapping[str, Tensor | None]) -> list[Detections]:
    """The used rows of a detector's outputs for each image: `num_detections`, `boxes`, `scores`, `classes`, `masks`.

    They have a leading axis of B. Without `masks`, or if they are None, the detections have none.
    """
    counts = _given(outputs, "num_detections").reshape(-1).tolist()
    boxes, scores, classes = (_given(outputs, name) for name in ("boxes", "scores", "classes"))
    masks = outputs.get("masks")
    return [
        Detections(
            boxes=boxes[row, :used],
            scores=scores[row, :used],
            classes=classes[row, :used],
            masks=None if masks is None else masks[row, :used],
        )
        for row, used in enumerate(counts)
    ]


def _given(outputs: Mapping[str, Tensor | None], name: str) -> Tensor:
    tensor = outputs[name]
    assert tensor is not None
    return tensor

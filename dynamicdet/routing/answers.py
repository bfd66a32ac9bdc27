"""What both detectors of a network answer to a batch of images, and their losses on each image."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.networks.network import DynamicDetector, Route, TwoStageDetector
from dynamicdet.suppression import Detections, Suppression, suppress_rows, suppression_for
from dynamicdet.training.batches import objects_of
from dynamicdet.training.loss_weights import LossWeights
from dynamicdet.training.losses import DetectionLoss
from dynamicdet.training.two_stage.images import image_losses

_ROUTES: tuple[Route, ...] = ("easy", "hard")


class Found(NamedTuple):
    """What both detectors found in some images, boxes in pixels of the fitted image."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]
    loss_gains: npt.NDArray[np.floating[Any]]
    """(B,) loss of detector 1 minus that of detector 2"""
    loss_s: float
    """seconds for the losses"""


class YoloRoutes:
    """Both detectors of a YOLO network."""

    def __init__(
        self, network: DynamicDetector, *, settings: Suppression | None = None, loss: LossWeights | None = None
    ) -> None:
        self.network = network
        self.settings = settings or suppression_for(network.input_size)
        self.losses = DetectionLoss(network.anchors, network.spec.strides, loss)

    def __call__(self, x: Tensor, features: Mapping[str, Tensor], data: CocoDataset, images: slice) -> Found:
        """The answers to some images of a data set, from backbone 1's features."""
        network, size = self.network, float(data.size)
        maps = (network.head1(features), network.detector2(x, features))
        easy, hard = (suppress_rows(network.decode(one), self.settings, size=size) for one in maps)
        start = time.perf_counter()
        objects, usual = objects_of(list(data.labels[images])), data.objects_per_image
        loss1, loss2 = (self.losses(one, objects, objects_per_image=usual).total.numpy() for one in maps)
        return Found(easy, hard, loss1 - loss2, time.perf_counter() - start)


class TwoStageRoutes:
    """Both detectors of a two-stage network."""

    def __init__(self, network: TwoStageDetector) -> None:
        self.network = network

    def __call__(self, x: Tensor, features: Mapping[str, Tensor], data: CocoDataset, images: slice) -> Found:
        """The answers to some images of a data set, from backbone 1's features.

        With masks if the data set has them, too. The losses are of both detectors on the same boxes.
        """
        network, masks = self.network, None
        pyramids = {route: network.pyramid(route, features) for route in _ROUTES}
        easy, hard = (self._found(route, pyramids[route], masks=data.has_masks) for route in _ROUTES)
        start = time.perf_counter()
        if data.has_masks:
            masks = [torch.from_numpy(data.masks(index)) for index in range(*images.indices(len(data)))]
        losses = image_losses(
            network,
            pyramids,
            objects_of(list(data.labels[images])),
            masks=masks,
            objects_per_image=data.objects_per_image,
        )
        gains = (losses["easy"] - losses["hard"]).numpy()
        return Found(easy, hard, gains, time.perf_counter() - start)

    def _found(self, route: Route, pyramid: Sequence[Tensor], *, masks: bool) -> list[Detections]:
        proposals = self.network.proposals(*self.network.region_outputs(route, pyramid))
        answers = self.network.finish(route, pyramid, proposals)._asdict()
        return detections_of(answers if masks else {**answers, "masks": None})


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

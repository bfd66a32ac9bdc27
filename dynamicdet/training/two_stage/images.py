"""The losses of both detectors image by image, on one common set of anchors and proposals: what a router learns from.

Each detector's own proposals would say as much about the proposals as about the images, and drawn ones would add noise.
So both are asked about the same boxes: a fixed sample of the anchors, all proposals of the hard route, and the objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from dynamicdet.networks.network import Route
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.training.assignment import Objects
from dynamicdet.training.two_stage.losses import PerImage, detector_losses
from dynamicdet.training.two_stage.matching import PROPOSALS
from dynamicdet.training.two_stage.rows import class_rows, draw_anchors, draw_proposals, mask_rows, region_rows
from dynamicdet.training.two_stage.sampling import draw, everything
from dynamicdet.training.two_stage.settings import Gains, Sampling
from dynamicdet.training.two_stage.targets import targets_of

_ANCHORS = Sampling(count=256, positives=0.5)
_MASKS = 32  # boxes of an image; each costs a mask head


@torch.no_grad()
def image_losses(
    network: TwoStageDetector,
    pyramids: Mapping[Route, Sequence[Tensor]],
    objects: Objects,
    *,
    masks: Sequence[Tensor] | None,
    objects_per_image: float,
    gains: Gains | None = None,
) -> dict[Route, Tensor]:
    """The loss of each image (B,) by each route, from the routes' pyramids; see `losses` for how an image is weighed.

    Without `masks`, which are those of each image, the loss of the masks is left out.
    """
    images = len(pyramids["hard"][0])
    targets = targets_of(objects, images, masks if network.has_masks else None)
    regions = {route: network.region_outputs(route, pyramid) for route, pyramid in pyramids.items()}
    anchors = network.anchors_of(pyramids["hard"])
    seeds = torch.zeros(images, dtype=torch.long, device=targets.box.device)
    drawn = draw_anchors(torch.cat(anchors), targets, partial(draw, sampling=_ANCHORS, seeds=seeds))
    proposals = network.proposals(*regions["hard"], anchors)
    rois = draw_proposals(proposals.boxes, proposals.scores > 0, targets, PROPOSALS, everything)
    reduce = PerImage(targets.present.sum(dim=1) / objects_per_image)
    found: dict[Route, Tensor] = {}
    for route, pyramid in pyramids.items():
        losses = detector_losses(
            region_rows(*network.flatten_regions(*regions[route]), drawn, targets),
            class_rows(network, route, pyramid, rois, targets),
            None if targets.masks is None else mask_rows(network, route, pyramid, rois, targets, limit=_MASKS),
            gains or Gains(),
            reduce,
        )
        found[route] = losses.total
    return found

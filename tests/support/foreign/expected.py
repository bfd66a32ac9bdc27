"""What a transcoded detector must answer: the network itself says it, with nothing of ONNX between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dynamicdet.aliases import Float32Array, UInt8Array
from dynamicdet.boxes import corners
from dynamicdet.networks.network import Route
from dynamicdet.suppression import Detections, greedy_keep
from dyndet_builder.bundle.spec import Family
from tests.support.foreign.core import ANCHORS, STRIDES, network
from tests.support.foreign.heads import FLOOR, IOU
from tests.support.foreign.recipes import Recipe
from tests.support.foreign.write import spec_of


def expected(
    route: Route,
    family: Family,
    recipe: Recipe,
    pictures: Sequence[UInt8Array],
    *,
    most: int = 100,
    candidates: int | None = None,
) -> list[Detections]:
    """The `most` best detections of each picture (H, W, 3) RGB: boxes in pixels of the fitted picture, best first.

    `candidates`: how many pairs of box and class enter a suppression outside the file; None: all.
    """
    fit = spec_of(family, recipe).input.fit
    fitted = [fit(picture).image for picture in pictures]
    return detections(route, family, recipe, fitted, most=most, candidates=candidates)


@torch.no_grad()
def detections(
    route: Route,
    family: Family,
    recipe: Recipe,
    fitted: Sequence[UInt8Array],
    *,
    most: int = 100,
    candidates: int | None = None,
) -> list[Detections]:
    """The same for pictures that are fitted already, (H, W, 3) of the recipe's size."""
    pictures = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2) / 255
    rows = network().forward_route(pictures, route)
    if recipe.writer_for(family).cells:
        rows = _cells(rows, recipe.size)
    limit = candidates if recipe.writer_for(family).suppress else None
    return [_finished(one, recipe, most, limit) for one in rows]


def _cells(rows: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The best of each cell's anchors."""
    cells = [(size[0] // stride) * (size[1] // stride) for stride in STRIDES]
    levels = rows.split([ANCHORS * one for one in cells], dim=1)
    chosen = []
    for level in levels:
        anchors = level.unflatten(1, (ANCHORS, -1))  # (B, anchors, cells, values)
        best = (anchors[..., 4] * anchors[..., 5:].amax(dim=-1)).argmax(dim=1)
        chosen.append(anchors.gather(1, best[:, None, :, None].expand(-1, 1, -1, rows.shape[-1]))[:, 0])
    return torch.cat(chosen, dim=1)


def _finished(rows: torch.Tensor, recipe: Recipe, most: int, candidates: int | None) -> Detections:
    scores = rows[:, 4:5] * rows[:, 5:]
    none = torch.zeros(len(rows))
    scores = torch.stack([none if one is None else scores[:, one] for one in recipe.network_classes], dim=1)
    row, label = torch.nonzero(scores > FLOOR, as_tuple=True)
    best, order = scores[row, label].sort(descending=True, stable=True)
    best, row, label = best[:candidates], row[order][:candidates], label[order][:candidates]
    boxes = corners(rows[row, :4])
    keep = _kept(boxes, label, most)
    boxes, row, label, best = boxes[keep], row[keep], label[keep], best[keep]
    if recipe.activation == "softmax":  # a box's scores then add up to 1 at most
        sums = torch.zeros(len(rows)).index_add(0, row, best)
        best, order = (best / sums[row].clamp(min=1)).sort(descending=True, stable=True)
        boxes, label = boxes[order], label[order]
    height, width = recipe.size
    limits = torch.tensor([width, height] * 2)
    return Detections(boxes=boxes[:most].clamp(min=0).minimum(limits), scores=best[:most], classes=label[:most])


def _kept(boxes: torch.Tensor, label: torch.Tensor, most: int) -> torch.Tensor:
    """At least the `most` best boxes that stay. Whether one does depends on better ones alone."""
    count = 2 * most
    while True:
        keep = greedy_keep(boxes[:count], label[:count], IOU)
        if len(keep) >= most or count >= len(boxes):
            return keep
        count *= 2


def as_arrays(found: Detections) -> tuple[Float32Array, Float32Array, np.ndarray]:
    """Boxes, scores and classes."""
    return found.boxes.numpy(), found.scores.numpy(), found.classes.numpy()

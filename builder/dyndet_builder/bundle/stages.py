"""The three graphs of a bundle as torch modules, from uint8 images to difficulty, features and finished boxes.

A static detector has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from dynamicdet.networks.base import Network, RoutedNetwork
from dynamicdet.networks.network import DynamicDetector, StaticDetector, YoloNetwork
from dyndet_builder.bundle.manifest import Nms, Precision
from dyndet_builder.bundle.nms import keep_mask

DETECTIONS = ("num_detections", "boxes", "scores", "classes")
CANDIDATES = ("candidate_rows", "candidate_boxes", "candidate_scores", "candidate_classes")


AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def at_precision(network: AnyNetwork, precision: Precision) -> AnyNetwork:
    """A fused copy whose weights and features have this precision; a router and layer norms stay in fp32."""
    deployed = network.deploy()
    if precision == "fp16":
        deployed.half()
        for module in deployed.modules():
            if isinstance(module, nn.LayerNorm):
                module.float()
        if isinstance(deployed, RoutedNetwork):
            deployed.router.float()
        if isinstance(deployed, YoloNetwork):
            deployed.anchors = deployed.anchors.float()
    return deployed


class Backbone1Stage(nn.Module):
    """`image` to `difficulty` (B, 1) and the features that head 1 or detector 2 read."""

    def __init__(self, network: RoutedNetwork) -> None:
        super().__init__()
        self.network = network
        self.outputs = feature_outputs(network)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Difficulty first, then the features in the order of `outputs`."""
        features = self.network.features(normalise(image, self.network))
        difficulty = self.network.route({name: feature.float() for name, feature in features.items()})
        return difficulty.unsqueeze(1), *(features[name] for name in self.outputs)


class Head1Stage(nn.Module):
    """Features to detections, and to the candidates that entered the suppression."""

    def __init__(self, network: DynamicDetector, nms: Nms) -> None:
        super().__init__()
        self.network = network
        self.finish = Finish(network, nms)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """`features` as `head1_reads` lists them."""
        raw = self.network.head1(dict(zip(self.network.head1_reads, features, strict=True)))
        finished: tuple[Tensor, ...] = self.finish(raw)
        return finished


class Detector2Stage(nn.Module):
    """`image` and features to detections, and to the candidates that entered the suppression."""

    def __init__(self, network: DynamicDetector, nms: Nms) -> None:
        super().__init__()
        self.network = network
        self.finish = Finish(network, nms)

    def forward(self, image: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        """`features` as `detector2_reads` lists them."""
        named = dict(zip(self.network.detector2_reads, features, strict=True))
        raw = self.network.detector2(normalise(image, self.network), named)
        finished: tuple[Tensor, ...] = self.finish(raw)
        return finished


class StaticStage(nn.Module):
    """`image` to detections of a static detector, and to the candidates that entered the suppression."""

    def __init__(self, network: StaticDetector, nms: Nms) -> None:
        super().__init__()
        self.network = network
        self.finish = Finish(network, nms)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """As the stages of a dynamic detector give them."""
        finished: tuple[Tensor, ...] = self.finish(self.network.detect(normalise(image, self.network)))
        return finished


class Finish(nn.Module):
    """Raw maps to suppressed detections (`DETECTIONS`) and the candidates before suppression (`CANDIDATES`).

    Only the best `pre_top_k` (row, class) pairs are decoded. They are found exactly in two steps: the K best rows by
    their best class contain every row of the K best pairs. Everything from the sigmoid on is fp32.
    """

    def __init__(self, network: YoloNetwork, nms: Nms) -> None:
        super().__init__()
        self.nms = nms
        self.num_classes = network.num_classes
        self.size = float(network.input_size)
        origin = _rows_at_rest(network)
        self.origin: Tensor  # (N, 5): centre x, y and width, height of a row whose logits are 0; its stride
        self.register_buffer("origin", origin)
        self.top_k = min(nms.pre_top_k, origin.shape[0])

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Raw maps, finest first, to detections and candidates in the order of their names."""
        raw = torch.cat([level.flatten(1, 3) for level in maps], dim=1)  # (B, N, 5 + classes)
        best = raw[..., 4].float().sigmoid() * raw[..., 5:].amax(dim=-1).float().sigmoid()
        rows = best.topk(self.top_k, dim=1).indices  # (B, K)
        chosen = _take(raw, rows).float()  # (B, K, 5 + classes)

        # Split, not sliced: OpenVINO drops a slice that starts at 0 before a gather, and then refuses the shapes.
        offsets, objectness, likely = torch.split(chosen, [4, 1, self.num_classes], dim=-1)
        pairs = (objectness.sigmoid() * likely.sigmoid()).flatten(1)  # (B, K * classes)
        scores, places = pairs.topk(self.top_k, dim=1)
        classes = places % self.num_classes
        place = torch.div(places, self.num_classes, rounding_mode="floor")
        row = rows.gather(1, place)
        boxes = self._boxes(_take(offsets, place), row)

        usable = torch.where(scores >= self.nms.score_floor, scores, 0.0)
        keep = keep_mask(boxes, usable, classes, self.nms.iou_threshold)
        return *self._padded(keep, boxes, usable, classes), row, boxes, scores, classes

    def _boxes(self, logits: Tensor, row: Tensor) -> Tensor:
        origin = self.origin[row]  # (B, K, 5)
        likely = 2 * logits.sigmoid()
        centre = origin[..., :2] + (likely[..., :2] - 1) * origin[..., 4:]
        half = 0.5 * likely[..., 2:] ** 2 * origin[..., 2:4]
        return torch.cat([centre - half, centre + half], dim=-1)  # x1 y1 x2 y2

    def _padded(self, keep: Tensor, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        scores, order = torch.where(keep, scores, 0.0).topk(self.nms.max_detections, dim=1)
        used = scores > 0
        boxes = _take(boxes, order).clamp(0.0, self.size)
        return (
            used.sum(dim=1, keepdim=True).to(torch.int32),
            torch.where(used.unsqueeze(-1), boxes, 0.0),
            scores,
            torch.where(used, classes.gather(1, order), 0).to(torch.int32),
        )


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, F) of (B, N, F) at `index` (B, K)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def feature_outputs(network: RoutedNetwork) -> tuple[str, ...]:
    """Names of the features that leave backbone 1's graph, in order."""
    return tuple(dict.fromkeys((*network.detector2_reads, *network.head1_reads)))


def normalise(image: Tensor, network: RoutedNetwork | StaticDetector) -> Tensor:
    """uint8 (B, S, S, 3) to the network's (B, 3, S, S) in 0..1.

    The cast comes first: it is the only layer for which TensorRT accepts uint8.
    """
    weight = next(network.get_submodule("backbone1").parameters())
    return (image.to(torch.float32).permute(0, 3, 1, 2) / 255.0).to(weight.dtype)


def rows_of(network: YoloNetwork) -> int:
    """Number of boxes that the network predicts per image."""
    sides = (network.input_size // stride for stride in network.spec.strides)
    return sum(len(network.spec.anchors[0]) * side**2 for side in sides)


def _rows_at_rest(network: YoloNetwork) -> Tensor:
    """Place and stride of each row, (N, 5): what the network decodes if all logits are 0, and the stride."""
    anchors = len(network.spec.anchors[0])
    sides = [network.input_size // stride for stride in network.spec.strides]
    maps = [torch.zeros(1, anchors, side, side, 5) for side in sides]
    strides = torch.cat(
        [torch.full((level.numel() // 5, 1), float(s)) for level, s in zip(maps, network.spec.strides, strict=True)]
    )
    return torch.cat([network.decode(maps)[0, :, :4], strides], dim=1)

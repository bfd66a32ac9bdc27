"""Two-stage dynamic detectors: backbone 1 and router for every image, then heads (easy) or backbone 2 and heads (hard).

The parts are separate methods, so a caller can run each where it wants, and give the heads regions of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dynamicdet.errors import InputError
from dynamicdet.networks.base import Route, RoutedNetwork, feature_name
from dynamicdet.networks.router.form import PUBLISHED_ROUTER, RouterForm
from dynamicdet.networks.router.layers import Router
from dynamicdet.networks.two_stage import selection
from dynamicdet.networks.two_stage.architectures import (
    DetectionLimits,
    ProposalLimits,
    ResidualNet,
    TwoStageLimits,
    TwoStageModel,
)
from dynamicdet.networks.two_stage.heads import Heads
from dynamicdet.networks.two_stage.operators import Operators
from dynamicdet.networks.two_stage.regions import level_anchors
from dynamicdet.networks.two_stage.residual import LinkedResidual, ResidualBackbone, ResidualLinks
from dynamicdet.networks.two_stage.selection import Answers, Chosen, Pairs, Proposals, Regions
from dynamicdet.networks.two_stage.swin import LinkedSwin, SwinBackbone, SwinLinks, WindowAttention

TOKENS = "tokens"
"""name of a Swin's embedded patches among the features"""
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB


class TwoStageDetector(RoutedNetwork):
    """Dy-Faster R-CNN or Dy-Mask R-CNN. Images are as for every network; they are normalised here.

    Features are dictionaries with keys "features_<stride>", and "tokens" of a Swin.
    """

    spec: TwoStageModel
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        spec: TwoStageModel,
        *,
        num_classes: int = 80,
        class_names: Sequence[str] | None = None,
        input_size: int | None = None,
        router: RouterForm = PUBLISHED_ROUTER,
    ) -> None:
        super().__init__(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)
        self.operators = Operators()
        self.has_masks = spec.mask is not None
        self.reads_image = False
        self.router_reads = tuple(feature_name(stride) for stride in spec.first.strides)
        self.head1_reads = tuple(feature_name(stride) for stride in spec.strides)
        first = spec.first
        if isinstance(first, ResidualNet):
            if spec.second is None:
                raise ValueError(f"{spec.name} has no second backbone")
            second = spec.second
            needed = [stride for stride in first.strides if stride >= second.start]
            self.detector2_reads = tuple(feature_name(stride) for stride in needed)
            self.backbone1: ResidualBackbone | SwinBackbone = ResidualBackbone(first)
            self.links: ResidualLinks | SwinLinks = ResidualLinks(second, first)
            self.backbone2: LinkedResidual | LinkedSwin = LinkedResidual(second, first)
        else:
            self.detector2_reads = (TOKENS, *(feature_name(stride) for stride in first.strides))
            self.backbone1 = SwinBackbone(first)
            self.links = SwinLinks(first)
            self.backbone2 = LinkedSwin(first)
        self.router = self.fresh_router(router)
        self.heads1 = Heads(spec, num_classes)
        self.heads2 = None if spec.shared_heads else Heads(spec, num_classes)
        self.compute_constants()
        self.freeze()

    def fresh_router(self, form: RouterForm) -> Router:
        """A router with random weights that reads this network's features; to use it, assign it to `router`."""
        return Router([self.spec.first.channels[stride] for stride in self.spec.first.strides], form=form)

    def compute_constants(self) -> None:
        """Compute the buffers that no checkpoint has: of the image's normalisation, and of windows."""
        for name, values in (("mean", _MEAN), ("spread", _SPREAD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.compute_constants()

    def freeze(self) -> None:
        """Exclude from training what the architecture keeps as it is: stem and first stage of a ResNet-50."""
        self.backbone1.freeze()

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Everything the router, head 1 and detector 2 read."""
        x = (x - self.mean) / self.spread
        if isinstance(self.backbone1, SwinBackbone):
            tokens, by_stride = self.backbone1(x)
            named = {TOKENS: tokens}
        else:
            by_stride, named = self.backbone1(x), {}
        return named | {feature_name(stride): feature for stride, feature in by_stride.items()}

    def heads_of(self, route: Route) -> Heads:
        """Pyramid, region proposals and heads of a route; shared heads are the same for both."""
        if route not in ("easy", "hard"):
            raise InputError(f"unknown route {route!r}; expected 'easy' or 'hard'")
        return self.heads1 if route == "easy" or self.heads2 is None else self.heads2

    def pyramid(self, route: Route, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps (B, C, H, W) of each level, finest first; the hard route runs backbone 2."""
        heads = self.heads_of(route)
        strides = self.spec.strides
        if route == "easy":
            maps: list[Tensor] = heads.neck([features[feature_name(stride)] for stride in strides])
            return maps
        first = {
            stride: features[feature_name(stride)]
            for stride in self.spec.first.strides
            if feature_name(stride) in self.detector2_reads
        }
        start = features[TOKENS] if isinstance(self.backbone2, LinkedSwin) else first
        second = self.backbone2(start, self.links(first))
        maps = heads.neck([second[stride] for stride in strides])
        return maps

    def region_outputs(self, route: Route, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level objectness logits (B, A, H, W) and deltas (B, A, 4, H, W)."""
        regions = self.heads_of(route).regions
        logits, deltas = zip(*(regions(level) for level in pyramid), strict=True)
        return list(logits), list(deltas)

    def anchors_of(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Per level anchors (H * W * A, 4) x1 y1 x2 y2 in pixels, in the order of `flatten_regions`.

        `pyramid` may be any maps of those heights and widths, such as logits.
        """
        size = self.image_size(pyramid)
        return [
            level_anchors(self.spec, level, maps.shape[-2], maps.shape[-1], size).to(maps.device)
            for level, maps in enumerate(pyramid)
        ]

    def image_size(self, pyramid: Sequence[Tensor]) -> tuple[int, int]:
        """Height and width of the image in pixels, from maps as in a pyramid."""
        height, width = pyramid[0].shape[-2:]
        return height * self.spec.strides[0], width * self.spec.strides[0]

    @staticmethod
    def flatten_regions(logits: Sequence[Tensor], deltas: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """All levels as rows, (B, N) and (B, N, 4): level by level, row by row, cell by cell, anchor by anchor."""
        return (
            torch.cat([selection.flatten_logits(level) for level in logits], dim=1),
            torch.cat([selection.flatten_deltas(level) for level in deltas], dim=1),
        )

    def regions(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor] | None = None,
        *,
        limits: ProposalLimits | None = None,
        size: tuple[int, int] | None = None,
    ) -> Regions:
        """The best regions of each level, which enter the suppression; for the arguments see `proposals`."""
        return selection.best_regions(
            logits,
            deltas,
            self.anchors_of(logits) if anchors is None else anchors,
            limits=limits or self.spec.limits.proposals,
            size=size or self.image_size(logits),
        )

    @torch.no_grad()
    def proposals(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor] | None = None,
        *,
        limits: ProposalLimits | None = None,
        size: tuple[int, int] | None = None,
    ) -> Proposals:
        """The best regions after suppression by level; shapes depend on `limits` alone.

        `size` is the image's height and width, by default as the maps say.
        """
        limits, size = limits or self.spec.limits.proposals, size or self.image_size(logits)
        regions = self.regions(logits, deltas, anchors, limits=limits, size=size)
        return selection.propose(regions, limits=limits, size=size, operators=self.operators)

    def roi_features(self, pyramid: Sequence[Tensor], boxes: Tensor, output: int) -> Tensor:
        """Features (B, K, C, output, output) of boxes (B, K, 4), each from the level that fits its size."""
        strides = self.spec.strides[: self.spec.roi_levels]
        boxes = boxes.float()
        left, top, right, bottom = torch.split(boxes, 1, dim=-1)
        area = ((right - left) * (bottom - top)).squeeze(-1)  # (B, K)
        levels = torch.zeros_like(area, dtype=torch.int64)
        for level in range(1, len(strides)):
            # sqrt(area) >= 2^level x finest, without the logarithm, whose rounding differs between programs
            levels = levels + (area >= (self.spec.roi_finest * 2.0**level) ** 2).to(torch.int64)
        return self.operators.rois(pyramid[: len(strides)], boxes, levels, strides, output, self.spec.aligned)

    def class_outputs(self, route: Route, pyramid: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, K, C + 1), background last, and deltas (B, K, C, 4) of boxes (B, K, 4) in pixels."""
        found: tuple[Tensor, Tensor] = self.heads_of(route).box(self.roi_features(pyramid, boxes, self.spec.box.roi))
        return found

    def mask_outputs(self, route: Route, pyramid: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Mask logits (B, M, C or 1, 28, 28) of boxes (B, M, 4) in pixels. Raises InputError without a mask head."""
        head, spec = self.heads_of(route).mask, self.spec.mask
        if head is None or spec is None:
            raise InputError(f"{self.spec.name} has no masks")
        logits: Tensor = head(self.roi_features(pyramid, boxes, spec.roi))
        return logits

    def pairs(
        self,
        route: Route,
        pyramid: Sequence[Tensor],
        proposals: Proposals,
        *,
        settings: DetectionLimits | None = None,
    ) -> Pairs:
        """The best (proposal, class) pairs, which enter the suppression."""
        logits, deltas = self.class_outputs(route, pyramid, proposals.boxes)
        limits = settings or self.spec.limits.detections
        return selection.pair_up(logits, deltas, proposals, limits=limits, size=self.image_size(pyramid))

    def finish(
        self,
        route: Route,
        pyramid: Sequence[Tensor],
        proposals: Proposals,
        *,
        settings: DetectionLimits | None = None,
    ) -> Answers:
        """Detections of proposals: class scores, the best pairs, suppression by class, masks of what stays."""
        limits = settings or self.spec.limits.detections
        pairs = self.pairs(route, pyramid, proposals, settings=limits)
        chosen = selection.choose(pairs, limits=limits, operators=self.operators)
        return Answers(*chosen, self.masks_of(route, pyramid, chosen))

    def masks_of(self, route: Route, pyramid: Sequence[Tensor], chosen: Chosen) -> Tensor | None:
        """Masks (B, D, 28, 28) uint8 of chosen detections; None if this detector has no masks."""
        if not self.has_masks:
            return None
        return selection.finished_masks(self.mask_outputs(route, pyramid, chosen.boxes), chosen)

    def head1(self, features: Mapping[str, Tensor], *, settings: TwoStageLimits | None = None) -> Answers:
        """Detections of the easy route."""
        return self._answer("easy", features, settings)

    def detector2(self, features: Mapping[str, Tensor], *, settings: TwoStageLimits | None = None) -> Answers:
        """Detections of the hard route, from backbone 1's features."""
        return self._answer("hard", features, settings)

    def _answer(self, route: Route, features: Mapping[str, Tensor], settings: TwoStageLimits | None) -> Answers:
        limits = settings or self.spec.limits
        pyramid = self.pyramid(route, features)
        logits, deltas = self.region_outputs(route, pyramid)
        proposals = self.proposals(logits, deltas, limits=limits.proposals)
        return self.finish(route, pyramid, proposals, settings=limits.detections)

    @torch.no_grad()
    def answer(self, x: Tensor, route: Route, *, settings: TwoStageLimits | None = None) -> Answers:
        """Detections of all images by one route. Raises InputError for another route's name."""
        self.heads_of(route)
        return self._answer(route, self.features(x), settings)

    def forward_route(self, x: Tensor, route: Route) -> Answers:
        """As `answer`."""
        return self.answer(x, route)

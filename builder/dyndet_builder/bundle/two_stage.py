"""The graphs of a two-stage detector as torch modules, and how many rows they hold.

The network's own code runs in them. Two of its operations get another form: suppression, which becomes standard
operators, and the features of boxes, whose form depends on what will run the graphs.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from dynamicdet.errors import InputError
from dynamicdet.networks.base import Route
from dynamicdet.networks.two_stage import selection
from dynamicdet.networks.two_stage.architectures import TwoStageLimits
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.networks.two_stage.operators import Operators
from dyndet_builder.bundle.nms import keep_mask
from dyndet_builder.bundle.parts import DETECTION_OUTPUTS, MASKS, Nms, Target, TwoStage
from dyndet_builder.bundle.roi import ROI_FORMS

PROBES = (
    "region_boxes",
    "region_scores",
    "region_rows",
    "proposal_boxes",
    "proposal_scores",
    "pair_boxes",
    "pair_scores",
    "pair_classes",
    "pair_places",
)
"""hidden outputs: what entered both suppressions, and what left the first one"""


def for_target(network: TwoStageDetector, target: Target) -> TwoStageDetector:
    """The network, whose graphs will have the forms for a target."""
    network.operators = Operators(keep=keep_mask, rois=ROI_FORMS[target])
    return network


def settings_of(network: TwoStageDetector, max_detections: int | None, target: Target) -> tuple[Nms, TwoStage]:
    """The settings of a network's graphs, as a bundle holds them; the architecture has its own `max_detections`.

    Raises InputError for more detections than there are pairs of a proposal and a class.
    """
    proposals, detections = network.spec.limits.proposals, network.spec.limits.detections
    most = min(detections.pairs, proposals.proposals * network.num_classes)
    wanted = detections.max_detections if max_detections is None else max_detections
    if wanted > most:
        raise InputError(f"{network.spec.name} cannot return {wanted} detections: at most {most} enter its suppression")
    nms = Nms(
        iou_threshold=detections.iou_threshold,
        score_floor=detections.score_floor,
        pre_top_k=most,
        max_detections=wanted,
    )
    regions = TwoStage(
        target=target,
        per_level=proposals.per_level,
        proposals=proposals.proposals,
        iou_threshold=proposals.iou_threshold,
    )
    return nms, regions


def limits_of(network: TwoStageDetector, nms: Nms) -> TwoStageLimits:
    """The same settings as the network takes them."""
    limits = network.spec.limits
    return replace(limits, detections=replace(limits.detections, max_detections=nms.max_detections))


def outputs_of(network: TwoStageDetector) -> tuple[str, ...]:
    """Names of what a detector answers."""
    return (*DETECTION_OUTPUTS, MASKS) if network.has_masks else DETECTION_OUTPUTS


def probes_of(network: TwoStageDetector) -> tuple[str, ...]:
    """Names of the hidden outputs, in the order of `RouteStage`."""
    strides = network.spec.region_strides
    return (*(name for stride in strides for name in region_names(stride)), *PROBES)


def region_names(stride: int) -> tuple[str, str]:
    """Names of the hidden outputs with the logits and the deltas of a level."""
    return f"region_logits_{stride}", f"region_deltas_{stride}"


class RouteStage(nn.Module):
    """Features to the detections of one route, and to what parity compares (`probes_of`)."""

    def __init__(self, network: TwoStageDetector, route: Route, nms: Nms) -> None:
        super().__init__()
        self.network = network
        self.route = route
        self.reads = network.head1_reads if route == "easy" else network.detector2_reads
        self.limits = limits_of(network, nms)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """`features` as `reads` lists them; the outputs as `outputs_of` and `probes_of` do."""
        network, limits = self.network, self.limits
        pyramid = network.pyramid(self.route, dict(zip(self.reads, features, strict=True)))
        logits, deltas = network.region_outputs(self.route, pyramid)
        size = network.image_size(pyramid)
        regions = network.regions(logits, deltas, limits=limits.proposals, size=size)
        proposals = selection.propose(regions, limits=limits.proposals, size=size, operators=network.operators)
        pairs = network.pairs(self.route, pyramid, proposals, settings=limits.detections)
        chosen = selection.choose(pairs, limits=limits.detections, operators=network.operators)
        masks = network.masks_of(self.route, pyramid, chosen)
        levels = (each for level in zip(logits, deltas, strict=True) for each in level)
        return (*chosen, *(() if masks is None else (masks,)), *levels, *regions, *proposals, *pairs)

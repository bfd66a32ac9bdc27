"""The recipe for training a two-stage detector, and the defaults of each architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from dynamicdet.errors import InputError
from dynamicdet.training.augment import Augmentation
from dynamicdet.training.recipe import DetectorRecipe
from dynamicdet.training.two_stage.settings import Gains, Sampling

Optimizer = Literal["adamw", "sgd"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
Frozen = Literal["usual", "norms", "stem"]
FROZEN: tuple[Frozen, ...] = get_args(Frozen)


@dataclass(frozen=True, kw_only=True)
class TwoStageRecipe(DetectorRecipe):
    """How both detectors of a two-stage network are trained. The defaults suit a small network on a CPU.

    What is not said here is as in `DetectorRecipe`; its `loss` is not used, because `gains` take its place. Raises
    InputError for what there is not, and for weights that are not finite numbers of at least 0.
    """

    optimizer: Optimizer = "adamw"
    momentum: float = 0.9
    """of the optimiser `sgd`"""
    frozen: Frozen = "usual"
    """`usual`: what the architecture says, which is something for a ResNet-50 only; `norms`: beside that, batch norms
    keep their means and variances; `stem`: so they do, and stem and first stage (of a Swin, its patches) keep all"""
    detector_weights: tuple[float, float] = (1.0, 1.0)
    """of the losses of detector 1 and detector 2"""
    gains: Gains = field(default_factory=lambda: Gains(beta=1 / 9))
    anchors: Sampling = field(default_factory=lambda: Sampling(count=256, positives=0.5))
    """drawn in each image"""
    rois: Sampling = field(default_factory=lambda: Sampling(count=64, positives=0.25))
    """drawn in each image, for each detector, from its own proposals and the objects"""
    mask_rois: int | None = 8
    """at most so many of an image's positive `rois` train the masks, which cost most; None: all of them"""
    low_quality: bool | None = None
    """whether the proposal that overlaps an object most is that object's, if the IoU is at least 0.5; None: in networks
    with masks"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, value, known in (("optimizer", self.optimizer, OPTIMIZERS), ("frozen", self.frozen, FROZEN)):
            if value not in known:
                raise InputError(f"unknown {what} {value!r}; choose one of {', '.join(known)}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.detector_weights):
            raise InputError(
                f"the weights of the detectors must be finite numbers of at least 0, got {self.detector_weights}"
            )
        if self.mask_rois is not None and self.mask_rois < 1:
            raise InputError(f"at least one box of an image must train the masks, got {self.mask_rois}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"the momentum must be at least 0 and below 1, got {self.momentum}")


_FLIPPED = Augmentation(scale=(1.0, 1.0), hue=0.0, saturation=0.0, value=0.0, on_object=0.0)
_USUAL = {
    "dy-faster-rcnn-r50": TwoStageRecipe(
        optimizer="sgd", learning_rate=0.02, least_learning_rate=0.0002, weight_decay=1e-4, warmup_steps=500,
        size=800, epochs=12, final_epochs=1, batch=16, clip_norm=35.0, gains=Gains(),
        rois=Sampling(count=512, positives=0.25), mask_rois=None, augmentation=_FLIPPED,
    ),
    "dy-mask-rcnn-swin-t": TwoStageRecipe(
        learning_rate=1e-4, least_learning_rate=1e-6, weight_decay=0.05, warmup_steps=1000,
        size=896, epochs=12, final_epochs=1, batch=16, clip_norm=35.0, gains=Gains(),
        rois=Sampling(count=512, positives=0.25), mask_rois=None, augmentation=_FLIPPED,
    ),
}  # fmt: skip
"""the usual settings of these networks, 12 epochs on COCO"""


def two_stage_recipe(architecture: str) -> TwoStageRecipe:
    """The recipe that an architecture is trained with if nothing else is said."""
    return _USUAL.get(architecture, TwoStageRecipe())

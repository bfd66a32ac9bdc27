"""The recipe for training the detectors, and the reports during the training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from dynamicdet.errors import InputError
from dynamicdet.training.augment import Augmentation
from dynamicdet.training.loss_weights import LossWeights

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """How the detectors are trained. The defaults suit a short training of a small network on a CPU."""

    epochs: int = 20
    final_epochs: int = 3
    """the last of the `epochs`, which run at the network's own input size and without mosaic"""
    size: int = 192
    """side of the training images before that, pixels"""
    size_range: float = 0.0
    """multi-scale: each batch's side is drawn within this share of `size`; 0 is off"""
    batch: int = 32
    """images per step, over all processes"""
    accumulate: int = 1
    """a batch that does not fit into memory is computed in this many parts, one after the other"""
    learning_rate: float = 2e-3
    least_learning_rate: float = 2e-5
    warmup_steps: int = 200
    """but at most a tenth of all steps"""
    weight_decay: float = 0.02
    clip_norm: float = 10.0
    average_decay: float = 0.999
    hold_out: float = 0.0
    """share of the images that do not train the detectors, so that the router can learn from them"""
    average_steps: float = 500.0
    """steps after which the average has about two thirds of its final memory"""
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(mosaic=0.3))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise InputError(f"the learning rate must be a finite number of at least 0, got {self.learning_rate}")
        if not 0 <= self.size_range < 1:
            raise InputError(f"the range of sizes must be at least 0 and below 1, got {self.size_range}")

    def epoch(self, number: int, input_size: int) -> tuple[int, Augmentation]:
        """Image size and augmentation of an epoch, counted from 0."""
        if number < self.epochs - self.final_epochs:
            return self.size, self.augmentation
        return input_size, replace(self.augmentation, mosaic=0.0)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The results of one step; epoch and step are counted from 1."""

    epoch: int
    step: int
    steps: int
    losses: tuple[float, ...]
    """of detector 1 and detector 2, or of the one that there is"""
    images_per_second: float
    """since the epoch began"""


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The results of one epoch."""

    epoch: int
    """counted from 1"""
    epochs: int
    size: int
    losses: tuple[float, ...]
    """of detector 1 and detector 2, or of the one that there is; means over the steps"""
    images_per_second: float
    seconds: float

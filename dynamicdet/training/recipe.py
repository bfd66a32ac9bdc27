"""How the detectors are trained, and what is told meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from dynamicdet.errors import InputError
from dynamicdet.training.augment import Augmentation
from dynamicdet.training.losses import LossWeights


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """How the detectors are trained. The defaults suit a small network, trained briefly on a CPU."""

    epochs: int = 20
    final_epochs: int = 3
    """of `epochs`, how many run at the network's own input size, without mosaic"""
    size: int = 192
    """side of the training pictures before that, pixels"""
    size_range: float = 0.0
    """multi-scale: each batch's side is drawn within this share of `size`; 0 is off"""
    batch: int = 32
    """images a step, over all processes"""
    accumulate: int = 1
    """parts that a batch is computed in, one after the other, where it does not fit into memory"""
    learning_rate: float = 2e-3
    least_learning_rate: float = 2e-5
    warmup_steps: int = 200
    weight_decay: float = 0.02
    clip_norm: float = 10.0
    average_decay: float = 0.999
    average_steps: float = 500.0
    """steps after which the average has about two thirds of its final memory"""
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(mosaic=0.3))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise InputError(f"the learning rate must be a finite number of at least 0, got {self.learning_rate}")

    def epoch(self, number: int, input_size: int) -> tuple[int, Augmentation]:
        """Picture size and augmentation of an epoch, counted from 0."""
        if number < self.epochs - self.final_epochs:
            return self.size, self.augmentation
        return input_size, replace(self.augmentation, mosaic=0.0)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did; epoch and step are counted from 1."""

    epoch: int
    step: int
    steps: int
    loss1: float
    loss2: float
    images_per_second: float
    """since the epoch began"""


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch did."""

    epoch: int
    """counted from 1"""
    epochs: int
    size: int
    loss1: float
    loss2: float
    images_per_second: float
    seconds: float

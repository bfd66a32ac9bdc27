"""The learning rate of every step, and what a training will be: its steps, its peak learning rate, its time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dynamicdet.errors import InputError
from dynamicdet.training.recipe import DetectorRecipe

_WARMUP_SHARE = 10  # a warm-up takes at most one of this many steps
_FEW_STEPS = 1000  # with fewer, random weights learn little


def warmup_steps(recipe: DetectorRecipe, total: int) -> int:
    """Steps of the warm-up: the recipe's, but at most a tenth of a training of `total` steps."""
    return max(1, min(recipe.warmup_steps, total // _WARMUP_SHARE))


def learning_rate(recipe: DetectorRecipe, step: int, total: int) -> float:
    """Of a step, counted from 0: it warms up, and falls along a cosine."""
    falling = (1 + math.cos(math.pi * min(1.0, step / max(1, total)))) / 2
    rate = recipe.least_learning_rate + (recipe.learning_rate - recipe.least_learning_rate) * falling
    return rate * min(1.0, (step + 1) / warmup_steps(recipe, total))


def images_per_step(recipe: DetectorRecipe, images: int, processes: int = 1) -> int:
    """The batch of a data set of this many images, over all processes: the recipe's, or all images if they are fewer.

    Raises InputError if it cannot be split evenly over processes and accumulated parts.
    """
    parts = processes * recipe.accumulate
    split = f"over {processes} process(es) and {recipe.accumulate} accumulated part(s)"
    if images < parts:
        raise InputError(f"{images} images cannot be split {split}; give at least {parts} images")
    if images < recipe.batch:
        return images // parts * parts
    if recipe.batch % parts:
        raise InputError(
            f"a batch of {recipe.batch} images cannot be split evenly {split}; choose a multiple of {parts}"
        )
    return recipe.batch


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a training will be."""

    images: int
    batch: int
    """images of a step"""
    epochs: int
    steps: int
    """in all epochs"""
    warmup: int
    peak_learning_rate: float
    sizes: str
    """of the images, in words"""
    pixels: float
    """area of all images of all epochs, in images of the size of the first epoch"""

    def sentences(self, *, started: bool) -> list[str]:
        """For a user; `started` says that the weights are not random."""
        left_out = self.images % self.batch
        lines = [
            f"{_counted(self.epochs, 'epoch')} of {_counted(self.steps // self.epochs, 'step')}: "
            f"{_counted(self.steps, 'step')} of {_counted(self.batch, 'image')}, {self.sizes}, learning rate up to "
            f"{self.peak_learning_rate:.2g} after {_counted(self.warmup, 'warm-up step')}"
        ]
        if left_out:
            lines.append(f"{left_out:,} of {self.images:,} images are left out of each epoch, others each time")
        if self.steps < _FEW_STEPS and not started:
            more = math.ceil(_FEW_STEPS * self.epochs / self.steps)
            lines.append(
                f"random weights learn little in {_counted(self.steps, 'step')}: give --start, or about --epochs "
                f"{more} for {_FEW_STEPS:,} steps"
            )
        return lines

    def seconds(self, images_per_second: float) -> float:
        """How long all epochs take at the pace of the first one."""
        return self.pixels / images_per_second


def plan_training(recipe: DetectorRecipe, images: int, input_size: int, processes: int = 1) -> TrainingPlan:
    """The plan for a data set of this many images. Raises InputError as `images_per_step`."""
    batch = images_per_step(recipe, images, processes)
    steps = images // batch
    total = recipe.epochs * steps
    sides = [recipe.epoch(epoch, input_size)[0] for epoch in range(recipe.epochs)]
    warmup = warmup_steps(recipe, total)
    return TrainingPlan(
        images=images,
        batch=batch,
        epochs=recipe.epochs,
        steps=total,
        warmup=warmup,
        peak_learning_rate=max(learning_rate(recipe, step, total) for step in range(min(warmup, total))),
        sizes=_sizes(recipe, sides),
        pixels=sum(steps * batch * (side / sides[0]) ** 2 for side in sides),
    )


def _sizes(recipe: DetectorRecipe, sides: Sequence[int]) -> str:
    """The sizes of all epochs, in words."""
    first = recipe.epochs - recipe.final_epochs
    if first > 0 and sides[0] != sides[-1]:
        sizes = f"{_counted(first, 'epoch')} at {sides[0]} px and the last {recipe.final_epochs:,} at {sides[-1]} px"
    elif first > 0 or sides[0] == recipe.size:
        sizes = f"at {sides[0]} px"
    else:
        sizes = f"at {sides[0]} px (not {recipe.size} px: all epochs are final epochs, see --final-epochs)"
    return f"{sizes}, each step within {recipe.size_range:.0%} of that" if recipe.size_range else sizes


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"

"""The paper's objectives: the router learns to weigh the losses of both detectors against each other.

An image that goes to detector 2 costs its loss L2 plus an offset; an image that stays with detector 1 costs its loss
L1: (1 - phi) (L1 - D / 2) + phi (L2 + D / 2). The paper's three objectives differ in D. `naive` has none and sends
every image to the better detector. `penalty` has a constant that must be tuned. `adaptive` takes the median of L1 - L2
over the training set so far; this makes half of the images hard and needs no tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicdet.networks.router.layers import Router
from dynamicdet.router.examples import RouterExamples
from dynamicdet.router.recipe import RouterRecipe

_LEAST_DEVIATION = 1e-6


class RunningMedian:
    """Median of all values seen so far."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    def add(self, values: Tensor) -> float:
        """Add values (n,) and return the median of all values so far (the mean of the middle two)."""
        self._values.append(values.detach().flatten().double())
        return float(torch.cat(self._values).quantile(0.5))


def routing_objective(difficulty: Tensor, loss1: Tensor, loss2: Tensor, offset: float) -> Tensor:
    """Mean of (1 - phi) (L1 - D / 2) + phi (L2 + D / 2): detector 2 pays off if it saves more than D."""
    return ((1 - difficulty) * (loss1 - offset / 2) + difficulty * (loss2 + offset / 2)).mean()


@dataclass(frozen=True, kw_only=True)
class ObjectiveReport:
    """What became of the objective, on the examples."""

    offset: float
    """D at the end; for the adaptive objective the median of loss 1 - loss 2"""
    before: float
    """with half of every image on either route"""
    after: float
    chance: float
    """if every image had the mean difficulty"""


def fit_to_losses(router: Router, examples: RouterExamples, recipe: RouterRecipe) -> ObjectiveReport:
    """Train a router with one of the paper's objectives, from random weights."""
    torch.manual_seed(recipe.seed)
    for layer in (router.layer1, router.layer2):
        layer.reset_parameters()
    # Channels differ in scale by orders of magnitude. Unscaled, the router learns the mean gain and little else.
    deviation, mean = torch.std_mean(examples.pooled, dim=0, correction=0)
    # A channel that never changes carries no information, whatever it is divided by.
    factor = 1 / torch.where(deviation > _LEAST_DEVIATION, deviation, 1.0)
    standard = (examples.pooled - mean) * factor
    optimizer = torch.optim.AdamW(
        [*router.layer1.parameters(), *router.layer2.parameters()],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    steps = recipe.epochs * max(1, -(-len(examples) // recipe.batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    median = RunningMedian()
    gain = examples.loss1 - examples.loss2
    offset = recipe.penalty or 0.0
    for epoch in range(recipe.epochs):
        for chosen in torch.randperm(len(examples)).split(recipe.batch):  # type: ignore[no-untyped-call]
            # Later epochs have the same values, so the median would not change.
            if epoch == 0 and recipe.objective == "adaptive":
                offset = median.add(gain[chosen])
            difficulty = router.layers(standard[chosen]).sigmoid()
            optimizer.zero_grad(set_to_none=True)
            objective = routing_objective(difficulty, examples.loss1[chosen], examples.loss2[chosen], offset)
            objective.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    optimizer.zero_grad(set_to_none=True)
    router.absorb(mean.flatten(), factor.flatten())
    with torch.no_grad():
        difficulty = router.value(examples.pooled).sigmoid()
    losses = (examples.loss1, examples.loss2, offset)
    return ObjectiveReport(
        offset=offset,
        before=float(routing_objective(torch.full_like(gain, 0.5), *losses)),
        after=float(routing_objective(difficulty, *losses)),
        chance=float(routing_objective(difficulty.mean(), *losses)),
    )

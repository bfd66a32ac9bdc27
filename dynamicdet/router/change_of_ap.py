"""A router that learns the change of AP, and what it is worth on pictures that it has not seen."""

from __future__ import annotations

import numpy as np
import torch

from dynamicdet.aliases import BoolArray, FloatArray
from dynamicdet.evaluation.evaluate import LEAST_GAP
from dynamicdet.networks.router.layers import Router
from dynamicdet.router.examples import RouterExamples
from dynamicdet.router.fitting import MEMBERS, FittedValue, fit_value
from dynamicdet.router.influence import influence_of
from dynamicdet.router.kept_gain import Judge, KeptGain
from dynamicdet.router.recipe import RouterRecipe

LEAST_PICTURES = 200
"""fewer do not show how much of the gain a router keeps"""
DEFAULT_SUM = "AP, losses and objects"
"""where there are too few pictures to choose"""
_FOLDS = 5
_SUMS = {
    "AP": (1.0, 0.0, 0.0),
    "AP and losses": (1.0, 1.0, 0.0),
    "AP and objects": (1.0, 0.0, 1.0),
    "AP, losses and objects": (1.0, 1.0, 1.0),
}
"""what may be learned: weights of the change of AP, the difference of the losses, and the number of objects

AP is what counts, but a single picture's change of it is mostly chance. The other two follow it with less noise.
"""


class ApFit:
    """Chooses by cross-validation what a router like this one learns; `into` then fits it to all examples.

    The examples need a `score`.
    """

    def __init__(self, examples: RouterExamples, recipe: RouterRecipe, router: Router) -> None:
        assert examples.score is not None
        self.score = examples.score
        self.groups = examples.groups
        self.seed = recipe.seed
        self.width = (router.layer1.out_channels - 2) // MEMBERS
        self.inputs = examples.pooled.flatten(1).double().numpy()
        self.losses = examples.loss_gains
        self.objects = np.sum([one.objects for one in self.score.classes], axis=0).astype(np.float64)
        self.influence = influence_of(self.score)
        self.kept: KeptGain | None = None
        """on pictures that the fit has not seen; None if there are too few of them, or no gain"""
        self.learned_from = DEFAULT_SUM
        """what is summed, in words"""
        judge = Judge(score=self.score, groups=self.groups, seed=self.seed)
        if len(np.unique(self.groups)) >= LEAST_PICTURES and judge.gain >= LEAST_GAP:
            unseen = self._out_of_fold()
            orders = {name: unseen @ np.array(weights) for name, weights in _SUMS.items()}
            self.learned_from = max(orders, key=lambda name: judge.kept(orders[name]).mean)
            self.kept = judge.with_errors({"": orders[self.learned_from]})[""]

    def into(self, router: Router) -> None:
        """Fit all examples, and write the result into a router."""
        fitted = self._fitted(np.ones(len(self.groups), np.bool_))
        weights = np.array(_SUMS[self.learned_from])
        _write(router, fitted, weights)

    def _fitted(self, chosen: BoolArray) -> FittedValue:
        targets = np.stack([influence_of(self.score, counts=chosen), self.losses, self.objects], axis=1)
        return fit_value(
            self.inputs[chosen],
            targets[chosen],
            width=self.width,
            pictures=len(np.unique(self.groups[chosen])),
            seed=self.seed,
        )

    def _out_of_fold(self) -> FloatArray:
        """The values (N, T) of each example by a fit that has seen no view of its picture, and none of its clip."""
        count = int(self.groups.max()) + 1
        fold = (np.random.default_rng(self.seed).permutation(count) % _FOLDS)[self.groups]
        values = np.zeros((len(self.groups), 3))
        for number in np.unique(fold):
            values[fold == number] = self._fitted(fold != number)(self.inputs[fold == number])
        return values


@torch.no_grad()
def _write(router: Router, fitted: FittedValue, weights: FloatArray) -> None:
    """Make a router compute the weighted sum of fitted values."""
    linear = fitted.linear @ weights  # (F,), as relu(x) - relu(-x) in two hidden units
    rows = np.concatenate([fitted.hidden.T, linear[None], -linear[None]])
    bias, out = np.append(fitted.bias, [0.0, 0.0]), np.append(fitted.out @ weights, [1.0, -1.0])
    assert router.layer1.bias is not None and router.layer2.bias is not None
    for tensor, values in (
        (router.layer1.weight, rows),
        (router.layer1.bias, bias),
        (router.layer2.weight, out[None]),
    ):
        tensor.zero_()
        tensor.flatten(1 if tensor.ndim > 1 else 0)[..., : values.shape[-1]][: len(values)] = torch.from_numpy(values)
    router.layer2.bias.zero_()
    router.absorb(torch.from_numpy(fitted.mean).float(), torch.from_numpy(fitted.factor).float())

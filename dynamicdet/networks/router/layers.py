"""The router: from the features of backbone 1 to the difficulty of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.router.form import PUBLISHED_ROUTER, RouterForm
from dynamicdet.networks.router.ranks import Ranks

_HIDDEN = 66
"""of `rich`: two carry what is linear"""
_LIMIT = 5.0
"""spreads from the mean beyond which an input says no more"""


class Router(nn.Module):
    """Pools each feature to vectors and gives the difficulty of the image."""

    def __init__(self, channels: Sequence[int], *, form: RouterForm = PUBLISHED_ROUTER) -> None:
        super().__init__()
        self.form = form
        inputs = sum(channels) * (3 if form.inputs == "rich" else 1)
        hidden = _HIDDEN if form.inputs == "rich" else inputs // 4
        if form.inputs == "rich":
            self.scaling = Scaling(inputs)
        self.layer1 = nn.Conv2d(inputs, hidden, 1)
        self.layer2 = nn.Conv2d(hidden, 1, 1)
        if form.ranked:
            self.ranks = Ranks()

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features to values (B,): the logits of the difficulties, or what is ranked."""
        return self.value(self.pool(features))

    def pool(self, features: Sequence[Tensor]) -> Tensor:
        """What the router reads of the features, (B, inputs, 1, 1)."""
        means = [functional.adaptive_avg_pool2d(feature, 1) for feature in features]
        if self.form.inputs == "mean":
            return torch.cat(means, dim=1)
        highest = [feature.amax(dim=(2, 3), keepdim=True) for feature in features]
        # Not the deviation: in single precision, small ones would be lost in the difference to the mean.
        strengths = [functional.adaptive_avg_pool2d(feature * feature, 1).sqrt() for feature in features]
        return torch.cat([*means, *highest, *strengths], dim=1)

    def value(self, pooled: Tensor) -> Tensor:
        """Values (B,) of what `pool` returns."""
        return self.layers(self.scaling(pooled) if self.form.inputs == "rich" else pooled)

    def layers(self, scaled: Tensor) -> Tensor:
        """Values (B,) of inputs that are scaled, where this form scales them."""
        logits: Tensor = self.layer2(functional.relu(self.layer1(scaled)))
        return logits.flatten()  # (B,)

    def difficulty(self, value: Tensor) -> Tensor:
        """Difficulties (B,) in 0..1 of values (B,); a larger value gives a larger one."""
        if not self.form.ranked:
            return value.sigmoid()
        ranked: Tensor = self.ranks(value)
        return ranked

    @torch.no_grad()
    def absorb(self, mean: Tensor, factor: Tensor) -> None:
        """Make layers that were trained on (inputs - mean) * factor, both (inputs,), work on the inputs themselves."""
        if self.form.inputs == "rich":
            self.scaling.mean.copy_(mean.view_as(self.scaling.mean))
            self.scaling.factor.copy_(factor.view_as(self.scaling.factor))
            return
        assert self.layer1.bias is not None
        self.layer1.weight *= factor.view(1, -1, 1, 1)
        self.layer1.bias -= self.layer1.weight.flatten(1) @ mean


class Scaling(nn.Module):
    """Brings each input of a router to a mean of 0 and a spread of 1, and limits it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("mean", torch.zeros(1, inputs, 1, 1))
        self.register_buffer("factor", torch.ones(1, inputs, 1, 1))

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, inputs, 1, 1) to the same shape."""
        return ((pooled - self.mean) * self.factor).clamp(-_LIMIT, _LIMIT)

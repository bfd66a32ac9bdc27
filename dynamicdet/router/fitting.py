"""Fits a value to each picture's inputs: a ridge regression, and with enough pictures small networks beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dynamicdet.aliases import FloatArray

RIDGE = 1.0
"""strength, per picture; inputs have a spread of 1"""
NETWORK_PICTURES = 1000
"""fewer train no hidden layer: it would do worse than the ridge regression alone"""
LIMIT = 5.0
"""spreads from the mean beyond which an input says no more"""
MEMBERS = 4
"""networks whose mean is taken"""
_EPOCHS, _BATCH = 10, 256
_LEARNING_RATE, _DECAY, _DROPOUT = 3e-3, 0.1, 0.3
_CLIPPED = 0.03
"""share of the targets at either end that are clipped: a few pictures change AP most, mostly by chance"""


@dataclass(frozen=True, kw_only=True)
class FittedValue:
    """T values, z @ linear + relu(z @ hidden + bias) @ out, for z = clip((inputs - mean) * factor, -LIMIT, LIMIT)."""

    mean: FloatArray
    """(F,)"""
    factor: FloatArray
    """(F,) 0 for inputs that do not vary, or are not read"""
    linear: FloatArray
    """(F, T)"""
    hidden: FloatArray
    """(F, H); H is 0 without a hidden layer"""
    bias: FloatArray
    """(H,)"""
    out: FloatArray
    """(H, T)"""

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """The values of each picture, (B, T)."""
        scaled = np.clip((inputs - self.mean) * self.factor, -LIMIT, LIMIT)
        value: FloatArray = scaled @ self.linear + np.maximum(scaled @ self.hidden + self.bias, 0) @ self.out
        return value


def fit_value(
    inputs: FloatArray, targets: FloatArray, *, width: int, pictures: int, seed: int, read: FloatArray | float = 1.0
) -> FittedValue:
    """Predict the targets (N, T) from the inputs (N, F).

    Each target is clipped and brought to a mean of 0 and a spread of 1 first. `width` is that of each network's hidden
    layer. `pictures` says how many different ones the N inputs are of. `read` (F,) is 0 for inputs that are left out.
    The same inputs and seed give the same result.
    """
    spread = inputs.std(axis=0)
    known = (spread > 1e-6) * np.asarray(read)
    factor = np.where(known > 0, 1 / np.maximum(spread, 1e-6), 0.0)
    mean = inputs.mean(axis=0)
    scaled = np.clip((inputs - mean) * factor, -LIMIT, LIMIT)
    wanted = _evened(targets)
    linear = _ridge(scaled, wanted) * known[:, None]
    hidden, bias, out = np.zeros((inputs.shape[1], 0)), np.zeros(0), np.zeros((0, targets.shape[1]))
    if pictures >= NETWORK_PICTURES:
        members = [_member(scaled, wanted, width=width, seed=seed * MEMBERS + number) for number in range(MEMBERS)]
        hidden, bias, out = (np.concatenate(parts, axis=-1) for parts in zip(*members, strict=True))
        hidden, out = hidden * known[:, None], out.T / MEMBERS
    return FittedValue(mean=mean, factor=factor, linear=linear, hidden=hidden, bias=bias, out=out)


def _evened(targets: FloatArray) -> FloatArray:
    """Each target (N, T) clipped, with a mean of 0 and a spread of 1."""
    clipped = np.clip(targets, *np.quantile(targets, [_CLIPPED, 1 - _CLIPPED], axis=0))
    evened: FloatArray = (clipped - clipped.mean(axis=0)) / np.maximum(clipped.std(axis=0), 1e-12)
    return evened


def _ridge(scaled: FloatArray, wanted: FloatArray) -> FloatArray:
    strength = RIDGE * len(wanted) * np.eye(scaled.shape[1])
    centred = scaled - scaled.mean(axis=0)
    weights: FloatArray = np.linalg.solve(centred.T @ centred + strength, centred.T @ wanted)
    return weights


def _member(
    scaled: FloatArray, wanted: FloatArray, *, width: int, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights (F, H), biases (H,) and output weights (T, H) of one hidden layer; the same seed gives the same ones."""
    x, y = (torch.from_numpy(one).float() for one in (scaled, wanted))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (nn.Linear(x.shape[1], width), nn.Linear(width, y.shape[1]))
        network = nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(_DROPOUT), layers[1])
        optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_DECAY)
        batches = -(-len(x) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=_EPOCHS * batches)
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(x)), _BATCH):
                loss = nn.functional.huber_loss(network(x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    weights = [one.detach().double().numpy() for one in (layers[0].weight, layers[0].bias, layers[1].weight)]
    return weights[0].T, weights[1], weights[2]

"""Fits the networks of learned routers: a ridge regression, and with enough pictures small networks beside it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dynamicdet.aliases import FloatArray
from dyndet_builder.pairing.router.features import RULES_ONLY, feature_names
from dyndet_builder.pairing.router.network import Network, unranked

RIDGE = 1.0
"""strength, per picture; features have a spread of 1"""
NETWORK_PICTURES = 1000
"""fewer train no hidden layer: it would do worse than the ridge regression alone"""
_HIDDEN, _MEMBERS, _EPOCHS, _BATCH = 64, 4, 10, 256
_LEARNING_RATE, _DECAY, _DROPOUT = 3e-3, 0.1, 0.3
_LIMIT = 5.0
"""spreads from the mean beyond which a feature says no more"""
_CLIPPED = 0.03
"""share of the targets at either end that are clipped: a few pictures change AP most, mostly by chance"""


def fit_network(features: FloatArray, targets: FloatArray, *, class_count: int, seed: int) -> Network:
    """A network, not ranked yet, that predicts the targets (N,) of pictures with these features (N, F)."""
    spread = features.std(axis=0)
    read = (spread > 1e-6) & ~np.isin(feature_names(class_count), RULES_ONLY)
    factor = np.where(read, 1 / np.maximum(spread, 1e-6), 0.0)
    mean = features.mean(axis=0)
    scaled = np.clip((features - mean) * factor, -_LIMIT, _LIMIT)
    wanted = np.clip(targets, *np.quantile(targets, [_CLIPPED, 1 - _CLIPPED]))
    wanted = (wanted - wanted.mean()) / max(float(wanted.std()), 1e-12)
    linear = _ridge(scaled, wanted) * read
    if len(features) < NETWORK_PICTURES:
        return unranked(class_count, linear=linear, mean=mean, factor=factor, limit=_LIMIT)
    members = [_member(scaled, wanted, seed=seed * _MEMBERS + number) for number in range(_MEMBERS)]
    weights, bias, out = (np.concatenate(parts, axis=-1) for parts in zip(*members, strict=True))
    hidden = (weights * read[:, None], bias, out / _MEMBERS)
    return unranked(class_count, linear=linear, mean=mean, factor=factor, limit=_LIMIT, hidden=hidden)


def _ridge(scaled: FloatArray, wanted: FloatArray) -> FloatArray:
    strength = RIDGE * len(wanted) * np.eye(scaled.shape[1])
    centred = scaled - scaled.mean(axis=0)
    weights: FloatArray = np.linalg.solve(centred.T @ centred + strength, centred.T @ wanted)
    return weights


def _member(scaled: FloatArray, wanted: FloatArray, *, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, biases and output weights of one hidden layer; the same seed gives the same ones."""
    x, y = (torch.from_numpy(one).float() for one in (scaled, wanted))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (nn.Linear(x.shape[1], _HIDDEN), nn.Linear(_HIDDEN, 1))
        network = nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(_DROPOUT), layers[1])
        optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_DECAY)
        batches = -(-len(x) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=_EPOCHS * batches)
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(x)), _BATCH):
                loss = nn.functional.huber_loss(network(x[rows])[:, 0], y[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    weights = [one.detach().double().numpy() for one in (layers[0].weight, layers[0].bias, layers[1].weight)]
    return weights[0].T, weights[1], weights[2][0]

"""The arithmetic of a router: features to a value, and the value to its rank among the pictures it was fitted on.

A free rule has the same form as a learned router: its value is a weighted sum of few features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dynamicdet.aliases import Float32Array, FloatArray
from dynamicdet.networks.router.ranks import TAIL, even_knots
from dynamicdet.router.features import feature_names

NO_LIMIT = 1e9


@dataclass(frozen=True, kw_only=True)
class Network:
    """Features (B, F) to difficulties (B,).

    z = clip((x - mean) * factor, -limit, limit); value = z @ linear + relu(z @ hidden + bias) @ out.
    """

    class_count: int
    mean: FloatArray
    """(F,)"""
    factor: FloatArray
    """(F,) 0 where a feature does not vary"""
    limit: float
    linear: FloatArray
    """(F,)"""
    hidden: FloatArray
    """(F, H); H is 0 without a hidden layer"""
    bias: FloatArray
    """(H,)"""
    out: FloatArray
    """(H,)"""
    knots: FloatArray
    """(P,) values, ascending"""
    ranks: FloatArray
    """(P,) what they become, ascending, from `TAIL` to 1 - `TAIL`"""

    def value(self, features: FloatArray) -> FloatArray:
        """The value of each picture, (B,): larger is harder."""
        scaled = np.clip((features - self.mean) * self.factor, -self.limit, self.limit)
        value: FloatArray = scaled @ self.linear + np.maximum(scaled @ self.hidden + self.bias, 0) @ self.out
        return value

    def difficulty(self, features: FloatArray) -> Float32Array:
        """The difficulty of each picture, (B,), inside 0..1; it increases strictly with the value."""
        value = self.value(features)[:, None]
        steps, slopes = np.diff(self.knots), np.diff(self.ranks) / np.diff(self.knots)
        inside = (np.clip(value - self.knots[:-1], 0, steps) * slopes).sum(axis=1)
        beyond = value[:, 0] - value[:, 0].clip(self.knots[0], self.knots[-1])
        tails = beyond / (self.spread + np.abs(beyond))
        difficulty: Float32Array = (TAIL + inside + TAIL * tails).astype(np.float32)
        return difficulty

    @property
    def spread(self) -> float:
        """Width of the values that were seen; it scales the tails."""
        return float(self.knots[-1] - self.knots[0])

    def ranked(self, features: FloatArray) -> Network:
        """The same network, with the map that makes the difficulties of these pictures (B, F) spread evenly."""
        knots, ranks = even_knots(self.value(features))
        return replace(self, knots=knots, ranks=ranks)


def unranked(
    class_count: int,
    *,
    linear: FloatArray,
    mean: FloatArray | float = 0.0,
    factor: FloatArray | float = 1.0,
    limit: float = NO_LIMIT,
    hidden: tuple[FloatArray, FloatArray, FloatArray] | None = None,
) -> Network:
    """A network without its map to ranks; `hidden` is the layer's weights (F, H), biases (H,), output weights (H,)."""
    count = len(linear)
    weights, bias, out = hidden or (np.zeros((count, 0)), np.zeros(0), np.zeros(0))
    return Network(
        class_count=class_count,
        mean=np.broadcast_to(mean, count),
        factor=np.broadcast_to(factor, count),
        limit=limit,
        linear=linear,
        hidden=weights,
        bias=bias,
        out=out,
        knots=np.array([0.0, 1.0]),
        ranks=np.array([TAIL, 1 - TAIL]),
    )


def weighted_sum(weights: Mapping[str, float], *, class_count: int) -> Network:
    """A network, not ranked yet, whose value is a sum of some features by name."""
    names = feature_names(class_count)
    linear = np.zeros(len(names))
    for name, weight in weights.items():
        linear[names.index(name)] = weight
    return unranked(class_count, linear=linear)

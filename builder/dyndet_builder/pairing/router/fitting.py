"""Fits the network of a learned router of a pair."""

from __future__ import annotations

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.router.features import RULES_ONLY, feature_names
from dynamicdet.router.fitting import LIMIT, fit_value
from dynamicdet.router.weighted import Network, unranked

_HIDDEN = 64


def fit_network(features: FloatArray, targets: FloatArray, *, class_count: int, seed: int) -> Network:
    """A network, not ranked yet, that predicts the targets (N,) of pictures with these features (N, F)."""
    read = ~np.isin(feature_names(class_count), RULES_ONLY)
    fitted = fit_value(
        features, targets[:, None], width=_HIDDEN, pictures=len(features), seed=seed, read=read.astype(np.float64)
    )
    hidden = (fitted.hidden, fitted.bias, fitted.out[:, 0]) if len(fitted.bias) else None
    return unranked(
        class_count, linear=fitted.linear[:, 0], mean=fitted.mean, factor=fitted.factor, limit=LIMIT, hidden=hidden
    )

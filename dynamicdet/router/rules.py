"""Free rules for which pictures are hard: from detector 1's answers alone, nothing is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dynamicdet.aliases import FloatArray
from dynamicdet.router.features import Answered, features
from dynamicdet.router.weighted import weighted_sum

_EMPTY = {"contrast": 0.01, "brightness": 0.002}
"""orders pictures in which nothing was found, and is too little to matter in others"""
_TIES = {"sum": 0.02, "contrast": 0.2, "brightness": 0.05}
"""orders pictures of one count; together less than a count in nearly all pictures"""

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "count-0.2": {"count 0.2": 1, **_TIES},
    "count-0.5": {"count 0.5": 1, **_TIES},
    "score-sum": {"sum": 1, **_EMPTY},
    "uncertain-boxes": {"uncertain": 1, **_EMPTY},
    "low-best-score": {"top 1": -1, **_EMPTY},
    "mean-score": {"mean": 1, **_EMPTY},
    "small-objects": {"small": 1, **_EMPTY},
    "count-and-size": {"count 0.5": 1, "least side": -5, **_TIES},
}
"""features and their weights, by the name of the rule; larger is harder"""


def _rule(weights: Mapping[str, float]) -> Callable[[Answered], FloatArray]:
    network = weighted_sum(weights, class_count=0)
    return lambda answers: network.value(features(answers, class_count=0))


RULES: Mapping[str, Callable[[Answered], FloatArray]] = {name: _rule(weights) for name, weights in WEIGHTS.items()}
"""by name: answers to (N,), larger is harder; pictures without objects are ordered by their looks

`low-best-score`: the lower the best score, the harder. `count-and-size`: many objects, or a small one among them.
"""

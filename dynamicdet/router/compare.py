"""One table: what routers, free rules and oracles keep of detector 2's gain on the same pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import Float32Array, FloatArray
from dynamicdet.datasets.clips import clips_of
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.evaluation.evaluate import CURVE_HARD_SHARES, LEAST_GAP
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.letterbox import Fit
from dynamicdet.router.features import looks_of
from dynamicdet.router.influence import influence_of
from dynamicdet.router.kept_gain import HARD_SHARES, Judge, KeptGain, hardest
from dynamicdet.router.rules import RULES
from dynamicdet.routing.routes import RouteResults

_RANDOM_DRAWS = 10

RULE, TRUTH, ORACLE_LOSS, ORACLE_AP, RANDOM = "rule", "objects", "oracle, losses", "oracle, AP", "random"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One way to choose the hard pictures."""

    name: str
    kept: KeptGain
    mean_ap: float
    """percent, mean over 21 hard shares from 0 to 1"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ways to choose the hard pictures, on the same pictures: routers, free rules, and what nobody knows beforehand."""

    data: str
    """the data set, in short"""
    images: int
    easy_ap: float
    hard_ap: float
    rows: tuple[Compared, ...]
    """routers first, then free rules from the best to the worst, the true number of objects, oracles, random; none if
    detector 2 gains next to nothing"""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _EasyAnswers:
    """What detector 1 found, as the free rules read it."""

    fit: Fit
    boxes: Sequence[Float32Array]
    scores: Sequence[Float32Array]
    classes: Sequence[npt.NDArray[np.int64]]
    looks: Float32Array


def compare(
    results: RouteResults, data: CocoDataset, routers: Mapping[str, FloatArray], *, seed: int = 0
) -> Comparison:
    """Compare the difficulties (N,) of `routers`, by name, with the free rules and the oracles.

    The standard errors are those of a bootstrap over the pictures, or over clips if the file names tell clips. There
    are no rows if detector 2 gains next to nothing on these pictures: there is nothing to keep then.
    """
    score = MixedPrecision(results, data)
    names = [str(image["file_name"]) for image in data.annotations["images"]]
    judge = Judge(score=score, groups=np.unique(clips_of(names), return_inverse=True)[1], seed=seed)
    none = np.zeros(len(data), np.bool_)
    name = "/".join(data.folder.resolve().parts[-2:])
    ends = Comparison(data=name, images=len(data), easy_ap=score(none).ap, hard_ap=score(~none).ap, rows=())
    if judge.gain < LEAST_GAP:
        return ends
    counts = np.array([len(one.classes) for one in data.labels], np.float64)
    orders = {**routers, **_rules(results, data), TRUTH: counts}
    if results.loss_gains is not None:
        orders[ORACLE_LOSS] = results.loss_gains
    orders[ORACLE_AP] = influence_of(score)
    kept = judge.with_errors(orders)
    rows = [Compared(name=name, kept=kept[name], mean_ap=_mean_ap(score, order)) for name, order in orders.items()]
    first, last = len(routers), len(routers) + len(RULES)
    rules = sorted(rows[first:last], key=lambda row: -row.kept.mean)
    rows = [*rows[:first], *rules, *rows[last:], _random(judge, len(data), seed)]
    return replace(ends, rows=tuple(rows))


def _rules(results: RouteResults, data: CocoDataset) -> dict[str, FloatArray]:
    """Each free rule's order of the pictures, by its name."""
    answers = _EasyAnswers(
        fit=data.fit,
        boxes=[
            placement.from_original(one.boxes.numpy())
            for placement, one in zip(data.placements, results.easy, strict=True)
        ],
        scores=[one.scores.numpy() for one in results.easy],
        classes=[one.classes.numpy() for one in results.easy],
        looks=np.array([looks_of(image) for image in data.images], np.float32),
    )
    return {f"{RULE} {name}": rule(answers) for name, rule in RULES.items()}


def _mean_ap(score: MixedPrecision, order: FloatArray) -> float:
    return float(np.mean([score(hardest(order, share)).ap for share in CURVE_HARD_SHARES]))


def _random(judge: Judge, pictures: int, seed: int) -> Compared:
    """The mean of random orders, and the deviation between them."""
    orders = np.random.default_rng(seed).random((_RANDOM_DRAWS, pictures))
    kept = [judge.kept(order) for order in orders]
    at = {share: [one.at[share] for one in kept] for share in HARD_SHARES}
    return Compared(
        name=RANDOM,
        kept=KeptGain(
            at={share: float(np.mean(values)) for share, values in at.items()},
            error={share: float(np.std(values, ddof=1)) for share, values in at.items()},
        ),
        mean_ap=float(np.mean([_mean_ap(judge.score, order) for order in orders])),
    )

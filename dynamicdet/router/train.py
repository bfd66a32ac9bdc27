"""Step 2 of training: only the router."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynamicdet.aliases import BoolArray, FloatArray, Progress, silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, only
from dynamicdet.datasets.hold_out import fingerprint, held_out
from dynamicdet.errors import InputError
from dynamicdet.evaluation.evaluate import LEAST_GAP
from dynamicdet.networks.network import DynamicDetector
from dynamicdet.networks.router import PUBLISHED_ROUTER, Router
from dynamicdet.router.compare import Comparison, compare
from dynamicdet.router.examples import RouterExamples, collect_examples
from dynamicdet.router.fitting import MEMBERS, FittedValue, fit_value
from dynamicdet.router.influence import influence_of
from dynamicdet.router.kept_gain import Judge, KeptGain
from dynamicdet.router.paper import fit_to_losses
from dynamicdet.router.recipe import PAPER, RouterRecipe
from dynamicdet.router.report import RouterReport
from dynamicdet.routing.routes import check_fits, run_routes
from dynamicdet.training.devices import make_fabric

LEAST_PICTURES = 200
"""fewer do not show how much of the gain a router keeps"""
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


@dataclass(frozen=True, kw_only=True)
class RouterPictures:
    """The part of a data set from which the router can learn."""

    data: CocoDataset
    remark: str
    """one sentence: which part it is, or that the detectors have seen it"""


def router_pictures(model: DynamicDetector, data: CocoDataset) -> RouterPictures:
    """The pictures that were held out of the detectors' training, or all if this is other data."""
    origin = model.trained_on
    if origin is None:
        return RouterPictures(
            data=data,
            remark="the checkpoint does not say which images trained its detectors; a router is misled by images that "
            "they have seen",
        )
    if origin.fingerprint != fingerprint(data):
        return RouterPictures(data=data, remark=f"all {len(data):,} images are used; they did not train the detectors")
    held = held_out(data, origin.held_out)
    if not held.any():
        return RouterPictures(
            data=data,
            remark="these images trained the detectors, which misleads the router: give other images, or train the "
            "detectors with --hold-out",
        )
    return RouterPictures(
        data=only(data, np.flatnonzero(held).tolist()),
        remark=f"{held.sum():,} of {len(data):,} images are used, which were held out of the detectors' training",
    )


def train_router(
    model: DynamicDetector,
    data: CocoDataset,
    *,
    recipe: RouterRecipe | None = None,
    fabric: Fabric | None = None,
    judged: CocoDataset | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> RouterReport:
    """Give a network a new router that learns from all of `data`; no other weight changes. Runs in one process.

    `router_pictures` says which pictures to give. On the pictures `judged`, the router is compared with one that learns
    from the same examples as the paper says, with free rules, and with oracles. Classes in another order are matched by
    name. Raises InputError if classes or input size of network and data differ, and if detector 2 gains next to nothing
    on the pictures that are judged.
    """
    recipe = recipe or RouterRecipe()
    if judged is not None:
        judged = in_class_order(judged, model.class_names)
        check_fits(model, judged)
    router = model.fresh_router(recipe.form)
    examples = examples_of(model, data, router, recipe=recipe, fabric=fabric, workers=workers, progress=progress)
    report = fit_router(router, examples, recipe)
    model.router = router
    if judged is None:
        return report
    routers = {f"router ({recipe.words})": router}
    if recipe.words != PAPER.words:
        routers[f"router ({PAPER.words})"] = _paper_router(model, examples, recipe)
    return replace(report, comparison=_compared(model, judged, routers, seed=recipe.seed, progress=progress))


def _paper_router(model: DynamicDetector, examples: RouterExamples, recipe: RouterRecipe) -> Router:
    """The paper's router for the same examples: its inputs, the means, come first in all forms."""
    router = model.fresh_router(PUBLISHED_ROUTER)
    means = replace(examples, pooled=examples.pooled[:, : router.layer1.in_channels])
    fit_to_losses(router, means, replace(PAPER, seed=recipe.seed, loss=recipe.loss))
    return router


def _compared(
    model: DynamicDetector, data: CocoDataset, routers: Mapping[str, Router], *, seed: int, progress: Progress
) -> Comparison:
    found: dict[str, list[Tensor]] = {name: [] for name in routers}

    def watch(features: Mapping[str, Tensor]) -> None:
        read = [features[name] for name in model.router_reads]
        for name, router in routers.items():
            found[name].append(router.difficulty(router(read)))

    results = run_routes(model, data, watch=watch, progress=progress)
    difficulties = {name: torch.cat(parts).double().numpy() for name, parts in found.items()}
    return compare(results, data, difficulties, seed=seed)


def examples_of(
    model: DynamicDetector,
    data: CocoDataset,
    router: Router,
    *,
    recipe: RouterRecipe,
    fabric: Fabric | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> RouterExamples:
    """What `train_router` learns from; see there."""
    data = in_class_order(data, model.class_names)
    check_fits(model, data)
    device = (fabric or make_fabric(precision="32-true")).device
    return collect_examples(model, data, recipe, router=router, workers=workers, device=device, progress=progress)


def fit_router(router: Router, examples: RouterExamples, recipe: RouterRecipe) -> RouterReport:
    """Fit a router to collected examples, and spread its difficulties evenly over them."""
    if recipe.target == "ap" and examples.score is None:
        raise InputError("no image has an object, so the router cannot learn what detector 2 does to the AP")
    report = RouterReport(
        examples=len(examples),
        pictures=len(np.unique(examples.groups)),
        target=recipe.target,
        inputs=recipe.inputs,
        quartiles=(0.0, 0.0, 0.0),
        range=0.0,
        correlation=0.0,
        loss_gain=float(examples.loss_gains.mean()),
        ap_gain=None if examples.score is None else Judge(score=examples.score, groups=examples.groups).gain,
    )
    if recipe.target == "loss":
        report = replace(report, objective=fit_to_losses(router, examples, recipe))
        target = examples.loss_gains
    else:
        fit = _ApFit(examples, recipe, router)
        report = replace(report, kept=fit.kept, learned_from=fit.learned_from)
        fit.into(router)
        target = fit.influence
    with torch.no_grad():
        value = router.value(examples.pooled)
        if router.form.ranked:
            router.ranks.fit(value.double().numpy())
        difficulty = router.difficulty(value)
    low, middle, high = (float(difficulty.quantile(level)) for level in (0.25, 0.5, 0.75))
    return replace(
        report,
        quartiles=(low, middle, high),
        range=float(difficulty.max() - difficulty.min()),
        correlation=_rank_correlation(difficulty.double().numpy(), target),
    )


class _ApFit:
    """A router that learns the change of AP, and what it is worth on pictures that it has not seen."""

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
        self.learned_from = next(iter(_SUMS))
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


def _rank_correlation(first: FloatArray, second: FloatArray) -> float:
    if len(first) < 2:
        return 0.0
    ranks = np.stack([one.argsort().argsort() for one in (first, second)])
    return float(np.corrcoef(ranks)[0, 1])

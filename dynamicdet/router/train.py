"""Step 2 of training: only the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynamicdet.aliases import FloatArray, Progress, silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, only
from dynamicdet.datasets.hold_out import fingerprint, held_out
from dynamicdet.errors import InputError
from dynamicdet.networks.network import RoutedNetwork
from dynamicdet.networks.router.form import PUBLISHED_ROUTER
from dynamicdet.networks.router.layers import Router
from dynamicdet.router.change_of_ap import ApFit
from dynamicdet.router.compare import Comparison, compare
from dynamicdet.router.examples import RouterExamples, collect_examples
from dynamicdet.router.kept_gain import Judge
from dynamicdet.router.paper import fit_to_losses
from dynamicdet.router.recipe import PAPER, RouterRecipe
from dynamicdet.router.report import RouterReport
from dynamicdet.routing.routes import check_fits, run_routes
from dynamicdet.training.devices import make_fabric


@dataclass(frozen=True, kw_only=True)
class RouterPictures:
    """The part of a data set from which the router can learn."""

    data: CocoDataset
    remark: str
    """one sentence: which part it is, or that the detectors have seen it"""


def router_pictures(model: RoutedNetwork, data: CocoDataset) -> RouterPictures:
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
    model: RoutedNetwork,
    data: CocoDataset,
    *,
    recipe: RouterRecipe | None = None,
    fabric: Fabric | None = None,
    judged: Sequence[CocoDataset] = (),
    workers: int = 1,
    progress: Progress = silent,
) -> RouterReport:
    """Give a network a new router that learns from all of `data`; no other weight changes. Runs in one process.

    `router_pictures` says which pictures to give. On each data set of `judged`, the router is compared with one that
    learns from the same examples as the paper says, with free rules, and with oracles. Classes in another order are
    matched by name. Raises InputError if classes or input size of network and data differ.
    """
    recipe = recipe or RouterRecipe()
    judged = [in_class_order(one, model.class_names) for one in judged]
    for one in judged:
        check_fits(model, one)
    router = model.fresh_router(recipe.form)
    examples = examples_of(model, data, router, recipe=recipe, fabric=fabric, workers=workers, progress=progress)
    report = fit_router(router, examples, recipe)
    model.router = router
    if not judged:
        return report
    routers = {f"router ({recipe.words})": router}
    if recipe.words != PAPER.words:
        routers[f"router ({PAPER.words})"] = _paper_router(model, examples, recipe)
    compared = [_compared(model, one, routers, seed=recipe.seed, progress=progress) for one in judged]
    return replace(report, comparisons=tuple(compared))


def _paper_router(model: RoutedNetwork, examples: RouterExamples, recipe: RouterRecipe) -> Router:
    """The paper's router for the same examples: its inputs, the means, come first in all forms."""
    router = model.fresh_router(PUBLISHED_ROUTER)
    means = replace(examples, pooled=examples.pooled[:, : router.layer1.in_channels])
    fit_to_losses(router, means, replace(PAPER, seed=recipe.seed, loss=recipe.loss))
    return router


def _compared(
    model: RoutedNetwork, data: CocoDataset, routers: Mapping[str, Router], *, seed: int, progress: Progress
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
    model: RoutedNetwork,
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
        fit = ApFit(examples, recipe, router)
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


def _rank_correlation(first: FloatArray, second: FloatArray) -> float:
    if len(first) < 2:
        return 0.0
    ranks = np.stack([one.argsort().argsort() for one in (first, second)])
    return float(np.corrcoef(ranks)[0, 1])

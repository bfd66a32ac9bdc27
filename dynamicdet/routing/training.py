"""Step 2 of training: only the router, with one of the paper's objectives.

An image that goes to detector 2 costs its loss L2 plus an offset; an image that stays with detector 1 costs its loss
L1: (1 - phi) (L1 - D / 2) + phi (L2 + D / 2). The paper's three objectives differ in D. `naive` has none and sends
every image to the better detector. `penalty` has a constant that must be tuned. `adaptive` takes the median of L1 - L2
over the training set so far; this makes half of the images hard and needs no tuning.

The detectors are frozen, so the inputs of the training are fixed for each image: the pooled features that the router
reads, and the losses of the two detectors. Both are computed once for several augmented views of every image; the
training itself then takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order
from dynamicdet.errors import InputError
from dynamicdet.networks.network import DynamicDetector
from dynamicdet.routing.routes import check_fits
from dynamicdet.training.augment import Augmentation
from dynamicdet.training.batches import Batch, EpochBatches, load_ahead
from dynamicdet.training.devices import make_fabric
from dynamicdet.training.losses import DetectionLoss, LossWeights

_COLLECTED = 16  # images that run through both detectors together
_LEAST_DEVIATION = 1e-6
_SAME_DIFFICULTY = 1e-3

Objective = Literal["adaptive", "naive", "penalty"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True, kw_only=True)
class RouterRecipe:
    """How the router is trained. Raises InputError if the objective is unknown or lacks its penalty."""

    objective: Objective = "adaptive"
    penalty: float | None = None
    """D of the objective `penalty`, in units of the detection loss; the other objectives have none"""
    examples: int = 12000
    """augmented images to learn from; if they are more than the images, each image has several views"""
    epochs: int = 60
    batch: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1.0
    """keeps difficulties away from 0 and 1, where thresholds could not separate them"""
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(scale=(0.8, 1.1), on_object=0.0))

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"unknown objective {self.objective!r}; choose one of {', '.join(OBJECTIVES)}")
        if (self.penalty is not None) != (self.objective == "penalty"):
            raise InputError("the objective 'penalty' needs a penalty; the other objectives do not accept one")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"the learning rate must be a finite number above 0, got {self.learning_rate}")
        if self.penalty is not None and not math.isfinite(self.penalty):
            raise InputError(f"the penalty must be a finite number, got {self.penalty}")
        if self.examples < 1:
            raise InputError(f"the router needs at least one example, got {self.examples}")


@dataclass(frozen=True)
class RouterExamples:
    """The examples for the router: its pooled inputs {feature: (N, C, 1, 1)} and both detectors' losses (N,)."""

    pooled: dict[str, Tensor]
    loss1: Tensor
    loss2: Tensor

    def __len__(self) -> int:
        return len(self.loss1)


@dataclass(frozen=True, kw_only=True)
class RouterReport:
    """Outcome of the router's training, on its own examples."""

    examples: int
    offset: float
    """D at the end; for the adaptive objective the median of loss 1 - loss 2"""
    objective: float
    objective_before: float
    quantiles: tuple[float, float, float]
    """difficulties below which 10, 50 and 90 % of the examples are"""
    correlation: float
    """rank correlation of difficulty and loss 1 - loss 2"""
    gain: float
    """mean of loss 1 - loss 2"""
    chance: float
    """the objective if every image had the mean difficulty"""

    def shortcomings(self) -> list[str]:
        """Why the router is not usable, the most important reason first; empty if it is."""
        found = []
        if not self.gain > 0:
            found.append("there is no gap: the loss of detector 2 is on average not lower than that of detector 1")
        if not self.quantiles[2] - self.quantiles[0] > _SAME_DIFFICULTY:
            found.append("all examples have nearly the same difficulty, so the router decides nothing")
        elif not self.objective < self.chance:
            found.append(
                f"the router is not better than chance (objective {self.objective:.5f}, and {self.chance:.5f} if every "
                "image had the mean difficulty)"
            )
        return found


class RunningMedian:
    """Median of all values seen so far."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    def add(self, values: Tensor) -> float:
        """Add values (n,) and return the median of all values so far (the mean of the middle two)."""
        self._values.append(values.detach().flatten().double())
        return float(torch.cat(self._values).quantile(0.5))


def routing_objective(difficulty: Tensor, loss1: Tensor, loss2: Tensor, offset: float) -> Tensor:
    """Mean of (1 - phi) (L1 - D / 2) + phi (L2 + D / 2): detector 2 pays off if it saves more than D."""
    return ((1 - difficulty) * (loss1 - offset / 2) + difficulty * (loss2 + offset / 2)).mean()


def train_router(
    model: DynamicDetector,
    data: CocoDataset,
    *,
    recipe: RouterRecipe | None = None,
    fabric: Fabric | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> RouterReport:
    """Train the router of a network in place; no other weight or buffer changes. Runs in one process.

    Classes in another order are matched by name. Raises InputError if classes or input size of network and data differ.
    """
    recipe = recipe or RouterRecipe()
    data = in_class_order(data, model.class_names)
    check_fits(model, data)
    fabric = fabric or make_fabric(precision="32-true")
    views = _views(model, data, recipe, workers, progress)
    examples = collect_examples(model, views, data.objects_per_image, recipe.loss, fabric.device)
    return fit_router(model, examples, recipe)


@torch.inference_mode()
def collect_examples(
    model: DynamicDetector,
    batches: Iterable[Batch],
    objects_per_image: float,
    weights: LossWeights | None = None,
    device: torch.device | str = "cpu",
) -> RouterExamples:
    """Run both detectors in evaluation mode on a device, and collect the router's examples on the CPU.

    `objects_per_image` is the data set's mean, see `DetectionLoss`.
    """
    network = model.deploy().eval().to(device)
    loss = DetectionLoss(network.anchors, model.spec.strides, weights)
    pooled: dict[str, list[Tensor]] = {name: [] for name in model.router_reads}
    losses: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch in (batch.to(torch.device(device)) for batch in batches):
        x = batch.input()
        features = network.features(x)
        for name, kept in pooled.items():
            kept.append(functional.adaptive_avg_pool2d(features[name], 1))
        for maps, kept in zip((network.head1(features), network.detector2(x, features)), losses, strict=True):
            kept.append(loss(maps, batch.objects, objects_per_image=objects_per_image).total)
    # Clones made outside inference mode can take part in a backward pass.
    with torch.inference_mode(mode=False):
        return RouterExamples(
            pooled={name: torch.cat(kept).cpu().clone() for name, kept in pooled.items()},
            loss1=torch.cat(losses[0]).cpu().clone(),
            loss2=torch.cat(losses[1]).cpu().clone(),
        )


def fit_router(model: DynamicDetector, examples: RouterExamples, recipe: RouterRecipe) -> RouterReport:
    """Train the router on collected examples, from random weights."""
    torch.manual_seed(recipe.seed)
    before = _difficulties(model, examples)
    router = model.router
    for layer in (router.layer1, router.layer2):
        layer.reset_parameters()
    # Channels differ in scale by orders of magnitude. Unscaled, the router learns the mean gain and little else.
    scaling = _Scaling.of(examples.pooled)
    standard = scaling.standardised(examples.pooled)
    optimizer = torch.optim.AdamW(
        router.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    steps = recipe.epochs * max(1, -(-len(examples) // recipe.batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    median = RunningMedian()
    gain = examples.loss1 - examples.loss2
    offset = recipe.penalty or 0.0
    for epoch in range(recipe.epochs):
        for chosen in torch.randperm(len(examples)).split(recipe.batch):  # type: ignore[no-untyped-call]
            # Later epochs have the same values, so the median would not change.
            if epoch == 0 and recipe.objective == "adaptive":
                offset = median.add(gain[chosen])
            pooled = {name: feature[chosen] for name, feature in standard.items()}
            difficulty = model.route_logits(pooled).sigmoid()
            optimizer.zero_grad(set_to_none=True)
            objective = routing_objective(difficulty, examples.loss1[chosen], examples.loss2[chosen], offset)
            objective.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    optimizer.zero_grad(set_to_none=True)
    scaling.fold_into(router.layer1, model.router_reads)
    difficulty = _difficulties(model, examples)
    low, middle, high = (float(difficulty.quantile(level)) for level in (0.1, 0.5, 0.9))
    return RouterReport(
        examples=len(examples),
        offset=offset,
        objective=float(routing_objective(difficulty, examples.loss1, examples.loss2, offset)),
        objective_before=float(routing_objective(before, examples.loss1, examples.loss2, offset)),
        quantiles=(low, middle, high),
        correlation=_rank_correlation(difficulty, gain),
        gain=float(gain.mean()),
        chance=float(routing_objective(difficulty.mean(), examples.loss1, examples.loss2, offset)),
    )


@dataclass(frozen=True)
class _Scaling:
    """Mean and standard deviation of each channel of the router's inputs, {feature: (1, C, 1, 1)}."""

    mean: dict[str, Tensor]
    deviation: dict[str, Tensor]

    @classmethod
    def of(cls, pooled: Mapping[str, Tensor]) -> _Scaling:
        deviations = {name: feature.std(dim=0, keepdim=True, correction=0) for name, feature in pooled.items()}
        return cls(
            mean={name: feature.mean(dim=0, keepdim=True) for name, feature in pooled.items()},
            # A channel that never changes carries no information, whatever it is divided by.
            deviation={name: torch.where(one > _LEAST_DEVIATION, one, 1.0) for name, one in deviations.items()},
        )

    def standardised(self, pooled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: (feature - self.mean[name]) / self.deviation[name] for name, feature in pooled.items()}

    @torch.no_grad()
    def fold_into(self, layer: nn.Conv2d, names: Sequence[str]) -> None:
        """Make a layer that was trained on standardised inputs work on the original ones."""
        mean = torch.cat([self.mean[name].flatten() for name in names])
        layer.weight /= torch.cat([self.deviation[name] for name in names], dim=1)
        assert layer.bias is not None
        layer.bias -= layer.weight.flatten(1) @ mean


@torch.no_grad()
def _difficulties(model: DynamicDetector, examples: RouterExamples) -> Tensor:
    return model.route_logits(examples.pooled).sigmoid()


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    if len(first) < 2:
        return 0.0
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _views(
    model: DynamicDetector,
    data: CocoDataset,
    recipe: RouterRecipe,
    workers: int,
    progress: Progress,
) -> Iterable[Batch]:
    """Exactly as many augmented images as the recipe asks for."""
    done = 0
    view = 0
    while done < recipe.examples:
        batches = EpochBatches(
            data, recipe.augmentation, size=model.input_size, batch=_COLLECTED, seed=recipe.seed, epoch=view
        )
        for batch in load_ahead(batches, workers=workers):
            wanted = batch.first(recipe.examples - done)
            yield wanted
            done += len(wanted.images)
            progress("run both detectors", done, recipe.examples)
            if done >= recipe.examples:
                return
        view += 1

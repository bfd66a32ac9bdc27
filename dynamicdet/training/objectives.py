"""What a step of a training computes for one kind of network: its forward pass, its losses, its optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from dynamicdet.networks.network import DynamicDetector, StaticDetector
from dynamicdet.training.batches import Batch
from dynamicdet.training.losses import DetectionLoss
from dynamicdet.training.recipe import DetectorRecipe


class Objective(ABC):
    """The part of a `Trainer` that depends on the kind of network. A router is never trained here."""

    module: nn.Module
    """one forward pass through all detectors: what Fabric wraps for precision and several processes"""
    detectors: int
    """how many losses there are"""
    moments: tuple[str, ...]
    """what the optimiser stores of a parameter"""

    @abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Before an epoch, counted from 0: take out of training mode what is not trained."""

    @abstractmethod
    def losses(self, wrapped: nn.Module, x: Tensor, batch: Batch, place: tuple[int, ...]) -> Tensor:
        """The loss of each detector (detectors,), through `module` as Fabric wrapped it.

        `place` tells this batch from all others of the training: it seeds what is drawn.
        """

    @abstractmethod
    def optimizer(self, device: torch.device) -> torch.optim.Optimizer:
        """For all parameters that are trained."""


class RawMapsObjective(Objective):
    """Detectors that predict objects in the cells of their maps: the YOLO networks."""

    moments = ("step", "exp_avg", "exp_avg_sq")

    def __init__(self, model: DynamicDetector | StaticDetector, recipe: DetectorRecipe) -> None:
        self.model = model
        self.recipe = recipe
        self.detectors = 1
        if isinstance(model, DynamicDetector):
            self.detectors = 2
            model.router.requires_grad_(False)
        self.module = _RawMaps(model)

    @cached_property
    def _loss(self) -> DetectionLoss:
        return DetectionLoss(self.model.anchors, self.model.spec.strides, self.recipe.loss)  # on the model's device

    def begin_epoch(self, epoch: int) -> None:
        """The router is not trained."""
        if isinstance(self.model, DynamicDetector):
            self.model.router.eval()

    def losses(self, wrapped: nn.Module, x: Tensor, batch: Batch, place: tuple[int, ...]) -> Tensor:
        """The losses are computed in float32, outside the wrapped module."""
        return torch.cat([self._loss(maps, batch.objects).total for maps in wrapped(x)])

    def optimizer(self, device: torch.device) -> torch.optim.Optimizer:
        """AdamW; only kernels have weight decay."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        kernels = [parameter for parameter in trained if parameter.ndim == 4 and parameter.shape[0] > 1]
        return adamw(trained, kernels, self.recipe, device)


class _RawMaps(nn.Module):
    def __init__(self, network: DynamicDetector | StaticDetector) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[list[Tensor], ...]:
        return self.network.raw_maps(x)


def adamw(
    trained: list[nn.Parameter], decayed: list[nn.Parameter], recipe: DetectorRecipe, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW for the `trained` parameters; only those that are also `decayed` have weight decay."""
    # A fused optimiser cannot clip scaled 16-bit gradients.
    return torch.optim.AdamW(
        groups_of(trained, decayed, recipe.weight_decay), lr=recipe.learning_rate, fused=device.type == "cpu"
    )


def groups_of(trained: list[nn.Parameter], decayed: list[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """An optimiser's two groups of parameters, those with weight decay first."""
    chosen = {id(parameter) for parameter in decayed}
    others = [parameter for parameter in trained if id(parameter) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

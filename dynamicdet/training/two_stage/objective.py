"""What a step computes for a two-stage network: both detectors' losses, each from its own proposals."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dynamicdet.errors import InputError
from dynamicdet.networks.network import Route
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.networks.two_stage.residual import ResidualBackbone
from dynamicdet.training.batches import Batch
from dynamicdet.training.objectives import Objective, adamw, groups_of
from dynamicdet.training.two_stage.losses import Losses, OverBatch, detector_losses
from dynamicdet.training.two_stage.matching import PROPOSALS, PROPOSALS_WITH_MASKS
from dynamicdet.training.two_stage.recipe import TwoStageRecipe
from dynamicdet.training.two_stage.rois import trained_roi_features
from dynamicdet.training.two_stage.rows import Drawn, class_rows, draw_anchors, draw_proposals, mask_rows, region_rows
from dynamicdet.training.two_stage.sampling import draw
from dynamicdet.training.two_stage.targets import Targets, targets_of

_ROUTES: tuple[Route, ...] = ("easy", "hard")


class TwoStageObjective(Objective):
    """See `Objective`. The losses are computed in float32, whatever the precision."""

    def __init__(self, model: TwoStageDetector, recipe: TwoStageRecipe) -> None:
        self.model = model
        self.recipe = recipe
        self.detectors = len(_ROUTES)
        self.moments = ("momentum_buffer",) if recipe.optimizer == "sgd" else ("step", "exp_avg", "exp_avg_sq")
        model.freeze()
        model.router.requires_grad_(False)
        if recipe.frozen == "stem":
            for part in _first_layers(model):
                part.requires_grad_(False)
        self.module = _BothLosses(model, recipe)

    def begin_epoch(self, epoch: int) -> None:
        """The random numbers of an epoch do not depend on how many epochs ran before in this process."""
        self.model.router.eval()
        if self.recipe.frozen != "usual":
            for part in self.model.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        torch.manual_seed(_number(self.recipe.seed, epoch))

    def losses(self, wrapped: nn.Module, x: Tensor, batch: Batch, place: tuple[int, ...]) -> Tensor:
        """Both losses, with the weights of the recipe."""
        if self.model.has_masks and batch.masks is None:
            raise InputError(f"{self.model.spec.name} has masks, so it cannot learn from a batch without them")
        targets = targets_of(batch.objects, len(x), batch.masks if self.model.has_masks else None)
        seeds = np.random.SeedSequence((self.recipe.seed, *place)).generate_state(len(x)).astype(np.int64)
        losses: Tensor = wrapped(x, torch.from_numpy(seeds).to(x.device), targets)
        return losses * losses.new_tensor(self.recipe.detector_weights)

    def optimizer(self, device: torch.device) -> torch.optim.Optimizer:
        """AdamW or SGD; kernels and matrices have weight decay, norms, biases and position tables none."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        decayed = [
            parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and parameter.ndim > 1 and "position" not in name
        ]
        recipe = self.recipe
        if recipe.optimizer == "adamw":
            return adamw(trained, decayed, recipe, device)
        groups = groups_of(trained, decayed, recipe.weight_decay)
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


class _BothLosses(nn.Module):
    """All in one forward pass: what several processes exchange gradients of."""

    def __init__(self, network: TwoStageDetector, recipe: TwoStageRecipe) -> None:
        super().__init__()
        self.network = network
        network.operators = replace(network.operators, rois=trained_roi_features)
        self.recipe = recipe
        strict = not (network.has_masks if recipe.low_quality is None else recipe.low_quality)
        self.rule = PROPOSALS if strict else PROPOSALS_WITH_MASKS

    def forward(self, x: Tensor, seeds: Tensor, targets: Targets) -> Tensor:
        """The losses of detector 1 and detector 2, (2,)."""
        features = self.network.features(x)
        anchors: Drawn | None = None  # drawn once: the same for both detectors
        losses = []
        for route in _ROUTES:
            pyramid = self.network.pyramid(route, features)
            if anchors is None:
                every = torch.cat(self.network.anchors_of(pyramid))
                anchors = draw_anchors(every, targets, partial(draw, sampling=self.recipe.anchors, seeds=seeds))
            losses.append(self._losses(route, pyramid, anchors, seeds, targets).total)
        return torch.cat(losses)

    def _losses(self, route: Route, pyramid: list[Tensor], anchors: Drawn, seeds: Tensor, targets: Targets) -> Losses:
        network = self.network
        logits, deltas = network.region_outputs(route, pyramid)
        proposals = network.proposals(logits, deltas, network.anchors_of(pyramid))
        drawing = partial(draw, sampling=self.recipe.rois, seeds=seeds + 1)
        rois = draw_proposals(proposals.boxes, proposals.scores > 0, targets, self.rule, drawing)
        return detector_losses(
            region_rows(*network.flatten_regions(logits, deltas), anchors, targets),
            class_rows(network, route, pyramid, rois, targets),
            mask_rows(network, route, pyramid, rois, targets, limit=self.recipe.mask_rois)
            if network.has_masks
            else None,
            self.recipe.gains,
            OverBatch(),
        )


def _first_layers(model: TwoStageDetector) -> tuple[nn.Module, ...]:
    """What a start from published weights may leave as it is."""
    first = model.backbone1
    if isinstance(first, ResidualBackbone):
        return first.stem, first.stages[0]
    return first.embed, first.embed_norm


def _number(*parts: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])

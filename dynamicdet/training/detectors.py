"""Step 1 of training: both detectors together, or a static one alone; `router.train` is step 2.

The learning rate warms up and falls along a cosine. The evaluation weights are an exponential average. Every epoch ends
with a file from which training resumes as if it had not stopped. Most epochs run at a small size, the last ones at the
network's own size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.datasets.hold_out import fingerprint, held_out
from dynamicdet.errors import InputError
from dynamicdet.files import check_writable
from dynamicdet.networks.architectures import any_architecture
from dynamicdet.networks.base import RoutedNetwork
from dynamicdet.networks.checkpoints import save
from dynamicdet.networks.network import StaticDetector
from dynamicdet.networks.origin import TrainedOn
from dynamicdet.networks.two_stage.architectures import TwoStageModel
from dynamicdet.text import printable
from dynamicdet.training.batches import EpochBatches
from dynamicdet.training.devices import make_fabric
from dynamicdet.training.recipe import DetectorRecipe, EpochReport, StepReport
from dynamicdet.training.schedule import images_per_step
from dynamicdet.training.start import first_network, in_order_of
from dynamicdet.training.trainer import Trainer
from dynamicdet.training.two_stage.recipe import TwoStageRecipe, two_stage_recipe


def train_detectors(
    data: CocoDataset,
    output: Path | str,
    *,
    architecture: str = "dy-yolov7-pico",
    start: Path | str | None = None,
    recipe: DetectorRecipe | None = None,
    resume: bool = False,
    fabric: Fabric | None = None,
    workers: int = 1,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> RoutedNetwork | StaticDetector:
    """Train both detectors, or a static one; write the averaged weights to `output` after every epoch.

    `start` is a checkpoint to begin with, your own or a published one. If its classes differ, everything is loaded from
    it except what predicts classes that it does not name; if only their order differs, the result has its order.
    `resume` continues from the file `<output>.state.pt` beside the output. With the same data, recipe and number of
    processes it ends with the same weights as an uninterrupted training; only the number of epochs may change. A router
    stays untrained. A detector with masks needs `data` with masks. The checkpoint remembers which data set trained it,
    and the share of it that was held out (`recipe.hold_out`), so that `train_router` finds the images from which it can
    learn.

    `recipe` is a `TwoStageRecipe` for two-stage networks, by default that of the architecture (`default_recipe`).

    Raises InputError if recipe or data are of another kind, if the state file is missing, is not one, or belongs to
    another network or recipe, and if a batch cannot be split evenly; CheckpointError if `start` cannot be read.
    """
    recipe = recipe or default_recipe(architecture)
    masks = _learns_masks(architecture, data, recipe)
    fabric = fabric or make_fabric()
    target = Path(output)
    check_writable(target)
    data = in_order_of(start, data)
    used = ~held_out(data, recipe.hold_out)
    batch = images_per_step(recipe, int(used.sum()), fabric.world_size)
    torch.manual_seed(recipe.seed)
    model = first_network(architecture, data, start)
    model.trained_on = TrainedOn(pictures=len(data), fingerprint=fingerprint(data), held_out=recipe.hold_out)
    trainer = Trainer(model, recipe, fabric, steps_per_epoch=int(used.sum()) // batch)
    first = trainer.restore(state_file(target)) if resume else 0
    for epoch in range(first, recipe.epochs):
        size, augmentation = recipe.epoch(epoch, model.input_size)
        batches = EpochBatches(
            data,
            augmentation,
            size=size,
            batch=batch // recipe.accumulate,
            seed=recipe.seed,
            epoch=epoch,
            share=(fabric.global_rank, fabric.world_size),
            size_range=recipe.size_range,
            used=used,
            masks=masks,
        )
        report = trainer.run(epoch, batches, workers=workers, on_step=on_step)
        if fabric.is_global_zero:
            save(trainer.average, target)
        trainer.store(state_file(target), epoch + 1)
        if on_epoch is not None and fabric.is_global_zero:
            on_epoch(report)
    trained = trainer.average.cpu().eval().requires_grad_(True)
    trained.freeze()
    assert isinstance(trained, RoutedNetwork | StaticDetector)
    return trained


def default_recipe(architecture: str) -> DetectorRecipe:
    """How an architecture is trained if nothing else is said. Raises InputError for an unknown one."""
    spec = any_architecture(architecture)
    return two_stage_recipe(architecture) if isinstance(spec, TwoStageModel) else DetectorRecipe()


def learns_masks(architecture: str) -> bool:
    """Whether the data set has to be read with masks. Raises InputError for an unknown architecture."""
    spec = any_architecture(architecture)
    return isinstance(spec, TwoStageModel) and spec.mask is not None


def _learns_masks(architecture: str, data: CocoDataset, recipe: DetectorRecipe) -> bool:
    """Raises InputError if recipe or data are for another kind of network."""
    two_stage = isinstance(any_architecture(architecture), TwoStageModel)
    if two_stage != isinstance(recipe, TwoStageRecipe):
        raise InputError(f"{architecture} is trained with a {'TwoStageRecipe' if two_stage else 'DetectorRecipe'}, not "
                         f"with a {type(recipe).__name__}")  # fmt: skip
    masks = learns_masks(architecture)
    if masks and not data.has_masks:
        raise InputError(
            f"{architecture} learns masks, but {printable(data.folder)} was read without; read it with "
            "`read_dataset(..., masks=True)`"
        )
    return masks


def state_file(output: Path) -> Path:
    """The file with the state of an unfinished training."""
    return output.with_name(f"{output.name}.state.pt")

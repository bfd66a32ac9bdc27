"""Step 1 of training: both detectors together, or a static one alone; `router.train` is step 2.

The learning rate warms up and falls along a cosine. The evaluation weights are an exponential average. Every epoch ends
with a file from which training resumes as if it had not stopped. Most epochs run at a small size, the last ones at the
network's own size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynamicdet.datasets.dataset import CocoDataset, in_class_order
from dynamicdet.datasets.hold_out import fingerprint, held_out
from dynamicdet.errors import InputError
from dynamicdet.files import check_writable
from dynamicdet.networks.architectures import any_architecture
from dynamicdet.networks.checkpoints import load_network, save
from dynamicdet.networks.network import DynamicDetector, StaticDetector, network_of
from dynamicdet.networks.origin import TrainedOn
from dynamicdet.training.batches import EpochBatches
from dynamicdet.training.devices import make_fabric
from dynamicdet.training.recipe import DetectorRecipe, EpochReport, StepReport
from dynamicdet.training.schedule import images_per_step
from dynamicdet.training.trainer import Trainer

_PREDICTION = re.compile(r"predict[12]\.predict\.\d+\.(scale|conv\.)")


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
) -> DynamicDetector | StaticDetector:
    """Train both detectors, or a static one; write the averaged weights to `output` after every epoch.

    `start` is a checkpoint to begin with, your own or a published one. If its classes differ, everything is loaded from
    it except what predicts classes that it does not name; if only their order differs, the result has its order.
    `resume` continues from the file `<output>.state.pt` beside the output. With the same data, recipe and number of
    processes it ends with the same weights as an uninterrupted training; only the number of epochs may change. A router
    stays untrained. The checkpoint remembers which data set trained it, and the share of it that was held out
    (`recipe.hold_out`), so that `train_router` finds the images from which it can learn.

    Raises InputError if the state file is missing, is not one, or belongs to another network or recipe, and if a batch
    cannot be split evenly; CheckpointError if `start` cannot be read.
    """
    recipe = recipe or DetectorRecipe()
    fabric = fabric or make_fabric()
    target = Path(output)
    check_writable(target)
    data = _in_order_of(start, data)
    used = ~held_out(data, recipe.hold_out)
    batch = images_per_step(recipe, int(used.sum()), fabric.world_size)
    torch.manual_seed(recipe.seed)
    model = _first_network(architecture, data, start)
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
        )
        report = trainer.run(epoch, batches, workers=workers, on_step=on_step)
        if fabric.is_global_zero:
            save(trainer.average, target)
        trainer.store(state_file(target), epoch + 1)
        if on_epoch is not None and fabric.is_global_zero:
            on_epoch(report)
    return trainer.average.cpu().eval().requires_grad_(True)


def state_file(output: Path) -> Path:
    """The file with the state of an unfinished training."""
    return output.with_name(f"{output.name}.state.pt")


def _in_order_of(start: Path | str | None, data: CocoDataset) -> CocoDataset:
    """The data with its classes in the order of the first weights, if they have the same names."""
    return data if start is None else in_class_order(data, load_network(start).class_names)


def _first_network(architecture: str, data: CocoDataset, start: Path | str | None) -> DynamicDetector | StaticDetector:
    """The network that training begins with."""
    classes, side = data.class_names, data.size  # the data may have been read for a detector of others
    if start is None:
        return network_of(any_architecture(architecture), num_classes=len(classes), class_names=classes)
    known = load_network(start)
    if known.spec.name != architecture:
        raise InputError(f"{start} holds {known.spec.name}, not {architecture}; name it with --architecture")
    if known.input_size != side:
        raise InputError(f"{start} reads {known.input_size} px images, but the data set was read at {side} px")
    if known.class_names == classes:
        return known
    model = network_of(known.spec, num_classes=len(classes), class_names=classes, input_size=known.input_size)
    anchors = model.anchors.shape[1]
    fresh, own = model.state_dict(), known.state_dict()
    for name, tensor in own.items():
        if not _PREDICTION.match(name):
            fresh[name] = tensor
        else:
            fresh[name] = _predictions(fresh[name], tensor, classes, known.class_names, anchors)
    model.load_state_dict(fresh)
    return model


def _predictions(
    fresh: Tensor, known: Tensor, classes: Sequence[str], known_classes: Sequence[str], anchors: int
) -> Tensor:
    """A parameter of a prediction layer: box, objectness and the classes of the same name as they are known.

    The outputs, box (4), objectness and classes for each anchor, are one dimension of the parameter.
    """
    outputs = 0 if known.shape[0] > 1 else 1
    moved = fresh.movedim(outputs, 0)
    own = moved.reshape(anchors, 5 + len(classes), -1).clone()
    given = known.movedim(outputs, 0).reshape(anchors, 5 + len(known_classes), -1)
    own[:, :5] = given[:, :5]
    for index, name in enumerate(classes):
        if name in known_classes:
            own[:, 5 + index] = given[:, 5 + known_classes.index(name)]
    return own.reshape(moved.shape).movedim(0, outputs).contiguous()

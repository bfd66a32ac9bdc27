"""Step 1 of training: both detectors together, from nothing; `router_training` is step 2.

The learning rate warms up and falls along a cosine, evaluation weights are an exponential average, and every epoch
ends with a file from which training can go on. Most epochs run at a small size, the last ones at the network's own.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynamicdet.augment import Augmentation
from dynamicdet.batches import Batch, EpochBatches, load_ahead
from dynamicdet.checkpoints import save
from dynamicdet.dataset import CocoDataset
from dynamicdet.errors import InputError
from dynamicdet.losses import DetectionLoss, LossWeights
from dynamicdet.network import DynamicDetector, create

_STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """How the detectors are trained. The defaults suit a small network, trained briefly on a CPU."""

    epochs: int = 20
    final_epochs: int = 3
    """of `epochs`, how many run at the network's own input size, without mosaic"""
    size: int = 192
    """side of the training pictures before that, pixels"""
    batch: int = 32
    learning_rate: float = 2e-3
    least_learning_rate: float = 2e-5
    warmup_steps: int = 200
    weight_decay: float = 0.02
    clip_norm: float = 10.0
    average_decay: float = 0.999
    average_steps: float = 500.0
    """steps after which the average has about two thirds of its final memory"""
    threads: int = 2
    """parts that a batch is split into, each computed by one thread with its own batch statistics"""
    seed: int = 0
    bfloat16: bool = field(default_factory=lambda: has_bfloat16())
    """compute in bfloat16: twice as fast where the processor has it, many times slower where it is emulated"""
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(mosaic=0.3))

    def epoch(self, number: int, input_size: int) -> tuple[int, Augmentation]:
        """Picture size and augmentation of an epoch, counted from 0."""
        if number < self.epochs - self.final_epochs:
            return self.size, self.augmentation
        return input_size, replace(self.augmentation, mosaic=0.0)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch did."""

    epoch: int
    """counted from 1"""
    epochs: int
    size: int
    loss1: float
    loss2: float
    images_per_second: float
    seconds: float


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


StepProgress = Callable[[int, int, int], None]
"""epoch (from 1), step, steps in the epoch"""


def train_detectors(
    data: CocoDataset,
    output: Path | str,
    *,
    architecture: str = "dy-yolov7-pico",
    recipe: DetectorRecipe | None = None,
    resume: bool = False,
    workers: int = 1,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: StepProgress | None = None,
) -> DynamicDetector:
    """Train both detectors of a new network and write its averaged weights to `output` after every epoch.

    Beside it lies `<output>.state.pt`, from which `resume` goes on, also with a recipe of more epochs. The router
    stays untrained. Raises InputError where a state file is missing, foreign or of another network.
    """
    recipe = recipe or DetectorRecipe()
    target = Path(output)
    if not target.parent.is_dir():
        raise InputError(f"{target} cannot be written: the folder {target.parent} does not exist")
    torch.manual_seed(recipe.seed)
    model = create(architecture, len(data.class_names), data.class_names)
    trainer = _Trainer(model, recipe, steps_per_epoch=max(1, len(data) // min(recipe.batch, len(data))))
    first = trainer.restore(state_file(target)) if resume else 0
    for epoch in range(first, recipe.epochs):
        size, augmentation = recipe.epoch(epoch, model.input_size)
        batches = EpochBatches(data, augmentation, size=size, batch=recipe.batch, seed=recipe.seed, epoch=epoch)
        report = trainer.run(epoch, batches, workers=workers, on_step=on_step)
        save(trainer.average, target)
        trainer.store(state_file(target), epoch + 1)
        if on_epoch is not None:
            on_epoch(report)
    return trainer.average.eval()


def state_file(output: Path) -> Path:
    """Where the state of an unfinished training lies."""
    return output.with_name(f"{output.name}.state.pt")


class _Trainer:
    """Network, averaged network and optimiser."""

    def __init__(self, model: DynamicDetector, recipe: DetectorRecipe, *, steps_per_epoch: int) -> None:
        self.model = model
        self.recipe = recipe
        self.average = deepcopy(model).eval().requires_grad_(False)
        self.optimizer = _optimizer(model, recipe)
        self.loss = DetectionLoss(model.anchors, model.spec.strides, recipe.loss)
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        # A small network has too little work per operation to share it; a thread per part of the batch is faster.
        self.threads = ThreadPoolExecutor(recipe.threads)

    def run(self, epoch: int, batches: EpochBatches, *, workers: int, on_step: StepProgress | None) -> EpochReport:
        self.model.train()
        self.model.router.eval()
        sums = torch.zeros(2)
        start = time.perf_counter()
        for index, batch in enumerate(load_ahead(batches, workers=workers), 1):
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            losses = self.threads.map(self._gradients, batch.split(self.recipe.threads))
            parts = torch.stack(list(losses)).sum(dim=0)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self._update_average()
            sums += parts
            if on_step is not None:
                on_step(epoch + 1, index, len(batches))
        seconds = time.perf_counter() - start
        means = (sums / len(batches)).tolist()
        return EpochReport(
            epoch=epoch + 1,
            epochs=self.recipe.epochs,
            size=batches.size,
            loss1=means[0],
            loss2=means[1],
            images_per_second=len(batches) * batches.batch / seconds,
            seconds=seconds,
        )

    def _gradients(self, batch: Batch) -> Tensor:
        """Add the gradients of a part of a batch to the parameters; the part's share of both losses, (2,)."""
        torch.set_num_threads(1)
        x = batch.input()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            features = self.model.features(x)
            maps = (self.model.head1(features), self.model.detector2(x, features))
        losses = torch.cat([self.loss(one, batch.objects).total for one in maps]) / self.recipe.threads
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def _learning_rate(self) -> float:
        recipe = self.recipe
        total = max(1, recipe.epochs * self.steps_per_epoch)
        falling = (1 + math.cos(math.pi * min(1.0, self.step / total))) / 2
        rate = recipe.least_learning_rate + (recipe.learning_rate - recipe.least_learning_rate) * falling
        return rate * min(1.0, (self.step + 1) / max(1, recipe.warmup_steps))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = self.recipe.average_decay * (1 - math.exp(-self.step / self.recipe.average_steps))
        own, current = self.average.state_dict(), self.model.state_dict()
        floats = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floats], [current[name] for name in floats], 1 - decay)
        for name in own.keys() - set(floats):
            own[name].copy_(current[name])

    def store(self, path: Path, epochs_done: int) -> None:
        """Write everything that `restore` needs, whole or not at all."""
        content = {
            "version": _STATE_VERSION,
            "architecture": self.model.spec.name,
            "class_names": list(self.model.class_names),
            "epochs_done": epochs_done,
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "recipe": asdict(self.recipe),
        }
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            torch.save(content, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self, path: Path) -> int:
        """Number of epochs that are done already."""
        if not path.is_file():
            raise InputError(f"there is nothing to resume: {path} does not exist")
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True)
            known = content["version"] == _STATE_VERSION
        except Exception as error:
            raise InputError(f"{path} is not a training state of dyndet, or is damaged") from error
        if not known:
            raise InputError(f"{path} was written by another version of dyndet; train anew")
        found = (content["architecture"], tuple(content["class_names"]))
        if found != (self.model.spec.name, self.model.class_names):
            raise InputError(f"{path} is the state of {found[0]} with {len(found[1])} classes, not of this training")
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = int(content["step"])
        return int(content["epochs_done"])


def _optimizer(model: DynamicDetector, recipe: DetectorRecipe) -> torch.optim.Optimizer:
    """AdamW on everything but the router; only kernels decay."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if not name.startswith("router.")]
    kernels: list[Tensor] = [parameter for _, parameter in trained if parameter.ndim == 4 and parameter.shape[0] > 1]
    chosen = {id(parameter) for parameter in kernels}
    others: list[Tensor] = [parameter for _, parameter in trained if id(parameter) not in chosen]
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)

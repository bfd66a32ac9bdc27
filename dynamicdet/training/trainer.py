"""Network, averaged network and optimiser of step 1, and the file that stores them between epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynamicdet.files import whole_file
from dynamicdet.networks.network import DynamicDetector, Network, StaticDetector, TwoStageDetector
from dynamicdet.training.batches import Batch, EpochBatches, load_ahead
from dynamicdet.training.objectives import Objective, RawMapsObjective
from dynamicdet.training.recipe import DetectorRecipe, EpochReport, StepReport
from dynamicdet.training.schedule import learning_rate
from dynamicdet.training.state import read_state
from dynamicdet.training.two_stage.objective import TwoStageObjective
from dynamicdet.training.two_stage.recipe import TwoStageRecipe

_STATE_VERSION = 2
_MAY_CHANGE = ("epochs", "final_epochs")  # in a recipe, when a training is resumed


class Trainer:
    """Runs epochs of a network's detectors on one device, alone or as one of several processes."""

    def __init__(
        self,
        model: Network,
        recipe: DetectorRecipe,
        fabric: Fabric,
        *,
        steps_per_epoch: int,
    ) -> None:
        self.recipe = recipe
        self.fabric = fabric
        self.model = model
        self.average = deepcopy(model).to(fabric.device).eval().requires_grad_(False)
        self.objective = objective_of(model, recipe)
        # Convolutions are faster if the channels of a pixel are adjacent in memory.
        module = self.objective.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.detectors, self.optimizer = fabric.setup(module, self.objective.optimizer(fabric.device))
        self.steps_per_epoch = steps_per_epoch
        self.step = 0

    def run(
        self, epoch: int, batches: EpochBatches, *, workers: int, on_step: Callable[[StepReport], None] | None
    ) -> EpochReport:
        """Run one epoch, counted from 0; `on_step` is called after every step."""
        self.detectors.train()
        self.objective.begin_epoch(epoch)
        parts = self.recipe.accumulate
        steps = len(batches) // parts
        images = batches.batch * batches.parts * parts  # of one step
        sums = torch.zeros(self.objective.detectors, device=self.fabric.device)
        start = time.perf_counter()
        losses = torch.zeros_like(sums)
        for number, batch in enumerate(load_ahead(batches, workers=workers), 1):
            step, rest = divmod(number, parts)
            if step == steps and rest:
                break  # an incomplete step is left out
            losses += self._gradients(batch, part=(number - 1) % parts)
            if rest:
                continue
            self._update()
            sums += losses
            rate = step * images / (time.perf_counter() - start)
            each = tuple(losses.tolist())
            losses.zero_()
            self._log(each, rate)
            if on_step is not None and self.fabric.is_global_zero:
                on_step(StepReport(epoch=epoch + 1, step=step, steps=steps, losses=each, images_per_second=rate))
        seconds = time.perf_counter() - start
        means: Tensor = self.fabric.all_reduce(sums / steps, reduce_op="mean")  # type: ignore[assignment]
        return EpochReport(
            epoch=epoch + 1,
            epochs=self.recipe.epochs,
            size=batches.size,
            losses=tuple(means.tolist()),
            images_per_second=steps * images / seconds,
            seconds=seconds,
        )

    def _gradients(self, batch: Batch, *, part: int) -> Tensor:
        """Add to the parameters the gradients of a part of a step, counted from 0; each detector's loss."""
        batch = batch.to(self.fabric.device)
        x = batch.input().contiguous(memory_format=torch.channels_last)
        place = (self.step, part, self.fabric.global_rank)
        with self._without_exchange(part < self.recipe.accumulate - 1):
            losses = self.objective.losses(self.detectors, x, batch, place) / self.recipe.accumulate
            self.fabric.backward(losses.sum())
        return losses.detach()

    @contextmanager
    def _without_exchange(self, enabled: bool) -> Iterator[None]:
        if self.fabric.world_size == 1:
            yield
        else:
            with self.fabric.no_backward_sync(self.detectors, enabled=enabled):
                yield

    def _update(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.fabric.clip_gradients(self.detectors, self.optimizer, max_norm=self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()

    def _log(self, losses: tuple[float, ...], rate: float) -> None:
        if self.fabric.loggers:
            values = {
                **{f"loss/detector{number}": loss for number, loss in enumerate(losses, 1)},
                "learning_rate": self._learning_rate(),
                "images_per_second": rate,
            }
            self.fabric.log_dict(values, step=self.step)

    def _learning_rate(self) -> float:
        return learning_rate(self.recipe, self.step, max(1, self.recipe.epochs * self.steps_per_epoch))

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
            "processes": self.fabric.world_size,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "recipe": asdict(self.recipe),
        }
        if self.fabric.is_global_zero:
            with whole_file(path) as temporary:
                self.fabric.save(temporary, content)
        else:
            self.fabric.save(path, content)  # writes nothing, but the first process waits for this call
        self.fabric.barrier()

    def restore(self, path: Path) -> int:
        """Load a stored state and return the number of finished epochs. Raises InputError if it does not fit."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state = read_state(
            path,
            version=_STATE_VERSION,
            model=self.model,
            parameters=dict(enumerate(parameters)),
            recipe={**asdict(self.recipe), "processes": self.fabric.world_size},
            may_change=_MAY_CHANGE,
            moments=self.objective.moments,
        )
        self.model.load_state_dict(state.model)
        self.average.load_state_dict(state.average)
        # The groups' options follow from the recipe.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state.optimizer, "param_groups": groups})
        self.step = state.step
        return state.epochs_done


def objective_of(model: Network, recipe: DetectorRecipe) -> Objective:
    """What is computed for this kind of network and recipe. Raises TypeError for others."""
    if isinstance(model, TwoStageDetector) and isinstance(recipe, TwoStageRecipe):
        return TwoStageObjective(model, recipe)
    if isinstance(model, DynamicDetector | StaticDetector):
        return RawMapsObjective(model, recipe)
    raise TypeError(f"{type(model).__name__} is not trained with a {type(recipe).__name__}")

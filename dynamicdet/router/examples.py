"""What a router learns from: its inputs, and what both detectors made of each image.

The detectors are frozen, so all of this is fixed for an image. It is computed once; the fitting itself takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicdet.aliases import FloatArray, IntArray, Progress, silent
from dynamicdet.datasets.clips import clips_of
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.networks.network import RoutedNetwork
from dynamicdet.networks.router.layers import Router
from dynamicdet.router.recipe import RouterRecipe
from dynamicdet.routing.answers import Asked, routes_of
from dynamicdet.suppression import Detections
from dynamicdet.training.assignment import Objects
from dynamicdet.training.augment import NONE
from dynamicdet.training.batches import Batch, EpochBatches, load_ahead

_TOGETHER = 16  # images that run through both detectors together


@dataclass(frozen=True)
class RouterExamples:
    """N views of images."""

    pooled: Tensor
    """(N, inputs, 1, 1) what the router reads; see `Router.pool`"""
    loss1: Tensor
    """(N,) of detector 1"""
    loss2: Tensor
    """(N,) of detector 2"""
    groups: IntArray
    """(N,) number of the clip that the image belongs to"""
    score: MixedPrecision | None = None
    """average precision of every mix of the detectors; None if there is no object in any view"""

    def __len__(self) -> int:
        return len(self.loss1)

    @property
    def loss_gains(self) -> FloatArray:
        """(N,) by how much detector 2 lowers the loss."""
        return (self.loss1 - self.loss2).double().numpy()


@dataclass(frozen=True)
class View:
    """A batch of views, and the places of their images in the data set."""

    batch: Batch
    places: IntArray


@dataclass(frozen=True)
class _Views:
    """The objects of the views, as `MixedPrecision` reads them."""

    folder: Path
    annotations: Mapping[str, Any]
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]


@dataclass(frozen=True)
class _Found:
    """What each detector found in the views."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]


def views(
    data: CocoDataset, recipe: RouterRecipe, *, size: int, workers: int = 1, progress: Progress = silent
) -> Iterator[View]:
    """Exactly as many views as the recipe asks for: first each image as it is, then augmented ones."""
    done = number = 0
    while done < recipe.examples:
        options = recipe.augmentation if number else NONE
        batches = EpochBatches(
            data, options, size=size, batch=_TOGETHER, seed=recipe.seed, epoch=number, masks=data.has_masks
        )
        starts = range(0, len(batches) * batches.batch, batches.batch)
        for first, batch in zip(starts, load_ahead(batches, workers=workers), strict=True):
            wanted = batch.first(recipe.examples - done)
            yield View(wanted, batches.order[first : first + len(wanted.images)])
            done += len(wanted.images)
            progress("run both detectors", done, recipe.examples)
            if done >= recipe.examples:
                return
        number += 1


@torch.inference_mode()
def collect_examples(
    model: RoutedNetwork,
    data: CocoDataset,
    recipe: RouterRecipe,
    *,
    router: Router,
    workers: int = 1,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> RouterExamples:
    """Run both detectors in evaluation mode on a device, and collect the examples for a `router` on the CPU."""
    network = model.deploy().eval().to(device)
    routes = routes_of(network, loss=recipe.loss)
    pooled: list[Tensor] = []
    losses: tuple[list[Tensor], list[Tensor]] = ([], [])
    found: tuple[list[Detections], list[Detections]] = ([], [])
    objects: list[Objects] = []
    places: list[IntArray] = []
    for view in views(data, recipe, size=model.input_size, workers=workers, progress=progress):
        batch = view.batch.to(torch.device(device))
        x = batch.input()
        features = network.features(x)
        pooled.append(router.pool([features[name] for name in model.router_reads]).cpu())
        answers = routes(x, features, Asked(batch.objects, batch.masks, data.objects_per_image))
        for number, detections in enumerate((answers.easy, answers.hard)):
            losses[number].append(answers.losses[number])
            found[number].extend(detections)
        objects.append(view.batch.objects)
        places.append(view.places)
    # Clones made outside inference mode can take part in a backward pass.
    with torch.inference_mode(mode=False):
        inputs, loss1, loss2 = (torch.cat(one).clone() for one in (pooled, *losses))
    names = [str(image["file_name"]) for image in data.annotations["images"]]
    clips = np.unique(clips_of(names), return_inverse=True)[1]
    truth = _truth(data, objects, [len(one) for one in places])
    return RouterExamples(
        pooled=inputs,
        loss1=loss1,
        loss2=loss2,
        groups=clips[np.concatenate(places)],
        score=MixedPrecision(_Found(*found), truth) if truth.annotations["annotations"] else None,
    )


def _truth(data: CocoDataset, objects: Iterable[Objects], counts: Sequence[int]) -> _Views:
    """The objects of the views in COCO's form, boxes in pixels of the views."""
    entries: list[dict[str, Any]] = []
    first = 1
    for one, count in zip(objects, counts, strict=True):
        for image, label, (x, y, width, height) in zip(
            one.image.tolist(), one.label.tolist(), one.box.tolist(), strict=True
        ):
            box = [x - width / 2, y - height / 2, width, height]
            entries.append({"id": len(entries) + 1, "image_id": first + image, "category_id": label + 1, "bbox": box})
        first += count
    ids = tuple(range(1, first))
    categories = tuple(range(1, len(data.class_names) + 1))
    return _Views(
        folder=data.folder,
        annotations={
            "images": [{"id": one} for one in ids],
            "annotations": entries,
            "categories": [{"id": one, "name": name} for one, name in zip(categories, data.class_names, strict=True)],
        },
        image_ids=ids,
        category_ids=categories,
    )

"""AP of the answers that requests got: each answer counts as an image of its own, also if its image was sent before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, only, read_dataset
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.letterbox import Fit
from dynamicdet.pictures import spread
from dynamicdet.routing.routes import check_classes, in_original
from dynamicdet.suppression import Detections
from dyndet_bench.load.messages import Found


class AnswerPrecision:
    """Scores answers with the labels of a COCO data set."""

    def __init__(self, dataset: CocoDataset, *, data: str) -> None:
        self.data = data
        """for people"""
        self._dataset = dataset
        self._objects: dict[int, list[dict[str, Any]]] = {image: [] for image in dataset.image_ids}
        for one in dataset.annotations["annotations"]:
            self._objects[one["image_id"]].append(dict(one))
        self._entries = {one["id"]: dict(one) for one in dataset.annotations["images"]}

    @classmethod
    def read(
        cls,
        data: Path,
        fit: Fit,
        *,
        class_names: Sequence[str],
        images: Path | None = None,
        max_images: int = 200,
        progress: Progress = silent,
    ) -> AnswerPrecision:
        """At most `max_images` of a data set, spread over it. Raises InputError if it does not fit the detector."""
        dataset = read_dataset(data, fit, images=images, split="valid", progress=progress)
        check_classes("the detector", class_names, dataset.class_names, data)
        dataset = only(in_class_order(dataset, class_names), spread(range(len(dataset)), max_images))
        return cls(dataset, data="/".join(data.resolve().parts[-2:]))

    @property
    def images(self) -> list[UInt8Array]:
        """The fitted images (H, W, 3), in their order."""
        return [np.ascontiguousarray(image) for image in self._dataset.images]

    def __call__(self, given: Sequence[tuple[int, Found | None, int]]) -> float:
        """COCO AP, percent, of answers (image's number, what was found, how many requests got it).

        An answer of None found nothing. NaN without objects.
        """
        numbers = [number for number, _, _ in given]
        found = [self._detections(number, one) for number, one, _ in given]
        copies = _Copies(
            folder=self._dataset.folder,
            annotations=self._copied(numbers),
            image_ids=tuple(range(1, len(given) + 1)),
            category_ids=self._dataset.category_ids,
        )
        if not copies.annotations["annotations"]:
            return float("nan")
        nothing = np.zeros(len(given), np.bool_)
        precision = MixedPrecision(_OneRoute(easy=found, hard=[_NOTHING] * len(given)), copies)
        return precision(nothing, counts=[count for _, _, count in given]).ap

    def _copied(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The truth of these images, each with an id of its own."""
        images, objects = [], []
        for own, number in enumerate(numbers, 1):
            image = self._dataset.image_ids[number]
            images.append({**self._entries[image], "id": own})
            objects += [{**one, "image_id": own} for one in self._objects[image]]
        return {**self._dataset.annotations, "images": images, "annotations": objects}

    def _detections(self, number: int, found: Found | None) -> Detections:
        """In pixels of the original image."""
        if found is None:
            return _NOTHING
        arrays = (found.boxes, found.scores, found.classes)
        boxes, scores, classes = (torch.from_numpy(array.copy()) for array in arrays)
        (original,) = in_original(self._dataset, number, [Detections(boxes, scores, classes)])
        return original


_NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True, kw_only=True)
class _Copies:
    """Images with objects, as `MixedPrecision` takes them."""

    folder: Path
    annotations: Mapping[str, Any]
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _OneRoute:
    """The answers on the place of both routes."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]

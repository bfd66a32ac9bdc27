"""What other tools read of detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.errors import InputError
from dyndet_client.results.masks import Masks


def coco_entries(
    image_id: int | str,
    *,
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int32],
    masks: Masks | None,
    category_ids: Sequence[int] | None,
) -> list[dict[str, Any]]:
    """Entries of a COCO results file; see `Detections.to_coco`."""
    numbers = classes.tolist()
    if category_ids is not None and any(number >= len(category_ids) for number in numbers):
        raise InputError(f"category_ids has {len(category_ids)} entries, too few for the class number {max(numbers)}")
    corners = boxes.astype(np.float64)
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": int(number if category_ids is None else category_ids[number]),
            "bbox": box,
            "score": round(score, 6),
            **segmentation,
        }
        for number, box, score, segmentation in zip(
            numbers, sides, scores.tolist(), segmentations(masks, len(numbers)), strict=True
        )
    ]


def segmentations(masks: Masks | None, count: int) -> list[dict[str, Any]]:
    """What masks add to each of so many objects in a file; nothing without masks."""
    return [{}] * count if masks is None else [{"segmentation": rle} for rle in masks.to_rle()]

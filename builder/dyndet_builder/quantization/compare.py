"""Measures on real images how far an int8 bundle is from the fp32 bundle that it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dynamicdet.aliases import Float32Array, UInt8Array
from dyndet_builder.bundle.parity import BARS, route_flip_share
from dyndet_builder.bundle.runner import StageRunner, Tensors

FROM_SCORE = 0.25
"""detections with at least this score are compared; below it, noise decides which candidates survive suppression"""
_MATCHES = 0.5


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Largest differences, unless a name says otherwise."""

    images: int
    box_px: float
    box_px_median: float
    score: float
    unmatched_share: float
    difficulty: float
    route_flip_share: float


def compare(before: StageRunner, after: StageRunner, images: Iterable[UInt8Array]) -> Differences:
    """Run both routes of both bundles on letterboxed images (S, S, 3) and match their detections."""
    boxes: list[float] = []
    scores: list[float] = []
    counted = found_again = 0
    expected: list[float] = []
    measured: list[float] = []
    for image in images:
        batch = image[None]
        for route in ("easy", "hard"):
            old, new = getattr(before, route)(batch), getattr(after, route)(batch)
            pairs, count = matched(old.detector, new.detector)
            counted, found_again = counted + count, found_again + len(pairs)
            for box_px, score in pairs:
                boxes.append(box_px)
                scores.append(score)
        expected.append(float(old.difficulty[0]))
        measured.append(float(new.difficulty[0]))
    truth, found = np.array(expected, np.float32), np.array(measured, np.float32)
    return Differences(
        images=len(expected),
        box_px=max(boxes, default=0.0),
        box_px_median=float(np.median(boxes)) if boxes else 0.0,
        score=max(scores, default=0.0),
        unmatched_share=(counted - found_again) / counted if counted else 0.0,
        difficulty=float(np.abs(found - truth).max(initial=0.0)),
        route_flip_share=route_flip_share(truth, found, tie=BARS["fp32"].tie),
    )


def matched(old: Tensors, new: Tensors) -> tuple[list[tuple[float, float]], int]:
    """Differences (pixels, score) of the detections that overlap by half or more, and the number of detections."""
    likely = old["scores"][0] >= FROM_SCORE
    pairs = []
    for box, score, kind in zip(
        old["boxes"][0][likely], old["scores"][0][likely], old["classes"][0][likely], strict=True
    ):
        overlap = np.where(new["classes"][0] == kind, _overlaps(box, new["boxes"][0]), 0.0)
        best = int(overlap.argmax())
        if overlap[best] >= _MATCHES:
            moved = float(np.abs(new["boxes"][0][best] - box).max())
            pairs.append((moved, abs(float(new["scores"][0][best]) - float(score))))
    return pairs, int(likely.sum())


def _overlaps(box: Float32Array, others: Float32Array) -> Float32Array:
    """Intersection over union of a box with each of (N, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1)
    overlaps: Float32Array = shared / np.maximum(area - shared, 1e-9)
    return overlaps

"""Compares the answers of a way to run the stages with those of ONNX Runtime on the CPU, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from dynamicdet.aliases import UInt8Array
from dynamicdet.text import distinct
from dyndet_builder.bundle.manifest import Precision
from dyndet_builder.bundle.parity import BARS, Bars
from dyndet_builder.bundle.runner import Answer
from dyndet_builder.quantization.compare import matched
from dyndet_builder.verifying.record import Agreement, Check

_MOST_UNMATCHED = 0.01
"""share of detections; near the bar of the suppression, a rounding error decides which of two boxes stays"""
_MOST_FLIPPED = 0.01
"""share of images at an operating point, in half precision or int8; in fp32 none may flip"""


class Answering(Protocol):
    """Answers both routes of a batch."""

    def easy(self, images: UInt8Array) -> Answer:
        """The easy route."""

    def hard(self, images: UInt8Array) -> Answer:
        """The hard route."""


def agreement(
    reference: Answering, other: Answering, images: Sequence[UInt8Array], thresholds: Mapping[str, float]
) -> Agreement:
    """Run both routes of both on fitted images (H, W, 3), one at a time. `thresholds` are those by operating point."""
    boxes, scores = [0.0], [0.0]
    counted = found = 0
    truths, values = [], []
    for image in images:
        batch = image[None]
        for route in ("easy", "hard"):
            old, new = getattr(reference, route)(batch), getattr(other, route)(batch)
            pairs, count = matched(old.detector, new.detector)
            counted, found = counted + count, found + len(pairs)
            boxes += [box for box, _ in pairs]
            scores += [score for _, score in pairs]
        truths.append(float(old.difficulty[0]))
        values.append(float(new.difficulty[0]))
    truth, value = np.array(truths), np.array(values)
    tie = BARS["fp32"].tie
    return Agreement(
        images=len(images),
        box_px=float(np.max(boxes)),
        score=float(np.max(scores)),
        unmatched_share=(counted - found) / counted if counted else 0.0,
        difficulty=float(np.abs(value - truth).max(initial=0.0)),
        flips={
            name: int((((truth > at) != (value > at)) & (np.abs(truth - at) > tie)).sum())
            for name, at in thresholds.items()
        },
    )


def checks_of(name: str, found: Agreement, precision: Precision) -> list[Check]:
    """What an agreement says: one check of the boxes, one of the difficulties and routes."""
    bars = BARS["fp32" if precision == "fp32" else "fp16"]
    return [_boxes(name, found, bars), _routes(name, found, bars, precision)]


def _boxes(name: str, found: Agreement, bars: Bars) -> Check:
    within = found.box_px <= bars.box_px and found.score <= bars.score and found.unmatched_share <= _MOST_UNMATCHED
    box, most_px = distinct(found.box_px, bars.box_px)
    score, most_score = distinct(found.score, bars.score)
    return Check(
        name=f"boxes, {name}",
        passed=within,
        sentence=(
            f"Boxes differ from those of the CPU by at most {box} px (accepted {most_px}), scores by {score} "
            f"({most_score}), and {found.unmatched_share:.1%} of the detections have no counterpart "
            f"({_MOST_UNMATCHED:.0%})."
        ),
    )


def _routes(name: str, found: Agreement, bars: Bars, precision: Precision) -> Check:
    most = 0 if precision == "fp32" else int(_MOST_FLIPPED * found.images)
    worst = max(found.flips.values(), default=0)
    value, limit = distinct(found.difficulty, bars.difficulty)
    points = "; ".join(f"{count} at {point}" for point, count in found.flips.items())
    return Check(
        name=f"routes, {name}",
        passed=found.difficulty <= bars.difficulty and worst <= most,
        sentence=(
            f"Difficulties differ from those of the CPU by at most {value} (accepted {limit}), and of {found.images} "
            f"images {points or 'none'} change their route ({most} accepted)."
        ),
    )

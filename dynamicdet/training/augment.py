"""Augmentation with numpy and Pillow: scale and translate, mosaic, flip, colour.

Masks go with their objects, if the samples have them. The random numbers do not depend on them, so the same seed gives
the same pictures and boxes with masks and without, but for objects of whose mask nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dynamicdet.aliases import BoolArray, Float32Array, UInt8Array
from dynamicdet.datasets.dataset import Labels
from dynamicdet.images import BACKGROUND

Sample = tuple[UInt8Array, Labels]
Draw = Callable[[], Sample]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much images vary; `NONE` does not change them."""

    scale: tuple[float, float] = (0.5, 1.2)
    """pixels of the result per pixel of the data set's square"""
    mosaic: float = 0.0
    """share of images that are combined from four"""
    flip: float = 0.5
    hue: float = 0.015
    saturation: float = 0.5
    value: float = 0.35
    least_visible: float = 0.3
    """an object cut off to less than this share of its area is dropped"""
    least_side: float = 4.0
    """pixels; smaller objects are dropped"""
    on_object: float = 0.7
    """share of crops that are centred near an object"""


NONE = Augmentation(scale=(1.0, 1.0), flip=0.0, hue=0.0, saturation=0.0, value=0.0, least_visible=0.0, on_object=0.0)


def augment(draw: Draw, size: int, options: Augmentation, rng: np.random.Generator) -> Sample:
    """One training image (size, size, 3) and its objects, made from one or four samples of `draw`."""
    canvas = np.full((size, size, 3), BACKGROUND, np.uint8)
    if rng.random() < options.mosaic:
        x, y = rng.integers(round(0.3 * size), round(0.7 * size) + 1, 2)
        regions = [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]
    else:
        regions = [(0, 0, size, size)]
    parts = [_place(canvas, region, draw(), options, rng) for region in regions]
    masks = [part.masks for part in parts if part.masks is not None]
    labels = Labels(
        boxes=np.concatenate([part.boxes for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        masks=np.concatenate(masks) if masks else None,
    )
    if rng.random() < options.flip:
        canvas, labels = flipped(canvas, labels)
    return _coloured(canvas, options, rng), labels


def flipped(image: UInt8Array, labels: Labels) -> Sample:
    """Left and right swapped."""
    width = image.shape[1]
    boxes = labels.boxes.copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    masks = None if labels.masks is None else np.ascontiguousarray(labels.masks[:, :, ::-1])
    return np.ascontiguousarray(image[:, ::-1]), Labels(boxes=boxes, classes=labels.classes, masks=masks)


def _place(
    canvas: UInt8Array,
    region: tuple[int, int, int, int],
    sample: Sample,
    options: Augmentation,
    rng: np.random.Generator,
) -> Labels:
    """Draw a scaled and shifted sample into a region (x1 y1 x2 y2) of the canvas; its objects in canvas pixels."""
    image, labels = sample
    low, high = options.scale
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if (height, width) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    boxes = labels.boxes * np.float32(scale)
    focus = boxes[rng.integers(len(boxes))] if len(boxes) and rng.random() < options.on_object else None
    x1, y1, x2, y2 = region
    # Left and top of the image, relative to the region.
    left = _offset(x2 - x1, width, None if focus is None else (focus[0], focus[2]), rng)
    top = _offset(y2 - y1, height, None if focus is None else (focus[1], focus[3]), rng)
    into = (slice(y1 + max(0, top), min(y2, y1 + top + height)), slice(x1 + max(0, left), min(x2, x1 + left + width)))
    out_of = tuple(
        slice(part.start - start, part.stop - start) for part, start in zip(into, (y1 + top, x1 + left), strict=True)
    )
    canvas[into] = image[out_of]
    moved = boxes + np.array([x1 + left, y1 + top, x1 + left, y1 + top], np.float32)
    seen, clipped = _visible(moved, region, options)
    shown = Labels(boxes=clipped[seen], classes=labels.classes[seen])
    if labels.masks is None:
        return shown
    return _with_masks(shown, labels.masks[seen], canvas.shape[:2], into, out_of, (height, width))


def _offset(room: int, length: int, focus: tuple[float, float] | None, rng: np.random.Generator) -> int:
    """Where an image starts: anywhere inside the room if it is shorter; otherwise it fills the room."""
    low, high = sorted((0, room - length))
    if focus is not None and room < length:
        # The focused interval is inside the room if it fits; otherwise it covers the room.
        first, last = sorted((-focus[0], room - focus[1]))
        low, high = max(low, int(first)), min(high, int(last))
        if low > high:
            low = high = int(np.clip(low, room - length, 0))
    return int(rng.integers(low, high + 1))


def _visible(
    boxes: Float32Array, region: tuple[int, int, int, int], options: Augmentation
) -> tuple[BoolArray, Float32Array]:
    """Of which boxes enough is inside a region, and all boxes clipped to it."""
    x1, y1, x2, y2 = region
    clipped = np.stack([boxes[:, 0].clip(x1, x2), boxes[:, 1].clip(y1, y2), boxes[:, 2].clip(x1, x2),
                        boxes[:, 3].clip(y1, y2)], axis=1)  # fmt: skip
    before, after = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    shown = after.prod(axis=1) / np.maximum(before.prod(axis=1), 1e-6)
    return (shown > options.least_visible) & (after >= options.least_side).all(axis=1), clipped


def _with_masks(
    labels: Labels,
    masks: UInt8Array,
    canvas: tuple[int, ...],
    into: tuple[slice, slice],
    out_of: tuple[slice, ...],
    scaled: tuple[int, int],
) -> Labels:
    """Objects with their masks (n, h, w) drawn as the image was: `out_of` its `scaled` size, `into` the canvas (H, W).

    A pixel has the value of the one that its centre lies in. Objects of whose mask nothing is left are dropped.
    """
    rows, columns = (
        ((np.arange(part.start, part.stop) + 0.5) * (own / side)).astype(np.int64).clip(0, own - 1)
        for part, own, side in zip(out_of, masks.shape[1:], scaled, strict=True)
    )
    drawn = np.zeros((len(masks), *canvas), np.uint8)
    drawn[(slice(None), *into)] = masks[:, rows[:, None], columns]
    left = drawn.any(axis=(1, 2))
    return Labels(boxes=labels.boxes[left], classes=labels.classes[left], masks=drawn[left])


def _coloured(image: UInt8Array, options: Augmentation, rng: np.random.Generator) -> UInt8Array:
    if not (options.hue or options.saturation or options.value):
        return image
    gains = 1 + rng.uniform(-1, 1, 3) * (options.hue, options.saturation, options.value)
    steps = np.arange(256)
    hue = (steps + round((gains[0] - 1) * 256)) % 256
    table = np.concatenate([hue, np.clip(steps * gains[1], 0, 255), np.clip(steps * gains[2], 0, 255)])
    picture = Image.fromarray(image).convert("HSV").point([int(entry) for entry in table])
    return np.asarray(picture.convert("RGB"))

"""Masks as arrays: decoded, sampled at the pixels of a fitted image, moved with a picture that differs from its size.

A pixel of the result has the value of the pixel that its centre lies in. Nothing is averaged, so no threshold is
needed, and objects that touch stay apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynamicdet.aliases import Float32Array, IntArray, UInt8Array
from dynamicdet.datasets.annotations import CocoFiles
from dynamicdet.datasets.findings import Findings
from dynamicdet.datasets.frames import Frame
from dynamicdet.datasets.objects import ObjectTable
from dynamicdet.datasets.placing import InFrames
from dynamicdet.datasets.segmentations import Rle, check_places, code, encode
from dynamicdet.letterbox import Fit, Letterboxed


def read_masks(
    files: CocoFiles, table: ObjectTable, frames: IntArray, placed: InFrames, findings: Findings
) -> tuple[Rle, ...]:
    """The mask of each object of a settled table, in pixels of its picture (`frames` (N, 5)); faults go to `findings`.

    The annotations were read with `masks`; `placed` is what `placing.fit` made of them.
    """
    sizes = placed.sizes.copy()
    for image, (size, _) in placed.moved.items():
        sizes[image] = size
    boxes = np.zeros((len(files.segmentations), 4))
    boxes[files.table.entry] = files.table.box
    masks = list(code(files.segmentations, table, boxes, sizes, files.name_object, findings))
    for row, image in enumerate(table.image.tolist() if placed.moved else ()):
        if image in placed.moved:
            masks[row] = moved(masks[row], Frame(*frames[image].tolist()), turn=placed.moved[image][1])
    if not findings.faulty():
        check_places(masks, table, files.name_object, findings)
    return tuple(masks)


def fitted(masks: Sequence[Rle], boxes: Float32Array, placement: Letterboxed, rule: Fit) -> UInt8Array:
    """Masks (n, H, W), 0 or 1, of a fitted image, from those of the image as it is; `boxes` (n, 4) are fitted.

    A mask without a pixel in the fitted image, as a small or thin object may have, becomes its box.
    """
    from pycocotools import mask as coco

    result = np.zeros((len(masks), rule.height, rule.width), np.uint8)
    if not len(masks):
        return result
    rows = _sources(rule.height, placement.pad_top, placement.scale_y)
    columns = _sources(rule.width, placement.pad_left, placement.scale_x)
    for number, (one, (x, y, w, h)) in enumerate(zip(masks, coco.toBbox(list(masks)), strict=True)):
        top, bottom = np.searchsorted(rows, (y, y + h))
        left, right = np.searchsorted(columns, (x, x + w))
        found = coco.decode(one)[rows[top:bottom, None], columns[left:right]]
        if found.any():
            result[number, top:bottom, left:right] = found
        else:
            fill(result[number], boxes[number])
    return result


def fill(mask: UInt8Array, box: Float32Array) -> None:
    """Set the pixels of a box x1 y1 x2 y2 in a mask (H, W), at least one."""
    (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    y1, x1 = min(y1, mask.shape[0] - 1), min(x1, mask.shape[1] - 1)
    mask[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 1


def moved(mask: Rle, frame: Frame, *, turn: bool) -> Rle:
    """A mask scaled from the annotated size to the picture, and turned by EXIF if asked for; see `placing.fit`."""
    from pycocotools import mask as coco

    width, height = (frame.stored_width, frame.stored_height) if turn else (frame.width, frame.height)
    old_height, old_width = mask["size"]
    if not old_height * old_width:  # it had a fault
        return mask
    pixels = coco.decode(mask)
    if (old_width, old_height) != (width, height):
        rows = _sources(height, 0, height / old_height).clip(0, old_height - 1)
        columns = _sources(width, 0, width / old_width).clip(0, old_width - 1)
        pixels = pixels[rows[:, None], columns]
    return encode(_turned(pixels, frame.orientation) if turn else pixels)


def _turned(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """A mask (H, W) as viewers show it, for an EXIF orientation."""
    turns = {2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T, 6: np.rot90(pixels, -1),
             7: pixels[::-1, ::-1].T, 8: np.rot90(pixels)}  # fmt: skip
    return turns.get(orientation, pixels)


def _sources(length: int, start: int, scale: float) -> IntArray:
    """The pixel in which the centre of each of `length` pixels lies, below 0 or beyond the end in the borders."""
    found: IntArray = np.floor((np.arange(length) + 0.5 - start) / scale).astype(np.int64)
    return found

"""Decodes the pictures of a data set and fits them into a detector's input, in memory or in a file.

Decoding costs more than training a small network. So each image is decoded once, into memory or into a memory-mapped
file that later processes use again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from dynamicdet.aliases import IntArray, Progress, UInt8Array
from dynamicdet.datasets.annotations import CocoFiles
from dynamicdet.datasets.frames import Fault, Frame, each_picture, look, read_frames
from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.letterbox import Fit

_Placed = TypeVar("_Placed")


def decode(files: CocoFiles, rule: Fit, *, progress: Progress) -> UInt8Array:
    """The fitted pictures (N, H, W, 3) in memory. Raises InputError if one is damaged."""
    images = np.empty((len(files.file_names), *rule.shape), np.uint8)
    _decode(files, rule, images, progress)
    return images


def stored(
    files: CocoFiles, rule: Fit, cache: Path, place: Callable[[IntArray], _Placed], *, progress: Progress
) -> tuple[UInt8Array, _Placed]:
    """The fitted pictures, mapped from a file in `cache` that is written first if it is missing.

    `place` takes the frames of the pictures (N, 5), and raises InputError if they show a fault, before a picture is
    decoded; its result is returned too.
    """
    stem = f"{files.digest}-{_file_part(rule)}"
    pixels, frames_file = cache / f"{stem}.images.npy", cache / f"{stem}.frames.npy"
    placed = None
    if not (pixels.exists() and frames_file.exists()):
        frames = read_frames(files, whole=False, progress=progress)
        placed = place(frames)
        cache.mkdir(parents=True, exist_ok=True)
        with whole_file(pixels, durable=False) as new_pixels, whole_file(frames_file, durable=False) as new_frames:
            images = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                new_pixels, "w+", np.uint8, (len(frames), *rule.shape)
            )
            _decode(files, rule, images, progress)
            images.flush()
            np.save(new_frames, frames)
    try:
        images, frames = np.load(pixels, mmap_mode="r"), np.load(frames_file)
    except (ValueError, OSError) as error:
        raise InputError(f"{pixels} is damaged ({error}); delete it, and it will be written again") from error
    return images, place(frames) if placed is None else placed


def _file_part(rule: Fit) -> str:
    """What tells the files of this rule from those of others."""
    if rule.is_own:
        return str(rule.height)
    return f"{rule.width}x{rule.height}-{hashlib.sha256(rule.as_json().encode()).hexdigest()[:12]}"


def _decode(files: CocoFiles, rule: Fit, images: UInt8Array, progress: Progress) -> None:
    """Fill `images` (N, H, W, 3), which may be mapped. Raises InputError if a picture is damaged."""

    def decode(index: int, path: Path) -> tuple[Frame, Fault | None]:
        def put(pixels: UInt8Array) -> None:
            images[index] = rule(pixels).image

        return look(path, use=put)

    for _, fault in each_picture(files, decode, step="read images", progress=progress):
        if fault is not None:
            files.findings.add(fault.kind, fault.text)
    files.findings.raise_any(files.place.annotations)

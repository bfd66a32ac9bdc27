"""A data set as a user brings it: drawn scenes in many sizes and kinds of files, with classes that no checkpoint knows.

Shapes with stripes, crosses and bands lie on mottled backgrounds. Half of the scenes are plain; in the others the
shapes are smaller, and the picture is darker, flatter and noisier.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLASSES = {7: "ball", 3: "crate", 12: "cone"}
"""names by category id: neither from 1 nor in order"""
_SIZES = ((640, 480), (480, 640), (320, 240), (300, 500), (800, 300), (256, 256), (1024, 768))
"""width and height"""
_KINDS = ("colour.jpg", "colour.jpg", "colour.png", "grey.png", "grey.jpg", "deep.png")
_NEGATIVES = 0.08
_MOST = 5


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn picture and its objects: category id and box (x, y, width, height) in pixels."""

    picture: Image.Image
    objects: list[tuple[int, tuple[float, float, float, float]]]


def write_own_scenes(folder: Path, *, train: int = 240, val: int = 60, seed: int = 0) -> Path:
    """Write `train/` and `val/`, each with `images/` and `annotations.json`; returns the folder."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        (folder / split / "images").mkdir(parents=True)
        for number in range(1, count + 1):
            scene = _scene(rng, _SIZES[number % len(_SIZES)], hard=number % 2 == 0)
            kind, _, suffix = _KINDS[number % len(_KINDS)].partition(".")
            name = f"{split}-{number:03}-{kind}.{suffix}"
            _converted(scene.picture, kind).save(folder / split / "images" / name)
            width, height = scene.picture.size
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for category, box in scene.objects:
                annotations.append(_annotation(len(annotations) + 1, number, category, box))
        categories = [{"id": number, "name": name} for number, name in CLASSES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "annotations.json").write_text(json.dumps(content))
    return folder


def _annotation(number: int, image: int, category: int, box: tuple[float, float, float, float]) -> dict[str, Any]:
    place: dict[str, Any] = {"id": number, "image_id": image, "category_id": category, "bbox": list(box)}
    return {**place, "area": box[2] * box[3], "iscrowd": 0}


def _converted(picture: Image.Image, kind: str) -> Image.Image:
    """The picture as a camera, a scanner or a microscope would store it."""
    if kind == "colour":
        return picture
    grey = picture.convert("L")
    if kind == "grey":
        return grey
    return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)


def _scene(rng: np.random.Generator, size: tuple[int, int], *, hard: bool) -> Scene:
    picture = _background(rng, size)
    objects: list[tuple[int, tuple[float, float, float, float]]] = []
    wanted = 0 if rng.random() < _NEGATIVES else int(rng.integers(1, _MOST + 1))
    for _ in range(4 * wanted):
        if len(objects) == wanted:
            break
        side = min(size) * (rng.uniform(0.09, 0.18) if hard else rng.uniform(0.2, 0.4))
        width, height = (round(side * stretch) for stretch in rng.uniform(0.85, 1.15, 2))
        x, y = (int(rng.integers(0, limit - own)) for limit, own in zip(size, (width, height), strict=True))
        box = (float(x), float(y), float(width), float(height))
        if any(_overlap(box, other) for _, other in objects):
            continue
        category = int(rng.choice(list(CLASSES)))
        _DRAWN[CLASSES[category]](ImageDraw.Draw(picture), (x, y, x + width - 1, y + height - 1), *_colours(rng))
        objects.append((category, box))
    return Scene(picture=_worsened(rng, picture) if hard else picture, objects=objects)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Mottled, in a muted colour."""
    coarse = rng.uniform(-25, 25, (6, 8, 1)) + rng.uniform(70, 180, 3)
    return Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _worsened(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Darker, flatter and noisier."""
    pixels = np.asarray(picture).astype(np.float32)
    pixels = 60 + (pixels - 110) * rng.uniform(0.35, 0.6) + rng.normal(0, rng.uniform(6, 14), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A light and a dark colour."""
    light, dark = rng.integers(190, 256, 3), rng.integers(0, 60, 3)
    return tuple(int(value) for value in light), tuple(int(value) for value in dark)


_Box = tuple[int, int, int, int]
_Colour = tuple[int, ...]


def _ball(draw: ImageDraw.ImageDraw, box: _Box, light: _Colour, dark: _Colour) -> None:
    left, top, right, bottom = box
    draw.ellipse(box, fill=light, outline=dark, width=2)
    inner = (left + (right - left) * 0.3, top + (bottom - top) * 0.3, right - (right - left) * 0.3, bottom - 2)
    draw.ellipse(inner, fill=dark)


def _crate(draw: ImageDraw.ImageDraw, box: _Box, light: _Colour, dark: _Colour) -> None:
    left, top, right, bottom = box
    width = max(2, (right - left) // 10)
    draw.rectangle(box, fill=light, outline=dark, width=width)
    draw.line((left, top, right, bottom), fill=dark, width=width)
    draw.line((left, bottom, right, top), fill=dark, width=width)


def _cone(draw: ImageDraw.ImageDraw, box: _Box, light: _Colour, dark: _Colour) -> None:
    left, top, right, bottom = box
    middle, height = (left + right) / 2, bottom - top
    draw.polygon([(middle, top), (right, bottom), (left, bottom)], fill=dark)
    for start, end in ((0.35, 0.55), (0.75, 0.9)):
        edges = [(middle + side * share * (right - left) / 2, top + share * height)
                 for side, share in ((-1, start), (1, start), (1, end), (-1, end))]  # fmt: skip
        draw.polygon(edges, fill=light)


_DRAWN: dict[str, Callable[[ImageDraw.ImageDraw, _Box, _Colour, _Colour], None]] = {
    "ball": _ball,
    "crate": _crate,
    "cone": _cone,
}


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))

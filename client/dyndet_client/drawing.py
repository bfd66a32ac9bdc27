"""Draws detections: boxes coloured by class, labels that do not cover each other, a strip with the route on top."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dynamicdet.errors import InputError
from dynamicdet.images import ImageSource, read_image

Colour: TypeAlias = tuple[int, int, int]
_Box: TypeAlias = tuple[float, float, float, float]
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK: Colour = (20, 22, 26)
_PAPER: Colour = (255, 255, 255)
_STRIP: Colour = (28, 31, 38)
_MUTED: Colour = (174, 181, 194)
_ROUTES: dict[str, tuple[str, Colour]] = {
    "easy": ("easy route", (46, 170, 96)),
    "hard": ("hard route", (226, 104, 40)),
    "fallback": ("fallback: detector 2 failed", (214, 60, 72)),
}
_SMALLEST_FONT, _LARGEST_FONT = 10, 64


def draw_detections(
    image: ImageSource,
    *,
    image_size: tuple[int, int],
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int32],
    names: Sequence[str],
    header: tuple[str, float] | None,
) -> Image.Image:
    """A copy of the image with (N, 4) boxes in its pixels and, given (route, difficulty), a strip above it.

    Raises InputError if the image cannot be read or if its size is not `image_size` (width, height).
    """
    picture = Image.fromarray(read_image(image))
    if picture.size != tuple(image_size):
        raise InputError(
            f"the image has {picture.width} x {picture.height} pixels, but the objects were found in an image of "
            f"{image_size[0]} x {image_size[1]}"
        )
    side = math.sqrt(picture.width * picture.height)
    font = _font(side / 34)
    line = max(2 if min(picture.size) >= 64 else 1, round(side / 260))
    draw = ImageDraw.Draw(picture)
    order = np.argsort(scores, kind="stable")  # the surest box is drawn last and lies on top
    for row in order.tolist():
        _draw_box(draw, _inside(boxes[row].tolist(), picture.size), class_colour(int(classes[row])), line)
    taken: list[_Box] = []
    for row in order[::-1].tolist():  # the surest label has the first choice of place
        text = f"{names[row]} {scores[row]:.2f}"
        box = _inside(boxes[row].tolist(), picture.size)
        taken.append(_draw_label(draw, text, box, class_colour(int(classes[row])), font, line, picture.size, taken))
    if header is None:
        return picture
    return _with_header(picture, *header, count=len(names))


def class_colour(number: int) -> Colour:
    """A colour for a class number; neighbouring numbers get clearly different hues."""
    hue = (0.58 + number * 0.618034) % 1.0  # steps of the golden ratio never repeat and stay far apart
    lightness = (0.50, 0.42, 0.60)[number % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.78)
    return round(red * 255), round(green * 255), round(blue * 255)


def _inside(box: Sequence[float], size: tuple[int, int]) -> _Box:
    """Whole pixels inside the picture, at least one wide and high."""
    left, top = (min(max(0, round(start)), limit - 1) for start, limit in zip(box[:2], size, strict=True))
    right, bottom = (min(max(0, round(end) - 1), limit - 1) for end, limit in zip(box[2:], size, strict=True))
    return left, top, max(left, right), max(top, bottom)


def _draw_box(draw: ImageDraw.ImageDraw, box: _Box, colour: Colour, line: int) -> None:
    left, top, right, bottom = box
    width = max(1, min(line, int(min(right - left, bottom - top) // 2)))
    if width > 1:  # a dark rim keeps the line visible on a background of its own colour
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_INK, width=width + 2)
    draw.rectangle(box, outline=colour, width=width)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: _Box,
    colour: Colour,
    font: _Font,
    line: int,
    size: tuple[int, int],
    taken: Sequence[_Box],
) -> _Box:
    width, height, pad = _label_size(draw, text, font)
    left, top, right, bottom = box
    corners = (
        (left, top - height),  # above the box
        (left + line, top + line),  # inside, at its top
        (left, bottom + 1),  # below
        (right - width + 1, top - height),  # above, flush right
        (right - width + 1, bottom + 1),
        (left + line, bottom - line - height),
    )
    places = [_place(corner, width, height) for corner in corners]
    free = [place for place in places if _fits(place, size) and not any(_overlap(place, other) for other in taken)]
    visible = [place for place in places if _fits(place, size)]
    limits = (max(0, size[0] - width), max(0, size[1] - height))
    fallback = _place((min(max(0, left), limits[0]), min(max(0, top), limits[1])), width, height)
    place = (free or visible or [fallback])[0]
    draw.rounded_rectangle(place, radius=max(1, height // 6), fill=colour)
    draw.text((place[0] + pad, (place[1] + place[3]) / 2), text, font=font, fill=_readable_on(colour), anchor="lm")
    return place


def _label_size(draw: ImageDraw.ImageDraw, text: str, font: _Font) -> tuple[int, int, int]:
    _, top, _, bottom = draw.textbbox((0, 0), "Ág", font=font)
    height = math.ceil((bottom - top) * 1.15)
    pad = max(2, round(height * 0.22))
    return math.ceil(draw.textlength(text, font=font)) + 2 * pad, height, pad


def _place(corner: tuple[float, float], width: float, height: float) -> _Box:
    return corner[0], corner[1], corner[0] + width - 1, corner[1] + height - 1


def _fits(place: _Box, size: tuple[int, int]) -> bool:
    return place[0] >= 0 and place[1] >= 0 and place[2] < size[0] and place[3] < size[1]


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _readable_on(colour: Colour) -> Colour:
    brightness = (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 255_000
    return _INK if brightness > 0.55 else _PAPER


def _with_header(picture: Image.Image, route: str, difficulty: float, *, count: int) -> Image.Image:
    title, colour = _ROUTES[route]
    objects = "1 object" if count == 1 else f"{count} objects"
    details = f"difficulty {difficulty:.2f}  ·  {objects}"
    font = _font(min(picture.width, math.sqrt(picture.width * picture.height)) / 30)
    canvas = Image.new("RGB", (picture.width, picture.height + 2 * math.ceil(getattr(font, "size", 11))), _STRIP)
    strip = canvas.height - picture.height
    canvas.paste(picture, (0, strip))
    draw = ImageDraw.Draw(canvas)
    width, height, pad = _label_size(draw, title, font)
    edge = (strip - height) // 2
    pill = (edge, edge, edge + width + pad, edge + height - 1)
    draw.rounded_rectangle(pill, radius=height // 2, fill=colour)
    draw.text(((pill[0] + pill[2]) / 2, strip / 2), title, font=font, fill=_PAPER, anchor="mm")
    start = pill[2] + 2 * pad
    if start + draw.textlength(details, font=font) < canvas.width:
        draw.text((start, strip / 2), details, font=font, fill=_MUTED, anchor="lm")
    return canvas


def _font(pixels: float) -> _Font:
    return ImageFont.load_default(max(_SMALLEST_FONT, min(_LARGEST_FONT, round(pixels))))

"""Draws boxes with labels that do not cover each other; for detections, coloured by class, with a strip on top."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.images import ImageSource, read_image
from dynamicdet.masks import parts
from dynamicdet.matching import Detected, Matches, Objects
from dynamicdet.text import printable
from dyndet_client.results.masks import Masks

Colour: TypeAlias = tuple[int, int, int]
_Box: TypeAlias = tuple[float, float, float, float]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK: Colour = (20, 22, 26)
_PAPER: Colour = (255, 255, 255)
_STRIP: Colour = (28, 31, 38)
_MUTED: Colour = (174, 181, 194)
_ROUTES: dict[str, tuple[str, Colour]] = {
    "easy": ("easy route", (46, 170, 96)),
    "hard": ("hard route", (226, 104, 40)),
    "fallback": ("fallback: detector 2 failed", (214, 60, 72)),
    "degraded": ("degraded: no time for detector 2", (150, 98, 196)),
}
# Okabe and Ito's colours: people who see fewer colours can tell them apart. Missed objects are dashed, too.
RIGHT: Colour = (0, 158, 115)
WRONG: Colour = (226, 104, 20)
MISSED: Colour = (240, 228, 66)
TRUTH: Colour = (86, 180, 233)
"""boxes that show an object, boxes that show none, objects without a box, objects as labelled"""
_LONGEST_NAME = 24
_SMALLEST_FONT, _LARGEST_FONT = 10, 64
_OPACITY = 110
"""of masks, of 255"""
_DASH = 3
"""lengths of a dash and of a gap, in line widths"""
_STEPS = 4
"""places for a label beside a box that are tried below and above the usual ones, in label heights"""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A box to draw, and its label."""

    box: Sequence[float]
    """x1 y1 x2 y2 in pixels of the picture"""
    colour: Colour
    label: str = ""
    is_dashed: bool = False
    mask: UInt8Array | None = None
    """(28, 28): what to colour; see `Masks`"""
    mask_box: Sequence[float] = ()
    """the box that the mask spans"""

    def scaled(self, factor: float) -> Mark:
        """The same mark in a picture of another size."""
        box, mask_box = ([factor * side for side in each] for each in (self.box, self.mask_box))
        return replace(self, box=box, mask_box=mask_box)


def draw_detections(
    image: ImageSource,
    *,
    image_size: tuple[int, int],
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int32],
    names: Sequence[str],
    masks: Masks | None = None,
    header: tuple[str, float] | None,
) -> Image.Image:
    """A copy of the image with (N, 4) boxes in its pixels and, given (route, difficulty), a strip above it.

    Masks are painted over the image, which shows through.

    Raises InputError if the image cannot be read or if its size is not `image_size` (width, height).
    """
    picture = Image.fromarray(read_image(image))
    if picture.size != tuple(image_size):
        raise InputError(
            f"the image has {picture.width} x {picture.height} pixels, but the objects were found in an image of "
            f"{image_size[0]} x {image_size[1]}"
        )
    side = math.sqrt(picture.width * picture.height)
    order = np.argsort(-scores, kind="stable").tolist()
    marks = [
        Mark(
            box=boxes[row].tolist(),
            colour=class_colour(int(classes[row])),
            label=f"{names[row]} {scores[row]:.2f}",
            **_mask_of(masks, row),
        )
        for row in order
    ]
    line = max(2 if min(picture.size) >= 64 else 1, round(side / 260))
    draw_marks(picture, marks, font=label_font(side / 34), line=line)
    if header is None:
        return picture
    return _with_header(picture, *header, count=len(names))


def draw_marks(picture: Image.Image, marks: Sequence[Mark], *, font: Font, line: int, covers: bool = True) -> None:
    """Draw masks, boxes and labels into an RGB picture; the first mark is the most important, and lies on top.

    `line` is the width of a box's line in pixels. Without `covers`, a label is left out where it would cover another.
    """
    for mark in reversed(marks):
        _draw_mask(picture, mark)
    draw = ImageDraw.Draw(picture)
    for mark in reversed(marks):
        _draw_box(draw, _inside(mark.box, picture.size), mark.colour, line, is_dashed=mark.is_dashed)
    taken: list[_Box] = []
    for mark in marks:  # the first label has the first choice of place
        if mark.label:
            box = _inside(mark.box, picture.size)
            taken += _draw_label(draw, mark, box, font, line, picture.size, taken, covers=covers)


def compared_marks(found: Detected, matches: Matches, truth: Objects) -> list[Mark]:
    """A detector's boxes, best first, coloured by whether they show an object, then the objects that it missed."""
    marks = []
    for row in np.argsort(-found.scores.astype(np.float64), kind="stable").tolist():
        colour = RIGHT if matches.right[row] else WRONG if matches.wrong[row] else TRUTH
        label = f"{printable(found.names[row], limit=_LONGEST_NAME)} {found.scores[row]:.2f}"
        mask = _mask_of(getattr(found, "masks", None), row)
        marks.append(Mark(box=found.boxes[row].tolist(), colour=colour, label=label, **mask))
    missed = truth.boxes[matches.to_find & ~matches.found].tolist()
    return marks + [Mark(box=box, colour=MISSED, is_dashed=True) for box in missed]


def truth_marks(truth: Objects) -> list[Mark]:
    """The objects as labelled; crowds are dashed."""
    return [
        Mark(box=box, colour=TRUTH, label=printable(name, limit=_LONGEST_NAME), is_dashed=crowd)
        for box, name, crowd in zip(truth.boxes.tolist(), truth.names, truth.crowd.tolist(), strict=True)
    ]


def label_font(pixels: float) -> Font:
    """The font of labels, at least 10 and at most 64 pixels high. Pillow has it wherever it is installed."""
    return ImageFont.load_default(max(_SMALLEST_FONT, min(_LARGEST_FONT, round(pixels))))


def class_colour(number: int) -> Colour:
    """A colour for a class number; neighbouring numbers get clearly different hues."""
    hue = (0.58 + number * 0.618034) % 1.0  # steps of the golden ratio never repeat and stay far apart
    lightness = (0.50, 0.42, 0.60)[number % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.78)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mask_of(masks: object, row: int) -> dict[str, Any]:
    """The mask of an object, as a `Mark` has it; nothing if there are no masks."""
    if not isinstance(masks, Masks):
        return {}
    return {"mask": masks.values[row], "mask_box": masks.boxes[row].tolist()}


def _draw_mask(picture: Image.Image, mark: Mark) -> None:
    if mark.mask is None:
        return
    for left, top, mask in parts(mark.mask[None], [mark.mask_box], *picture.size):
        if mask.any():
            picture.paste(mark.colour, (left, top), Image.fromarray(mask.astype(np.uint8) * _OPACITY))


def _inside(box: Sequence[float], size: tuple[int, int]) -> _Box:
    """Whole pixels inside the picture, at least one wide and high."""
    left, top = (min(max(0, round(start)), limit - 1) for start, limit in zip(box[:2], size, strict=True))
    right, bottom = (min(max(0, round(end) - 1), limit - 1) for end, limit in zip(box[2:], size, strict=True))
    return left, top, max(left, right), max(top, bottom)


def _draw_box(draw: ImageDraw.ImageDraw, box: _Box, colour: Colour, line: int, *, is_dashed: bool) -> None:
    left, top, right, bottom = box
    width = max(1, min(line, int(min(right - left, bottom - top) // 2)))
    if is_dashed:
        _draw_dashes(draw, box, colour, width)
        return
    if width > 1:  # a dark rim keeps the line visible on a background of its own colour
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_INK, width=width + 2)
    draw.rectangle(box, outline=colour, width=width)


def _draw_dashes(draw: ImageDraw.ImageDraw, box: _Box, colour: Colour, width: int) -> None:
    """A dashed frame, the dark rim around every dash."""
    left, top, right, bottom = box
    dash = _DASH * width
    across = [(x, min(x + dash, right)) for x in range(int(left), int(right), 2 * dash)]
    down = [(y, min(y + dash, bottom)) for y in range(int(top), int(bottom), 2 * dash)]
    dashes: list[_Box] = [(start, y, end, y + width - 1) for start, end in across for y in (top, bottom - width + 1)]
    dashes += [(x, start, x + width - 1, end) for start, end in down for x in (left, right - width + 1)]
    for rim, fill in ((1, _INK), (0, colour)):
        for x0, y0, x1, y1 in dashes:
            draw.rectangle((x0 - rim, y0 - rim, max(x0, x1) + rim, max(y0, y1) + rim), fill=fill)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    mark: Mark,
    box: _Box,
    font: Font,
    line: int,
    size: tuple[int, int],
    taken: Sequence[_Box],
    *,
    covers: bool,
) -> list[_Box]:
    """Draw a label near its box, and return the place; nothing if it would cover another and may not."""
    width, height, pad = _label_size(draw, mark.label, font)
    places = [_place(corner, width, height) for corner in _corners(box, width, height, line)]
    visible = [place for place in places if _fits(place, size)]
    limits = (max(0, size[0] - width), max(0, size[1] - height))
    fallback = _place((min(max(0, box[0]), limits[0]), min(max(0, box[1]), limits[1])), width, height)
    free = [place for place in (*visible, fallback) if not any(_overlap(place, other) for other in taken)]
    if not free and not covers:
        return []
    place = (free or visible or [fallback])[0]
    draw.rounded_rectangle(place, radius=max(1, height // 6), fill=mark.colour)
    middle = (place[1] + place[3]) / 2
    draw.text((place[0] + pad, middle), mark.label, font=font, fill=_readable_on(mark.colour), anchor="lm")
    return [place]


def _corners(box: _Box, width: int, height: int, line: int) -> Iterator[tuple[float, float]]:
    """Upper left corners of places for a label, the best first."""
    left, top, right, bottom = box
    yield left, top - height  # above the box
    yield left + line, top + line  # inside, at its top
    yield left, bottom + 1  # below
    yield right - width + 1, top - height  # above, flush right
    yield right - width + 1, bottom + 1
    yield left + line, bottom - line - height
    for step in range(1, _STEPS + 1):
        yield left + line, top + line + step * height
        yield right - width + 1 - line, top + line + (step - 1) * height


def _label_size(draw: ImageDraw.ImageDraw, text: str, font: Font) -> tuple[int, int, int]:
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
    font = label_font(min(picture.width, math.sqrt(picture.width * picture.height)) / 30)
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

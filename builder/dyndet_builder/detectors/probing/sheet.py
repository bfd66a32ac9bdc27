"""The contact sheet of a probe: a row for each variant, a column for each picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dynamicdet.aliases import UInt8Array
from dynamicdet.files import whole_file
from dynamicdet.images import read_image
from dynamicdet.suppression import Detections
from dynamicdet.text import printable
from dyndet_builder.detectors.probing.ranking import SURE_SCORE, Ranking, Tried
from dyndet_builder.detectors.probing.variants import Variant
from dyndet_client.drawing import draw_detections

_CELL = 240
_GAP = 8
_MARGIN = 250
"""of the text, at the left"""
_PAPER, _INK, _MUTED, _CLOSE = (250, 250, 248), (20, 22, 26), (110, 116, 126), (226, 104, 40)


def write_sheet(
    path: Path,
    pictures: Sequence[Path],
    found: Mapping[Variant, Sequence[Detections]],
    *,
    ranking: Ranking,
    class_names: Sequence[str],
) -> None:
    """Write a PNG with what each variant finds with a score of 0.25 or more, the best variant on top.

    Raises InputError if the file cannot be written.
    """
    thumbnails = [_thumbnail(read_image(one)) for one in pictures]
    height = max(small.height for small, _ in thumbnails)
    width = _MARGIN + len(pictures) * (_CELL + _GAP) + _GAP
    step = max(height, 130) + _GAP
    canvas = Image.new("RGB", (width, len(ranking.rows) * step + 2 * _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(ranking.rows):
        top = _GAP + number * step
        _write_row(draw, row, ranking, number, top)
        for column, ((small, scale), one) in enumerate(zip(thumbnails, found[row.variant], strict=True)):
            drawn = _drawn(small, scale, one, class_names)
            canvas.paste(drawn, (_MARGIN + column * (_CELL + _GAP), top))
        draw.line((0, top + step - _GAP // 2, width, top + step - _GAP // 2), fill=(225, 225, 222))
    with whole_file(path, durable=False) as temporary:
        canvas.save(temporary, format="PNG", compress_level=4)


def _thumbnail(picture: UInt8Array) -> tuple[Image.Image, float]:
    """The picture in a cell, and its scale."""
    scale = _CELL / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), scale


def _drawn(small: Image.Image, scale: float, found: Detections, class_names: Sequence[str]) -> Image.Image:
    sure = (found.scores >= SURE_SCORE).numpy()
    classes = found.classes.numpy()[sure].astype(np.int32)
    return draw_detections(
        small,
        image_size=small.size,
        boxes=found.boxes.numpy()[sure] * np.float32(scale),
        scores=found.scores.numpy()[sure],
        classes=classes,
        names=[printable(class_names[number], limit=20) for number in classes],
        header=None,
    )


def _write_row(draw: ImageDraw.ImageDraw, row: Tried, ranking: Ranking, number: int, top: int) -> None:
    large, small = ImageFont.load_default(17), ImageFont.load_default(14)
    lines = textwrap.wrap(row.variant.text, 28)
    is_close = ranking.finds_something and row in ranking.close
    for line, text in enumerate(lines):
        draw.text((_GAP, top + 22 * line), text, font=large, fill=_INK)
    below = top + 22 * len(lines) + 4
    value = {"AP": "AP", "agreement": "agreement", "scores": "scores per picture"}[ranking.measure]
    draw.text((_GAP, below), f"{number + 1}.  {value} {row.value:.1f}", font=small, fill=_INK)
    note = "cannot be told from the best" if is_close and number else ""
    note = note or (f"{row.behind:.1f} below the best" if number else "the best here")
    draw.text((_GAP, below + 20), note, font=small, fill=_CLOSE if is_close and number else _MUTED)

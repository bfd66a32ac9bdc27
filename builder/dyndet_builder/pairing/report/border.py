"""Pictures whose difficulty is near a threshold: what a small change of it would send the other way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dynamicdet.aliases import FloatArray, UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.images import read_image
from dynamicdet.text import printable
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.report.record import BorderPicture

_PICTURES = 6
_SIDE = 320
"""pixels of the longer side in the report"""
_LEAST_SCORE = 0.3
_LONGEST = 300
_COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
"""Okabe and Ito's, one for each class in turn"""


def border_pictures(
    pictures: Sequence[Path],
    difficulties: FloatArray,
    threshold: float,
    answers: Mapping[str, Answers],
    class_names: Sequence[str],
) -> tuple[BorderPicture, ...]:
    """The pictures nearest to a threshold, from the easiest on; `answers` by the name of the detector."""
    nearest = np.argsort(np.abs(difficulties - threshold), kind="stable")[:_PICTURES]
    found = []
    for row in sorted((int(one) for one in nearest), key=lambda one: float(difficulties[one])):
        try:
            pixels = read_image(pictures[row])
        except InputError:  # it was there when the detectors ran
            continue
        sides = tuple((name, _drawn(pixels, one, row)) for name, one in answers.items())
        said = "; ".join(f"{name}: {_counted(one, row, class_names)}" for name, one in answers.items())
        found.append(
            BorderPicture(
                file=printable(pictures[row].name, limit=_LONGEST),
                difficulty=float(difficulties[row]),
                objects=printable(said, limit=_LONGEST),
                sides=sides,
            )
        )
    return tuple(found)


def _drawn(pixels: UInt8Array, answers: Answers, row: int) -> UInt8Array:
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    picture = Image.fromarray(pixels).resize((width, height))
    draw = ImageDraw.Draw(picture)
    sure = answers.scores[row] >= _LEAST_SCORE
    boxes = answers.in_original(row)[sure] * scale
    for (left, top, right, bottom), label in zip(boxes.tolist(), answers.classes[row][sure].tolist(), strict=True):
        corners = (left, top, max(left, right), max(top, bottom))
        draw.rectangle(corners, outline=_COLOURS[label % len(_COLOURS)], width=2)
    return np.asarray(picture)


def _counted(answers: Answers, row: int, class_names: Sequence[str]) -> str:
    labels = answers.classes[row][answers.scores[row] >= _LEAST_SCORE].tolist()
    counts = Counter(class_names[label] for label in labels)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"

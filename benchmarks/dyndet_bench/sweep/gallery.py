"""Draws the easiest, the hardest and the borderline images of a sweep with the objects that each detector found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dynamicdet.aliases import FloatArray
from dynamicdet.files import whole_file
from dynamicdet.images import read_image
from dynamicdet.text import printable
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.sweep.record import Picture, Role
from dyndet_client import Detections, Detector

_EACH = 4
_SIDE = 320
_MIN_SCORE = 0.3
_LONGEST = 1000
"""characters; a server may have long class names"""


def make_gallery(
    served: Served, files: Sequence[Path], difficulties: FloatArray, output: Path, *, middle: float
) -> tuple[Picture, ...]:
    """Four images of each kind as JPEG files in `output`/pictures. Raises ServerError if the server fails."""
    folder = output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    with Detector(served.address, served.name) as detector:
        for number, (role, index) in enumerate(chosen_pictures(difficulties, middle), start=1):
            easy, hard = (
                detector.detect(files[index], threshold=threshold, min_score=_MIN_SCORE)
                for threshold in (ALL_EASY, ALL_HARD)
            )
            pixels = read_image(files[index])
            names = [f"{number:02}-{role}-{route}.jpg" for route in ("easy", "hard")]
            for name, detections in zip(names, (easy, hard), strict=True):
                _save(detections.draw(pixels, header=False), folder / name)
            pictures.append(
                Picture(
                    role=role,
                    difficulty=float(difficulties[index]),
                    easy_file=f"pictures/{names[0]}",
                    hard_file=f"pictures/{names[1]}",
                    objects=printable(f"detector 1: {_counted(easy)}; detector 2: {_counted(hard)}", limit=_LONGEST),
                )
            )
    return tuple(pictures)


def chosen_pictures(difficulties: FloatArray, middle: float) -> list[tuple[Role, int]]:
    """The images to show, each with its role; no image twice, the ends first."""
    order = [int(index) for index in np.argsort(difficulties, kind="stable") if np.isfinite(difficulties[index])]
    each = min(_EACH, max(1, len(order) // 3))
    easiest, hardest = order[:each], order[::-1][:each]
    rest = [index for index in order if index not in {*easiest, *hardest}]
    borderline = sorted(sorted(rest, key=lambda index: abs(difficulties[index] - middle))[:each], key=order.index)
    roles: tuple[tuple[Role, list[int]], ...] = (
        ("easiest", easiest),
        ("borderline", borderline),
        ("hardest", [index for index in hardest if index not in easiest]),
    )
    return [(role, index) for role, indices in roles for index in indices]


def _save(picture: Image.Image, path: Path) -> None:
    picture.thumbnail((_SIDE, _SIDE))
    with whole_file(path, durable=False) as temporary:
        picture.convert("RGB").save(temporary, format="JPEG", quality=80, optimize=True)


def _counted(found: Detections) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(found.names).items()) or "nothing"

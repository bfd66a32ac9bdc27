"""Draws the easiest, the hardest and the borderline images of a sweep with the objects that each detector found.

Where the detector has masks, they are drawn, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dynamicdet.aliases import FloatArray
from dynamicdet.files import whole_file
from dynamicdet.images import read_image
from dynamicdet.matching import Matches, Objects, match, tally, verdict
from dynamicdet.text import printable
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.sweep.record import Picture, Role
from dyndet_client import Detections, Detector
from dyndet_client.drawing import Mark, compared_marks, draw_marks, label_font, truth_marks

_EACH = 4
_SIDE, _FONT = 360, 15
"""pixels of the longer side, and of the height of labels"""
_MIN_SCORE = 0.3
_LONGEST = 1000
"""characters; a server may have long class names"""


def make_gallery(
    served: Served,
    files: Sequence[Path],
    difficulties: FloatArray,
    output: Path,
    *,
    middle: float,
    truth: Mapping[Path, Objects] | None = None,
) -> tuple[Picture, ...]:
    """Four images of each kind as JPEG files in `output`/pictures. Raises ServerError if the server fails.

    `truth` has the objects of images by the resolved path of the file. Such an image is shown with its labels, too, and
    gets a verdict.
    """
    folder = output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    known = truth or {}
    pictures = []
    with Detector(served.address, served.name, masks=served.detector.has_masks) as detector:
        for number, (role, index) in enumerate(chosen_pictures(difficulties, middle), start=1):
            easy, hard = (
                detector.detect(files[index], threshold=threshold, min_score=_MIN_SCORE)
                for threshold in (ALL_EASY, ALL_HARD)
            )
            objects = known.get(files[index].resolve())
            if objects is None:
                words, drawn = _alone(files[index], easy, hard)
            else:
                words, drawn = _beside(files[index], easy, hard, objects)
            stem = f"{number:02}-{role}"
            saved = {f"{side}_file": _save(image, folder / f"{stem}-{side}.jpg") for side, image in drawn.items()}
            fields = {"role": role, "difficulty": float(difficulties[index]), **words, **saved}
            pictures.append(Picture.model_validate(fields))
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


_Drawn = tuple[dict[str, str], dict[str, Image.Image]]
"""what is said about an image, and its copies by side"""


def _alone(file: Path, easy: Detections, hard: Detections) -> _Drawn:
    """An image without labels: boxes coloured by class."""
    pixels = read_image(file)
    words = {"objects": _text(f"detector 1: {_counted(easy)}; detector 2: {_counted(hard)}")}
    return words, {side: found.draw(pixels, header=False) for side, found in (("easy", easy), ("hard", hard))}


def _beside(file: Path, easy: Detections, hard: Detections, truth: Objects) -> _Drawn:
    """An image with labels: boxes coloured by whether they show an object, beside the objects."""
    first, second = match(truth, easy), match(truth, hard)
    names = (name for name, due in zip(truth.names, first.to_find, strict=True) if due)
    said = f"{tally(names) or 'no objects'}; {_score('detector 1', first)}; {_score('detector 2', second)}"
    marks = {
        "easy": compared_marks(easy, first, truth),
        "hard": compared_marks(hard, second, truth),
        "truth": truth_marks(truth),
    }
    picture = Image.fromarray(read_image(file))
    factor = _SIDE / max(picture.size)
    size = max(1, round(factor * picture.width)), max(1, round(factor * picture.height))
    small = picture.resize(size, Image.Resampling.LANCZOS)  # before drawing, so that labels stay readable
    drawn = {side: _draw(small, found, factor) for side, found in marks.items()}
    return {"objects": _text(said), "verdict": _text(verdict(first, second))}, drawn


def _draw(picture: Image.Image, marks: Sequence[Mark], factor: float) -> Image.Image:
    drawn = picture.copy()
    draw_marks(drawn, [mark.scaled(factor) for mark in marks], font=label_font(_FONT), line=2, covers=False)
    return drawn


def _save(picture: Image.Image, path: Path) -> str:
    """Write a small JPEG; returns its name in the sweep's folder."""
    picture.thumbnail((_SIDE, _SIDE))
    with whole_file(path, durable=False) as temporary:
        picture.convert("RGB").save(temporary, format="JPEG", quality=80, optimize=True)
    return f"{path.parent.name}/{path.name}"


def _text(text: str) -> str:
    return printable(text, limit=_LONGEST)


def _score(detector: str, matches: Matches) -> str:
    wrong = f", {matches.errors} wrong" if matches.errors else ""
    return f"{detector} finds {matches.hits} of {matches.objects}{wrong}"


def _counted(found: Detections) -> str:
    return tally(found.names) or "nothing"

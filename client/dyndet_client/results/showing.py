"""Shows detections to people: lines of text, a table or a picture in a notebook. Names come from a server."""

from __future__ import annotations

import html
import io
import math
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dynamicdet.aliases import UInt8Array
from dynamicdet.images import ImageSource, read_image
from dynamicdet.text import printable

_MOST_LINES, _MOST_WORDS = 20, 5
_LONGEST_NAME = 80
_LARGEST_SIDE = 800
"""pixels of a picture in a notebook, which stores it"""


class Shown(Protocol):
    """What is shown of an object."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def score(self) -> float: ...  # noqa: D102

    @property
    def box(self) -> tuple[float, float, float, float]: ...  # noqa: D102


@dataclass(frozen=True)
class Picture:
    """Where the picture of some detections may be found again; it keeps no pixels alive."""

    _find: Callable[[], ImageSource | None]

    @classmethod
    def of(cls, image: ImageSource) -> Picture | None:
        """A file is read again; an array or a PIL image is found as long as the program holds it; bytes are not."""
        if isinstance(image, str | os.PathLike) and isinstance(name := os.fspath(image), str):
            path = Path(name).absolute()
            return cls(lambda: path)
        if isinstance(image, np.ndarray | Image.Image):
            return cls(weakref.ref(image))
        return None

    def read(self, size: tuple[int, int]) -> UInt8Array | None:
        """Its pixels, (H, W, 3); None if it is gone, or has not this size (width, height) any more."""
        try:
            source = self._find()
            pixels = None if source is None else read_image(source)
        except (OSError, ValueError):
            return None
        return pixels if pixels is not None and (pixels.shape[1], pixels.shape[0]) == size else None


def number_text(difficulty: float) -> str:
    """A difficulty with two decimals."""
    return "unknown" if math.isnan(difficulty) else f"{difficulty:.2f}"


def object_text(shown: Shown) -> str:
    """Name, score, and box in whole pixels."""
    return f"{_name(shown)} {shown.score:.2f} at {' '.join(f'{side:.0f}' for side in shown.box)}"


def text_lines(found: Sequence[Shown]) -> list[str]:
    """A line for each of the first objects."""
    return [*map(object_text, islice(found, _MOST_LINES)), *_rest(len(found), _MOST_LINES)]


def words(found: Sequence[Shown]) -> str:
    """Names and scores of the first objects."""
    first = [f"{_name(shown)} {shown.score:.2f}" for shown in islice(found, _MOST_WORDS)]
    return ", ".join([*first, *_rest(len(found), _MOST_WORDS)])


def html_table(found: Sequence[Shown], caption: str) -> str:
    """A small table of the first objects."""
    rows = [_row("th", ("name", "score", "x1", "y1", "x2", "y2"))]
    for shown in islice(found, _MOST_LINES):
        rows.append(_row("td", (_name(shown), f"{shown.score:.2f}", *(f"{side:.0f}" for side in shown.box))))
    rows += [f'<tr><td colspan="6">{rest}</td></tr>' for rest in _rest(len(found), _MOST_LINES)]
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(rows if len(found) else ())}</table>"


def png_bytes(picture: Image.Image) -> bytes:
    """A PNG file of at most 800 x 800 pixels and 256 colours, which halve it."""
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    file = io.BytesIO()
    picture.quantize(256).save(file, "PNG")
    return file.getvalue()


def _name(shown: Shown) -> str:
    return printable(shown.name, limit=_LONGEST_NAME)


def _rest(count: int, most: int) -> list[str]:
    return [f"and {count - most} more"] if count > most else []


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

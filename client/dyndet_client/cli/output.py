"""Saves what `dyndet detect` annotated, and prints its table."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.text import printable
from dyndet_client.cli.sources import Picture, Source
from dyndet_client.cli.terminal import Console
from dyndet_client.cli.video import VideoWriter
from dyndet_client.detections import Detections

_JPEG_LIMIT = 65_000  # longer sides do not fit into a JPEG


class OutputFiles:
    """Names and writes annotated pictures and videos; never over a file that was given, never half a file."""

    def __init__(self, folder: Path, inputs: Sequence[Path]) -> None:
        self._folder = folder
        self._taken = {_identity(path) for path in inputs}
        self._video: tuple[Source, Path, VideoWriter] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"cannot write into the folder {folder}: {error.strerror or error}") from error

    def save(self, picture: Picture, found: Detections) -> Path:
        """Write a picture, or append a frame; the file's name."""
        if self._video is not None and self._video[0] is not picture.source:
            self.finish()
        if picture.frame is None:
            return self._save_picture(picture, found)
        if self._video is None:
            target = self._free_name(picture.source.path.stem, ".mp4")
            self._video = (picture.source, target, VideoWriter(target, picture.rate))
        _, target, writer = self._video
        writer.write(found.draw(picture.pixels))
        return target

    def finish(self) -> None:
        """Complete the video that is being written."""
        writing, self._video = self._video, None
        if writing is not None:
            writing[2].close()

    def discard(self) -> None:
        """Remove the video that is being written."""
        writing, self._video = self._video, None
        if writing is not None:
            writing[2].discard()

    def _save_picture(self, picture: Picture, found: Detections) -> Path:
        drawn = found.draw(picture.pixels)
        kind = "JPEG" if max(drawn.size) <= _JPEG_LIMIT else "PNG"
        target = self._free_name(picture.source.path.stem, ".jpg" if kind == "JPEG" else ".png")
        with whole_file(target, durable=False) as temporary:
            drawn.save(temporary, kind, quality=92, subsampling=0)
        return target

    def _free_name(self, stem: str, suffix: str) -> Path:
        number = 1
        while True:
            target = self._folder / f"{stem}-detected{'' if number == 1 else f'-{number}'}{suffix}"
            if _identity(target) not in self._taken:
                self._taken.add(_identity(target))
                return target
            number += 1


@dataclass
class _Row:
    """The line of one file."""

    saved: Path | None
    routes: Counter[str] = field(default_factory=Counter)
    difficulties: list[float] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)


class Summary:
    """Counts answers by file; a video is one line."""

    def __init__(self, *, with_files: bool) -> None:
        self._with_files = with_files
        self._last: tuple[Source, _Row] | None = None
        self._table = Table(box=None, pad_edge=False)
        for name in ("image", "route", "difficulty", "objects", *(("saved as",) if with_files else ())):
            self._table.add_column(name, justify="right" if name == "difficulty" else "left", overflow="fold")
        self._routes: Counter[str] = Counter()
        self.refused = 0
        """pictures and frames that the overloaded server did not answer"""
        self._refused_of: set[Path] = set()

    def refuse(self, picture: Picture) -> bool:
        """Count a picture or frame that the overloaded server refused; whether it is the first one of its file."""
        self.refused += 1
        is_first = picture.source.path not in self._refused_of
        self._refused_of.add(picture.source.path)
        return is_first

    def add(self, picture: Picture, found: Detections, saved: Path | None) -> None:
        """Count an answer."""
        if self._last is None or self._last[0] is not picture.source:
            self._end_row()
            self._last = (picture.source, _Row(saved))
        row = self._last[1]
        row.routes[found.route] += 1
        row.difficulties.append(found.difficulty)
        row.names.update(found.names)
        self._routes[found.route] += 1

    def print(self, console: Console, *, with_answers: bool = True) -> None:
        """Print the table and the sum of it, and how many were refused; nothing where that is none."""
        self._end_row()
        if self._routes and with_answers:
            console.print(self._table)
            answered = f"{_images(self._routes.total())} answered: {_counts(self._routes, sort=True)}"
            console.print(answered, highlight=False)
        if self.refused:
            console.print(f"{_images(self.refused)} refused: the server was overloaded", highlight=False)

    def _end_row(self) -> None:
        if self._last is None:
            return
        source, row = self._last
        self._last = None
        frames = row.routes.total()
        cells = [
            str(source.path) if not source.is_video else f"{source.path} ({frames} frames)",
            next(iter(row.routes)) if not source.is_video else _counts(row.routes, sort=True),
            f"{np.mean(row.difficulties):.3f}",
            _counts(row.names) or "none",
            *([str(row.saved)] if self._with_files else []),
        ]
        self._table.add_row(*(Text(printable(cell)) for cell in cells))


def _counts(counter: Counter[str], *, sort: bool = False) -> str:
    items = sorted(counter.items()) if sort else counter.most_common()
    return ", ".join(f"{count} {name}" for name, count in items)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _identity(path: Path) -> str:
    return os.path.realpath(path)

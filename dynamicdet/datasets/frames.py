"""Reads the frames of pictures: their size, and how viewers turn or mirror them; `placing.py` compares these.

The file of a picture may say (EXIF) that viewers turn or mirror it; `read_image` does.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from dynamicdet.aliases import IntArray, Progress, UInt8Array, silent
from dynamicdet.cores import usable_cores
from dynamicdet.datasets.annotations import CocoFiles
from dynamicdet.errors import InputError, PictureTooLargeError
from dynamicdet.images import read_image
from dynamicdet.picture_files import ACCEPTED, FORMATS, MAX_PIXELS, kind_of
from dynamicdet.text import printable

TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_MOST_THREADS = 8
_START = 64
"""bytes that tell the format of a file"""
_PIXELS = re.compile(r"\((\d+) pixels\)")  # in Pillow's errors


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file: a kind of `findings.FAULTS`, and a sentence."""

    kind: str
    text: str


@dataclass(frozen=True)
class Frame:
    """Width and height of a picture as viewers show it and as it is stored, and the EXIF orientation between them."""

    width: int
    height: int
    stored_width: int
    stored_height: int
    orientation: int

    @property
    def row(self) -> tuple[int, int, int, int, int]:
        """The numbers in this order, for an array of frames (N, 5)."""
        return self.width, self.height, self.stored_width, self.stored_height, self.orientation


NO_FRAME = Frame(0, 0, 0, 0, 1)
"""of a picture that cannot be opened"""


def read_frame(path: Path) -> Frame:
    """Read the header of a picture. Raises InputError if it is none."""
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if image.format == "TIFF":  # Pillow has already turned its size
                width, height = int(image.tag_v2[256]), int(image.tag_v2[257])  # type: ignore[attr-defined]
            orientation = _orientation(image, path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = _PIXELS.search(str(error))
        found = f"{int(pixels[1]):,} pixels, " if pixels else ""
        raise PictureTooLargeError(
            f"{printable(path)}: too large, {found}above the limit of {MAX_PIXELS:,} pixels; resize it"
        ) from error
    except Exception as error:  # a damaged header may raise any error in Pillow's readers
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{printable(path)} cannot be read: {printable(error.strerror)}") from error
        raise _of_content(path) from error
    shown = (height, width) if orientation in TURNED else (width, height)
    return Frame(*shown, width, height, orientation)


def _of_content(path: Path) -> InputError:
    """Why Pillow found no picture: a damaged one is told from other files by its first bytes."""
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(_START))
    except OSError as error:
        return InputError(f"{printable(path)} cannot be read: {printable(error.strerror)}")
    if kind is None:
        return InputError(f"{printable(path)} is not a picture; accepted are {ACCEPTED}")
    return _DamagedError(f"{printable(path)}: damaged or cut off; its first bytes are those of a {kind}")


class _DamagedError(InputError):
    """A picture that is damaged or cut off."""


def _orientation(image: Image.Image, path: Path) -> int:
    try:
        # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
        late = image.format == "PNG" and _has_late_text(path)
        exif = image.getexif() if image.format != "PNG" or late else Image.Image.getexif(image)
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF data may be damaged in any way; then the picture is not turned
        return 1
    return value if value in range(1, 9) else 1


def _has_late_text(path: Path) -> bool:
    """Whether a PNG has a chunk behind its pixels that may hold EXIF data; only the heads of the chunks are read."""
    pixels = False
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            pixels |= kind == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)  # the content and its checksum
    return False


def read_frames(files: CocoFiles, *, whole: bool, progress: Progress = silent) -> IntArray:
    """The frames of all images (N, 5), see `Frame.row`; faults go to the findings.

    With `whole`, every picture is decoded, which finds damage that the header does not show.
    """
    rows = []
    for frame, fault in each_picture(
        files,
        lambda index, path: look(path, whole=whole),
        step="read images" if whole else "read headers",
        progress=progress,
    ):
        rows.append(frame.row)
        if fault is not None:
            files.findings.add(fault.kind, fault.text)
    return np.array(rows, np.int64).reshape(-1, 5)


def each_picture(
    files: CocoFiles, work: Callable[[int, Path], tuple[Frame, Fault | None]], *, step: str, progress: Progress = silent
) -> Iterator[tuple[Frame, Fault | None]]:
    """Do something with every image file that can be opened, in several threads; results in the order of the images.

    Pillow decodes outside Python's lock. An error ends the work early.
    """

    def one(index: int) -> tuple[Frame, Fault | None]:
        return work(index, paths[index]) if files.openable[index] else (NO_FRAME, None)

    paths = files.paths
    pool = ThreadPoolExecutor(min(_MOST_THREADS, usable_cores()))
    try:
        for done, result in enumerate(pool.map(one, range(len(paths))), 1):
            progress(step, done, len(paths))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def look(
    path: Path, *, whole: bool = True, use: Callable[[UInt8Array], None] | None = None
) -> tuple[Frame, Fault | None]:
    """The frame of a picture, or what is wrong with its file; `use` receives the pixels of a `whole` picture."""
    try:
        frame = read_frame(path)
    except PictureTooLargeError as error:
        return NO_FRAME, Fault("large", str(error))
    except _DamagedError as error:
        return NO_FRAME, Fault("damaged", str(error))
    except InputError as error:
        return NO_FRAME, Fault("unreadable" if "cannot be read" in str(error) else "no picture", str(error))
    if not whole:
        return frame, None
    try:
        pixels = read_image(path)
    except PictureTooLargeError as error:
        return NO_FRAME, Fault("large", str(error))
    except InputError as error:
        return NO_FRAME, Fault("damaged", str(error))
    if pixels.shape[:2] != (frame.height, frame.width):
        found = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, but its header says {frame.width} x {frame.height}"
        return NO_FRAME, Fault("damaged", f"{path} has {found}")
    if use is not None:
        use(pixels)
    return frame, None

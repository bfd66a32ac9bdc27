"""Decodes image files as the client does, but JPEGs faster. Needs numpy, Pillow and, for the speed, simplejpeg.

Measured on one core, in ms (read_image, OpenCV, simplejpeg): a 240 x 320 JPEG 0.35, 0.27, 0.22; one of 12 megapixels
118, 63, 38. All three decode with libjpeg-turbo and give the same pixels.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.images import read_file
from dynamicdet.letterbox import Fit, Letterboxed
from dynamicdet.picture_files import PictureFile, open_picture

try:
    import simplejpeg
except ModuleNotFoundError:  # slower, but the same pixels
    simplejpeg = None

# Above this many pixels, images are decoded one at a time: an image at the limit takes most of a gigabyte meanwhile.
LARGE = 24_000_000
# Above this many pixels or bytes, decoding takes longer than other requests should wait.
SLOW, SLOW_BYTES = 4_000_000, 1 << 20

_NAME = "the image bytes"
# Of glibc: blocks above the first size go back to the system when they are freed, and so does a free end of the heap
# above the second. By default, both sizes grow with the largest block that was freed.
_MALLOC_SIZES = {-3: 4 << 20, -1: 32 << 20}
_large = threading.Lock()


def bound_free_memory() -> None:
    """Let this process keep little of the memory that large files and images have used."""
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        for parameter, size in _MALLOC_SIZES.items():
            mallopt(parameter, size)


def open_file(data: bytes, *, max_bytes: int) -> PictureFile:
    """A file that has passed all limits; its pixels are decoded later. Raises InputError."""
    return open_picture(data, _NAME, max_bytes=max_bytes)


def is_slow(data: bytes) -> bool:
    """Whether a file may take long; looks only at the size of a large file, and at the header of a small one."""
    if len(data) > SLOW_BYTES:
        return True
    try:
        file = open_picture(data, _NAME)
    except InputError:
        return False
    return file.width * file.height > SLOW


class Fitted:
    """The image of a file as the input of a detector, and of a second detector, if that has a rule of its own.

    The second fit is made when it is asked for, so the original pixels wait for it. Those of large images do not: both
    fits are made at once, since decoding takes far longer than a fit.
    """

    def __init__(self, file: PictureFile, fit: Fit, second: Fit | None) -> None:
        """Decode the file, and make the first fit. Raises InputError."""
        self._fit = second
        self._pixels: UInt8Array | None = None
        self._second: Letterboxed | None = None
        if file.width * file.height <= LARGE:
            self.first = self._decode(file, fit)
            return
        with _large:
            try:
                self.first = self._decode(file, fit)
            finally:
                _give_memory_back()

    def second(self) -> Letterboxed:
        """The input of the second detector; only if there is a second rule."""
        if self._second is None:
            assert self._fit is not None and self._pixels is not None
            self._second, self._pixels = self._fit(self._pixels), None
        return self._second

    def _decode(self, file: PictureFile, fit: Fit) -> Letterboxed:
        pixels = read_picture(file)
        if self._fit is not None and file.width * file.height <= SLOW:
            self._pixels = pixels
        elif self._fit is not None:
            self._second = self._fit(pixels)
        return fit(pixels)


def read_picture(file: PictureFile) -> UInt8Array:
    """The pixels of a file (H, W, 3): those of `read_file`, with the same errors (InputError)."""
    pixels = _decode_ordinary(file)
    return read_file(file) if pixels is None else pixels


def _decode_ordinary(file: PictureFile) -> UInt8Array | None:
    """Pixels of an ordinary JPEG; None if Pillow must decide: CMYK, or damaged.

    Pillow also decodes images that EXIF data rotate: rotating an array costs the time that the faster decoder saves.
    """
    if simplejpeg is None or file.format != "JPEG" or file.orientation != 1:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(file.data)
        if (width, height) != (file.width, file.height) or colours in ("CMYK", "YCCK"):
            return None
        pixels: UInt8Array = simplejpeg.decode_jpeg(file.data, "RGB", strict=True)
    except Exception:
        return None
    return pixels


def _give_memory_back() -> None:
    """Return free memory to the system; the C library keeps hundreds of megabytes that Pillow has freed."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)

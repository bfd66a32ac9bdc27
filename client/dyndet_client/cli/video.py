"""Reads and writes videos with PyAV (the extra `dyndet[video]`), one picture at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.extras import missing_extra
from dynamicdet.files import whole_file

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")

_CODECS = (("libx264", {"crf": "20", "preset": "veryfast"}), ("mpeg4", {"qscale": "3"}))
_DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of a video."""

    number: int
    """from 0, counting skipped pictures as well"""
    time_s: float
    pixels: UInt8Array


class VideoReader:
    """The pictures of a video file, upright; a context manager.

    Raises MissingExtraError if PyAV is not installed, and InputError if the file is not a video.
    """

    def __init__(self, path: Path, *, every: int = 1) -> None:
        if every < 1:
            raise InputError(f"every must be at least 1, not {every}")
        self._path, self._every = path, every
        self._av = _pyav(path)
        try:
            self._container = self._av.open(str(path))
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{path} is not a video that can be read ({_reason(error)})") from error
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"{path} contains no video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    @property
    def rate(self) -> Fraction:
        """Pictures per second that are read."""
        return Fraction(self._stream.average_rate or self._stream.guessed_rate or _DEFAULT_RATE) / self._every

    @property
    def expected_frames(self) -> int | None:
        """How many pictures will be read, by the file's header; None if it does not say."""
        count = self._stream.frames
        if not count and self._container.duration:
            count = round(self._container.duration / 1e6 * float(self._stream.average_rate or 0))
        return math.ceil(count / self._every) if count else None

    def __iter__(self) -> Iterator[Frame]:
        """Decode the pictures one by one. If the file is damaged, raises InputError after the last good picture."""
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                if number % self._every == 0:
                    time_s = float(frame.time) if frame.time is not None else number / float(self.rate * self._every)
                    yield Frame(number=number, time_s=time_s, pixels=_pixels(frame))
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{self._path} is damaged or cut off ({_reason(error)})") from error

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._container.close()


class VideoWriter:
    """Writes pictures of one size into an MP4 file, which has its name once it is closed."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._path = path
        self._rate = rate.limit_denominator(1001)
        self._av = _pyav(path)
        self._stream: Any = None
        self._whole = ExitStack()
        self._temporary = self._whole.enter_context(whole_file(path, durable=False))
        try:
            self._container = self._av.open(str(self._temporary), "w", format="mp4")
        except OSError as error:
            raise InputError(f"cannot write {path}: {_reason(error)}") from error

    def write(self, picture: Image.Image) -> None:
        """Append a picture. Raises InputError where it cannot be written."""
        if self._stream is None:
            self._stream = self._new_stream(picture.size)
        size = (self._stream.width, self._stream.height)
        if picture.size != size:  # codecs want even sides
            padded = Image.new("RGB", size)
            padded.paste(picture)
            picture = padded
        try:
            for packet in self._stream.encode(self._av.VideoFrame.from_image(picture)):
                self._container.mux(packet)
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {_reason(error)}") from error

    def close(self) -> None:
        """Finish the file. Raises InputError where it cannot be written."""
        try:
            for packet in self._stream.encode() if self._stream is not None else ():
                self._container.mux(packet)
            self._container.close()
            self._whole.close()
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {_reason(error)}") from error
        finally:
            self.discard()  # nothing is left to remove where all went well

    def discard(self) -> None:
        """Remove what was written so far."""
        with suppress(Exception):
            self._container.close()
        self._temporary.unlink(missing_ok=True)  # so that closing puts nothing in place
        self._whole.close()

    def _new_stream(self, size: tuple[int, int]) -> Any:
        for codec, options in _CODECS:
            with suppress(self._av.FFmpegError, ValueError):
                stream = self._container.add_stream(codec, rate=self._rate, options=options)
                stream.width, stream.height = (side + side % 2 for side in size)
                stream.pix_fmt = "yuv420p"
                return stream
        raise InputError(f"cannot write {self._path}: PyAV has no encoder for MP4 here")


def check_installed(path: Path) -> None:
    """Raise MissingExtraError where PyAV is not installed."""
    _pyav(path)


def _pyav(path: Path) -> Any:
    try:
        import av  # imported only if it is used
        import av.logging
    except ImportError as error:
        raise missing_extra(f"{path} needs PyAV, which is not installed", "av") from error
    av.logging.set_level(None)  # FFmpeg's own lines would go to the terminal
    return av


def _pixels(frame: Any) -> UInt8Array:
    pixels: UInt8Array = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store how they were held
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).partition("\n")[0]

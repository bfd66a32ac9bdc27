"""Finds the pictures and videos that `dyndet detect` was given, and reads them one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.images import SUFFIXES as PICTURE_SUFFIXES
from dynamicdet.images import read_image
from dyndet_client.cli import video


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to read."""

    path: Path
    is_video: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, or one frame of a video."""

    source: Source
    pixels: UInt8Array
    frame: video.Frame | None = None
    rate: Any = None
    """frames per second of the video"""

    def record(self) -> dict[str, Any]:
        """What says in a JSON line which picture this is."""
        if self.frame is None:
            return {"image": str(self.source.path)}
        return {
            "video": str(self.source.path),
            "frame": self.frame.number,
            "time_s": round(self.frame.time_s, 3),
        }


def find_sources(paths: Sequence[Path], *, recursive: bool, every: int = 1) -> list[Source]:
    """The files that were named, and those in the folders that were named, in the order of their names.

    A file in a folder is known by its suffix; one that was named counts as a picture unless its suffix is a video's.
    Raises InputError for what does not exist and for folders without pictures, MissingExtraError for videos without
    PyAV, unless a folder has them beside pictures: they are refused when it is their turn.
    """
    if every < 1:
        raise InputError(f"--every must be at least 1, not {every}")
    sources: list[Source] = []
    for path in paths:
        if path.is_dir():
            sources += _in_folder(path, recursive=recursive)
        elif not path.exists():
            raise InputError(f"{path} does not exist")
        else:
            sources.append(_source(path))
    only_videos = all(source.is_video for source in sources)
    for source in sources:
        if source.is_video and (only_videos or source.path in paths):
            video.check_installed(source.path)
            break
    return sources


def read_pictures(source: Source, *, every: int) -> Iterator[Picture]:
    """The picture, or each `every`-th frame. Raises InputError where it cannot be read, perhaps after some frames."""
    if not source.is_video:
        yield Picture(source=source, pixels=read_image(source.path))
        return
    if not source.path.is_file():  # opening a pipe would wait for its other end
        raise InputError(f"{source.path} is not a regular file; a video is read from a regular file")
    with video.VideoReader(source.path, every=every) as reader:
        for frame in reader:
            yield Picture(source=source, pixels=frame.pixels, frame=frame, rate=reader.rate)


def expected_count(sources: Sequence[Source], every: int) -> int | None:
    """How many pictures there will be, by the headers of the videos; none where one does not say."""
    total = 0
    for source in sources:
        count: int | None = 1
        if source.is_video and source.path.is_file():
            with suppress(InputError, MissingExtraError), video.VideoReader(source.path, every=every) as reader:
                count = reader.expected_frames
        if count is None:
            return None
        total += count
    return total


def _in_folder(folder: Path, *, recursive: bool) -> list[Source]:
    try:
        found = sorted(folder.rglob("*") if recursive else folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    sources = [
        _source(path)
        for path in found
        if path.suffix.lower() in (*PICTURE_SUFFIXES, *video.SUFFIXES)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()  # pipes and broken links are named when it is their turn
    ]
    if not sources:
        hint = "" if recursive else "; --recursive also reads its subfolders"
        if not recursive and (folder / "images").is_dir():
            hint = f"; give {folder / 'images'}, or --recursive, which also reads subfolders"
        raise InputError(f"there are no images and no videos in the folder {folder}{hint}")
    return sources


def _source(path: Path) -> Source:
    return Source(path=path, is_video=path.suffix.lower() in video.SUFFIXES)

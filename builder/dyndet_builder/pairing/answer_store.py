"""Stores what a detector has found in each picture, so that no picture is run twice, not even after an interruption.

Each detector has a folder, named by a hash of everything that its answers depend on. Its files hold the answers to a
few pictures each, by the hash of the picture's bytes. So answers are found again when pictures are added, moved or
renamed. All folders together have a bound; the files that were written first go first.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import Float32Array
from dynamicdet.class_names import MOST_CLASSES
from dynamicdet.errors import InputError
from dynamicdet.files import whole_file

_FORMAT = 1
_MOST_BYTES = 512 << 20
"""of all folders"""
_LARGEST_FILE = 64 << 20
_MOST_FOUND = 10_000
"""objects in a picture"""


@dataclass(frozen=True, kw_only=True)
class PictureAnswer:
    """What one detector has found in one picture; the fields are those of `Answers`."""

    size: tuple[int, int]
    """width and height of the original, pixels"""
    boxes: Float32Array
    scores: Float32Array
    classes: npt.NDArray[np.int64]
    look: tuple[float, float]


class AnswerStore:
    """The answers of one detector on disk. Raises InputError if the folder cannot be used.

    `folder` is that of all detectors. `key` is a hash of everything that the answers depend on, except the pictures.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._all, self._folder = folder, folder / sha256(f"{_FORMAT} {key}".encode()).hexdigest()[:40]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"answers cannot be stored in {folder} ({error.strerror}); try --no-cache") from error
        self._known: dict[str, PictureAnswer] = {}
        self._own: set[Path] = set()
        for file in sorted(self._folder.glob("*.npz")):
            if found := _read(file):
                self._known |= found
                self._own.add(file)

    def get(self, picture_sha256: str) -> PictureAnswer | None:
        """The answer to a picture; None if it is not stored."""
        return self._known.get(picture_sha256)

    def add(self, answers: Mapping[str, PictureAnswer]) -> None:
        """Store the answers to some pictures, by the hash of their bytes. A full disk stores nothing."""
        if not answers:
            return
        self._known |= answers
        file = self._folder / f"{sha256(' '.join(sorted(answers)).encode()).hexdigest()[:40]}.npz"
        with suppress(InputError), whole_file(file, durable=False) as temporary:
            np.savez(temporary, **_packed(answers))
        self._own.add(file)

    def prune(self) -> None:
        """Remove the oldest files of other detectors and of other pictures until all folders keep their bound."""
        found = []
        for file in self._all.glob("*/*.npz"):
            with suppress(OSError):
                found.append((file.stat().st_mtime, file, file.stat().st_size))
        total = sum(size for _, _, size in found)
        for _, file, size in sorted(found):
            if total <= _MOST_BYTES:
                break
            if file not in self._own:
                with suppress(OSError):
                    file.unlink()
                total -= size


def _packed(answers: Mapping[str, PictureAnswer]) -> dict[str, npt.NDArray[Any]]:
    rows = list(answers.values())
    return {
        "pictures": np.array(list(answers)),
        "counts": np.array([len(one.scores) for one in rows], np.int64),
        "sizes": np.array([one.size for one in rows], np.int64),
        "looks": np.array([one.look for one in rows], np.float32),
        "boxes": np.concatenate([one.boxes for one in rows]),
        "scores": np.concatenate([one.scores for one in rows]),
        "classes": np.concatenate([one.classes for one in rows]),
    }


def _read(file: Path) -> dict[str, PictureAnswer]:
    """The answers in a file; none if it is damaged."""
    try:
        if file.stat().st_size > _LARGEST_FILE:
            return {}
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                return {}
        with np.load(file, allow_pickle=False) as kept:
            return dict(_unpacked(dict(kept.items())))
    except Exception:  # a damaged archive may raise any error
        return {}


def _unpacked(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterable[tuple[str, PictureAnswer]]:
    """Raises ValueError or KeyError if the arrays do not fit together."""
    counts = arrays["counts"]
    if counts.size and not 0 <= counts.min() <= counts.max() <= _MOST_FOUND:
        raise ValueError("the counts are out of range")
    cuts = np.cumsum(counts)[:-1]
    if not _is_sound(arrays):
        raise ValueError("there are numbers that no detector gives")
    columns = (
        np.split(arrays["boxes"].astype(np.float32).reshape(int(counts.sum()), 4), cuts),
        np.split(arrays["scores"].astype(np.float32).reshape(int(counts.sum())), cuts),
        np.split(arrays["classes"].astype(np.int64).reshape(int(counts.sum())), cuts),
    )
    names, sizes, looks = arrays["pictures"].tolist(), arrays["sizes"].tolist(), arrays["looks"].tolist()
    for name, size, look, boxes, scores, classes in zip(names, sizes, looks, *columns, strict=True):
        width, height = (int(side) for side in size)
        mean, deviation = (float(value) for value in look)
        yield (
            str(name),
            PictureAnswer(size=(width, height), boxes=boxes, scores=scores, classes=classes, look=(mean, deviation)),
        )


def _is_sound(arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether all numbers can be those of answers: a file of this form can still hold anything."""
    scores, classes = arrays["scores"], arrays["classes"]
    return bool(
        all(np.isfinite(arrays[name]).all() for name in ("boxes", "scores", "looks"))
        and ((scores >= 0) & (scores <= 1)).all()
        and ((classes >= 0) & (classes < MOST_CLASSES)).all()
        and (arrays["sizes"] > 0).all()
    )

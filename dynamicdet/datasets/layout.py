"""Finds the annotations and the image folder of a data set: dyndet's own layout, Roboflow's, COCO's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from dynamicdet.errors import InputError
from dynamicdet.text import printable

Split: TypeAlias = Literal["train", "valid"]

_OWN, _ROBOFLOW = "annotations.json", "_annotations.coco.json"
_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "valid": ("valid", "val", "test")}
_ACCEPTED = (
    f"a data set is a folder with images/ and {_OWN}, a folder of images with {_ROBOFLOW} (Roboflow), the folder above "
    "train/ and valid/ if these are data sets, or a COCO JSON file and a folder of images"
)


@dataclass(frozen=True)
class Place:
    """An annotation file and the folder that its file names start from."""

    annotations: Path
    images: Path


def locate(source: Path | str, images: Path | str | None = None, *, split: Split = "train") -> Place:
    """The one data set at `source`, a folder or a COCO JSON file.

    If the folder has the splits of an export (train/, valid/ or val/, test/), `split` chooses one. `images` replaces
    the image folder that belongs to the layout. Raises InputError if there is no such data set.
    """
    path = Path(source)
    chosen = _file(path) or next((file for name in _FOLDERS[split] if (file := _file(path / name))), None)
    if chosen is None:
        raise InputError(f"{printable(path)} {_found(path)}; {_ACCEPTED}")
    return _place(chosen, images)


def locate_all(source: Path | str, images: Path | str | None = None) -> tuple[Place, ...]:
    """Every data set at `source`: the one, or each split of an export. Raises InputError if there is none."""
    path = Path(source)
    splits = [] if _file(path) else list(_splits(path))
    return tuple(_place(file, images) for file in splits) or (locate(source, images),)


def _file(path: Path) -> Path | None:
    """The annotation file that a path names."""
    if not _is_folder(path):
        return path if path.suffix.lower() == ".json" or _exists(path) else None
    return next((path / name for name in (_OWN, _ROBOFLOW) if _exists(path / name)), None)


def _splits(path: Path) -> Iterator[Path]:
    for names in _FOLDERS.values():
        for name in names:
            file = _file(path / name) if _is_folder(path / name) else None
            if file is not None:
                yield file


def _place(file: Path, images: Path | str | None) -> Place:
    if images is None:
        return Place(file, next((folder for folder in _folders(file) if _is_folder(folder)), file.parent / "images"))
    if not _is_folder(Path(images)):
        found = "is not a folder" if _exists(Path(images)) else "does not exist"
        raise InputError(f"the image folder {printable(images)} {found}")
    return Place(file, Path(images))


def _folders(file: Path) -> Iterator[Path]:
    """Where the images of an annotation file may be, the most likely first."""
    if file.name == _ROBOFLOW:
        yield file.parent
    yield file.parent / "images"
    if file.parent.name == "annotations":  # COCO: annotations/instances_val2017.json beside val2017/
        name = file.stem.partition("_")[2] or file.stem
        root = file.parent.parent
        yield from (root / name, root / "images" / name, root / "images")
    yield file.parent


def _found(path: Path) -> str:
    if not _exists(path):
        return "does not exist"
    listed = sorted((path / "annotations").glob("*.json")) if _is_folder(path / "annotations") else []
    if listed:
        return f"has several annotation files; name one of them, such as {printable(listed[-1])}"
    return "holds no annotations"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or a NUL character
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False

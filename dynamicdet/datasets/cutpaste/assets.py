"""Reads cut-outs and backgrounds once and scales them to working size; scenes are then quick to make."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dynamicdet.datasets.cutpaste.catalogue import BACKGROUNDS, CLASSES, CLUTTER, ObjectClass
from dynamicdet.datasets.cutpaste.sources import Sources
from dynamicdet.datasets.cutpaste.splits import Split, divide, divide_each
from dynamicdet.errors import InputError
from dynamicdet.picture_files import MAX_FILE_BYTES, open_picture
from dynamicdet.records import read_bytes
from dynamicdet.text import printable

OPAQUE = 128  # alpha from which a pixel belongs to its object
_CUTOUT_SIDE = 320  # longest side of a cut-out in pixels, that of a scene
_BACKGROUND_SIDE = 900  # shorter side of a background in pixels: crops stay sharp down to a third of it


@dataclass(frozen=True)
class Cutout:
    """The image of an object, RGBA, cropped to its opaque part."""

    name: str
    image: Image.Image
    unseen: bool  # reserved for validation: in no training image


@dataclass(frozen=True)
class Assets:
    """Everything the scenes of one split are made of."""

    cutouts: dict[str, tuple[Cutout, ...]]  # by class name, in catalogue order
    clutter: tuple[Cutout, ...]
    backgrounds: tuple[Image.Image, ...]  # RGB


def names_of_split(split: Split) -> dict[str, tuple[str, ...]]:
    """Catalogue names that a split may use, by class; "" is clutter, "backgrounds" the photographs.

    Training never uses images that are reserved for validation. Validation uses only reserved backgrounds, but all
    cut-outs: the reserved ones show how well unknown objects are found.
    """
    names = {}
    for kind in (*CLASSES, CLUTTER):
        divided = divide_each(kind.kinds)
        names[kind.name] = divided["train"] if split == "train" else kind.cutouts
    names["backgrounds"] = divide(BACKGROUNDS)[split]
    return names


def load(sources: Sources, split: Split, executor: Executor, on_read: Callable[[], None] = lambda: None) -> Assets:
    """Read and scale the images of a split with ``executor``; ``on_read`` is called after each image."""
    names = names_of_split(split)
    wanted = [name for group in names.values() for name in group if name in sources.cutouts]
    read: dict[str, Image.Image] = {}
    for name, data in zip(wanted, executor.map(_read_cutout, [sources.cutouts[name] for name in wanted]), strict=True):
        read[name] = Image.frombytes("RGBA", *data)
        on_read()
    photos = [sources.backgrounds[name] for name in names["backgrounds"] if name in sources.backgrounds]
    if not photos:
        raise InputError(f"none of the backgrounds for the {split} split was found: {', '.join(names['backgrounds'])}")
    backgrounds = []
    for size, pixels in executor.map(_read_background, photos):
        backgrounds.append(Image.frombytes("RGB", size, pixels))
        on_read()

    def group(kind: ObjectClass) -> tuple[Cutout, ...]:
        kept = set(divide_each(kind.kinds)["val"])
        return tuple(Cutout(name, read[name], name in kept) for name in names[kind.name] if name in read)

    return Assets(
        cutouts={kind.name: group(kind) for kind in CLASSES}, clutter=group(CLUTTER), backgrounds=tuple(backgrounds)
    )


def picture_count(split: Split) -> int:
    """Number of images that `load` reads for a split if all are present."""
    return sum(len(group) for group in names_of_split(split).values())


def _read_cutout(path: Path) -> tuple[tuple[int, int], bytes]:
    image = _open(path).convert("RGBA")
    image.thumbnail((4 * _CUTOUT_SIDE, 4 * _CUTOUT_SIDE), Image.Resampling.BOX)
    box = image.getchannel("A").point([0] * OPAQUE + [255] * (256 - OPAQUE)).getbbox()
    if box is None:
        raise InputError(f"{printable(path)} has no opaque pixel, so it is not a cut-out")
    image = image.crop(box)
    scale = _CUTOUT_SIDE / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image.size, image.tobytes()


def _read_background(path: Path) -> tuple[tuple[int, int], bytes]:
    image = _open(path)
    scale = min(1.0, _BACKGROUND_SIDE / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return size, image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3).tobytes()


def _open(path: Path) -> Image.Image:
    """The decoded image with its transparency; files of others may be here, so all limits hold."""
    return open_picture(read_bytes(path, advice="", largest=MAX_FILE_BYTES), printable(path)).decode()

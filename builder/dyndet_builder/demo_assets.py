"""The demo model and its validation images, which are in the source tree but not in the wheel."""

from __future__ import annotations

from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in

_FOLDER = Path(__file__).parents[2] / "benchmarks" / "demo"
_IMAGES = _FOLDER / "val" / "images"


def demo_checkpoint() -> Path:
    """The demo's checkpoint. Raises InputError outside a source tree."""
    return _existing(_FOLDER / "dy-yolov7-pico-cutpaste.safetensors", "a checkpoint with --checkpoint")


def demo_images() -> Path:
    """The folder of the demo's validation images. Raises InputError outside a source tree."""
    return _existing(_IMAGES, "a folder of real images with --images")


def demo_picture() -> Path | None:
    """The first of the demo's validation images; None outside a source tree."""
    return pictures_in(_IMAGES)[0] if _IMAGES.is_dir() else None


def _existing(path: Path, instead: str) -> Path:
    if not path.exists():
        raise InputError(
            f"the demo's {path.name} is only in a clone of the repository: run `make demo` there, or name {instead}, "
            "as in `dyndet-build --target-latency 50% --checkpoint FILE --images FOLDER`"
        )
    return path

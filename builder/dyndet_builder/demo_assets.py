"""The demo model and its validation images, which lie in the source tree and not in the wheel."""

from __future__ import annotations

from pathlib import Path

from dynamicdet.errors import InputError

_FOLDER = Path(__file__).parents[2] / "benchmarks" / "demo"


def demo_checkpoint() -> Path:
    """The demo's checkpoint. Raises InputError outside a source tree."""
    return _existing(_FOLDER / "dy-yolov7-pico-cutpaste.safetensors", "a checkpoint with --checkpoint")


def demo_images() -> Path:
    """Folder of the demo's validation images. Raises InputError outside a source tree."""
    return _existing(_FOLDER / "val" / "images", "a folder of real pictures with --images")


def _existing(path: Path, instead: str) -> Path:
    if not path.exists():
        raise InputError(f"the demo's {path.name} lies in a clone of the repository alone; name {instead}")
    return path

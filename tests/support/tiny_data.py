"""A COCO data set of three tiny pictures, to be changed by a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (40, 30)


def tiny_content() -> dict[str, Any]:
    """Annotations of three pictures with an object each, of two classes."""
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": SIZE[0], "height": SIZE[1]} for number in (1, 2, 3)
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [4, 6, 20, 10], "area": 200,
             "iscrowd": 0}
            for number in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip


def write_pictures(folder: Path) -> None:
    """The pictures that belong to `tiny_content`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        Image.new("RGB", SIZE, (number * 60, 90, 90)).save(folder / f"{number}.png")


def write_tiny_data(folder: Path, content: Any = None) -> Path:
    """The data set in dyndet's own layout; returns its folder."""
    write_pictures(folder / "images")
    (folder / "annotations.json").write_text(json.dumps(tiny_content() if content is None else content))
    return folder

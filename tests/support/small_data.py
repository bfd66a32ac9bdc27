"""A small data set out of the demo's, labelled with the classes of any checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def write_small_data(folder: Path, images: Path, class_names: Sequence[str], *, count: int) -> Path:
    """`count` pictures of `images`, spread over it, with their own objects under these class names.

    Objects keep their class numbers, so that the labels are right wherever the class names are the demo's own.
    """
    content = json.loads((images.parent / "annotations.json").read_text())
    chosen = content["images"][:: len(content["images"]) // count][:count]
    kept = {entry["id"] for entry in chosen}
    content["images"] = chosen
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(class_names, 1)]
    (folder / "images").mkdir(parents=True)
    for entry in chosen:
        (folder / "images" / entry["file_name"]).write_bytes((images / entry["file_name"]).read_bytes())
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder

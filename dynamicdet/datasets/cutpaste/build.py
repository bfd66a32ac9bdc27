"""Writes a cut-and-paste data set: training and validation images with COCO annotations, the same for the same seed."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.cutpaste.assets import Assets, load, picture_count
from dynamicdet.datasets.cutpaste.catalogue import CLASSES
from dynamicdet.datasets.cutpaste.scene import box_of, make
from dynamicdet.datasets.cutpaste.sources import Sources
from dynamicdet.datasets.cutpaste.splits import Split
from dynamicdet.datasets.segmentations import encode
from dynamicdet.errors import InputError
from dynamicdet.files import whole_folder

_SPLIT_NUMBER: dict[Split, int] = {"train": 0, "val": 1}  # keeps the splits' random numbers apart
_CHUNK = 25  # images per task


@dataclass(frozen=True)
class Summary:
    """The content of one split."""

    split: Split
    folder: Path
    images: int
    objects: int
    easy_images: int
    megabytes: float


def build(
    output: Path,
    sources: Sources,
    *,
    train_images: int = 8000,
    val_images: int = 500,
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[Summary, ...]:
    """Write ``output/train`` and ``output/val``, each ``images/*.jpg`` with ``annotations.json`` (COCO).

    Boxes, areas and segmentations (run-length codes) are of what is visible of an object.
    The bytes depend on the seed and the sources (and Pillow's version), not on ``workers``. The folder appears when
    everything is written. Raises InputError if a count or the seed is below 0, if both counts are 0, or if the output
    is not empty (``overwrite`` replaces only a data set).
    """
    if min(train_images, val_images) < 0 or train_images + val_images == 0:
        raise InputError(
            f"a data set needs at least one image, got {train_images} for training, {val_images} for validation"
        )
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, got {seed}")
    check_output(output, overwrite=overwrite)
    counts: dict[Split, int] = {"train": train_images, "val": val_images}
    with whole_folder(output, marker=None) as whole:
        summaries = [
            _write_split(whole / split, output / split, split, sources, count, seed, workers, progress)
            for split, count in counts.items()
            if count
        ]
    return tuple(summaries)


def check_output(output: Path, *, overwrite: bool = False) -> None:
    """Raise InputError unless `build` may write to ``output``; for a check before a long download."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; the data set needs a folder")
    found = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if found and not overwrite:
        raise InputError(f"{output} is not empty; choose another folder, or use --overwrite to replace its data set")
    strange = [name for name in found if name not in _SPLIT_NUMBER]
    if strange:
        raise InputError(
            f"{output} holds more than a data set ({strange[0]!r}), so it is not overwritten; choose another folder"
        )


def _write_split(
    folder: Path,
    final: Path,
    split: Split,
    sources: Sources,
    count: int,
    seed: int,
    workers: int,
    progress: Progress,
) -> Summary:
    (folder / "images").mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    total = picture_count(split)
    done = 0

    def on_read() -> None:
        nonlocal done
        done += 1
        progress(f"reading {split} images", done, total)

    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        assets = load(sources, split, executor, on_read)
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    records: list[dict[str, Any]] = []
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(assets, folder)
    ) as executor:
        for chunk in executor.map(_make_images, chunks, [seed] * len(chunks), [_SPLIT_NUMBER[split]] * len(chunks)):
            records += chunk
            progress(f"making {split} images", len(records), count)
    annotations = _coco(records, split, seed)
    (folder / "annotations.json").write_text(json.dumps(annotations, separators=(",", ":")))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Summary(
        split=split,
        folder=final,
        images=count,
        objects=len(annotations["annotations"]),
        easy_images=sum(record["image"]["kind"] == "easy" for record in records),
        megabytes=size / 1e6,
    )


_worker: tuple[Assets, Path] | None = None


def _start_worker(assets: Assets, folder: Path) -> None:
    global _worker
    _worker = assets, folder


def _make_images(indices: range, seed: int, split_number: int) -> list[dict[str, Any]]:
    assert _worker is not None
    assets, folder = _worker
    records = []
    for index in indices:
        scene = make(assets, np.random.default_rng([seed, split_number, index]))
        name = f"{index:06d}.jpg"
        scene.image.save(folder / "images" / name, quality=scene.jpeg_quality)
        image = {
            "id": index + 1,
            "file_name": name,
            "width": scene.image.width,
            "height": scene.image.height,
            "kind": scene.kind,
            "scene_difficulty": round(scene.difficulty, 4),
        }
        objects = [
            {
                "category_id": thing.class_index + 1,
                "bbox": [float(value) for value in box_of(mask)],
                "area": float(mask.sum()),
                "segmentation": encode(mask),
                "iscrowd": 0,
                "unseen": thing.unseen,
            }
            for thing, mask in zip(scene.objects, scene.masks, strict=True)
        ]
        records.append({"image": image, "objects": objects})
    return records


def _coco(records: list[dict[str, Any]], split: Split, seed: int) -> dict[str, Any]:
    flat = [(record["image"]["id"], thing) for record in records for thing in record["objects"]]
    return {
        "info": {"description": f"dyndet cutpaste, {split} split", "seed": seed},
        "images": [record["image"] for record in records],
        "annotations": [{"id": number, "image_id": image, **thing} for number, (image, thing) in enumerate(flat, 1)],
        "categories": [{"id": number, "name": kind.name} for number, kind in enumerate(CLASSES, 1)],
    }

"""Stores the results of a pass on disk; the file name is a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.files import whole_file
from dynamicdet.routing.routes import RouteResults
from dynamicdet.suppression import Detections

_FORMAT = 2
_ROUTES = ("easy", "hard")
_FIELDS = ("boxes", "scores", "classes", "masks", "frames")
Arrays = dict[str, npt.NDArray[Any]]


def data_sha256(data: CocoDataset) -> str:
    """Hash of the annotations and of every pixel that the networks see; the file paths do not matter."""
    digest = hashlib.sha256(json.dumps(data.annotations, sort_keys=True).encode())
    placements = [{**asdict(placement), "image": None} for placement in data.placements]
    digest.update(json.dumps(placements).encode())
    for image in data.images:
        digest.update(image.tobytes())
    return digest.hexdigest()


def results_file(folder: Path, parts: Mapping[str, str]) -> Path:
    """The file for results that depend on these named contents (hashes, settings, versions)."""
    text = json.dumps({"format": _FORMAT, **parts}, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.npz"


def read_results(path: Path, images: int) -> RouteResults | None:
    """The results in a file for this many images; None if the file is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        with np.load(path, allow_pickle=False) as kept:
            return _unpacked(dict(kept.items()), images)
    except Exception:  # a damaged archive may raise any error
        return None


def write_results(path: Path, results: RouteResults) -> None:
    """Store results; a reader sees all of them or none. Raises InputError if they cannot be written."""
    with whole_file(path, durable=False) as temporary:
        save = np.savez_compressed if results.has_masks else np.savez  # masks shrink to a few per cent
        save(temporary, **_packed(results))


def _packed(results: RouteResults) -> Arrays:
    arrays: Arrays = {
        "difficulties": results.difficulties,
        "seconds": np.array([results.pass_s, results.loss_s]),
    }
    if results.loss_gains is not None:
        arrays["loss_gains"] = results.loss_gains
    for route, found in zip(_ROUTES, (results.easy, results.hard), strict=True):
        arrays[f"{route}_counts"] = np.array([len(one.scores) for one in found], np.int64)
        for field in _FIELDS:
            if all(getattr(one, field) is not None for one in found):
                arrays[f"{route}_{field}"] = torch.cat([getattr(one, field) for one in found]).numpy()
    return arrays


def _unpacked(arrays: Arrays, images: int) -> RouteResults | None:
    gains = arrays.get("loss_gains")
    lengths = {len(arrays["difficulties"]), *(len(arrays[f"{route}_counts"]) for route in _ROUTES)}
    if lengths != {images} or (gains is not None and len(gains) != images):
        return None
    easy, hard = (_detections(arrays, route) for route in _ROUTES)
    pass_s, loss_s = arrays["seconds"].tolist()
    return RouteResults(tuple(easy), tuple(hard), arrays["difficulties"], gains, pass_s, loss_s)


def _detections(arrays: Arrays, route: str) -> Sequence[Detections]:
    counts = arrays[f"{route}_counts"].tolist()
    fields = [field for field in _FIELDS if f"{route}_{field}" in arrays]
    columns = (torch.split(torch.from_numpy(arrays[f"{route}_{field}"]), counts) for field in fields)
    return [Detections(**dict(zip(fields, one, strict=True))) for one in zip(*columns, strict=True)]

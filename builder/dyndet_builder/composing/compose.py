"""Writes a bundle as one ONNX file that routes itself, and proves that it gives the bits of the bundle's own graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import onnx

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.files import check_writable, whole_file
from dynamicdet.images import read_image
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.bundle.runner import BundleRunner
from dyndet_builder.composing.check import check_bits
from dyndet_builder.composing.model import Batch, Routes, best_routes, composed_model
from dyndet_builder.defaults import COMPOSED_IMAGES
from dyndet_builder.operating_points import read_operating_points

_DEFAULT_THRESHOLD = 0.5
_SUFFIX = ".onnx"


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A written file."""

    path: Path
    batch: Batch
    """`one`: it takes one image at a time; `any`: a batch of any size"""
    routes: Routes
    """`branches`: with an `If`; `rows`: with tensors that may have no rows"""
    threshold: float
    """in force where a call gives none"""
    operating_point: str | None
    """where the threshold came from"""
    size_bytes: int
    compared_images: int
    """on which it gave the bits of the bundle's graphs"""


def compose(
    bundle: Path,
    output: Path,
    *,
    batch: Batch = "one",
    routes: Routes | None = None,
    threshold: float | None = None,
    operating_points: Path | None = None,
    operating_point: str | None = None,
    images: Path | None = None,
    compared_images: int = COMPOSED_IMAGES,
    progress: Progress = silent,
) -> Composed:
    """Write a bundle as the ONNX file `output`, which appears whole or not at all.

    Inputs are `image` uint8 (B, H, W, 3), fitted as the bundle says, and `threshold` float32 (B, 1), or (1, 1) for all
    images; B is 1 with the batch `one`. The threshold can be left out. Then it is `threshold`, or that of
    `operating_point` in the file `operating_points` (None: the default one), or else 0.5. Outputs are those of a
    served detector: `num_detections`, `boxes`, `scores`, `classes`, whatever else both detectors give, `difficulty`
    float32 (B, 1) and `route` int32 (B, 1), 1 easy, 2 hard. NaN is hard. A route that no image takes is not computed;
    `routes` says how it is left out (None: `best_routes`). Class names, the rule of fitting and the bundle's hash are
    in the file's metadata.

    At most `compared_images` pictures of `images`, spread over the folder (None: noise), prove that ONNX Runtime
    computes the same bits as with the bundle's own graphs: with its default options, or, for the other form than
    `best_routes`, without its optimisations of the layout.

    Raises InputError for a damaged bundle, for options and pictures that cannot be used, for stages that do not allow
    the form, and for a place that cannot be written; ParityError if a bit differs.
    """
    check_file(output)
    if compared_images < 1:
        raise InputError(f"at least one image must be compared, not {compared_images}")
    value = default_threshold(threshold, operating_points, operating_point)
    pictures = None if images is None else spread(pictures_in(images), compared_images)
    progress("compose", 0, 1)
    described = read_bundle(bundle)
    _check_apart(output, bundle)
    routes = routes or best_routes(described)
    model = composed_model(bundle, described, threshold=value, batch=batch, routes=routes)
    progress("compose", 1, 1)
    with whole_file(output) as temporary:
        onnx.save(model, temporary)
        size = temporary.stat().st_size
        same_layout = routes == best_routes(described)
        runner = BundleRunner(bundle, plain=not same_layout)
        compared = check_bits(
            temporary,
            runner,
            None if pictures is None else (described.fit(read_image(path)).image for path in pictures),
            one=batch == "one",
            default=value,
            plain=not same_layout,
            count=compared_images if pictures is None else len(pictures),
            progress=progress,
        )
    named = operating_point
    if operating_points is not None and named is None:
        named = read_operating_points(operating_points).default
    return Composed(
        path=output,
        batch=batch,
        routes=routes,
        threshold=value,
        operating_point=named,
        size_bytes=size,
        compared_images=compared,
    )


def check_file(output: Path | None, *, apart_from: Path | None = None) -> None:
    """Raise InputError, before the work, if a file to be written has not the name of an ONNX file, or no place.

    The same for one in the folder `apart_from`, which is written anew.
    """
    if output is None:
        return
    if output.suffix != _SUFFIX:
        raise InputError(f"{printable(output)} must be the name of an ONNX file, such as detector{_SUFFIX}")
    if apart_from is not None and output.resolve().is_relative_to(apart_from.resolve()):
        raise InputError(f"{printable(output)} must be outside the bundle, whose folder is written anew")
    check_writable(output)


def _check_apart(output: Path, bundle: Path) -> None:
    """Raise InputError if a file would be written over one of the bundle itself."""
    if output.exists() and output.resolve().parent == bundle.resolve():
        raise InputError(f"{printable(output)} is a file of the bundle itself; name another file")


def default_threshold(threshold: float | None, operating_points: Path | None, operating_point: str | None) -> float:
    """The threshold of a file: as given, of an operating point, or 0.5. Raises InputError for one that cannot be."""
    if threshold is not None:
        if operating_points is not None:
            raise InputError("a threshold and operating points exclude each other: an operating point is a threshold")
        if not (math.isfinite(threshold) and 0 <= threshold <= 1):
            raise InputError(f"threshold must be a finite number from 0 to 1, not {threshold}")
    if operating_points is None:
        if operating_point is not None:
            raise InputError(
                f"operating point {operating_point!r} needs the file with the operating points; name it with "
                "--operating-points"
            )
        return _DEFAULT_THRESHOLD if threshold is None else threshold
    content = read_operating_points(operating_points)
    name = content.default if operating_point is None else operating_point
    if name not in content.points:
        known = ", ".join(content.points)
        raise InputError(f"operating point {printable(name)!r} is not known; {printable(operating_points)} has {known}")
    return content.points[name].threshold

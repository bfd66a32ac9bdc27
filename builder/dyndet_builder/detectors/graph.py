"""One graph for a detector of others: from uint8 pictures to finished boxes, in standard operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from dynamicdet.letterbox import Fit
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec


def build_graph(
    file: Path,
    spec: DetectorSpec,
    *,
    fit: Fit,
    nms: Nms,
    classes: Sequence[int],
    calibration: Sequence[tuple[float, float]] = (),
) -> onnx.ModelProto:
    """A detector's file with our pre-processing before it, and decoding and suppression behind it.

    The graph reads `image` uint8 (B, H, W, 3), pictures that were fitted by `fit`, and gives `num_detections` int32
    (B, 1), `boxes` float32 (B, max_detections, 4) in pixels of `image`, `scores` float32 and `classes` int32
    (B, max_detections); unused rows are zero. B is any number, or 1 where `spec.input.batch` is `one`. Its opset is
    that of the file, and at least 14.

    `classes` gives the number of each of `spec.class_names` in the answer; objects of a class with -1 are left out.
    `calibration` is what `Detector.calibration` of a bundle holds.

    Raises InputError for a file that cannot be used: damaged, of an opset outside 11 to 22, without the tensors of
    `spec`, with operators outside the standard, incomplete, or too large for one file.
    """
    raise NotImplementedError

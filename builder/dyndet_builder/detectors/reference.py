"""A detector's own file in ONNX Runtime, with pre-processing and decoding in numpy: what a merged graph must equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import Float32Array, UInt8Array
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec


@dataclass(frozen=True, kw_only=True)
class Found:
    """Objects in one picture, the best first."""

    boxes: Float32Array
    """(n, 4) x1 y1 x2 y2 in pixels of the original picture"""
    scores: Float32Array
    """(n,)"""
    classes: npt.NDArray[np.int64]
    """(n,) numbers in the detector's own class names"""


class Reference:
    """Runs a detector's file as its makers meant it. Raises InputError for a file that ONNX Runtime does not load."""

    def __init__(self, file: Path, spec: DetectorSpec, *, nms: Nms | None = None, threads: int | None = None) -> None:
        raise NotImplementedError

    def answer(self, picture: UInt8Array) -> Found:
        """Objects in an RGB picture (H, W, 3) of any size, suppressed where the detector leaves that to others."""
        raise NotImplementedError

"""How far a merged graph is from the detector's own file, and how far it may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from dynamicdet.aliases import UInt8Array
from dynamicdet.letterbox import Fit
from dyndet_builder.bundle.manifest import AdapterCheck, Nms
from dyndet_builder.bundle.spec import DetectorSpec


def check_adapter(
    model: onnx.ModelProto,
    file: Path,
    spec: DetectorSpec,
    pictures: Iterable[UInt8Array],
    *,
    fit: Fit,
    nms: Nms,
    classes: Sequence[int],
    calibration: Sequence[tuple[float, float]] = (),
) -> AdapterCheck:
    """Compare `model`, which `build_graph` made with these arguments, with the file on RGB pictures (H, W, 3).

    Pictures are compared at batch 1, and at batch 3 if the graph takes it. Raises ParityError, with the numbers, if
    boxes or scores differ by more than `parity.BARS` accepts.
    """
    raise NotImplementedError

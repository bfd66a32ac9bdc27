"""Named types for every package: arrays, and the callback for progress.

This file needs only numpy. The model that takes image files has a copy of it beside its code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
"""measurements and routing mathematics"""
Float32Array: TypeAlias = npt.NDArray[np.float32]
"""what networks compute with: boxes, scores, difficulties"""
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
"""images"""
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

Progress: TypeAlias = Callable[[str, int, int], None]
"""called with the step, the amount done and the total"""


def silent(_step: str, _done: int, _of: int) -> None:
    """The progress callback that does nothing."""

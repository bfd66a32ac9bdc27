"""Types with a name of their own, for every package: arrays, and the callback that hears how far the work is.

Needs numpy alone. The model that takes picture files has a copy of this file beside its code.
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
"""pictures"""
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

Progress: TypeAlias = Callable[[str, int, int], None]
"""called with the step, how much of it is done, and of how much"""


def silent(_step: str, _done: int, _of: int) -> None:
    """The progress callback that does nothing."""

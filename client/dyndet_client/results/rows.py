"""Picks several objects of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dyndet_client.checks import shown

Rows: TypeAlias = slice | Sequence[bool] | Sequence[int] | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]
"""Several objects: a slice, a mask, or row numbers."""


def picked_rows(count: int, rows: object) -> npt.NDArray[np.intp]:
    """The numbers of the chosen ones of so many rows. Raises IndexError for what is none of `Rows`."""
    return np.arange(count)[rows if isinstance(rows, slice) else _array(rows)]


def _array(rows: object) -> npt.NDArray[Any]:
    picked = np.asarray(rows)
    if isinstance(rows, Sequence) and not picked.size:
        return picked.astype(np.intp)  # of an empty list, which numpy takes for floats
    if picked.ndim != 1 or picked.dtype.kind not in "biu":
        raise IndexError(f"detections are picked by a row number, a slice, a mask or row numbers, not {shown(rows)}")
    return picked

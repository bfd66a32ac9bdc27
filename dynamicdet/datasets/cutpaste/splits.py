"""Selects the images for validation: always the same ones, whatever the seed and the installed packages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

Split = Literal["train", "val"]
VALIDATION_SHARE = 0.25


def divide(names: Sequence[str], share: float = VALIDATION_SHARE) -> dict[Split, tuple[str, ...]]:
    """Divide names into training and validation, at least one and about ``share`` of them for validation.

    The order of the names' hashes decides, so the division depends only on the names. Raises ValueError for fewer than
    two names or a repeated one.
    """
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(
            f"a division needs at least two names, each once; got {len(names)} names, {len(set(names))} different"
        )
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    kept = set(ranked[: max(1, round(share * len(names)))])
    return {
        "train": tuple(name for name in names if name not in kept),
        "val": tuple(name for name in names if name in kept),
    }


def divide_each(kinds: Sequence[Sequence[str]], share: float = VALIDATION_SHARE) -> dict[Split, tuple[str, ...]]:
    """Divide each kind as `divide` does, and join the parts: a share of every kind is reserved."""
    parts = [divide(kind, share) for kind in kinds]
    return {
        "train": tuple(name for part in parts for name in part["train"]),
        "val": tuple(name for part in parts for name in part["val"]),
    }

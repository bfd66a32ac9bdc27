"""Which pictures are kept for validation: the same ones always, whatever the seed and whatever is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

Split = Literal["train", "val"]
VALIDATION_SHARE = 0.25


def divide(names: Sequence[str], share: float = VALIDATION_SHARE) -> dict[Split, tuple[str, ...]]:
    """Divide names into training and validation, at least one and about ``share`` of them for validation.

    The order of a name's hash decides, so the division depends on nothing but the names. Raises ValueError for fewer
    than two names or a repeated one.
    """
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(
            f"at least two names, each once, can be divided; got {len(names)}, {len(set(names))} different"
        )
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    kept = set(ranked[: max(1, round(share * len(names)))])
    return {
        "train": tuple(name for name in names if name not in kept),
        "val": tuple(name for name in names if name in kept),
    }

"""Stored answers are used only if they can be those of a detector; all others are run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyndet_builder.pairing.answer_store import AnswerStore, PictureAnswer

_ANSWER = PictureAnswer(
    size=(64, 48),
    boxes=np.array([[1, 2, 3, 4]], np.float32),
    scores=np.array([0.5], np.float32),
    classes=np.array([2]),
    look=(0.1, 0.2),
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"scores": np.array([np.nan])},
        {"scores": np.array([5.0])},
        {"classes": np.array([-3])},
        {"classes": np.array([5000])},
        {"boxes": np.full((1, 4), np.inf)},
        {"sizes": np.array([[0, 48]])},
        {"looks": np.array([[np.nan, 0.0]])},
        {"counts": np.array([7])},
        {"pictures": np.array([{}], object)},
    ],
    ids=lambda change: ", ".join(change) or "unchanged",
)
def test_a_file_with_numbers_that_no_detector_gives_is_not_used(change: dict[str, Any], tmp_path: Path) -> None:
    AnswerStore(tmp_path, "key").add({"a": _ANSWER})
    (file,) = tmp_path.glob("*/*.npz")
    with np.load(file) as kept:
        arrays = dict(kept.items())
    np.savez(file, **{**arrays, **change})
    assert (AnswerStore(tmp_path, "key").get("a") is not None) == (not change)

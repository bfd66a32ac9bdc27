"""What a page is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dyndet_builder.trying.asking import Asker
from dyndet_builder.trying.points import Calibration


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A served detector, and pictures to try it with."""

    asker: Asker
    model: str
    address: str
    """of its server, as it is shown"""
    calibration: Calibration | None = None
    samples: tuple[Path, ...] = ()

"""What a checkpoint remembers of the pictures that trained its detectors: enough to recognise them, in few bytes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST_PICTURES = 10**12


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The data set that trained the detectors. Raises ValueError for what cannot be one."""

    pictures: int
    """of the whole data set, those held out included"""
    fingerprint: str
    """see `datasets.hold_out.fingerprint`"""
    held_out: float
    """share of the pictures that did not train the detectors, 0 to 0.5; `datasets.hold_out.held_out` says which"""

    def __post_init__(self) -> None:
        whole = type(self.pictures) is int and 0 < self.pictures <= _MOST_PICTURES
        hashed = isinstance(self.fingerprint, str) and _SHA256.fullmatch(self.fingerprint)
        share = type(self.held_out) in (int, float) and math.isfinite(self.held_out) and 0 <= self.held_out <= 0.5
        if not (whole and hashed and share):
            raise ValueError("not a data set that trained a detector")

    def as_text(self) -> str:
        """For the header of a checkpoint."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> TrainedOn:
        """What `as_text` wrote. Raises ValueError for another text."""
        content: Any = json.loads(text)
        if not isinstance(content, dict) or content.keys() != {"pictures", "fingerprint", "held_out"}:
            raise ValueError("other entries than expected")
        return cls(**content)

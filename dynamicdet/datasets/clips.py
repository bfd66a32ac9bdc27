"""Which pictures are of one clip, by their file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

_NUMBERED = re.compile(r"^(?P<clip>.*?)[ ._-]*(?:frame|img|f)?[ ._-]*\d+$", re.IGNORECASE)
_LEAST_CLIPS = 5
"""as many as there are folds; with fewer, the names say nothing about clips"""


def clips_of(names: Sequence[str]) -> list[str]:
    """Clip of each picture: `street_0001.jpg` and `street_0002.jpg` are of one clip, so are those of one folder.

    Each picture is a clip of its own if the names tell fewer than five clips, as those of most data sets do.
    """
    clips = [_clip(name) for name in names]
    if len(Counter(clips)) < _LEAST_CLIPS:
        return [str(number) for number in range(len(names))]
    return clips


def _clip(name: str) -> str:
    path = PurePath(name)
    numbered = _NUMBERED.match(path.stem)
    stem = numbered["clip"] if numbered else path.stem
    return f"{path.parent}/{stem}"

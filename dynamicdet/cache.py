"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Folder of this name unless told otherwise: in $XDG_CACHE_HOME or ~/.cache, below dyndet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dyndet" / name

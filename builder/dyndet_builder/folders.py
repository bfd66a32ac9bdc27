"""Finds out before the work begins whether its result can be written."""

from __future__ import annotations

import os
from pathlib import Path

from dynamicdet.errors import InputError


def check_creatable(output: Path) -> None:
    """Raise InputError where the folder `output` is a file, or cannot be made below what exists of its path."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{output} cannot be a folder of results: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{output} cannot be written: {existing} allows no writing")

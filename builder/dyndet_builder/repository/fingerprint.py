"""The hash of a repository's files: measurements of one say nothing about another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dyndet_builder.bundle.manifest import file_sha256
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_builder.repository.marker import MARKER_FILE


def repository_sha256(folder: Path) -> str:
    """Of the models' configurations, code and graphs, by their names. Raises InputError if the folder is missing.

    Two things change no answer at a given threshold and are left out: what a calibration writes, and how the repository
    came about.
    """
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != POINTS_FILE
        and path != folder / MARKER_FILE
        and "__pycache__" not in path.parts
    }
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()

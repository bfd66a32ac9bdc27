"""The hash of a repository's files: measurements of one say nothing about another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dyndet_builder.bundle.manifest import file_sha256
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_builder.repository.rendered import MARKER_FILE

_LEFT_OUT = {POINTS_FILE, MARKER_FILE}
"""what a calibration writes, and how the repository came about; neither changes an answer at a given threshold"""


def repository_sha256(folder: Path) -> str:
    """Of the models' configurations, code and graphs, by their names. Raises InputError if the folder is missing."""
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _LEFT_OUT and "__pycache__" not in path.parts
    }
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()

"""Reads `operating_points.json` from the model's own folder, and reads it again whenever the file is replaced.

The folder is held open: if another build takes its place, this one goes on with its own operating points.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

FILE_NAME = "operating_points.json"
_LONGEST_SHOWN = 60
"""characters of a client's text that an error repeats"""


class OperatingPoints:
    """Thresholds by name. If the file is damaged, the last good thresholds stay in force and a warning is logged."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._stamp: tuple[int, int, int] | None = None
        self._thresholds: dict[str, float] = {}
        self._default = ""
        try:
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            self._stamp = self._current_stamp()
            self._read()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); render the repository again, then calibrate it") from error

    @property
    def default(self) -> float:
        """The threshold of requests that set none."""
        return self._thresholds[self._default]

    def threshold(self, name: str) -> float:
        """The threshold of an operating point. Raises ValueError that names the known ones."""
        if name not in self._thresholds:
            known = ", ".join(sorted(self._thresholds))
            shown = repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")
            raise ValueError(f"operating point {shown} is not known; this model has {known}")
        return self._thresholds[name]

    def refresh(self) -> bool:
        """Check whether the file was replaced; True if other thresholds are in force now."""
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._read()
        except (OSError, ValueError) as error:
            self._warn(f"{self._path} is damaged, so the earlier thresholds stay in force: {error}")
            return False
        return True

    def _current_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path.name, dir_fd=self._folder)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> None:
        try:
            is_file = stat.S_ISREG(os.stat(self._path.name, dir_fd=self._folder).st_mode)
        except FileNotFoundError:
            is_file = False
        if not is_file:  # reading a pipe would wait for ever
            raise ValueError("it is not a file")
        with open(self._path.name, "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=self._folder)) as file:
            text = file.read()
        try:
            content = json.loads(text)
            thresholds = {str(name): float(point["threshold"]) for name, point in content["points"].items()}
            default = str(content["default"])
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError("it has no default, or a point has no threshold") from error
        if default not in thresholds:
            raise ValueError(f"its default {default!r} is not among its points")
        for name, threshold in thresholds.items():
            if not name.isprintable():
                raise ValueError(f"the name {name!r} is not printable")
            if not (math.isfinite(threshold) and 0 <= threshold <= 1):
                raise ValueError(f"the threshold of {name!r} is {threshold}, not a number from 0 to 1")
        self._thresholds, self._default = thresholds, default

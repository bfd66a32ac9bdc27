"""Reads `operating_points.json` from the model's own folder, and reads it again whenever the file is replaced.

The folder is held open: if another build takes its place, this one goes on with its own operating points.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE_NAME = "operating_points.json"
_LARGEST, _MOST_POINTS = 4 << 20, 1000
_NAME = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.:/%+µ-]{0,99}")
_MOST_SHOWN = 20
_LONGEST_SHOWN = 60
"""characters of a client's text that an error repeats"""
_TOLD = ("target", "statistic", "unit", "load", "date")
_TOLD_NUMBERS = ("goal", "reached", "mean_ms", "throughput_per_s", "easy_share")
_LONGEST_TOLD = 200
"""characters of a text that clients get"""
_PERCENTILES, _MOST_PERCENTILES = "percentiles_ms", 20


class OperatingPoints:
    """Thresholds by name. If the file is damaged, the last good thresholds stay in force and a warning is logged."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._stamp: tuple[int, int, int] | None = None
        self._thresholds: dict[str, float] = {}
        self._default = ""
        self.told = b""
        """what clients get that ask for the operating points: JSON in UTF-8, without the evidence"""
        self._folder = -1
        try:
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            self._stamp = self._current_stamp()
            self._read()
        except (OSError, ValueError) as error:
            if self._folder != -1:
                os.close(self._folder)
            raise ValueError(f"{path} is damaged ({error}); render the repository again, then calibrate it") from error

    @property
    def default(self) -> float:
        """The threshold of requests that set none."""
        return self._thresholds[self._default]

    def threshold(self, name: str) -> float:
        """The threshold of an operating point. Raises ValueError that names the known ones."""
        if name not in self._thresholds:
            known = [repr(point) for point in sorted(self._thresholds)]
            if len(known) > _MOST_SHOWN:
                known[_MOST_SHOWN:] = [f"{len(known) - _MOST_SHOWN} more"]
            *others, last = known
            listed = f"operating points are {', '.join(others)} and" if others else "only operating point is"
            shown = repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")
            raise ValueError(f"operating point {shown} is not known; this model's {listed} {last}")
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
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        self._thresholds, self._default, self.told = _thresholds(text)


def _thresholds(text: bytes) -> tuple[dict[str, float], str, bytes]:
    """The thresholds by name, the name of the default, and what clients get. Raises ValueError for anything else."""
    try:
        content = json.loads(text, object_pairs_hook=_once)
        found = {name: point["threshold"] for name, point in content["points"].items()}
        default = content["default"]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it has no default, or a point has no threshold") from error
    if len(found) > _MOST_POINTS:
        raise ValueError(f"it has more than {_MOST_POINTS:,} points")
    thresholds = {}
    for name, threshold in found.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{ascii(name)[:_LONGEST_SHOWN]} is not the name of an operating point")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            shown = ascii(threshold)[:_LONGEST_SHOWN]
            raise ValueError(f"the threshold of {name!r} is {shown}, not a number from 0 to 1")
        thresholds[name] = float(threshold)
    if not isinstance(default, str) or default not in thresholds:
        raise ValueError(f"its default {ascii(default)[:_LONGEST_SHOWN]} is not among its points")
    points = {name: {"threshold": value, **_measured(content["points"][name])} for name, value in thresholds.items()}
    return thresholds, default, json.dumps({"default": default, "points": points}).encode()


def _measured(point: dict[str, Any]) -> dict[str, Any]:
    """A point's promise and what was measured; values of another kind are left out."""
    texts = {key: point[key][:_LONGEST_TOLD] for key in _TOLD if isinstance(point.get(key), str)}
    numbers = {key: point[key] for key in _TOLD_NUMBERS if _is_number(point.get(key))}
    found = point.get(_PERCENTILES)
    if not isinstance(found, dict) or len(found) > _MOST_PERCENTILES:
        return texts | numbers
    return texts | numbers | {_PERCENTILES: {key: value for key, value in found.items() if _is_number(value)}}


def _is_number(value: object) -> bool:
    # Not `math.isfinite`: a file may hold an integer that is too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found

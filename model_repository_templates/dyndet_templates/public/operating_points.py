"""Reads `operating_points.json` from the model's own folder, and reads it again whenever the file is replaced.

The folder is held open: if another build takes its place, this one goes on with its own operating points.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backlog import Follow  # type: ignore[import-not-found]
from following import follow_of, is_number, shown, tenants_of  # type: ignore[import-not-found]
from tenants import TenantRule  # type: ignore[import-not-found]

FILE_NAME = "operating_points.json"
_LARGEST, _MOST_POINTS = 4 << 20, 1000
_NAME = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.:/%+µ-]{0,99}")
_ADVICE = "correct it, or delete the file, render the repository again and calibrate it again"
_MOST_SHOWN = 20
_LONGEST_SHOWN = 60
"""characters of a client's text that an error repeats"""
_TOLD = ("target", "statistic", "unit", "load", "date")
_TOLD_NUMBERS = ("goal", "reached", "mean_ms", "throughput_per_s", "easy_share")
_LONGEST_TOLD = 200
"""characters of a text that clients get"""
_PERCENTILES, _MOST_PERCENTILES = "percentiles_ms", 20


@dataclass(frozen=True)
class _Content:
    """What the file says."""

    default: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    follow: Mapping[str, Follow | None] = field(default_factory=dict)
    tenants: Mapping[str, TenantRule] = field(default_factory=dict)
    told: bytes = b""


class OperatingPoints:
    """Thresholds by name, and what they and tenants do under load.

    If the file is damaged, the last good content stays in force and a warning is logged.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._stamp: tuple[int, int, int] | None = None
        self._content = _Content()
        self._folder = -1
        try:
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            self._stamp = self._current_stamp()
            self._read()
        except (OSError, ValueError) as error:
            if self._folder != -1:
                os.close(self._folder)
            raise ValueError(f"{path} is damaged ({error}); {_ADVICE}") from error

    @property
    def told(self) -> bytes:
        """What clients get that ask for the operating points: JSON in UTF-8, without the evidence."""
        return self._content.told

    @property
    def tenants(self) -> Mapping[str, TenantRule]:
        """The rules of tenants by their names."""
        return self._content.tenants

    def of_tenant(self, tenant: str) -> str:
        """The operating point of a tenant's requests that name none; the default one for unknown tenants."""
        rule = self._content.tenants.get(tenant)
        return self._content.default if rule is None or rule.operating_point is None else rule.operating_point

    def follow(self, name: str) -> Follow | None:
        """How the threshold of an operating point follows the load; None: not at all, or it is not known."""
        return self._content.follow.get(name)

    def threshold(self, name: str) -> float:
        """The threshold of an operating point. Raises ValueError that names the known ones."""
        thresholds = self._content.thresholds
        if name not in thresholds:
            known = [repr(point) for point in sorted(thresholds)]
            if len(known) > _MOST_SHOWN:
                known[_MOST_SHOWN:] = [f"{len(known) - _MOST_SHOWN} more"]
            *others, last = known
            listed = f"operating points are {', '.join(others)} and" if others else "only operating point is"
            said = repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")
            raise ValueError(f"operating point {said} is not known; this model's {listed} {last}")
        return thresholds[name]

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
        self._content = _content(text)


def _content(text: bytes) -> _Content:
    """What a file says. Raises ValueError for anything else."""
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
            raise ValueError(f"the threshold of {name!r} is {shown(threshold)}, not a number from 0 to 1")
        thresholds[name] = float(threshold)
    if not isinstance(default, str) or default not in thresholds:
        raise ValueError(f"its default {ascii(default)[:_LONGEST_SHOWN]} is not among its points")
    follow = {name: follow_of(name, content["points"][name], value) for name, value in thresholds.items()}
    points = {
        name: {"threshold": value, **_measured(content["points"][name]), **_promised(follow[name])}
        for name, value in thresholds.items()
    }
    told = json.dumps({"default": default, "points": points}).encode()
    return _Content(default, thresholds, follow, tenants_of(content, thresholds), told)


def _measured(point: dict[str, Any]) -> dict[str, Any]:
    """A point's promise and what was measured; values of another kind are left out."""
    texts = {key: point[key][:_LONGEST_TOLD] for key in _TOLD if isinstance(point.get(key), str)}
    numbers = {key: point[key] for key in _TOLD_NUMBERS if is_number(point.get(key))}
    found = point.get(_PERCENTILES)
    if not isinstance(found, dict) or len(found) > _MOST_PERCENTILES:
        return texts | numbers
    return texts | numbers | {_PERCENTILES: {key: value for key, value in found.items() if is_number(value)}}


def _promised(follow: Follow | None) -> dict[str, float]:
    """What a point promises under load, if its threshold follows that."""
    return {} if follow is None else {"promise_ms": 1e3 * follow.promise_s}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found

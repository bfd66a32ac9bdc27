"""Durations in the words of a command line, such as 70ms."""

from __future__ import annotations

import re

from dynamicdet.errors import InputError
from dyndet_client.checks import shown

_SECONDS_PER_UNIT = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_DURATION = re.compile(r"((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)(us|µs|ms|s)")
_LONGEST_S = 1e6


def read_duration(name: str, text: str) -> float:
    """Seconds. Raises InputError, which names the option, for a text without a unit or out of range.

    >>> read_duration("--deadline", "70ms"), read_duration("--deadline", "0.5 s")
    (0.07, 0.5)
    """
    match = _DURATION.fullmatch("".join(text.split()))
    if match is None:
        raise InputError(
            f"{name} takes a duration with its unit (us, ms or s), such as 70ms or 0.5s, not {shown(text)}"
        )
    value = float(match[1]) * _SECONDS_PER_UNIT[match[2]]
    if not 0 < value <= _LONGEST_S:
        raise InputError(f"{name} must be above 0 and at most {_LONGEST_S:.0f}s, not {shown(text)}")
    return value

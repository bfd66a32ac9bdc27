"""Checks of arguments: a value of the wrong type is refused at once, not deep in gRPC."""

from __future__ import annotations

import sys

from dynamicdet.errors import InputError

_SHOWN = 100


def shown(value: object) -> str:
    """The value for the text of an error: one line, not long.

    >>> shown("street"), shown(10**5000)
    ("'street'", 'an int that has no text')
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a foreign `repr` raises; Python's own refuses integers of more than 4,300 digits
        return f"an {type(value).__name__} that has no text"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def optional(name: str, value: object, kind: type) -> None:
    """Raise InputError if the value is neither None nor of this type. It may be a secret, so it is not shown."""
    if value is not None and not isinstance(value, kind):
        raise InputError(f"{name} must be of type {kind.__name__}, not {type(value).__name__}")


def seconds(name: str, value: float) -> float:
    """The value as a float. Raises InputError if it is not a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise InputError(f"{name} must be a positive number of seconds, not {shown(value)}")
    return float(value)

"""What a request asks beyond its answer: until when, how urgently, and on whose budget. Needs only Python.

| parameter | value |
| --- | --- |
| `dyndet_deadline_ms` | milliseconds from the request's arrival within which its answer is of use |
| `dyndet_priority` | 0 to 9; of waiting requests, those with a higher number are taken up first |
| `dyndet_tenant` | the name of the one whose budget pays for detector 2 |
| `dyndet_waited_us` | microseconds that the request has spent in a model before this one; they count in its deadline |

Triton's Python backend passes no decimals to models that are called, and headers that Triton forwards are text, so
numbers may also come as text. Rendering puts this file beside every public model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refusals import RequestError  # type: ignore[import-not-found]

DEADLINE_MS, PRIORITY, TENANT, WAITED_US = "dyndet_deadline_ms", "dyndet_priority", "dyndet_tenant", "dyndet_waited_us"
MOST_URGENT = 9
_LONGEST_MS = 10**9
_DECIMAL = re.compile(r"[0-9]{1,13}(\.[0-9]{1,10})?")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_SHOWN = 60
"""characters of a client's text that an error repeats"""


@dataclass(frozen=True)
class Terms:
    """The parameters of one request."""

    deadline_s: float | None = None
    """seconds from its arrival; None: it sets none"""
    priority: int = 0
    tenant: str = ""
    """empty: it names none"""
    waited_s: float = 0.0
    """seconds that it has spent in a model before this one"""


_NONE = Terms()


def read_terms(parameters: Mapping[str, Any]) -> Terms:
    """The terms in a request's parameters. Raises RequestError for values that are not accepted."""
    if not (parameters.keys() & {DEADLINE_MS, PRIORITY, TENANT, WAITED_US}):
        return _NONE
    accepted = f"a number of milliseconds above 0 and at most {_LONGEST_MS}"
    deadline_ms = _number(parameters, DEADLINE_MS, accepted)
    if deadline_ms is not None and not 0 < deadline_ms <= _LONGEST_MS:
        raise _refused(parameters, DEADLINE_MS, accepted)
    waited_us = _number(parameters, WAITED_US, f"a whole number of microseconds from 0 to {_LONGEST_MS * 1000}")
    return Terms(
        None if deadline_ms is None else deadline_ms / 1e3,
        _priority(parameters),
        _tenant(parameters),
        (waited_us or 0.0) / 1e6,
    )


def _number(parameters: Mapping[str, Any], name: str, accepted: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LONGEST_MS * 1000
    is_text = isinstance(value, str) and _DECIMAL.fullmatch(value) and float(value) <= _LONGEST_MS * 1000
    if not (is_number or is_text):
        raise _refused(parameters, name, accepted)
    return float(value)


def _priority(parameters: Mapping[str, Any]) -> int:
    value = parameters.get(PRIORITY, 0)
    if isinstance(value, str) and len(value) == 1 and value in "0123456789":
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_URGENT:
        raise _refused(parameters, PRIORITY, f"a whole number from 0 to {MOST_URGENT}")
    return value


def _tenant(parameters: Mapping[str, Any]) -> str:
    value = parameters.get(TENANT, "")
    if TENANT in parameters and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise _refused(parameters, TENANT, "a name of 1 to 64 letters, digits, '_', '.' and '-'")
    return str(value)


def _refused(parameters: Mapping[str, Any], name: str, accepted: str) -> RequestError:
    shown = ascii(parameters[name])
    shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
    return RequestError("bad-parameter", f"{name} must be {accepted}, not {shown}")

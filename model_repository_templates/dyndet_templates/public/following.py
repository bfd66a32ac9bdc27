"""Reads from `operating_points.json` which thresholds follow the load, and what tenants may use. Needs only Python.

Every function raises ValueError for content that is not accepted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

from backlog import Follow  # type: ignore[import-not-found]
from tenants import TenantRule  # type: ignore[import-not-found]

FOLLOW_LOAD, TENANTS = "follow_load", "tenants"
OTHER_TENANTS = "other"
"""what metrics call all tenants that are not in the file"""
_MOST_TENANTS = 1000
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_SHOWN = 60


def follow_of(name: str, point: Mapping[str, Any], threshold: float) -> Follow | None:
    """How the threshold of an operating point follows the load; None: it stays as it is."""
    found = point.get(FOLLOW_LOAD)
    if found is None:
        return None
    about = f"{FOLLOW_LOAD} of {name!r}"
    if not isinstance(found, dict):
        raise ValueError(f"{about} is not an object")
    floor = threshold if found.get("floor") is None else _share(found["floor"], f"floor of {about}")
    ceiling = 1.0 if found.get("ceiling") is None else _share(found["ceiling"], f"ceiling of {about}")
    promise_ms = found.get("promise_ms")
    if not (is_number(promise_ms) and promise_ms > 0):
        raise ValueError(f"promise_ms of {about} is {shown(promise_ms)}, not a number above 0")
    enabled = found.get("enabled", True)
    if not isinstance(enabled, bool):
        raise ValueError(f"enabled of {about} is {shown(enabled)}, not true or false")
    if floor > ceiling:
        raise ValueError(f"floor of {about} is above its ceiling")
    return Follow(promise_s=promise_ms / 1e3, floor=floor, ceiling=ceiling) if enabled else None


def tenants_of(content: Mapping[str, Any], points: Mapping[str, float]) -> dict[str, TenantRule]:
    """The rules of tenants by their names."""
    found = content.get(TENANTS)
    if found is None:
        return {}
    if not isinstance(found, dict) or len(found) > _MOST_TENANTS:
        raise ValueError(f"{TENANTS} is not an object of at most {_MOST_TENANTS:,} tenants")
    return {name: _rule(name, rule, points) for name, rule in found.items()}


def _rule(name: str, rule: Any, points: Mapping[str, float]) -> TenantRule:
    if not _TENANT.fullmatch(name) or name == OTHER_TENANTS:
        raise ValueError(f"{shown(name)} cannot be the name of a tenant")
    if not isinstance(rule, dict):
        raise ValueError(f"the tenant {name!r} is not an object")
    per_s, burst, point = rule.get("hard_per_s"), rule.get("burst"), rule.get("operating_point")
    if not (is_number(per_s) and per_s >= 0):
        raise ValueError(f"hard_per_s of the tenant {name!r} is {shown(per_s)}, not a number of at least 0")
    if not (is_number(burst) and burst >= 1):
        raise ValueError(f"burst of the tenant {name!r} is {shown(burst)}, not a number of at least 1")
    if point is not None and (not isinstance(point, str) or point not in points):
        raise ValueError(f"the operating point {shown(point)} of the tenant {name!r} is not among the points")
    return TenantRule(hard_per_s=float(per_s), burst=float(burst), operating_point=point)


def _share(value: Any, about: str) -> float:
    if not (is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{about} is {shown(value)}, not a number from 0 to 1")
    return float(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a file is a number that fits a float."""
    # Not `math.isfinite`: a file may hold an integer that is too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def shown(value: object) -> str:
    """A value of a file, for an error."""
    return ascii(value)[:_LONGEST_SHOWN]

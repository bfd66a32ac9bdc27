"""Changes what a rendered detector does under load: which promise it keeps, and what its tenants may use.

A running server reads the operating points again when their file is replaced, so every change takes effect at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dynamicdet.errors import InputError
from dynamicdet.records import reason_of
from dynamicdet.text import printable
from dyndet_bench.measuring.statistic import THROUGHPUT
from dyndet_builder.operating_points import (
    MOST_HARD,
    OTHER_TENANTS,
    TENANT_NAME,
    Evidence,
    FollowLoad,
    OperatingPoint,
    OperatingPoints,
    RouteLatency,
    points_file,
    read_operating_points,
    write_operating_points,
)
from dyndet_builder.repository.config import POINTS_PARAMETER
from dyndet_builder.repository.config_files import CONFIG, read_config
from dyndet_builder.repository.marker import MARKER_FILE, read_marker
from dyndet_builder.targets import parse_target


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is to change about following the load; None: nothing."""

    enabled: bool | None = None
    promise: str | None = None
    """such as p95:90ms"""
    floor: float | None = None
    ceiling: float | None = None

    @property
    def any(self) -> bool:
        """Whether anything is to change."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True, kw_only=True)
class UnderLoad:
    """The operating points in force."""

    model: str
    file: Path
    points: OperatingPoints


def read_under_load(repository: Path, *, model: str | None = None) -> UnderLoad:
    """The operating points of the detector `model` of a repository, or of its only one.

    Raises InputError if dyndet did not render the repository, or if it does not hold the detector.
    """
    if not (repository / MARKER_FILE).is_file():
        raise InputError(
            f"{printable(repository)} is not a model repository (no {MARKER_FILE}); `dyndet render` makes one"
        )
    name = read_marker(repository).name_of(repository, model)
    file = points_file(repository, name)
    return UnderLoad(model=name, file=file, points=read_operating_points(file))


def follow_load(repository: Path, changes: Changes, *, model: str | None = None, point: str | None = None) -> UnderLoad:
    """Change how an operating point follows the load, by default the default one; returns what is in force then.

    A promise or bounds for a point that does not follow yet turn following on, unless `changes` say otherwise. Raises
    InputError, in one sentence, for an unknown point, a point without a promise, a promise that even easy images break,
    and a floor above the ceiling; then nothing is written.
    """
    found = read_under_load(repository, model=model)
    points = found.points
    name = points.default if point is None else point
    _check_point(found, name)
    changed = _changed(points.points[name], changes, name, points.evidence)
    return _written(found, points={**points.model_dump()["points"], name: changed.model_dump()})


def set_tenant(
    repository: Path,
    name: str,
    *,
    hard_per_s: float,
    burst: float | None = None,
    operating_point: str | None = None,
    model: str | None = None,
) -> UnderLoad:
    """Add a tenant, or replace the one of this name; returns what is in force then.

    `burst` is by default the hard images of one second, at least one. Raises InputError for a name or number that is
    not accepted, an unknown operating point, and too many tenants.
    """
    found = read_under_load(repository, model=model)
    _check_tenant(name, hard_per_s, burst)
    if operating_point is not None:
        _check_point(found, operating_point)
    tenant = {
        "hard_per_s": hard_per_s,
        "burst": max(1.0, hard_per_s) if burst is None else burst,
        "operating_point": operating_point,
    }
    return _written(found, tenants={**_tenants(found), name: tenant})


def remove_tenant(repository: Path, name: str, *, model: str | None = None) -> UnderLoad:
    """Remove a tenant; returns what is in force then. Raises InputError that names the tenants if it is not there."""
    found = read_under_load(repository, model=model)
    tenants = _tenants(found)
    if name not in tenants:
        listed = ", ".join(tenants) or "none"
        raise InputError(f"there is no tenant {printable(name, limit=80)!r}; {printable(found.file)} has {listed}")
    del tenants[name]
    return _written(found, tenants=tenants or None)


def _changed(point: OperatingPoint, changes: Changes, name: str, evidence: Evidence | None) -> OperatingPoint:
    known = point.follow_load
    if known is None and changes.promise is None:
        raise InputError(
            f"the operating point {name!r} promises no latency under load; give one with --promise, such as p95:90ms"
        )
    content = {} if known is None else known.model_dump()
    if changes.promise is not None:
        content |= _promised(changes.promise, evidence)
    for field in ("floor", "ceiling"):
        value = getattr(changes, field)
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"the {field} of a threshold must be a number from 0 to 1, not {value:g}")
    given = {"enabled": changes.enabled, "floor": changes.floor, "ceiling": changes.ceiling}
    follow = FollowLoad.model_validate(content | {key: value for key, value in given.items() if value is not None})
    changed = point.model_copy(update={"follow_load": follow})
    if changed.floor > follow.ceiling:
        lowest = "floor" if follow.floor is not None else "threshold"
        raise InputError(
            f"the {lowest} {changed.floor:.4g} of the operating point {name!r} is above the ceiling "
            f"{follow.ceiling:.4g}; give a ceiling from {changed.floor:.4g} to 1, or a lower floor"
        )
    return changed


def _no_percentile(promise: str) -> InputError:
    return InputError(
        f"promise {printable(promise, limit=80)!r} is not a percentile in milliseconds, which is what a detector can "
        "keep under load; give one such as p95:90ms, above 0 and below 1000000000ms"
    )


def _promised(promise: str, evidence: Evidence | None) -> dict[str, object]:
    """A promise as a file has it. Raises InputError if it is not a percentile, or if all easy images would break it."""
    try:
        target = parse_target(promise)
    except InputError as error:
        raise _no_percentile(promise) from error  # which would name other targets, too
    if target.of_range or target.statistic == THROUGHPUT or target.statistic.level is None:
        raise _no_percentile(promise)
    least = 0.0 if evidence is None else _least_ms(evidence.easy, target.statistic.level)
    if target.value <= least:
        raise InputError(
            f"promise {target.text} cannot be kept: easy images alone take {least:.4g} ms "
            f"({target.statistic.name}) on an idle server; promise more than that"
        )
    return {"promise_ms": target.value, "statistic": target.statistic.name, "promised_by": "user"}


def _least_ms(easy: RouteLatency, level: float) -> float:
    """What the percentile of easy requests was at least, from the measured percentiles."""
    known = {0.5: easy.p50_ms, 0.9: easy.p90_ms, 0.95: easy.p95_ms, 0.99: easy.p99_ms}
    return max((value for at, value in known.items() if at <= level), default=0.0)


def _check_tenant(name: str, hard_per_s: float, burst: float | None) -> None:
    if name == OTHER_TENANTS or re.fullmatch(TENANT_NAME, name) is None:
        raise InputError(
            f"{printable(name, limit=80)!r} cannot be the name of a tenant; give 1 to 64 letters, digits, '_', '-' and "
            f"'.', but not {OTHER_TENANTS!r}, which metrics give all unknown tenants"
        )
    for value, least, what in ((hard_per_s, 0, "hard images a second"), (burst, 1, "hard images of a burst")):
        if value is not None and not least <= value <= MOST_HARD:
            raise InputError(f"the {what} of a tenant must be a number from {least} to {MOST_HARD:,}, not {value:g}")


def _check_point(found: UnderLoad, name: str) -> None:
    if name not in found.points.points:
        raise InputError(
            f"operating point {printable(name, limit=80)!r} is not known; {printable(found.file)} has "
            f"{', '.join(found.points.points)}"
        )


def _tenants(found: UnderLoad) -> dict[str, Any]:
    plain: dict[str, Any] | None = found.points.model_dump()["tenants"]
    return plain or {}


def _written(found: UnderLoad, **changed: object) -> UnderLoad:
    """Check everything again, and replace the file. Raises InputError for a detector whose server does not read it."""
    model = found.file.parent.parent
    if (model / CONFIG).is_file() and POINTS_PARAMETER in read_config(model).parameters:
        raise InputError(
            f"{found.model!r} is one graph, whose server knows neither load nor tenants; render it with the topology "
            "bls or fused"
        )
    try:
        content = OperatingPoints.model_validate({**found.points.model_dump(), **changed})
    except ValidationError as error:
        raise InputError(f"this is not accepted: {reason_of(error, OperatingPoints)}") from error
    write_operating_points(found.file, content)
    return UnderLoad(model=found.model, file=found.file, points=content)

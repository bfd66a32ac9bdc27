"""The operating points of a served detector: its calibrated thresholds, and what was measured at them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from dynamicdet.text import printable
from dyndet_client.codec import OPERATING_POINTS
from dyndet_client.errors import ServerError

_LARGEST = 4 << 20
"""bytes; so much the file on the server may have"""
_MOST_POINTS, _MOST_PERCENTILES = 1000, 20
_LONGEST_NAME, _LONGEST_TEXT = 100, 200
_TEXTS = ("target", "statistic", "unit", "load", "date")
_NUMBERS = ("goal", "reached", "mean_ms", "throughput_per_s", "easy_share", "promise_ms")


@dataclass(frozen=True, kw_only=True, repr=False)
class OperatingPoint:
    """A threshold with a name. What was not measured is None, so of an uncalibrated detector nearly all is.

    >>> point = OperatingPoint(name="12ms", threshold=0.41, target="12ms", statistic="mean", unit="ms", goal=12.0,
    ...     reached=11.84, is_default=True)
    >>> print(point)
    12ms: threshold 0.41, mean 11.84 ms (promise 12 ms), default
    """

    name: str
    """`detect(image, operating_point=NAME)` uses it"""
    threshold: float
    """images with a larger difficulty take the hard route, 0 to 1"""
    is_default: bool = False
    """whether calls use it that choose neither a threshold nor an operating point"""
    target: str | None = None
    """what it was calibrated for, as it was typed: 12ms, p95:15ms, throughput:80/s, 50%"""
    statistic: str | None = None
    """of the promise: mean, p95, p99, throughput"""
    unit: str | None = None
    """of goal and reached: ms, or /s"""
    goal: float | None = None
    """the promise"""
    reached: float | None = None
    """the same statistic, measured with images that were not used to find the threshold"""
    mean_ms: float | None = None
    """latency"""
    percentiles_ms: Mapping[str, float] = field(default_factory=dict)
    """latency: p50, p90, p95, p99"""
    throughput_per_s: float | None = None
    """images per second at the load"""
    easy_share: float | None = None
    """share of images that stayed with detector 1, 0 to 1"""
    promise_ms: float | None = None
    """latency that 95 % of the requests keep under load, because the threshold follows the load; None: it is fixed"""
    load: str | None = None
    """what all of this is for, such as one request at a time"""
    date: str | None = None
    """of the measurement, UTC, ISO 8601"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "percentiles_ms", MappingProxyType(dict(self.percentiles_ms)))

    def __repr__(self) -> str:
        known = {one.name: getattr(self, one.name) for one in fields(self)} | {
            "percentiles_ms": {**self.percentiles_ms}
        }
        told = {
            name: value for name, value in known.items() if value is not None and value is not False and value != {}
        }
        shown = (f"{name}={value!r}" for name, value in told.items())
        return f"OperatingPoint({', '.join(shown)})"

    def __hash__(self) -> int:
        return hash((self.name, self.threshold, self.date))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "percentiles_ms": dict(self.percentiles_ms)}  # a read-only mapping has no pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def follow_load(self) -> bool:
        """Whether the server raises the threshold while there is more to do than the promise allows."""
        return self.promise_ms is not None

    @property
    def is_calibrated(self) -> bool:
        """Whether it keeps a promise that was measured."""
        return self.goal is not None and self.reached is not None

    def __str__(self) -> str:
        """One line, numbers rounded."""
        words = [f"threshold {self.threshold:.3g}"]
        if self.goal is not None and self.reached is not None:
            unit = self.unit or ""
            words.append(f"{self.statistic} {self.reached:.4g} {unit} (promise {self.goal:.4g} {unit})")
        elif self.mean_ms is not None:
            words.append(f"mean {self.mean_ms:.4g} ms")
        else:
            words.append("not measured")
        if self.promise_ms is not None:
            words.append(f"follows the load (p95 {self.promise_ms:.4g} ms)")
        return printable(f"{self.name}: {', '.join(words)}{', default' if self.is_default else ''}")


def default_of(points: Mapping[str, OperatingPoint]) -> OperatingPoint:
    """The one that is used by default; every server has one."""
    return next(point for point in points.values() if point.is_default)


def parse_operating_points(tensors: Mapping[str, npt.NDArray[Any]], model: str) -> dict[str, OperatingPoint]:
    """Read the output `operating_points`. Raises ServerError if it is not what a detector sends."""
    try:
        (text,) = np.asarray(tensors[OPERATING_POINTS]).reshape(-1).tolist()
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(model, error) from error
    return read_points(text, model)


def read_points(text: str | bytes, model: str) -> dict[str, OperatingPoint]:
    """Read operating points from JSON. Raises ServerError if it is not what a detector tells."""
    try:
        if len(text) > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} bytes")
        content = json.loads(text, parse_constant=_no_constant)
        default, points = content["default"], content["points"]
        if len(points) > _MOST_POINTS or default not in points:
            raise ValueError(f"{len(points):,} points, of which none is the default, or more than {_MOST_POINTS:,}")
        return {name: _point(name, values, is_default=name == default) for name, values in points.items()}
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise _malformed(model, error) from error


def _malformed(model: str, error: Exception) -> ServerError:
    return ServerError(f"model {printable(model)!r} returned malformed operating points: {printable(error, limit=200)}")


def _point(name: str, values: Mapping[str, Any], *, is_default: bool) -> OperatingPoint:
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ValueError(f"{name[:_LONGEST_NAME]!r} is not a name")
    threshold = _number("threshold", values["threshold"])
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} of {name!r}")
    percentiles = values.get("percentiles_ms", {})
    if len(percentiles) > _MOST_PERCENTILES:
        raise ValueError(f"{len(percentiles)} percentiles of {name!r}")
    measured: dict[str, Any] = {key: _text(key, values[key]) for key in _TEXTS if key in values}
    measured |= {key: _number(key, values[key]) for key in _NUMBERS if key in values}
    return OperatingPoint(
        name=name,
        threshold=threshold,
        is_default=is_default,
        percentiles_ms={_text("percentile", key): _number(key, value) for key, value in percentiles.items()},
        **measured,
    )


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"{key} is not a text of at most {_LONGEST_TEXT} characters")
    return printable(value)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} is not a number")
    return float(value)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")

"""What `dyndet pair` has found, for its reports and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dynamicdet.aliases import FloatArray, UInt8Array
from dyndet_bench.measuring.machine import Circumstances
from dyndet_builder.pairing.payoff.frontier import Curve, Frontier
from dyndet_builder.pairing.payoff.promises import Promise
from dyndet_builder.pairing.payoff.stream import Stream
from dyndet_builder.pairing.payoff.verdict import Verdict
from dyndet_builder.pairing.timing import Latency

SCHEMA_VERSION = 1
SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
"""hard shares at which the kept gain is listed"""
Role = Literal["small", "large", "also"]


@dataclass(frozen=True, kw_only=True)
class DetectorFacts:
    """One of the detectors that were measured."""

    role: Role
    name: str
    file: str
    graph_sha256: str
    """of the merged graph"""
    input: str
    """size and rule of its pictures, in words"""
    latency: Latency
    objects: float
    """mean number of objects in a picture, down to the score floor"""
    licence: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "latency": self.latency.as_json()}


@dataclass(frozen=True, kw_only=True)
class RouterFacts:
    """The router that would be served."""

    kind: str
    """`learned`, or the name of a free rule"""
    why: str
    pictures: int
    """that it was fitted on"""
    cost: float | None
    """its time as a share of detector 1's; None if it was not measured"""

    @property
    def is_learned(self) -> bool:
        """Whether it is more than a free rule."""
        return self.kind == "learned"


@dataclass(frozen=True, kw_only=True)
class ScoreFacts:
    """What the calibration of scores does to the mixes, mean over random mixes, percent."""

    own: float
    calibrated: float
    used: bool


@dataclass(frozen=True, kw_only=True)
class ResizingFacts:
    """What it costs detector 1 to read pictures that were fitted for detector 2 and resized in its graph, percent."""

    own: float
    """of the small detector alone, by its own rule"""
    public: float
    """by the large detector's rule, resized in the graph"""
    own_mix: float
    """of the cascade with half of the pictures hard"""
    public_mix: float
    public_ms: float | None
    """mean latency of the small detector with the resizing in its graph; None if it was not measured"""


@dataclass(frozen=True, kw_only=True)
class BorderPicture:
    """A picture whose difficulty is near a threshold, with what each detector found."""

    file: str
    difficulty: float
    objects: str
    """in words, of each detector"""
    sides: tuple[tuple[str, UInt8Array], ...] = field(repr=False, compare=False)
    """name of the detector, and the picture with its boxes"""


@dataclass(frozen=True, kw_only=True)
class PairReport:
    """Does routing between two detectors pay? Everything that the reports show."""

    detectors: tuple[DetectorFacts, ...]
    """small, large, then the others"""
    measure: str
    """`AP`, or `agreement` with the large detector where there are no labels"""
    pictures: int
    source: str
    """where the pictures come from"""
    class_names: tuple[str, ...]
    frontier: Frontier
    verdict: Verdict
    promises: tuple[Promise, ...]
    router: RouterFacts
    scores: ScoreFacts
    resizing: ResizingFacts | None
    stream: Stream | None
    timed_here: bool
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]
    difficulties: FloatArray = field(repr=False, compare=False)
    """(N,) of the pictures with a truth, each by a router that had not seen it"""
    border: tuple[BorderPicture, ...] = field(repr=False)
    border_threshold: float
    circumstances: Circumstances
    seconds: Mapping[str, float]
    """what took how long"""

    @property
    def small(self) -> DetectorFacts:
        """The detector that answers first."""
        return self.detectors[0]

    @property
    def large(self) -> DetectorFacts:
        """The detector that answers hard pictures."""
        return self.detectors[1]

    def kept(self) -> dict[str, dict[float, float | None]]:
        """Kept gain of every way to choose, by hard share."""
        return {curve.name: _kept(curve) for curve in self.frontier.curves}

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        found = {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict.as_json(),
            "measure": self.measure,
            "pictures": self.pictures,
            "source": self.source,
            "class_names": list(self.class_names),
            "detectors": [one.as_json() for one in self.detectors],
            "timed_here": self.timed_here,
            "router": asdict(self.router),
            "kept_gain": {name: {f"{h:g}": kept for h, kept in by.items()} for name, by in self.kept().items()},
            "scores": asdict(self.scores),
            "resizing": None if self.resizing is None else asdict(self.resizing),
            "stream": None if self.stream is None else self.stream.as_json(),
            "targets": [one.as_json() for one in self.promises],
            "frontier": self.frontier.as_json(),
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
            "difficulties": [float(one) for one in self.difficulties],
            "border": [{"file": one.file, "difficulty": one.difficulty, "objects": one.objects} for one in self.border],
            "circumstances": asdict(self.circumstances),
            "seconds": dict(self.seconds),
        }
        cleaned: dict[str, Any] = _finite(found)
        return cleaned


def _kept(curve: Curve) -> dict[float, float | None]:
    return {share: curve.kept_at(share) for share in SHARES}


def _finite(value: Any) -> Any:
    """The same with None in place of numbers that JSON lacks, and texts in place of paths."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value

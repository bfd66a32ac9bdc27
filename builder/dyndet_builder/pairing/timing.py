"""How long each detector takes for one picture, measured here or given."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from dynamicdet.aliases import FloatArray, Progress, UInt8Array, silent
from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.sessions import session_of
from dyndet_builder.detectors.runner import DetectorRunner

STEP = "time the detectors"
_WARM_UP = 3
_LEAST_ROUNDS, _MOST_ROUNDS = 10, 200
_ROUTER_ROUNDS = 150
_SECONDS = 4.0
"""after the least rounds, for each detector"""
_MS_PER_UNIT = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_ENTRY = re.compile(r"(?P<name>.+?)=(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>us|µs|ms|s)")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one detector for one picture, milliseconds."""

    mean_ms: float
    median_ms: float
    samples_ms: FloatArray = field(repr=False, compare=False)
    """(n,) one value if it was given"""

    @classmethod
    def of(cls, samples_ms: FloatArray) -> Latency:
        """From measurements of single pictures."""
        return cls(mean_ms=float(samples_ms.mean()), median_ms=float(np.median(samples_ms)), samples_ms=samples_ms)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"mean_ms": self.mean_ms, "median_ms": self.median_ms, "pictures": int(self.samples_ms.size)}


def time_detectors(
    runners: Mapping[str, DetectorRunner],
    pictures: Mapping[str, Sequence[UInt8Array]],
    *,
    rounds: int = _MOST_ROUNDS,
    progress: Progress = silent,
) -> dict[str, Latency]:
    """Time detectors on single fitted pictures (H, W, 3), which take turns with every picture.

    A machine that others use changes its speed within seconds; taking turns, all detectors see the same speed. There
    are at most `rounds` turns, fewer for slow detectors. Raises InputError if a detector cannot run.
    """
    names = list(runners)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        for image in [*pictures[name]][:_WARM_UP]:
            runners[name].run(image[None])
    begin = time.perf_counter()
    for turn in range(rounds):
        if turn >= _LEAST_ROUNDS and time.perf_counter() - begin > _SECONDS * len(names):
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            image = pictures[name][turn % len(pictures[name])][None]
            start = time.perf_counter()
            runners[name].run(image)
            samples[name].append(1e3 * (time.perf_counter() - start))
        progress(STEP, turn + 1, rounds)
    progress(STEP, rounds, rounds)
    return {name: Latency.of(np.array(own, np.float64)) for name, own in samples.items()}


def time_router(detector: DetectorRunner, router: onnx.ModelProto, pictures: Sequence[UInt8Array]) -> float:
    """Time of a router's own graph for one picture, as a share of its detector's.

    They take turns, the router with one thread. The shortest times count: other programs can only add to a time. They
    add most to that of a detector with several threads, which wait for each other.
    """
    session = session_of(router.SerializeToString(), name="the router's graph", threads=1)
    names = [one.name for one in session.get_inputs()]
    samples: list[tuple[float, float]] = []
    begin = time.perf_counter()
    for turn in range(_WARM_UP + _ROUTER_ROUNDS):
        if turn >= _WARM_UP + _LEAST_ROUNDS and time.perf_counter() - begin > _SECONDS:
            break
        image = pictures[turn % len(pictures)][None]
        start = time.perf_counter()
        answer = detector.run(image)
        first = time.perf_counter() - start
        known = {**answer, "image": image, "pixels": image.astype(np.float32)}
        feed = {name: known[name] for name in names}
        start = time.perf_counter()
        session.run(None, feed)
        samples.append((first, time.perf_counter() - start))
    own, added = np.array(samples[_WARM_UP:]).min(axis=0)
    return float(added / own)


def parse_latencies(text: str) -> dict[str, float]:
    """Read `small=1.5ms,large=9ms`: milliseconds by name. Raises InputError for anything else.

    >>> parse_latencies("small=1.5ms, large=0.009s")
    {'small': 1.5, 'large': 9.0}
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = _ENTRY.fullmatch(part.strip())
        value = float(match["number"]) * _MS_PER_UNIT[match["unit"]] if match else 0.0
        if match is None or not (math.isfinite(value) and 0 < value < 1e9) or match["name"].strip() in found:
            raise InputError(
                f"--latency takes the latency of every detector once, such as small=1.5ms,large=9ms, not "
                f"{printable(repr(text), limit=100)}"
            )
        found[match["name"].strip()] = value
    return found


def given_latencies(given: Mapping[str, float], names: Mapping[str, tuple[str, ...]]) -> dict[str, Latency]:
    """Latencies that were measured elsewhere, for every detector; `names`: by what each may be called.

    Raises InputError if one is missing, and for a name that no detector has.
    """
    left = dict(given)
    found = {}
    for name, words in names.items():
        known = [word for word in words if word in left]
        if not known:
            raise InputError(
                f"--latency lacks {printable(words[0], limit=60)}: give the latency of every detector, measured on the "
                "same machine"
            )
        found[name] = Latency.of(np.array([left.pop(known[0])], np.float64))
    if left:
        raise InputError(
            f"--latency names {printable(next(iter(left)), limit=60)}, but the detectors are "
            f"{', '.join(printable(words[0], limit=60) for words in names.values())}"
        )
    return found

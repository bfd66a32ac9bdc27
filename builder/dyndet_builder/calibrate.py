"""Finds the threshold that meets a latency target on the server that will serve, and proves it with measurements."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamicdet.errors import InputError, ServerError
from dynamicdet.thresholds import easy_share
from dyndet_bench.measure import PERCENTILES, Run
from dyndet_bench.perf_analyzer import find_perf_analyzer
from dyndet_bench.records import circumstances
from dyndet_bench.rounds import Rounds
from dyndet_bench.served import Served
from dyndet_bench.workload import Workload, image_files, read_letterboxed
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_builder.operating_points import (
    UNCALIBRATED,
    Evidence,
    OperatingPoint,
    OperatingPoints,
    RouteLatency,
    read_operating_points,
)
from dyndet_builder.targets import Target
from dyndet_builder.threshold_search import FEWEST_IMAGES, Effort, Progress, ThresholdSearch, median_ms

__all__ = ["CalibrationResult", "Effort", "calibrate"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """An operating point with everything that was measured; all latencies come from the last, separate verification."""

    model: str
    url: str
    name: str
    """of the operating point"""
    point: OperatingPoint
    evidence: Evidence
    predicted_easy_share: float
    """on the calibration images at this threshold; the server counted `point.easy_share` on the held-out ones"""
    corrections: int
    latency_uncertainty: float
    """standard error of the latency reached, relative"""
    written: tuple[Path, ...]


def calibrate(
    url: str,
    *,
    images: Path,
    target: Target,
    model: str = "dyndet",
    repository: Path | None = None,
    output: Path | None = None,
    concurrency: int = 1,
    seed: int = 0,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> CalibrationResult:
    """Find the threshold that meets `target` on the server at `url`, and make it the default operating point.

    lat1 and lat2 are measured interleaved, the first threshold comes from the paper's rule on one half of the images;
    it is measured on the other half and corrected until it meets the target. The result is the last of these
    measurements, made again at the final threshold. It goes into `operating_points.json` in `repository`, where a
    running server picks it up, and to the file `output`; points that were calibrated there before are kept.

    Raises TargetOutOfReachError, with the reachable range, where no threshold gives this latency; ServerError where the
    server fails; MissingExtraError without perf_analyzer. Nothing is written then.
    """
    effort = effort or Effort()
    tell = progress or (lambda _step, _done, _of: None)
    files = _destinations(repository, output, model)
    perf_analyzer = find_perf_analyzer()
    with Served(url, model) as served:
        pictures = _draw(image_files(images), effort.max_images, seed)
        letterboxed = []
        for number, file in enumerate(pictures):
            tell("read pictures", number, len(pictures))
            letterboxed += read_letterboxed([file], served.detector.input_size)
        tell("read pictures", len(pictures), len(pictures))
        served.warm_up()
        difficulties = _difficulties(served, letterboxed, tell)
        half = len(letterboxed) // 2
        with Workload(letterboxed[half:]) as held_out:
            rounds = Rounds(served, perf_analyzer, held_out, concurrency=concurrency, requests=effort.requests_per_run)
            search = ThresholdSearch(rounds, target, difficulties[:half], effort, tell)
            verified = search.find()
        seen = circumstances(**served.versions(), perf_analyzer=perf_analyzer.version)
    evidence = Evidence(
        easy=_route_latency(verified.easy),
        hard=_route_latency(verified.hard),
        difficulty_quantiles=_quantiles(difficulties[:half]),
        calibration_images=half,
        held_out_images=len(letterboxed) - half,
        concurrency=concurrency,
        **seen.model_dump(),
    )
    point = OperatingPoint(
        threshold=verified.threshold,
        target=target.text,
        target_ms=verified.target_ms,
        latency_ms=verified.latency_ms,
        error=verified.error,
        easy_share=verified.counted_easy_share,
    )
    for file in files:
        _write(file, target.text, point, evidence)
    return CalibrationResult(
        model=model,
        url=url,
        name=target.text,
        point=point,
        evidence=evidence,
        predicted_easy_share=easy_share(difficulties[:half], verified.threshold),
        corrections=search.corrections,
        latency_uncertainty=verified.uncertainty,
        written=tuple(files),
    )


def _route_latency(runs: Sequence[Run]) -> RouteLatency:
    median = {percent: float(np.median([run.percentiles_ms[percent] for run in runs])) for percent in PERCENTILES}
    return RouteLatency(
        mean_ms=median_ms(runs),
        p50_ms=median[50],
        p90_ms=median[90],
        p95_ms=median[95],
        p99_ms=median[99],
        requests=sum(run.requests for run in runs),
    )


def _draw(files: Sequence[Path], most: int, seed: int) -> list[Path]:
    if len(files) < FEWEST_IMAGES:
        raise InputError(
            f"{files[0].parent} holds {len(files)} pictures; calibration needs at least {FEWEST_IMAGES}, better 200"
        )
    order = np.random.default_rng(seed).permutation(len(files))[:most]
    return [files[index] for index in order]


def _difficulties(served: Served, images: Sequence[npt.NDArray[np.uint8]], tell: Progress) -> FloatArray:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        tell("ask for difficulties", done, len(images))

    tell("ask for difficulties", 0, len(images))
    found = served.difficulties(images, count)
    if not np.isfinite(found).any():
        raise ServerError(f"model {served.name!r} gives no picture a difficulty (all NaN); its router is broken")
    return found


def _quantiles(difficulties: FloatArray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.nanquantile(difficulties, np.linspace(0, 1, 101)))


def _destinations(repository: Path | None, output: Path | None, model: str) -> list[Path]:
    """Where the result goes, found unusable before anything is measured rather than after."""
    files = []
    if repository is not None:
        folder = repository / model / "1"
        if not folder.is_dir():
            raise InputError(f"{repository} is no repository with a model {model!r}: {folder} does not exist")
        files.append(folder / POINTS_FILE)
    if output is not None:
        if output.is_dir():
            raise InputError(f"{output} is a folder; give the name of a file")
        files.append(output)
    for file in files:
        if file.exists():
            read_operating_points(file)
        if not os.access(file.parent, os.W_OK):
            raise InputError(f"{file} cannot be written: {file.parent} does not exist or allows no writing")
    return files


def _write(path: Path, name: str, point: OperatingPoint, evidence: Evidence) -> None:
    """Replace the file whole; a server that reads it meanwhile sees the old or the new one."""
    kept = read_operating_points(path).points if path.exists() else {}
    points = {key: value for key, value in kept.items() if key != UNCALIBRATED} | {name: point}
    text = OperatingPoints(default=name, points=points, evidence=evidence).model_dump_json(indent=2) + "\n"
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)

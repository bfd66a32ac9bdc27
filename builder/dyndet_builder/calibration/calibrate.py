"""Finds the thresholds that meet targets on the server that will serve, and proves this with measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dynamicdet.aliases import FloatArray, Progress, UInt8Array, silent
from dynamicdet.errors import InputError, ServerError
from dynamicdet.files import check_writable
from dynamicdet.pictures import pictures_in
from dynamicdet.thresholds import easy_share
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.measuring.measure import PERCENTILES, Run
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.statistic import MEAN, REPORTED, THROUGHPUT, Statistic
from dyndet_bench.measuring.workload import Workload, read_letterboxed
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.calibration.following import recalibrated
from dyndet_builder.calibration.search import ThresholdSearch
from dyndet_builder.calibration.trial import Trial
from dyndet_builder.operating_points import (
    Evidence,
    OperatingPoint,
    OperatingPoints,
    Reach,
    RouteLatency,
    points_file,
    read_operating_points,
    write_operating_points,
)
from dyndet_builder.repository.config_files import CONFIG, publish_points
from dyndet_builder.repository.marker import MARKER_FILE, detector_of, read_marker
from dyndet_builder.targets import Target

__all__ = ["Calibration", "Effort", "calibrate"]


_REPLAYED_S = 3600.0
"""rounds that are older are not reused: machines change their speed"""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Operating points with all measurements; their values come from the last, separate verification."""

    model: str
    url: str
    points: Mapping[str, OperatingPoint]
    """by name, in the order of the targets; the first one is the default"""
    evidence: Evidence
    corrections: int
    written: tuple[Path, ...]
    in_force: bool
    """whether the server uses them from now on; a detector that is one graph must be loaded again"""


def calibrate(
    url: str,
    *,
    images: Path,
    targets: Sequence[Target],
    model: str | None = None,
    repository: Path | None = None,
    output: Path | None = None,
    load: Load | None = None,
    seed: int = 0,
    effort: Effort | None = None,
    measurements: Path | None = None,
    fresh: bool = False,
    metrics_url: str | None = None,
    follow_load: bool | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Find the thresholds that meet `targets` on the server at `url`; the first becomes the default operating point.

    lat1 and lat2 are measured in alternation; with one request in flight, they alternate from request to request. The
    first thresholds come from one half of the images: for a mean by the paper's rule, for a percentile from the mixture
    of both routes' latencies. On the other half they are measured and corrected until they meet their targets. The
    result is the last of these measurements, repeated at the final thresholds until its 95 % interval is narrower than
    the tolerance. It is written to `operating_points.json` in `repository`, where a running server reads it, and to the
    file `output`. Points that were calibrated there before stay, and so do tenants. `model` is by default the only
    detector in `repository`, or else `dyndet`.

    A point with a latency promise follows the load (`follow_load` of the point) unless `follow_load` is False; None
    keeps what was set for a point of the same name, and for a new one follows how `repository` was rendered.

    Every round is stored in the folder `measurements` as soon as it is measured. A calibration of the same server with
    the same images reuses it within an hour, unless `fresh` is set. `metrics_url` is for a detector of the topology
    `fused`; by default it is port 8002 of the server.

    If the machine was too noisy to be sure that a target is met, the evidence's warnings say so.

    Raises TargetOutOfReachError, with the reachable range, if no threshold meets a target; IllConditionedError if one
    does, but other images would miss a percentile with it; TooNoisyError if noise or too few measurements hide whether
    one does, also after the last correction; ServerError if the server fails; MissingExtraError without perf_analyzer;
    InputError for too few images. In these cases nothing is written to `repository` and `output`.
    """
    if not targets:
        raise InputError("calibration needs at least one target")
    effort, load = effort or Effort(), load or Load()
    if load.open and any(target.statistic == THROUGHPUT for target in targets):
        raise InputError(f"at {load} the throughput is given; a throughput target needs a --concurrency")
    if follow_load and all(target.statistic == THROUGHPUT for target in targets):
        raise InputError("a throughput promises no latency, so its threshold cannot follow the load; leave that out")
    model = detector_of(repository, model)
    files = _destinations(repository, output, model)
    found = pictures_in(images)
    effort.check_images(images, len(found), load)
    perf_analyzer = find_perf_analyzer()
    with Served(url, model, metrics_url=metrics_url) as served:
        if follow_load and served.topology == "graph":
            raise InputError(
                f"model {model!r} is one graph, whose threshold cannot follow the load; leave that out, or render it "
                "with the topology bls or fused"
            )
        pictures = _draw(found, effort.max_images, seed)
        _check_load(load, served, effort.requests_per_run or len(pictures) // 2 // load.batch)
        letterboxed = []
        for number, file in enumerate(pictures):
            progress("read images", number, len(pictures))
            letterboxed += read_letterboxed([file], served.detector.fit)
        progress("read images", len(pictures), len(pictures))
        served.warm_up()
        difficulties = _difficulties(served, letterboxed, progress)
        half = len(letterboxed) // 2
        journals = None
        if measurements is not None:
            journals = JournalFolder(folder=measurements, newest_s=_REPLAYED_S, fresh=fresh)
        with Workload(letterboxed[half:]) as held_out:
            rounds = Rounds(
                served,
                perf_analyzer,
                held_out,
                load=load,
                requests=effort.requests_per_run,
                difficulties=difficulties[half:],
                journals=journals,
            )
            search = ThresholdSearch(rounds, targets, difficulties[:half], len(held_out), effort, progress)
            verified = search.find()
        is_graph = served.topology == "graph"
        described = circumstances(**served.versions(), perf_analyzer=perf_analyzer.version)
    warnings = [*search.warnings, *list(rounds.warnings.values())[-1:]]
    evidence = _evidence(verified, difficulties[:half], len(letterboxed) - half, rounds, described, warnings)
    points = {trial.target.text: _point(trial, difficulties[:half], load, described.date) for trial in verified}
    rendered = _rendered_to_follow(repository, model)
    earlier = [_earlier(path) for path in files] or [None]
    switched = False if is_graph else follow_load
    contents = [recalibrated(one, points, evidence, switched=switched, rendered=rendered) for one in earlier]
    for path, content in zip(files, contents, strict=False):
        write_operating_points(path, content)
    in_force = not is_graph
    if repository is not None and publish_points(repository, model, contents[0]):
        files.append(repository / model / CONFIG)
    return Calibration(
        model=model,
        url=url,
        points={name: contents[0].points[name] for name in points},
        evidence=evidence,
        corrections=search.corrections,
        written=tuple(files),
        in_force=in_force,
    )


def _check_load(load: Load, served: Served, requests: int) -> None:
    """Raise InputError for a load that cannot be measured with so many requests."""
    if load.batch > served.max_batch:
        raise InputError(f"model {served.name!r} takes batches of at most {served.max_batch}, not of {load.batch}")
    if load.request_rate is not None and requests < load.request_rate:
        raise InputError(
            f"{requests} requests at {load} last less than a second; give a lower rate, or at least "
            f"{math.ceil(load.request_rate)} --requests"
        )
    if not load.open and requests < load.concurrency:
        raise InputError(f"{requests} requests cannot keep {load.concurrency} in flight; give more --requests")


def _point(trial: Trial, difficulties: FloatArray, load: Load, date: str) -> OperatingPoint:
    statistic = trial.target.statistic
    return OperatingPoint(
        threshold=trial.threshold,
        target=trial.target.text,
        statistic=statistic.name,
        unit=statistic.unit,
        goal=trial.goal,
        reached=trial.reached,
        error=trial.error,
        interval=trial.interval if len(trial.rounds) > 1 else None,
        mean_ms=trial.value(MEAN),
        percentiles_ms={f"p{percent}": _percentile(trial.mixed, percent) for percent in PERCENTILES},
        throughput_per_s=trial.value(THROUGHPUT),
        goodput=trial.goodput(),
        easy_share=trial.easy_share,
        easy_share_calibrated=easy_share(difficulties, trial.threshold),
        rounds=len(trial.rounds),
        load=str(load),
        date=date,
    )


def _evidence(
    trials: Sequence[Trial],
    difficulties: FloatArray,
    held_out: int,
    rounds: Rounds,
    described: Circumstances,
    warnings: Sequence[str],
) -> Evidence:
    load = rounds.load
    easy, hard = ([run for trial in trials for run in getattr(trial, route)] for route in ("easy", "hard"))
    easy, hard = (list({id(run): run for run in runs}.values()) for runs in (easy, hard))  # trials share their rounds
    return Evidence(
        easy=_route_latency(easy),
        hard=_route_latency(hard),
        reachable={
            statistic.name: Reach(easy=_value(statistic, easy), hard=_value(statistic, hard)) for statistic in REPORTED
        },
        difficulty_quantiles=_quantiles(difficulties),
        calibration_images=len(difficulties),
        held_out_images=held_out,
        load=str(load),
        concurrency=None if load.open else load.concurrency,
        request_rate=load.request_rate,
        batch=load.batch,
        rounds_replayed=0 if rounds.replayed is None else rounds.replayed.measurements,
        repeats=rounds.repeats,
        warnings=tuple(warnings),
        **asdict(described),
    )


def _route_latency(runs: Sequence[Run]) -> RouteLatency:
    return RouteLatency(
        mean_ms=MEAN.of(runs),
        **{f"p{percent}_ms": _percentile(runs, percent) for percent in PERCENTILES},
        throughput_per_s=THROUGHPUT.of(runs),
        requests=sum(run.requests for run in runs),
    )


def _value(statistic: Statistic, runs: Sequence[Run]) -> float:
    return statistic.of(runs) if statistic.level is None else _percentile(runs, round(statistic.level * 100))


def _percentile(runs: Sequence[Run], percent: int) -> float:
    """Of all requests if their latencies are known, else the median of the runs' percentiles."""
    if all(run.latencies_ms is not None for run in runs):
        return Statistic(f"p{percent}").of(runs)
    return float(np.median([run.percentiles_ms[percent] for run in runs]))


def _draw(files: Sequence[Path], most: int, seed: int) -> list[Path]:
    order = np.random.default_rng(seed).permutation(len(files))[:most]
    return [files[index] for index in order]


def _difficulties(served: Served, images: Sequence[UInt8Array], progress: Progress) -> FloatArray:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress("compute difficulties", done, len(images))

    progress("compute difficulties", 0, len(images))
    difficulties = served.difficulties(images, count)
    if not np.isfinite(difficulties).any():
        raise ServerError(f"model {served.name!r} gives no image a difficulty (all NaN); its router is broken")
    return difficulties


def _quantiles(difficulties: FloatArray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.nanquantile(difficulties, np.linspace(0, 1, 101)))


def _destinations(repository: Path | None, output: Path | None, model: str) -> list[Path]:
    """The files for the result; an unusable one is refused before anything is measured."""
    files = []
    if repository is not None:
        folder = repository / model / "1"
        if not folder.is_dir():
            raise InputError(f"{repository} is not a repository with a model {model!r}: {folder} does not exist")
        files.append(points_file(repository, model))
    if output is not None:
        files.append(output)
    for file in files:
        check_writable(file)
        if file.exists():
            read_operating_points(file)
    return files


def _rendered_to_follow(repository: Path | None, model: str) -> bool | None:
    """What a repository was rendered with: `--follow-load`, `--no-follow-load`, or neither."""
    if repository is None or not (repository / MARKER_FILE).is_file():
        return None
    wanted = read_marker(repository).detectors[model].options.get("follow_load")
    return wanted if isinstance(wanted, bool) else None


def _earlier(path: Path) -> OperatingPoints | None:
    return read_operating_points(path) if path.exists() else None

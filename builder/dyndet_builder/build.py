"""The whole build in one call: export, engines, render, serve, calibrate, verify. Finished steps are reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_builder.build_options import BuildOptions
from dyndet_builder.build_steps import Job, steps_of
from dyndet_builder.operating_points import Evidence, OperatingPoint
from dyndet_builder.pairing.export import PairFiles
from dyndet_builder.repository.place import check_place
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.embedded import find_server
from dyndet_builder.steps import locked, run_steps
from dyndet_builder.targets import Target

__all__ = ["BuildOptions", "BuildResult", "PairFiles", "build"]


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """The paths of all results, and the operating points with their evidence."""

    bundle: Path
    repository: Path
    model: str
    points: Mapping[str, OperatingPoint]
    """by name, in the order of the targets; the first one is the default"""
    evidence: Evidence
    reused: tuple[str, ...]
    """steps whose earlier result was used again"""
    topology: str
    chosen_by: Mapping[str, Any] | None
    """the measurements that led to the topology, as the repository has them; None if it was not measured"""


def build(
    source: Path | PairFiles,
    output: Path,
    *,
    images: Path,
    targets: Sequence[Target],
    options: BuildOptions | None = None,
    progress: Progress = silent,
) -> BuildResult:
    """Turn a detector into a calibrated model repository in `output`, measured on the embedded or a remote server.

    `source` is a checkpoint, or the ONNX files of two detectors, which `export_pair` makes a pair.

    `output` gets `bundle/`, `model_repository/` and `build.json`. For the backend `tensorrt`, it also gets `engines/`
    unless the rendering names engines: existing engines are used if they fit, otherwise they are built here, or the
    build writes a script that builds them.

    A step is reused if everything that it depends on is unchanged: source, images, options and versions. The
    calibration, and the topology unless it is given, are measured, so they also depend on this machine. An interrupted
    build continues where it stopped; an interrupted calibration does so within an hour.

    Other detectors that were added to `model_repository/` stay as they are, but a build of another name than the one
    before needs another `output`.

    Raises InputError (also for fewer images than a calibration needs), ParityError, ServerError (also if the embedded
    server lacks the stages' backend), MissingExtraError (without perf_analyzer or the embedded server, at once, or if
    engines cannot be built here), or TargetOutOfReachError with the reachable range; the results of finished steps
    stay, and an earlier operating point stays in force.
    """
    options = options or BuildOptions()
    for path, what in (*_inputs(source), (images, "image folder")):
        if not path.exists():
            raise InputError(f"the {what} {path} does not exist")
    options.effort.check_images(images, len(pictures_in(images)), options.load)
    job = Job(source=source, output=output, images=images, targets=targets, options=options, progress=progress)
    check_place(job.repository, options.name, add=False)
    # What is missing is found before the export, which takes minutes.
    find_perf_analyzer()
    if options.remote is None:
        find_server()
    else:
        options.remote.check(options.name)
    steps = steps_of(job)
    with locked(output):
        reused = run_steps(steps, output, fresh=options.fresh)
        points = job.calibrated()
    if points is None or points.evidence is None:
        raise InputError(f"the operating points in {job.repository} were changed during the build; build again")
    rendered = read_rendered(job.repository, model=options.name)
    return BuildResult(
        bundle=job.bundle,
        repository=job.repository,
        model=options.name,
        points={target.text: points.points[target.text] for target in targets},
        evidence=points.evidence,
        reused=reused,
        topology=rendered.options.topology,
        chosen_by=rendered.record.chosen_by,
    )


def _inputs(source: Path | PairFiles) -> list[tuple[Path, str]]:
    """The files and folders that must exist, each with what it is."""
    if isinstance(source, Path):
        return [(source, "checkpoint")]
    given = (
        (source.small, "small detector"),
        (source.large, "large detector"),
        (source.small_spec, "detector.yaml"),
        (source.large_spec, "detector.yaml"),
        (source.data, "data set"),
    )
    return [(path, what) for path, what in given if path is not None]

"""The whole build in one call: export, engines, render, serve, calibrate, verify. Finished steps are reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in
from dyndet_builder.build_options import BuildOptions
from dyndet_builder.build_steps import Job, steps_of
from dyndet_builder.operating_points import Evidence, OperatingPoint
from dyndet_builder.repository.place import check_place
from dyndet_builder.steps import locked, run_steps
from dyndet_builder.targets import Target

__all__ = ["BuildOptions", "BuildResult", "build"]


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


def build(
    checkpoint: Path,
    output: Path,
    *,
    images: Path,
    targets: Sequence[Target],
    options: BuildOptions | None = None,
    progress: Progress = silent,
) -> BuildResult:
    """Turn a checkpoint into a calibrated model repository in `output`, measured on the embedded or a remote server.

    `output` gets `bundle/`, `model_repository/` and `build.json`. For the backend `tensorrt`, it also gets `engines/`
    unless the rendering names engines: existing engines are used if they fit, otherwise they are built here, or the
    build writes a script that builds them.

    A step is reused if everything that it depends on is unchanged: checkpoint, images, options and versions. The
    calibration, and the topology unless it is given, are measured, so they also depend on this machine. An interrupted
    build continues where it stopped; an interrupted calibration does so within an hour.

    Other detectors that were added to `model_repository/` stay as they are, but a build of another name than the one
    before needs another `output`.

    Raises InputError (also for fewer images than a calibration needs), ParityError, ServerError (also if the embedded
    server lacks the stages' backend), MissingExtraError if engines cannot be built here, or TargetOutOfReachError with
    the reachable range; the results of finished steps stay, and an earlier operating point stays in force.
    """
    options = options or BuildOptions()
    for path, what in ((checkpoint, "checkpoint"), (images, "image folder")):
        if not path.exists():
            raise InputError(f"the {what} {path} does not exist")
    options.effort.check_images(images, len(pictures_in(images)), options.load)
    job = Job(checkpoint=checkpoint, output=output, images=images, targets=targets, options=options, progress=progress)
    check_place(job.repository, options.name, add=False)
    if options.remote is not None:
        options.remote.check(options.name)  # before the export, which takes minutes
    steps = steps_of(job)
    with locked(output):
        reused = run_steps(steps, output, fresh=options.fresh)
        points = job.calibrated()
    if points is None or points.evidence is None:
        raise InputError(f"the operating points in {job.repository} were changed during the build; build again")
    return BuildResult(
        bundle=job.bundle,
        repository=job.repository,
        model=options.name,
        points={target.text: points.points[target.text] for target in targets},
        evidence=points.evidence,
        reused=reused,
    )

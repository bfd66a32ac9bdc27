"""The steps of a build, in their order: what each step does, and what its result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.annotations import read_annotations
from dynamicdet.errors import InputError, ServerError
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.machine import describe_machine, describe_versions
from dyndet_builder.build_options import BuildOptions
from dyndet_builder.bundle.export import export
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import file_sha256, read_bundle
from dyndet_builder.calibration.calibrate import calibrate
from dyndet_builder.calibration.topology import choose_topology
from dyndet_builder.defaults import DETECTIONS, PAIR_IMAGES, REPLAYED_S
from dyndet_builder.detectors.facts import read_facts
from dyndet_builder.engines.record import FILE_NAME as ENGINES_FILE
from dyndet_builder.engines.record import gpus_here
from dyndet_builder.operating_points import OperatingPoints, points_file, read_operating_points
from dyndet_builder.pairing.export import PairFiles, export_pair
from dyndet_builder.quoting import shell
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.engines import engines_fit, provide_engines
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.remote import Candidate, RemoteServer
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.steps import Step, images_digest
from dyndet_builder.targets import Target


@dataclass(frozen=True, kw_only=True)
class Job:
    """One build: its inputs, its options, and the paths of its results below `output`."""

    source: Path | PairFiles
    """a checkpoint, or two detectors"""
    output: Path
    images: Path
    targets: Sequence[Target]
    options: BuildOptions
    progress: Progress = silent

    @property
    def bundle(self) -> Path:
        """The folder of the exported stages."""
        return self.output / "bundle"

    @property
    def repository(self) -> Path:
        """The folder that Triton serves."""
        return self.output / "model_repository"

    @cached_property
    def rendering(self) -> RenderOptions:
        """The options of the rendering; if the topology is measured, the one here is a guess."""
        return self.options.rendering_with(self.images, engines=self.output / "engines")

    def operating_points(self) -> OperatingPoints | None:
        """The operating points of the repository; None if there are none or they cannot be read."""
        try:
            return read_operating_points(points_file(self.repository, self.options.name))
        except InputError:
            return None

    def calibrated(self) -> OperatingPoints | None:
        """The operating points, if they have all targets and the first target is the default; otherwise None."""
        points = self.operating_points()
        if points is None or points.evidence is None or points.default != self.targets[0].text:
            return None
        return points if all(target.text in points.points for target in self.targets) else None


def steps_of(job: Job) -> tuple[Step, ...]:
    """Export, engines (if the build provides them), render, calibrate."""
    folder = job.rendering.engines
    engines = () if folder is None or job.options.rendering.engines is not None else (_engines(job, folder),)
    pair = job.source
    export_step = _export(job, pair) if isinstance(pair, Path) else _export_pair(job, pair)
    return (export_step, *engines, _render(job), _calibrate(job))


def _export(job: Job, checkpoint: Path) -> Step:
    options = job.options

    def depends_on() -> Mapping[str, object]:
        return {
            "checkpoint": file_sha256(checkpoint) if checkpoint.is_file() else "",
            "images": images_digest(job.images),
            "options": [options.name, options.precision, options.architecture, options.max_detections, options.target],
            "proof": [options.exporter, options.parity_images],
            "versions": describe_versions(),
        }

    def act() -> None:
        export(
            checkpoint,
            job.bundle,
            images=job.images,
            precision=options.precision,
            name=options.name,
            architecture=options.architecture,
            max_detections=options.max_detections,
            target=options.target,
            parity_images=options.parity_images,
            exporter=options.exporter,
            progress=job.progress,
        )

    return Step(name="export", depends_on=depends_on, act=act, is_whole=lambda: _has_bundle(job))


def _export_pair(job: Job, pair: PairFiles) -> Step:
    """Beside the files themselves, the step depends on what their specs say, wherever that was found."""
    options = job.options

    def depends_on() -> Mapping[str, object]:
        classes = pair.classes if isinstance(pair.classes, str) else pair.classes.model_dump(mode="json")
        data = None if pair.data is None else read_annotations(pair.data, split="valid").digest
        return {
            "detectors": [
                [one.spec.model_dump(mode="json"), *map(file_sha256, _files(one.file))] for one in pair.described()
            ],
            "images": images_digest(job.images),
            "data": [data, pair.trust_pictures],
            "options": [options.name, options.max_detections, classes, options.parity_images],
            "versions": describe_versions(),
        }

    def act() -> None:
        export_pair(
            **vars(pair),
            output=job.bundle,
            images=job.images,
            name=options.name,
            max_detections=DETECTIONS if options.max_detections is None else options.max_detections,
            checked_images=min(options.parity_images, PAIR_IMAGES),
            progress=job.progress,
        )

    return Step(name="export", depends_on=depends_on, act=act, is_whole=lambda: _has_bundle(job))


def _files(detector: Path) -> list[Path]:
    """An ONNX file, and those beside it with its weights."""
    return [detector, *(detector.parent / name for name in read_facts(detector).external)]


def _has_bundle(job: Job) -> bool:
    try:
        read_bundle(job.bundle)
    except InputError:
        return False
    return True


def _engines(job: Job, folder: Path) -> Step:
    """The engines step depends on this machine's GPUs, because engines are bound to the GPU that built them."""

    def depends_on() -> Mapping[str, object]:
        return {"bundle": file_sha256(job.bundle / BUNDLE_FILE), "gpus": [str(gpu) for gpu in gpus_here()]}

    return Step(
        name="engines",
        depends_on=depends_on,
        act=lambda: provide_engines(job.bundle, folder, job.rendering, job.progress),
        is_whole=lambda: engines_fit(job.bundle, folder, job.rendering),
    )


def _render(job: Job) -> Step:
    """A measured topology is the faster one on this machine at this load, so the step depends on both."""
    options, rendering = job.options, job.rendering

    def depends_on() -> Mapping[str, object]:
        engines = None if rendering.engines is None else rendering.engines / ENGINES_FILE
        measured = {"load": str(options.load), "machine": describe_machine()}
        return {
            "bundle": file_sha256(job.bundle / BUNDLE_FILE),
            "engines": file_sha256(engines) if engines is not None and engines.is_file() else None,
            "options": asdict(rendering),
            "topology": measured if options.measures_topology else "given",
        }

    def act() -> None:
        choice = None
        if options.measures_topology:
            choice = choose_topology(
                job.bundle,
                job.images,
                rendering,
                load=options.load,
                journals=JournalFolder(
                    folder=job.output / "measurements", newest_s=REPLAYED_S, fresh=job.options.fresh
                ),
                progress=job.progress,
            )
        job.progress("render the repository", 0, 1)
        chosen = rendering if choice is None else replace(rendering, topology=choice.topology)
        render(job.bundle, job.repository, chosen, chosen_by=None if choice is None else asdict(choice))
        job.progress("render the repository", 1, 1)

    return Step(name="render", depends_on=depends_on, act=act, is_whole=lambda: job.operating_points() is not None)


def _calibrate(job: Job) -> Step:
    options, remote = job.options, job.options.remote

    def depends_on() -> Mapping[str, object]:
        return {
            "targets": [target.text for target in job.targets],
            "load": str(options.load),
            "effort": asdict(options.effort),
            "machine": describe_machine(),
            "server": None if remote is None else [remote.url, remote.models, remote.metrics_url],
        }

    return Step(
        name="calibrate",
        depends_on=depends_on,
        act=lambda: _calibrate_here(job) if remote is None else _calibrate_there(job, remote),
        is_whole=lambda: job.calibrated() is not None,
    )


def _calibrate_there(job: Job, remote: RemoteServer) -> None:
    """Push the build; it is calibrated beside the running one, so no client meets an uncalibrated build."""

    def before_switch(candidate: Candidate) -> None:
        _calibrate_at(job, candidate.url, candidate.metrics_url, model=candidate.model)
        candidate.use_points(points_file(job.repository, job.options.name))
        if job.options.before_switch is not None:
            job.options.before_switch(candidate)

    remote.deploy(job.repository, job.options.name, before_switch=before_switch, progress=job.progress)


def _calibrate_here(job: Job) -> None:
    if not BACKENDS[job.rendering.backend].embedded:
        folder = shell(job.repository)
        raise ServerError(
            f"the embedded server has no backend {job.rendering.backend}; serve {folder} with NVIDIA's image (`dyndet "
            f"serve {folder} --docker` prints the command) and run `dyndet calibrate --repository {folder}` there, or "
            "build with --url and --models"
        )
    job.progress("start the server", 0, 1)
    with TritonServer(job.repository, ServerOptions(log_file=job.output / "server.log")) as server:
        job.progress("start the server", 1, 1)
        _calibrate_at(job, server.grpc_url, server.metrics_url, model=job.options.name)


def _calibrate_at(job: Job, url: str, metrics_url: str | None, *, model: str) -> None:
    calibrate(
        url,
        images=job.images,
        targets=job.targets,
        model=model,
        output=points_file(job.repository, job.options.name),
        metrics_url=metrics_url,
        load=job.options.load,
        effort=job.options.effort,
        measurements=job.output / "measurements",
        fresh=job.options.fresh,
        follow_load=job.options.rendering.follow_load,
        progress=job.progress,
    )

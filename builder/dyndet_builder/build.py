"""The whole line in one call: export, engines, render, serve, calibrate, verify. Finished steps are reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError, ServerError
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.machine import describe_machine, describe_versions
from dyndet_builder.bundle.export import export
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import Precision, file_sha256, read_bundle
from dyndet_builder.calibration.calibrate import calibrate
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.calibration.topology import choose_topology
from dyndet_builder.engines.record import FILE_NAME as ENGINES_FILE
from dyndet_builder.engines.record import gpus_here
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_builder.operating_points import Evidence, OperatingPoint, OperatingPoints, read_operating_points
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.engines import engines_fit, provide_engines
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.remote import RemoteServer
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.steps import FinishedSteps, images_digest, key_of, locked
from dyndet_builder.targets import Target

STEPS = ("export", "engines", "render", "calibrate")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build; what is not asked for keeps the defaults of the single steps."""

    name: str = "dyndet"
    precision: Precision = "fp32"
    architecture: str | None = None
    max_detections: int = 100
    rendering: RenderOptions = field(default_factory=RenderOptions)
    choose_topology: bool = False
    """measure both topologies and take the faster, whatever `rendering` says"""
    load: Load = field(default_factory=Load)
    effort: Effort = field(default_factory=Effort)
    remote: RemoteServer | None = None
    """a running server to put the repository on and to calibrate, instead of the embedded one"""
    fresh: bool = False
    """do every step again, also those whose inputs are unchanged"""


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """Where everything lies, and the operating points with their evidence."""

    bundle: Path
    repository: Path
    model: str
    points: Mapping[str, OperatingPoint]
    """by name, in the order of the targets; the first one is the default"""
    evidence: Evidence
    reused: tuple[str, ...]
    """steps whose earlier result was taken"""


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

    `output` gets `bundle/`, `model_repository/` and `build.json`; for the backend `tensorrt`, unless the rendering
    names engines, also `engines/`, which are built, taken as they are where they fit, or asked for by a script.

    A step is reused when everything it depends on has the hashes it had before (checkpoint, images, options, versions,
    and for the calibration this machine), so that an interrupted build goes on where it stopped; so does an interrupted
    calibration, within an hour.

    Raises InputError, ParityError, ServerError (also where the embedded server lacks the stages' backend),
    MissingExtraError where engines cannot be built here, or TargetOutOfReachError with the reachable range; the results
    of finished steps stay, and an earlier operating point stays in force.
    """
    options = options or BuildOptions()
    for path, what in ((checkpoint, "checkpoint"), (images, "folder of images")):
        if not path.exists():
            raise InputError(f"the {what} {path} does not exist")
    with locked(output):
        return _Build(checkpoint, output, images, targets, options, progress).run()


class _Build:
    """One run of `build`; each step is skipped when its key is the one that it finished with before."""

    def __init__(
        self,
        checkpoint: Path,
        output: Path,
        images: Path,
        targets: Sequence[Target],
        options: BuildOptions,
        progress: Progress,
    ) -> None:
        self._checkpoint = checkpoint
        self._images = images
        self._targets = targets
        self._options = options
        self._rendering = options.rendering
        self._own_engines = BACKENDS[self._rendering.backend].needs_plan and self._rendering.engines is None
        if self._own_engines:
            self._rendering = replace(self._rendering, engines=output / "engines")
        self._tell = progress
        self._bundle = output / "bundle"
        self._repository = output / "model_repository"
        self._points = self._repository / options.name / "1" / POINTS_FILE
        self._measurements = output / "measurements"
        self._log = output / "server.log"
        self._steps = FinishedSteps(output)
        self._reused: list[str] = []
        self._images_digest = images_digest(images)

    def run(self) -> BuildResult:
        options = self._options
        self._step("export", self._export_key(), self._export, self._bundle_is_whole)
        if self._own_engines:
            self._step("engines", self._engines_key(), self._engines, self._engines_fit)
        self._step("render", self._render_key(), self._render, lambda: self._known_points() is not None)
        self._step("calibrate", self._calibrate_key(), self._calibrate, lambda: self._calibrated() is not None)
        points = self._calibrated()
        if points is None or points.evidence is None:
            raise InputError(f"{self._points} was changed while it was built; build again")
        return BuildResult(
            bundle=self._bundle,
            repository=self._repository,
            model=options.name,
            points={target.text: points.points[target.text] for target in self._targets},
            evidence=points.evidence,
            reused=tuple(self._reused),
        )

    def _step(self, name: str, key: str, act: Callable[[], None], whole: Callable[[], bool]) -> None:
        if not self._options.fresh and self._steps.done(name, key) and whole():
            self._reused.append(name)
            return
        for later in STEPS[STEPS.index(name) :]:
            self._steps.start(later)
        act()
        self._steps.finish(name, key)

    def _export_key(self) -> str:
        options = self._options
        return key_of(
            {
                "checkpoint": file_sha256(self._checkpoint) if self._checkpoint.is_file() else "",
                "images": self._images_digest,
                "options": [options.name, options.precision, options.architecture, options.max_detections],
                "versions": describe_versions(),
            }
        )

    def _export(self) -> None:
        options = self._options
        export(
            self._checkpoint,
            self._bundle,
            images=self._images,
            precision=options.precision,
            name=options.name,
            architecture=options.architecture,
            max_detections=options.max_detections,
            progress=self._tell,
        )

    def _bundle_is_whole(self) -> bool:
        try:
            read_bundle(self._bundle)
        except InputError:
            return False
        return True

    def _engines_key(self) -> str:
        gpus = [str(gpu) for gpu in gpus_here()]
        return key_of({"bundle": file_sha256(self._bundle / BUNDLE_FILE), "gpus": gpus})

    def _engines(self) -> None:
        assert self._rendering.engines is not None
        provide_engines(self._bundle, self._rendering.engines, self._rendering, self._tell)

    def _engines_fit(self) -> bool:
        assert self._rendering.engines is not None
        return engines_fit(self._bundle, self._rendering.engines, self._rendering)

    def _render_key(self) -> str:
        engines = None if self._rendering.engines is None else self._rendering.engines / ENGINES_FILE
        return key_of(
            {
                "bundle": file_sha256(self._bundle / BUNDLE_FILE),
                "engines": file_sha256(engines) if engines is not None and engines.is_file() else None,
                "options": _plain(asdict(self._rendering)),
                "topology": str(self._options.load) if self._options.choose_topology else "given",
            }
        )

    def _render(self) -> None:
        rendering, chosen = self._rendering, None
        if self._options.choose_topology:
            chosen = choose_topology(
                self._bundle, self._images, rendering, load=self._options.load, progress=self._tell
            )
        if chosen is not None:
            rendering = replace(rendering, topology=chosen.topology)
        self._tell("render the repository", 0, 1)
        render(self._bundle, self._repository, rendering, chosen_by=None if chosen is None else asdict(chosen))
        self._tell("render the repository", 1, 1)

    def _calibrate_key(self) -> str:
        remote = self._options.remote
        return key_of(
            {
                "render": self._render_key(),
                "images": self._images_digest,
                "targets": [target.text for target in self._targets],
                "load": str(self._options.load),
                "effort": asdict(self._options.effort),
                "machine": describe_machine(),
                "server": None if remote is None else [remote.url, remote.models, remote.metrics_url],
            }
        )

    def _calibrate(self) -> None:
        remote = self._options.remote
        if remote is not None:
            self._tell("load the models on the server", 0, 1)
            remote.deploy(self._repository, self._options.name)
            self._tell("load the models on the server", 1, 1)
            self._calibrate_at(remote.url, remote.metrics_url)
            remote.update_points(self._repository, self._options.name)
            return
        if not BACKENDS[self._rendering.backend].embedded:
            raise ServerError(
                f"the embedded server has no backend {self._rendering.backend}; serve {self._repository} with NVIDIA's "
                f"image (`dyndet serve {self._repository} --docker` prints how) and run `dyndet calibrate --repository "
                f"{self._repository}` there, or build with --url and --models"
            )
        self._tell("start the server", 0, 1)
        with TritonServer(self._repository, ServerOptions(log_file=self._log)) as server:
            self._tell("start the server", 1, 1)
            self._calibrate_at(server.grpc_url, server.metrics_url)

    def _calibrate_at(self, url: str, metrics_url: str | None) -> None:
        calibrate(
            url,
            images=self._images,
            targets=self._targets,
            model=self._options.name,
            repository=self._repository,
            metrics_url=metrics_url,
            load=self._options.load,
            effort=self._options.effort,
            measurements=self._measurements,
            fresh=self._options.fresh,
            progress=self._tell,
        )

    def _calibrated(self) -> OperatingPoints | None:
        """The operating points, if those of these targets are among them and the first is the default."""
        points = self._known_points()
        if points is None or points.evidence is None or points.default != self._targets[0].text:
            return None
        return points if all(target.text in points.points for target in self._targets) else None

    def _known_points(self) -> OperatingPoints | None:
        try:
            return read_operating_points(self._points)
        except InputError:
            return None


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    """Options as JSON takes them."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}

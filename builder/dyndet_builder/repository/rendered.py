"""Reads a model repository back: its configurations at once, the files that dyndet wrote beside them at first use."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError
from dynamicdet.records import NAME, check_inside, check_regular
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import LARGEST_GRAPH, Bundle, check_stage, file_sha256, read_manifest
from dyndet_builder.engines.record import FILE_NAME as ENGINES_FILE
from dyndet_builder.engines.record import (
    Engines,
    Target,
    check_plans,
    check_record,
    engine_folders,
    read_engines_record,
    version_arguments,
)
from dyndet_builder.operating_points import OperatingPoint, OperatingPoints, points_file, read_operating_points
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import DETECTOR_PARAMETER, TOPOLOGY_PARAMETER
from dyndet_builder.repository.config_files import read_configs
from dyndet_builder.repository.marker import MARKER_FILE, DetectorRecord, Marker, read_marker
from dyndet_builder.repository.memory import MemoryNeeds, memory_needs, pool_arguments
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.whole import check_whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Repository:
    """A Triton model repository, whoever wrote it."""

    folder: Path
    configs: tuple[pb.ModelConfig, ...]
    """of all models except those in `unread`"""
    unread: Mapping[str, str] = field(default_factory=dict)
    """models of others whose configuration is damaged, or of a kind that only their server knows; with the reason"""

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Names of all models."""
        return tuple(sorted(config.name for config in self.configs))

    @cached_property
    def encoded(self) -> Mapping[str, str]:
        """Models that take image files, and the detector that each calls."""
        return {
            config.name: config.parameters[DETECTOR_PARAMETER].string_value
            for config in self.configs
            if DETECTOR_PARAMETER in config.parameters
        }

    @cached_property
    def is_empty(self) -> bool:
        """Whether the folder holds nothing yet."""
        return not any(self.folder.iterdir())

    @cached_property
    def gpus(self) -> tuple[int, ...]:
        """GPUs that the models name."""
        return tuple(sorted({gpu for config in self.configs for group in config.instance_group for gpu in group.gpus}))

    @cached_property
    def memory(self) -> MemoryNeeds:
        """Sizes of shared memory and pools that the models need."""
        return memory_needs(self.configs)

    @property
    def runs_embedded(self) -> bool:
        """Whether the embedded server has every backend that the models need; those of ensembles are no backend."""
        embedded = {backend.triton for backend in BACKENDS.values() if backend.embedded}
        return all(config.backend in embedded or config.platform == "ensemble" for config in self.configs)

    @property
    def pool_arguments(self) -> tuple[str, ...]:
        """The flag with which the graphs of the onnxruntime backend share their threads, where that is faster."""
        return pool_arguments(self.configs)

    @property
    def engine_folders(self) -> tuple[Path, ...]:
        """Folders with a record of TensorRT engines; there is none for engines that were put in place by hand."""
        return engine_folders(self.folder)

    @property
    def engine_arguments(self) -> tuple[str, ...]:
        """Flags that the repository's own engines need."""
        return version_arguments([read_engines_record(folder) for folder in self.engine_folders])

    def check_engines(self, target: Target) -> None:
        """Raise InputError, in one sentence, if the engines of the models are missing or cannot run on a target."""
        check_plans(self._model_folders)
        for folder in self.engine_folders:
            check_record(folder, target)

    @property
    def builds_engines(self) -> bool:
        """Whether ONNX Runtime builds TensorRT engines while the models load."""
        return any(accelerator.name == "tensorrt" for accelerator in self._accelerators)

    @property
    def engine_cache(self) -> str:
        """Folder of the server where such engines are stored; empty if they are not stored."""
        return max((one.parameters.get("trt_engine_cache_path", "") for one in self._accelerators), default="")

    @property
    def runs_onnx_in_python(self) -> bool:
        """Whether ONNX Runtime runs inside the Python backend; NVIDIA's image lacks the package for this."""
        return any((graph.parent / "model.py").is_file() for graph in self._files("1/*.onnx"))

    @property
    def decodes_pictures(self) -> bool:
        """Whether a model takes image files."""
        return any(self._files("1/pictures.py"))

    @property
    def calls_stages(self) -> bool:
        """Whether a public model calls stage models (topology `bls`)."""
        named = (one.parameters[TOPOLOGY_PARAMETER] for one in self.configs if TOPOLOGY_PARAMETER in one.parameters)
        return any(topology.string_value == "bls" for topology in named)

    @property
    def python_instances(self) -> int:
        """Processes that Triton's Python backend starts."""
        return sum(
            max(1, group.count) * max(1, len(group.gpus))
            for config in self.configs
            if config.backend == "python"
            for group in config.instance_group
        )

    @property
    def bytes_on_disk(self) -> int:
        """Size of all files of the models."""
        return sum(path.stat().st_size for path in self._files("**/*") if path.is_file())

    @property
    def _model_folders(self) -> list[Path]:
        return [self.folder / name for name in self.models]

    def _files(self, pattern: str) -> list[Path]:
        return [path for folder in self._model_folders for path in folder.glob(pattern)]

    @property
    def _accelerators(self) -> list[Any]:
        return [
            accelerator
            for config in self.configs
            for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendered(Repository):
    """A detector that dyndet rendered. A property whose file is damaged raises InputError.

    Models of other detectors in the same folder are left out of everything here.
    """

    model: str
    """name of the public detector"""
    record: DetectorRecord
    """what the marker says about it"""
    beside: tuple[str, ...] = ()
    """other detectors in the folder"""

    @property
    def bundle_sha256(self) -> str:
        """Hash of the bundle's description."""
        return self.record.bundle_sha256

    @property
    def written_options(self) -> Mapping[str, Any]:
        """The options as the marker holds them; those of another version may not fit `RenderOptions`."""
        return self.record.options

    @property
    def engine_folders(self) -> tuple[Path, ...]:
        """The folder with the record of its TensorRT engines, if it has one."""
        return (self._described_in,) if (self._described_in / ENGINES_FILE).is_file() else ()

    @cached_property
    def engines(self) -> Engines | None:
        """The record of its TensorRT engines; None if it has no engines, or they were put in place by hand."""
        return next((read_engines_record(folder) for folder in self.engine_folders), None)

    @property
    def _described_in(self) -> Path:
        return self.folder / self.record.described_in

    @cached_property
    def options(self) -> RenderOptions:
        """What it was rendered with. Raises InputError for options of another version or of an unknown backend."""
        try:
            return replace(_options(self.written_options), name=self.model)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            path = self.folder / MARKER_FILE
            damaged = f"{path} is damaged, or was written by another version"
            reason = printable(f"{path}: {error}" if isinstance(error, InputError) else damaged, limit=600)
            raise _not_ours(self.folder, reason) from error

    @property
    def all_cores(self) -> bool:
        """Whether the stages use as many threads as the machine has cores."""
        return not self.gpus and not self.written_options.get("threads")

    @property
    def points_file(self) -> Path:
        """Path of the operating points."""
        return points_file(self.folder, self.model)

    @cached_property
    def points(self) -> OperatingPoints:
        """The operating points."""
        return read_operating_points(self.points_file)

    def point(self, name: str) -> OperatingPoint:
        """An operating point by its name. Raises InputError if there is no such point."""
        if name not in self.points.points:
            raise InputError(
                f"operating point {name!r} is not known; {self.points_file} has {', '.join(self.points.points)}"
            )
        return self.points.points[name]

    @property
    def default_point(self) -> OperatingPoint:
        """The default operating point."""
        return self.points.points[self.points.default]

    @property
    def threshold(self) -> float:
        """Threshold of the default operating point."""
        return self.default_point.threshold

    @cached_property
    def bundle(self) -> Bundle:
        """Description of the bundle that it was rendered from."""
        path = self._described_in / BUNDLE_FILE
        if not path.exists():
            raise InputError(
                f"{printable(self._described_in)} holds no {BUNDLE_FILE}; render it again from its bundle with "
                "`dyndet render`"
            )
        return read_manifest(path)

    def check_whole(self) -> None:
        """Check that a server can load it, and the options in the marker. Raises InputError, in one sentence.

        A backend that a program has added to `BACKENDS` is not known to others, and its options are not checked.
        """
        check_whole(self.folder, self.model, described_in=self.record.described_in)
        backend = self.written_options.get("backend")
        if not isinstance(backend, str) or backend in BACKENDS or re.fullmatch(NAME, backend) is None:
            _ = self.options

    @property
    def stage_configs(self) -> Mapping[str, pb.ModelConfig]:
        """Configurations of the stage models by stage. Raises InputError if one is missing, as in `fused`."""
        named = {config.name: config for config in self.configs}
        lacking = [stage for stage in self.bundle.stages if f"{self.model}_{stage}" not in named]
        if lacking:
            raise InputError(f"{self.folder} has no stage model {self.model}_{lacking[0]}; render it with topology bls")
        return {stage: named[f"{self.model}_{stage}"] for stage in self.bundle.stages}

    @cached_property
    def graphs(self) -> Mapping[str, Path]:
        """The stages' ONNX files by stage. Raises InputError if one is missing, was changed, or is not its bundle's."""
        found: dict[str, Path] = {}
        if self.written_options.get("topology") == "graph":
            raise InputError(
                f"the stages of {self.model!r} in {self.folder} are one graph; give the bundle that it was rendered "
                "from, or render it with the topology bls or fused"
            )
        for stage in self.bundle.stages:
            own = self.folder / f"{self.model}_{stage}" / "1" / "model.onnx"
            path = own if own.is_file() else self.folder / self.model / "1" / f"{stage}.onnx"
            if not path.is_file():
                raise InputError(f"{self.folder} holds no detector {self.model!r} with a stage {stage}")
            check_inside(self.folder, path)
            check_regular(path, advice="render the repository again", largest=LARGEST_GRAPH)
            if file_sha256(path) != self.bundle.stages[stage].sha256:
                raise InputError(
                    f"{path} has changed since it was rendered (its SHA-256 differs); render the repository again from "
                    "its bundle with `dyndet render`"
                )
            check_stage(path, self.bundle.stages[stage], opset=self.bundle.opset_of(stage))
            found[stage] = path
        return found

    @property
    def cpu_graphs(self) -> Mapping[str, Path]:
        """`graphs`, to be run on the CPU as they are served. Raises InputError if a GPU serves them."""
        if self.gpus:
            raise InputError(
                f"{self.folder} is served on a GPU; the comparison with ONNX Runtime needs stages on the CPU"
            )
        return self.graphs

    def link_bundle(self, folder: Path) -> Path:
        """Put together the bundle that it was rendered from, in a new folder, and return that.

        Where the file system allows, its graphs are hard links: other links would leave the folder, which
        `read_bundle` does not allow.
        """
        graphs = self.graphs
        folder.mkdir(parents=True)
        shutil.copyfile(self._described_in / BUNDLE_FILE, folder / BUNDLE_FILE)
        for stage, described in self.bundle.stages.items():
            _link(graphs[stage].resolve(), folder / described.file)
        return folder


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or a file of another user
        shutil.copyfile(source, target)


def read_repository(folder: Path, *, explicit: bool = False) -> Repository:
    """Read a model repository, and find the faults for which a server would wait for ever, or not start.

    With `explicit` model control it can be empty: models are pushed and loaded later. Raises InputError if the folder
    is not a model repository, if a Python model has no code (Triton 2.51 waits for that file for ever), or if a
    detector that dyndet rendered is not whole (see `Rendered.check_whole`).
    """
    configs, unread = read_configs(folder, explicit=explicit)
    if (folder / MARKER_FILE).exists():
        for name in _marker(folder).detectors:
            read_rendered(folder, model=name).check_whole()
    return Repository(folder=folder, configs=configs, unread=unread)


def read_rendered(folder: Path, *, model: str | None = None) -> Rendered:
    """Read the detector `model` of a repository that dyndet rendered, or its only one.

    Raises InputError if dyndet did not render it, if it holds no detector `model`, if it holds several detectors and
    none is named, or if a configuration of the detector is damaged.
    """
    configs, unread = read_configs(folder, explicit=False)
    marker = _marker(folder)
    name = marker.name_of(folder, model)
    record = marker.detectors[name]
    for owned in record.models:
        if owned in unread:
            raise InputError(f"{unread[owned]}; render the repository again with `dyndet render`")
    others = {other: each for other, each in marker.detectors.items() if other != name}
    foreign = {owned for each in others.values() for owned in each.models}
    return Rendered(
        folder=folder,
        configs=tuple(config for config in configs if config.name not in foreign),
        unread={other: reason for other, reason in unread.items() if other not in foreign},
        model=name,
        record=record,
        beside=tuple(others),
    )


def _marker(folder: Path) -> Marker:
    try:
        return read_marker(folder)
    except InputError as error:
        raise _not_ours(folder, str(error)) from error


def _options(written: Mapping[str, Any]) -> RenderOptions:
    given = dict(written)
    for name in ("gpus", "preferred_batches", "latency_buckets_ms"):
        given[name] = tuple(given[name])
    if given["warmup_image"] is not None:
        image = Path(given["warmup_image"])
        given["warmup_image"] = image if image.is_file() or image.is_dir() else None
    if given.get("engines") is not None:
        given["engines"] = Path(given["engines"])
    known = {field.name for field in fields(RenderOptions)}
    return RenderOptions(**{name: value for name, value in given.items() if name in known})


def _not_ours(folder: Path, reason: str) -> InputError:
    return InputError(
        f"{printable(folder)} was not rendered by this version of dyndet ({reason}); render it again from its bundle "
        "with `dyndet render`"
    )

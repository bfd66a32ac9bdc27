"""Checks that the models of a rendered detector are all there, so that a server can load them."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, model_validator
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError
from dynamicdet.records import FileName, Record, check_inside, check_regular, read_bytes, record_of
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import LARGEST_GRAPH, PAIR_STAGES, STAGES, StageName, read_manifest
from dyndet_builder.operating_points import points_file, read_operating_points
from dyndet_builder.repository.config import BOXES_FILE, MASKS_FILE, TOPOLOGY_PARAMETER
from dyndet_builder.repository.config_files import CONFIG, read_config
from dyndet_builder.repository.encoded import SUFFIX
from dyndet_builder.repository.marker import own_names

SETTINGS = "dyndet.json"
"""the public model's own settings, beside its code"""

_LARGEST = 4 << 20
_ADVICE = "render the repository again with `dyndet render`"


class _Lenient(Record):
    """What this version reads of settings; those of another version can have more."""

    model_config = ConfigDict(extra="ignore")


class StageSettings(_Lenient):
    """A stage, as the public model knows it."""

    model: FileName


class Settings(_Lenient):
    """Contents of `1/dyndet.json` of a public model."""

    stages: dict[StageName, StageSettings]

    @model_validator(mode="after")
    def _check_stages(self) -> Settings:
        for stage in PAIR_STAGES if PAIR_STAGES[0] in self.stages else STAGES:
            if stage not in self.stages:
                raise ValueError(f"it lacks stage {stage!r}")
        return self


def settings_of(content: bytes, title: object) -> Settings:
    """The settings of a public model; `title` names the file in an error. Raises InputError if they are damaged."""
    return record_of(content, Settings, title, described="the settings of a detector of this version", advice=_ADVICE)


def check_whole(repository: Path, detector: str, *, described_in: str | None = None) -> None:
    """Check that a server can find everything that a rendered or pushed detector needs to load.

    `described_in` is the folder with the description of its bundle, if it must have one. Hashes are not compared.
    Raises InputError, in one sentence, that names the first file that is missing, not a regular file, outside the
    repository or damaged.
    """
    public = repository / detector
    if not public.is_dir():
        raise InputError(f"{printable(repository)} lacks the model {detector!r}, which its {SETTINGS} names; {_ADVICE}")
    config = _config(repository, detector)
    if config.parameters[TOPOLOGY_PARAMETER].string_value == "graph":
        _check_graph(repository, detector, config, described_in=described_in)
        return
    settings = settings_of(
        read_bytes(public / "1" / SETTINGS, advice=_ADVICE, largest=_LARGEST), public / "1" / SETTINGS
    )
    _check_file(repository, public / "1" / "model.py")
    read_operating_points(points_file(repository, detector))
    if described_in is not None or (public / BUNDLE_FILE).exists():
        read_manifest(repository / (described_in or detector) / BUNDLE_FILE)
    if config.parameters[TOPOLOGY_PARAMETER].string_value == "fused":
        for stage in (*settings.stages, "select"):
            _check_file(repository, public / "1" / f"{stage}.onnx")
            _check_apart(repository, public / "1", prefix=f"{stage}_")
    else:
        for called in settings.stages.values():
            _check_stage(repository, called.model, _config(repository, called.model))
    if (repository / f"{detector}{SUFFIX}").is_dir():
        _config(repository, f"{detector}{SUFFIX}")
        _check_file(repository, repository / f"{detector}{SUFFIX}" / "1" / "model.py")
    for name in {*own_names(detector), *(called.model for called in settings.stages.values())}:
        _check_entries(repository, repository / name)


def _check_graph(repository: Path, detector: str, config: pb.ModelConfig, *, described_in: str | None) -> None:
    """`check_whole` of a detector that is one graph."""
    _check_stage(repository, detector, config)
    read_operating_points(points_file(repository, detector))
    if described_in is not None or (repository / detector / BUNDLE_FILE).exists():
        read_manifest(repository / (described_in or detector) / BUNDLE_FILE)
    _check_entries(repository, repository / detector)


def _config(repository: Path, name: str) -> pb.ModelConfig:
    check_inside(repository, repository / name)
    try:
        config = read_config(repository / name)
    except InputError as error:
        raise InputError(f"{error}; {_ADVICE}") from error
    if not config.backend:
        raise InputError(f"{printable(repository / name / CONFIG)} names no backend; {_ADVICE}")
    return config


def _check_stage(repository: Path, name: str, config: pb.ModelConfig) -> None:
    version = repository / name / "1"
    if config.backend == "python":
        _check_file(repository, version / "model.py")
        _check_apart(repository, version)
    if config.backend != "tensorrt":  # its engines are checked against the machine that runs them
        _check_file(repository, version / "model.onnx")


def _check_apart(repository: Path, version: Path, *, prefix: str = "") -> None:
    """Of a stage whose masks are a graph of their own, both graphs are needed."""
    files = [version / f"{prefix}{name}" for name in (BOXES_FILE, MASKS_FILE)]
    for file in files if any(file.exists() for file in files) else ():
        _check_file(repository, file)


def _check_entries(repository: Path, model: Path) -> None:
    """Refuse what would be copied or mounted with a model, and is none of its files: links out of the repository."""
    for path in sorted(model.rglob("*")):
        check_inside(repository, path)
        if not path.is_symlink() and not path.is_dir() and not path.is_file():
            raise InputError(f"{printable(path)} is neither a file nor a folder; {_ADVICE}")


def _check_file(repository: Path, path: Path) -> None:
    if not path.exists():
        raise InputError(f"{printable(path.parent)} lacks {path.name}; {_ADVICE}")
    check_inside(repository, path)
    check_regular(path, advice=_ADVICE, largest=LARGEST_GRAPH)
    if path.stat().st_size == 0:
        raise InputError(f"{printable(path)} is empty; {_ADVICE}")

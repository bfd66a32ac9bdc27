"""The models of one detector in a model folder: which they are, how a push names them, and their archive.

Two builds of a detector are in the folder at the same time. Their public models have different names until the switch,
and their stage models keep different names: those of slot `a` are `NAME_STAGE`, those of slot `b` are `NAME_b_STAGE`,
and builds take the slots in turn. A pushed model has no name in its configuration, so its folder can be renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError
from dyndet_bench.measuring.counters import STAGES, STAGES_PARAMETER
from dyndet_builder.bundle.manifest import ALL_STAGES
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_builder.repository.config import DETECTOR_PARAMETER, TOPOLOGY_PARAMETER
from dyndet_builder.repository.config_files import NotAConfigError, parse_config
from dyndet_builder.repository.encoded import SUFFIX
from dyndet_builder.repository.whole import SETTINGS, check_whole, settings_of
from dyndet_builder.server.remote.folder import Folder
from dyndet_builder.server.remote.storage import CONFIG, Storage, UnreadableError

PUSH_PARAMETER = "dyndet_push"
"""parameter of a pushed model: which push put it there, and its slot"""
PUSHED_FOR_PARAMETER = "dyndet_pushed_for"
"""parameter of a pushed model: the detector that it belongs to"""
_STAGE_PARAMETER = "dyndet_stage"
_SETTINGS = f"1/{SETTINGS}"

Slot = Literal["a", "b"]


def next_of(name: str) -> str:
    """The name of a new build of a public model until the switch."""
    return f"{name.removesuffix(SUFFIX)}_next{SUFFIX}" if name.endswith(SUFFIX) else f"{name}_next"


def stage_name(detector: str, stage: str, slot: Slot) -> str:
    """The name of a stage model in a slot."""
    return f"{detector}_{stage}" if slot == "a" else f"{detector}_b_{stage}"


def slot_of(push: str) -> Slot:
    """The slot of a build, by the value of its `PUSH_PARAMETER`; of one that was copied by hand: a."""
    return "b" if push.endswith("-b") else "a"


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models of one build of a detector."""

    detector: str
    public: str
    """name of its public model: that of the detector, or `next_of` it"""
    stages: Mapping[str, str]
    """stage models by stage; none for the topologies `fused` and `graph`"""
    encoded: str | None
    """the model that takes image files"""
    push: str
    """value of its `PUSH_PARAMETER`; empty if it was copied by hand"""
    damaged: str | None = None
    """what of it is missing or cannot be read, in a few words; None if it is whole"""

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in an order in which they can be loaded."""
        return (*self.stages.values(), self.public, *([self.encoded] if self.encoded else []))

    def beside(self, push: str) -> Models:
        """The same models under the names that they get beside a running build."""
        slot = slot_of(push)
        return replace(
            self,
            public=next_of(self.detector),
            stages={stage: stage_name(self.detector, stage, slot) for stage in self.stages},
            encoded=None if self.encoded is None else next_of(f"{self.detector}{SUFFIX}"),
            push=push,
        )

    def switched(self) -> Models:
        """The same models after the switch."""
        encoded = None if self.encoded is None else f"{self.detector}{SUFFIX}"
        return replace(self, public=self.detector, encoded=encoded)


def read_models(storage: Storage, detector: str) -> Models | None:
    """The models of a detector in a folder; None if it is not there. Raises InputError if its settings are damaged."""
    config = read_config(storage, detector)
    if config is None:
        return None
    encoded = f"{detector}{SUFFIX}"
    found = read_config(storage, encoded)
    calls = None if found is None else found.parameters[DETECTOR_PARAMETER].string_value
    models = Models(
        detector=detector,
        public=detector,
        stages=_stages(storage, detector, alone=_parameter(config, TOPOLOGY_PARAMETER) in ("fused", "graph")),
        encoded=encoded if calls in (detector, next_of(detector)) else None,
        push=_parameter(config, PUSH_PARAMETER),
    )
    checked = (detector, *([] if found is None else [encoded]), *models.stages.values())
    return replace(models, damaged=next(filter(None, (_damage(storage, name) for name in checked)), None))


def read_source(storage: Folder, detector: str) -> Models:
    """The models of a build that is to be pushed. Raises InputError if it is not there, or not whole."""
    found = read_models(storage, detector)
    if found is None:
        raise InputError(f"{storage.where} holds no detector {detector!r}")
    config = read_config(storage, detector)
    if config is not None and _parameter(config, TOPOLOGY_PARAMETER) == "graph":
        raise InputError(
            f"{detector!r} in {storage.where} is one graph, without operating points on the server, so a push cannot "
            "calibrate and switch it; copy its folder to the server, or render it with the topology bls or fused"
        )
    foreign = set(found.stages.values()) - _names_of(detector)
    if foreign:
        raise InputError(
            f"{storage.where}/{detector}/{_SETTINGS} names {min(foreign)!r}, which is not a stage model of {detector!r}"
        )
    if found.damaged is not None:
        raise InputError(f"{storage.where} holds no whole build of {detector!r}: {found.damaged}; render it again")
    try:
        check_whole(storage.folder, detector)
    except InputError as error:  # a build from an archive is in a temporary folder
        raise InputError(str(error).replace(str(storage.folder), storage.where)) from error
    return found


def stages_in(parameters: Mapping[str, str], detector: str) -> set[str]:
    """The stage models that a loaded public model calls, by the parameters of its configuration."""
    if parameters.get(TOPOLOGY_PARAMETER) in ("fused", "graph"):
        return set()
    named = parameters.get(STAGES_PARAMETER)
    try:
        if named:
            return {str(name) for name in json.loads(named).values()}
    except (ValueError, AttributeError, RecursionError):
        pass  # a model that others loaded under this name
    return {stage_name(detector, stage, "a") for stage in STAGES}


def read_config(storage: Storage, name: str) -> pb.ModelConfig | None:
    """The configuration of a model; None if there is none. One that cannot be parsed counts as empty."""
    try:
        content = storage.read(f"{name}/{CONFIG}")
        return None if content is None else parse_config(content, f"{name}/{CONFIG}")
    except (UnreadableError, NotAConfigError):
        return pb.ModelConfig()


def push_of(storage: Storage, name: str) -> str | None:
    """Which push put a model there: empty if none did, None if it is not there."""
    config = read_config(storage, name)
    return None if config is None else _parameter(config, PUSH_PARAMETER)


def belongs_to(storage: Storage, name: str, detector: str) -> bool:
    """Whether a model in the folder is one of a detector's, so that a push may replace and remove it."""
    config = read_config(storage, name)
    if config is None:
        return False
    if owner := _parameter(config, PUSHED_FOR_PARAMETER):
        return owner == detector
    if _damage(storage, name) is not None:  # no server can load it, and only its name says whose it was
        return name in _names_of(detector)
    stage = _parameter(config, _STAGE_PARAMETER)
    return name == detector or (name == f"{detector}_{stage}" and stage in ALL_STAGES)


def _names_of(detector: str) -> set[str]:
    """All names that models of a detector can have, also during a push."""
    public = (detector, f"{detector}{SUFFIX}")
    slots: tuple[Slot, ...] = ("a", "b")
    stages = {stage_name(detector, stage, slot) for stage in ALL_STAGES for slot in slots}
    return {*public, *map(next_of, public), *stages}


def _damage(storage: Storage, name: str) -> str | None:
    """What keeps the configuration of a model from being read, in a few words; None if it can be read."""
    try:
        content = storage.read(f"{name}/{CONFIG}")
        if content is None:
            return f"{name}/{CONFIG} is missing"
        parse_config(content, f"{name}/{CONFIG}")
    except (UnreadableError, NotAConfigError):
        return f"{name}/{CONFIG} is damaged"
    return None


def digest(storage: Storage, models: Models) -> str:
    """SHA-256 over the files of all models without their operating points, which may change while they are served."""
    total = hashlib.sha256()
    for role, name in (*models.stages.items(), ("public", models.public), ("encoded", models.encoded)):
        if name is None:
            continue
        with storage.local(name) as folder:
            for path in _files(folder):
                if path.name == POINTS_FILE:
                    continue
                total.update(f"{role}/{path.relative_to(folder)}\n".encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        total.update(block)
    return total.hexdigest()


def copy_model(storage: Storage, name: str, target: Path) -> None:
    """Copy a model to a folder of this machine, without what Python or a push left there.

    The copies are as old as this call: a server tells by the times of files that a model has changed.
    """
    with storage.local(name) as folder:
        for path in _files(folder):
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def rewrite(folder: Path, models: Models) -> None:
    """Adapt a copied model to the names in `models`: its configuration, and the settings of the public model."""
    path = folder / CONFIG
    config = parse_config(path.read_bytes(), f"{path.parent.name}/{CONFIG}")
    config.ClearField("name")
    config.parameters[PUSH_PARAMETER].string_value = models.push
    config.parameters[PUSHED_FOR_PARAMETER].string_value = models.detector
    if DETECTOR_PARAMETER in config.parameters:
        config.parameters[DETECTOR_PARAMETER].string_value = models.public
    elif (settings := folder / _SETTINGS).is_file() and models.stages:
        config.parameters[STAGES_PARAMETER].string_value = json.dumps(dict(models.stages))
        content = json.loads(settings.read_bytes())
        for stage, name in models.stages.items():
            content["stages"][stage]["model"] = name
        settings.write_text(json.dumps(content, indent=2) + "\n")
    path.write_text(text_format.MessageToString(config))


def call(storage: Storage, name: str, models: Models) -> None:
    """Let a model that takes image files, which is already in the folder, call the public model of `models`."""
    config = read_config(storage, name) or pb.ModelConfig()
    config.parameters[DETECTOR_PARAMETER].string_value = models.public
    storage.write(f"{name}/{CONFIG}", text_format.MessageToString(config).encode())


def adopt(storage: Storage, name: str, detector: str) -> None:
    """Mark a model that was copied by hand as one of a detector's, and let its folder be renamed."""
    config = read_config(storage, name)
    if config is None or _damage(storage, name) is not None:
        return  # `belongs_to` knows a damaged one by its name
    if config.name or not _parameter(config, PUSHED_FOR_PARAMETER):
        config.ClearField("name")
        config.parameters[PUSHED_FOR_PARAMETER].string_value = detector
        storage.write(f"{name}/{CONFIG}", text_format.MessageToString(config).encode())


def archive(storage: Storage, models: Models, path: Path) -> None:
    """Write the models of a build into one file, which Triton ignores where it lies beside the models."""
    with tarfile.open(path, "w", dereference=True) as tar:
        for name in models.names:
            with storage.local(name) as folder:
                for file in _files(folder):
                    tar.add(file, arcname=f"{name}/{file.relative_to(folder)}", recursive=False)


def unpack(path: Path, folder: Path, *, title: str) -> None:
    """Unpack an archive. Raises InputError if it is damaged; `title` names it there."""
    try:
        with tarfile.open(path, "r:") as tar:  # not compressed: a small file could become a large one
            if not all(_is_plain(member) for member in tar):
                raise tarfile.ReadError("it holds more than files")
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise InputError(
            f"{title} is damaged, so there is no build to go back to; remove that file, or push the earlier build "
            "from its repository"
        ) from error


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether an entry of an archive is a file, under a name that `archive` writes."""
    parts = Path(member.name).parts
    named = member.name.isprintable() and all(len(os.fsencode(part)) < 256 for part in parts)
    return named and (member.isreg() or member.islnk()) and not member.issparse()


def _stages(storage: Storage, detector: str, *, alone: bool) -> dict[str, str]:
    content = storage.read(f"{detector}/{_SETTINGS}")
    if alone or content is None:
        return {}
    settings = settings_of(content, f"{storage.where}/{detector}/{_SETTINGS}")
    return {stage: one.model for stage, one in settings.stages.items()}


def _parameter(config: pb.ModelConfig, key: str) -> str:
    return str(config.parameters[key].string_value) if key in config.parameters else ""


def _files(folder: Path) -> Iterable[Path]:
    def ours(path: Path) -> bool:
        return not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob("*") if path.is_file() and ours(path))

"""`dyndet.json` at the top of a repository: its detectors, what each was rendered from, and its models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from dynamicdet.errors import InputError
from dynamicdet.records import UNREADABLE, FileName, Name, Plain, Record, Sha256, plain_of, read_bytes, reason_of
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import ALL_STAGES
from dyndet_builder.repository.encoded import SUFFIX

MARKER_FILE = "dyndet.json"
"""The file at the top of a rendered repository that says what its detectors were rendered from and how."""

DEFAULT_MODEL = "dyndet"
"""name of a served detector, unless a repository or the user says otherwise"""


_LARGEST = 4 << 20

Options = Annotated[dict[Name, Plain], Field(max_length=200)]


class DetectorRecord(Record):
    """One detector of a repository."""

    bundle_sha256: Sha256
    models: Annotated[tuple[FileName, ...], Field(max_length=20)] = Field(description="folders of its models")
    described_in: FileName | Literal["."] = Field(
        description="folder in the repository with its bundle.json and engines.json"
    )
    options: Options = Field(description="of the rendering; those of another version may not fit RenderOptions")
    chosen_by: Plain = Field(default=None, description="the measurements that led to the options")


class Marker(Record):
    """Contents of `dyndet.json`."""

    schema_version: Literal[2] = 2
    detectors: Annotated[dict[Name, DetectorRecord], Field(max_length=1000)] = Field(description="by name")

    @model_validator(mode="after")
    def _check_places(self) -> Marker:
        for name, detector in self.detectors.items():
            foreign = set(detector.models) - set(own_names(name))
            if foreign:
                raise ValueError(f"{min(foreign)!r} is not the name of a model of {name!r}")
            if detector.described_in not in (".", name):
                raise ValueError(f"{detector.described_in!r} is not a folder that describes {name!r}")
        return self

    def name_of(self, repository: Path, model: str | None) -> str:
        """The name of the detector `model`, or of the only one. Raises InputError that names those that are there."""
        if model is None and len(self.detectors) == 1:
            return next(iter(self.detectors))
        if model is None:
            raise InputError(f"{repository} holds {self.listed()}; name one of them with --model")
        if model not in self.detectors:
            raise InputError(f"{repository} holds no detector {model!r}; it holds {self.listed()}")
        return model

    def listed(self) -> str:
        """The detectors, for a message."""
        names = [repr(name) for name in self.detectors]
        if len(names) == 1:
            return f"the detector {names[0]}"
        return f"the detectors {', '.join(names[:-1])} and {names[-1]}" if names else "no detector"

    def write(self, repository: Path) -> None:
        """Write the file."""
        content = self.model_dump(mode="json", exclude_none=True)
        for name, detector in self.detectors.items():  # None is a value of an option
            content["detectors"][name]["options"] = detector.options
        (repository / MARKER_FILE).write_text(json.dumps(content, indent=2, default=printable) + "\n")


def read_marker(repository: Path) -> Marker:
    """Read the marker of a repository, also in its first form, which described one detector and had no version.

    Raises InputError, whose text names only the file and the reason, if it is missing or damaged.
    """
    path = repository / MARKER_FILE
    content = read_bytes(path, advice="", largest=_LARGEST)
    try:
        plain = plain_of(content)
        if isinstance(plain, dict) and "schema_version" not in plain:
            first = _FirstForm.model_validate_json(content, strict=True)
            return first.as_marker(repository)
        return Marker.model_validate_json(content, strict=True)
    except UNREADABLE as error:
        raise InputError(
            f"{printable(path)} is damaged, or was written by another version: {reason_of(error, Marker)}"
        ) from error


def detector_of(repository: Path | None, model: str | None) -> str:
    """The detector that a command is about: `model`, or else the only one in the repository, or else `dyndet`.

    Raises InputError if the repository holds several detectors and none is named, or does not hold the named one.
    """
    if repository is None or not (repository / MARKER_FILE).is_file():
        return DEFAULT_MODEL if model is None else model
    return read_marker(repository).name_of(repository, model)


def own_names(detector: str) -> tuple[str, ...]:
    """Names of all models that a detector can have."""
    return (detector, *(f"{detector}_{stage}" for stage in ALL_STAGES), f"{detector}{SUFFIX}")


class _FirstForm(Record):
    """The marker of earlier versions, which described one detector; its other keys are of no use now."""

    model_config = ConfigDict(extra="ignore")

    model: Name
    bundle_sha256: Sha256
    options: Options
    chosen_by: Plain = None

    def as_marker(self, repository: Path) -> Marker:
        """The same in today's form."""
        detector = DetectorRecord(
            bundle_sha256=self.bundle_sha256,
            models=tuple(model for model in own_names(self.model) if (repository / model).is_dir()),
            described_in=".",
            options=self.options,
            chosen_by=self.chosen_by,
        )
        return Marker(detectors={self.model: detector})

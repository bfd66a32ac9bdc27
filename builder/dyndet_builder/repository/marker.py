"""`dyndet.json` at the top of a repository: its detectors, what each was rendered from, and its models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import STAGES
from dyndet_builder.repository.encoded import SUFFIX

MARKER_FILE = "dyndet.json"
"""The file at the top of a rendered repository that says what its detectors were rendered from and how."""

DEFAULT_MODEL = "dyndet"
"""name of a served detector, unless a repository or the user says otherwise"""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DetectorRecord(_Record):
    """One detector of a repository."""

    bundle_sha256: str
    models: tuple[str, ...] = Field(description="folders of its models")
    described_in: str = Field(description="folder in the repository with its bundle.json and engines.json")
    options: dict[str, Any] = Field(description="of the rendering; those of another version may not fit RenderOptions")
    chosen_by: dict[str, Any] | None = Field(default=None, description="the measurements that led to the options")


class Marker(_Record):
    """Contents of `dyndet.json`."""

    schema_version: Literal[2] = 2
    detectors: dict[str, DetectorRecord] = Field(description="by name")

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
        (repository / MARKER_FILE).write_text(json.dumps(content, indent=2, default=str) + "\n")


def read_marker(repository: Path) -> Marker:
    """Read the marker of a repository, also in its first form, which described one detector and had no version.

    Raises InputError, whose text names only the file and the reason, if it is missing or damaged.
    """
    path = repository / MARKER_FILE
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and "schema_version" not in content:
            content = _from_first_form(repository, content)
        return Marker.model_validate(content)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged, or was written by another version") from error


def detector_of(repository: Path | None, model: str | None) -> str:
    """The detector that a command is about: `model`, or else the only one in the repository, or else `dyndet`.

    Raises InputError if the repository holds several detectors and none is named, or does not hold the named one.
    """
    if repository is None or not (repository / MARKER_FILE).is_file():
        return DEFAULT_MODEL if model is None else model
    return read_marker(repository).name_of(repository, model)


def own_names(detector: str) -> tuple[str, ...]:
    """Names of all models that a detector can have."""
    return (detector, *(f"{detector}_{stage}" for stage in STAGES), f"{detector}{SUFFIX}")


def _from_first_form(repository: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    name = str(content["model"])
    detector = {
        "bundle_sha256": content["bundle_sha256"],
        "models": [model for model in own_names(name) if (repository / model).is_dir()],
        "described_in": ".",
        "options": content["options"],
        "chosen_by": content.get("chosen_by"),
    }
    return {"schema_version": 2, "detectors": {name: detector}}

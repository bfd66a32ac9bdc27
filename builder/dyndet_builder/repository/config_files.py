"""Reads configurations of models, which others may have written: bounded in size, and parsed by Triton's message."""

from __future__ import annotations

import re
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.records import NAME, read_bytes
from dynamicdet.text import printable
from dyndet_builder.operating_points import OperatingPoints, told_points
from dyndet_builder.repository.config import POINTS_PARAMETER

CONFIG = "config.pbtxt"
LARGEST = 4 << 20
"""bytes; a thousand class names of two hundred characters need less"""

_NAME = re.compile(NAME)


class NotAConfigError(InputError):
    """A text is not the configuration of a model."""


def read_config(folder: Path) -> pb.ModelConfig:
    """The configuration in a model's folder; its name is that of the folder.

    Raises InputError if it is missing, not a regular file, too large or not a configuration, or if it gives the model a
    name that its folder does not have: no server loads that.
    """
    path = folder / CONFIG
    if not _NAME.fullmatch(folder.name):
        raise InputError(
            f"{printable(folder)} cannot be a model: its name must consist of letters, digits, '_', '-' and '.'"
        )
    config = parse_config(read_bytes(path, advice="", largest=LARGEST), path)
    if config.name not in ("", folder.name):
        raise InputError(
            f"{printable(path)} names the model {printable(config.name, limit=60)!r}, but its folder is {folder.name!r}"
        )
    config.name = folder.name
    return config


def parse_config(content: bytes, title: object) -> pb.ModelConfig:
    """A configuration from its text; `title` names it in an error. Raises NotAConfigError."""
    if len(content) > LARGEST:
        raise NotAConfigError(f"{printable(title)} is too large: at most {LARGEST:,} bytes are read")
    try:
        return text_format.Parse(content.decode(), pb.ModelConfig())
    except (text_format.ParseError, ValueError, OverflowError, RecursionError) as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise NotAConfigError(
            f"{printable(title)} is not a model configuration: {printable(reason, limit=200)}"
        ) from error


def read_configs(folder: Path, *, explicit: bool) -> tuple[tuple[pb.ModelConfig, ...], dict[str, str]]:
    """The configurations of a model repository, and the models without one that can be read, each with the reason.

    With `explicit` model control the folder can be empty. Raises InputError if it is not a model repository, or if a
    Python model has no code: Triton 2.51 waits for that file for ever.
    """
    shown = printable(folder)
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "no such folder"
        raise InputError(f"{shown} is not a model repository: {found}; `dyndet render` writes one")
    paths = sorted(folder.glob(f"*/{CONFIG}"))
    if not paths and not (explicit and not any(folder.iterdir())):
        raise InputError(f"{shown} is not a model repository: it has no */config.pbtxt; `dyndet render` writes one")
    configs, unread = [], {}
    for path in paths:
        try:
            config = read_config(path.parent)
        except InputError as error:
            unread[path.parent.name] = str(error)
            continue
        if config.backend == "python" and not config.default_model_filename:
            _check_code(path.parent)
        configs.append(config)
    return tuple(configs), unread


def _check_code(folder: Path) -> None:
    for version in sorted(folder.glob("[0-9]*")):
        if not (version / "model.py").is_file():
            raise InputError(
                f"{printable(version)} lacks model.py, the code of a Python model; render the repository again"
            )


def publish_points(repository: Path, model: str, points: OperatingPoints) -> bool:
    """Put operating points into the configuration of a detector that is one graph, where its clients find them.

    They are in force once the server loads the model again. Returns False, and changes nothing, for a detector of
    another topology, whose code reads them itself. Raises InputError if the configuration is damaged.
    """
    folder = repository / model
    if not (folder / CONFIG).is_file():
        return False
    config = read_config(folder)
    if POINTS_PARAMETER not in config.parameters:
        return False
    config.parameters[POINTS_PARAMETER].string_value = told_points(points)
    lines = (folder / CONFIG).read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    with whole_file(folder / CONFIG) as temporary:
        temporary.write_text("\n".join([*head, text_format.MessageToString(config, as_utf8=True)]))
    return True

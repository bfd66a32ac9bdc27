"""Reads the configurations of a model repository, and finds before a server is started what it would only wait for."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError


def read_configs(repository: Path) -> list[pb.ModelConfig]:
    """Configurations of all models; what Triton's message cannot read is left for the server to complain about."""
    found = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        try:
            config = text_format.Parse(path.read_text(), pb.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError):
            continue
        config.name = config.name or path.parent.name
        found.append(config)
    return found


def is_empty(folder: Path) -> bool:
    """Whether a folder exists and waits for its first model."""
    return folder.is_dir() and not any(folder.iterdir())


def check_repository(folder: Path, *, explicit: bool = False) -> None:
    """Raise InputError where the folder is no model repository, or a Python model has no code.

    With `explicit` model control it may be empty: models are pushed and loaded later. Triton 2.51 waits without an end
    for a Python model whose file is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no model repository: no such folder; `dyndet render` writes one")
    if not any(folder.glob("*/config.pbtxt")) and not (explicit and is_empty(folder)):
        raise InputError(f"{folder} is no model repository: no */config.pbtxt in it; `dyndet render` writes one")
    for config in read_configs(folder):
        if config.backend == "python" and not config.default_model_filename:
            for version in sorted((folder / config.name).glob("[0-9]*")):
                if not (version / "model.py").is_file():
                    raise InputError(
                        f"{version} lacks model.py, the code of a Python model; render the repository again"
                    )

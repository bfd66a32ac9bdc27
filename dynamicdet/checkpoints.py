"""Weights on disk: our own safetensors files and the published checkpoints."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from dynamicdet.architectures import ARCHITECTURES
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.network import DynamicDetector

FORMAT = "dyndet"
FORMAT_VERSION = "1"


def save(model: DynamicDetector, path: str | os.PathLike[str]) -> None:
    """Write a network in training form as safetensors with a header that says what it is; whole or not at all.

    Raises InputError for a deployed copy, whose merged weights cannot be trained or loaded again.
    """
    if model.deployed:
        raise InputError("a deployed copy cannot be saved; save the network it was made from")
    target = Path(path)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": model.spec.name,
        "class_names": json.dumps(list(model.class_names)),
        "input_size": str(model.input_size),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        save_file(tensors, temporary, metadata=header)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], architecture: str | None = None) -> DynamicDetector:
    """A network from one of our own files, in evaluation mode."""
    source = Path(path)
    return _load_own(source, architecture)


def _load_own(path: Path, architecture: str | None) -> DynamicDetector:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    spec = ARCHITECTURES[header["architecture"]]
    names = json.loads(header["class_names"])
    model = DynamicDetector(spec, num_classes=len(names), class_names=names, input_size=int(header["input_size"]))
    model.load_state_dict(tensors)
    return model.eval()


__all__ = ["load", "save", "torch"]

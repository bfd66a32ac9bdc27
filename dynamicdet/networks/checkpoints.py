"""Weights on disk: our own safetensors files, and the published checkpoints (see `published.py`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.files import check_writable, whole_file
from dynamicdet.networks.architectures import ARCHITECTURES, architecture
from dynamicdet.networks.network import DynamicDetector
from dynamicdet.networks.published import read_published
from dynamicdet.networks.weights import network_with

FORMAT = "dyndet"
FORMAT_VERSION = "1"

_SAFETENSORS = b"\0\0\0\0{"  # bytes 4 to 8: the upper half of the header's length, then the header
_ZIP, _PICKLE = b"PK", b"\x80"  # the first bytes of torch.save's files, since 1.6 and before


def save(model: DynamicDetector, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write a network in training form as safetensors with a header that says what it is; whole or not at all.

    `half` stores floats as float16, in half the space; `load` returns float32 in either case. Raises InputError if the
    folder does not exist, and for a deployed copy: its merged weights can be neither trained nor loaded again.
    """
    if model.deployed:
        raise InputError("a deployed copy cannot be saved; save the network it was made from")
    target = Path(path)
    check_writable(target)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": model.spec.name,
        "class_names": json.dumps(list(model.class_names)),
        "input_size": str(model.input_size),
    }
    tensors = {name: _stored(tensor, half=half) for name, tensor in model.state_dict().items()}
    with whole_file(target) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except safetensors.SafetensorError as error:
            raise InputError(f"{target} cannot be written: {error}") from error


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    stored = tensor.detach().cpu().contiguous()
    return stored.half() if half and stored.is_floating_point() else stored


def load(path: str | os.PathLike[str], architecture: str | None = None) -> DynamicDetector:
    """A network in evaluation mode from one of our files or a published checkpoint.

    Without `architecture`, our own file names it, and a published file is recognised by the names of its weights.
    Raises CheckpointError if the file is missing, damaged, of another kind or architecture, or needs code to load;
    InputError for an unknown architecture.
    """
    source = Path(path)
    expected = None if architecture is None else _known(architecture)
    start = _first_bytes(source)
    # First, since the length of a header may begin with the byte that a pickle begins with.
    if start[4:] == _SAFETENSORS:
        return _read_own(source, expected)
    if start.startswith((_ZIP, _PICKLE)):
        return read_published(source, expected)
    raise CheckpointError(
        f"{source} is neither a safetensors file nor a PyTorch checkpoint; accepted are files written by "
        "`dyndet train` and the published DynamicDet checkpoints"
    )


def _known(name: str) -> str:
    return architecture(name).name


def _first_bytes(path: Path) -> bytes:
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is not a file")
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise CheckpointError(f"checkpoint {path} is empty (0 bytes)")
    return start


def _read_own(path: Path, expected: str | None) -> DynamicDetector:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    name, class_names, input_size = _checked_header(path, header)
    if expected not in (None, name):
        raise CheckpointError(f"{path} holds {name}, not {expected}")
    weights = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    spec = ARCHITECTURES[name]
    _check_classes(path, weights, len(spec.anchors[0]), len(class_names))
    return network_with(weights, spec, class_names=class_names, input_size=input_size, source=path)


def _checked_header(path: Path, header: Mapping[str, str]) -> tuple[str, tuple[str, ...], int]:
    """Architecture, class names and input size."""
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file without dyndet's header; only files written by `dyndet train` or "
            "`dynamicdet.save` say which network they hold"
        )
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}; this dyndet reads version {FORMAT_VERSION}")
    name = header.get("architecture", "")
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{path} holds the unknown network {name!r}; known are {', '.join(ARCHITECTURES)}")
    try:
        names = json.loads(header["class_names"])
        size = int(header["input_size"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has a damaged header: class names or input size cannot be read") from error
    if not (isinstance(names, list) and names and all(isinstance(item, str) for item in names)):
        raise CheckpointError(f"{path} has a damaged header: its class names are not a list of strings")
    return name, tuple(names), size


def _check_classes(path: Path, weights: Mapping[str, Tensor], anchors: int, named: int) -> None:
    bias = weights.get("predict1.predict.0.conv.bias")
    if bias is None:
        return  # reported with the other missing weights
    predicted = bias.numel() // anchors - 5
    if predicted != named:
        raise CheckpointError(f"{path} names {named} classes but its weights predict {predicted}")

"""Weights on disk: our own safetensors files, and the published checkpoints (see `published.py`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from dynamicdet.class_names import check_class_names
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.files import check_writable, whole_file
from dynamicdet.networks.architectures import (
    ARCHITECTURES,
    STATIC_ARCHITECTURES,
    Spec,
    any_architecture,
    architecture,
    known_architectures,
)
from dynamicdet.networks.network import DynamicDetector, Network, RoutedNetwork, StaticDetector, TwoStageDetector
from dynamicdet.networks.origin import TrainedOn
from dynamicdet.networks.published import read_published
from dynamicdet.networks.router.form import PUBLISHED_ROUTER, RouterForm
from dynamicdet.networks.safetensors_header import DescribedTensor, read_header
from dynamicdet.networks.two_stage.architectures import TwoStageModel
from dynamicdet.networks.two_stage.variants import variant_text, with_variant
from dynamicdet.networks.weights import check_weights, empty_network, fill
from dynamicdet.text import printable

AnyDetector = DynamicDetector | StaticDetector | TwoStageDetector

FORMAT = "dyndet"
FORMAT_VERSIONS = ("1", "2")
"""2 has entries that 1 has not: the form of a router that is not the published one, what trained the detectors, and how
a two-stage network differs from others of its name"""
CHECKSUM = "sha256"  # of the other entries and of all tensors; files of older releases have none

_SAFETENSORS = b"\0\0\0\0{"  # bytes 4 to 8: the upper half of the header's length, then the header
_CHECKED = ("format", "format_version", "architecture", "class_names", "input_size", "router", "trained_on", "variant")
_SIZE = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_ZIP, _PICKLE = b"PK", b"\x80"  # the first bytes of torch.save's files, since 1.6 and before


def save(model: Network, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write a network in training form as safetensors with a header that says what it is; whole or not at all.

    `half` stores floats as float16, in half the space; `load` returns float32 in either case. Raises InputError if the
    folder does not exist, for class names that `check_class_names` refuses, and for a deployed copy: its merged weights
    can be neither trained nor loaded again.
    """
    if model.deployed:
        raise InputError("a deployed copy cannot be saved; save the network it was made from")
    target = Path(path)
    check_writable(target)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSIONS[0],
        "architecture": model.spec.name,
        "class_names": json.dumps(check_class_names(model.class_names)),
        "input_size": str(model.input_size),
    }
    header |= _newer_entries(model)
    tensors = {name: _stored(tensor, half=half) for name, tensor in model.state_dict().items()}
    header[CHECKSUM] = _checksum(header, tensors)
    with whole_file(target) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except safetensors.SafetensorError as error:
            raise InputError(f"{target} cannot be written: {error}") from error


def _newer_entries(model: Network) -> dict[str, str]:
    """What version 2 has; without any of it, a file is of version 1, which older releases read too."""
    entries = {}
    if isinstance(model, RoutedNetwork) and model.router.form != PUBLISHED_ROUTER:
        entries["router"] = model.router.form.as_text()
    variant = variant_text(model.spec) if isinstance(model.spec, TwoStageModel) else None
    if variant is not None:
        entries["variant"] = variant
    if model.trained_on is not None:
        entries["trained_on"] = model.trained_on.as_text()
    return {**entries, "format_version": FORMAT_VERSIONS[1]} if entries else {}


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    stored = tensor.detach().cpu().contiguous()
    return stored.half() if half and stored.is_floating_point() else stored


def _checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header's other entries and of all tensors, in the order of their names."""
    digest = hashlib.sha256(
        json.dumps({name: header[name] for name in _CHECKED if name in header}, sort_keys=True).encode()
    )
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(path: str | os.PathLike[str], architecture: str | None = None) -> DynamicDetector | TwoStageDetector:
    """A dynamic detector in evaluation mode from one of our files or a published checkpoint.

    Public static Faster and Mask R-CNNs (mmdetection's, torchvision's) become two-stage dynamic ones: both backbones
    get their weights, the links stay silent, and the router is random.

    Without `architecture`, our own file names it, and a published file is recognised by the names of its weights. No
    tensor is read before names, shapes and bytes were compared with the network's.

    Raises CheckpointError if the file is missing, damaged, of another kind or architecture, holds a static detector,
    needs code to load, or has numbers that are NaN or infinite; InputError for an unknown architecture.
    """
    source = Path(path)
    expected = None if architecture is None else _known(architecture)
    held = static_name(source)
    if held is not None:
        raise CheckpointError(
            f"{printable(source)} holds {held}, a static detector without a router; this needs a dynamic one, such as "
            f"{', '.join(ARCHITECTURES)}"
        )
    network = load_network(source, expected)
    assert isinstance(network, DynamicDetector | TwoStageDetector)
    return network


def load_static(path: str | os.PathLike[str]) -> StaticDetector:
    """A static detector in evaluation mode from one of our files; CheckpointError as `load` raises it."""
    network = load_network(path)
    if not isinstance(network, StaticDetector):
        raise CheckpointError(f"{printable(path)} holds {network.spec.name}, a dynamic detector, not a static one")
    return network


def static_name(path: str | os.PathLike[str]) -> str | None:
    """The architecture of a file, by its header alone, if it is one of our files and holds a static detector.

    Raises CheckpointError if the file is missing, empty, cannot be read, or has a damaged header.
    """
    source = Path(path)
    if _first_bytes(source)[4:] != _SAFETENSORS:
        return None
    name = read_header(source)[0].get("architecture", "")
    return name if name in STATIC_ARCHITECTURES else None


def load_network(path: str | os.PathLike[str], architecture: str | None = None) -> AnyDetector:
    """A network of any kind; for the rest see `load`."""
    source = Path(path)
    expected = None if architecture is None else any_architecture(architecture).name
    start = _first_bytes(source)
    # First, since the length of a header may begin with the byte that a pickle begins with.
    if start[4:] == _SAFETENSORS:
        return _read_own(source, expected)
    if start.startswith((_ZIP, _PICKLE)):
        return read_published(source, expected)
    raise CheckpointError(
        f"{printable(source)} is neither a safetensors file nor a PyTorch checkpoint; dyndet accepts files written by "
        "`dyndet train` and the published DynamicDet checkpoints"
    )


def _known(name: str) -> str:
    return architecture(name).name


def _first_bytes(path: Path) -> bytes:
    shown = f"checkpoint {printable(path)}"
    try:
        if not path.exists():
            raise CheckpointError(f"{shown} does not exist")
        if not path.is_file():
            raise CheckpointError(f"{shown} is not a file")
        with path.open("rb") as file:
            start = file.read(9)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise CheckpointError(f"{shown} cannot be read: {printable(reason)}") from error
    if not start:
        raise CheckpointError(f"{shown} is empty (0 bytes)")
    return start


def _read_own(path: Path, expected: str | None) -> AnyDetector:
    header, described = read_header(path)
    name, class_names, input_size = _checked_header(path, header)
    form, trained_on = _router_form(path, header), _trained_on(path, header)
    if expected not in (None, name):
        raise CheckpointError(f"{printable(path)} holds {name}, not {expected}")
    spec = _variant(path, header, any_architecture(name))
    _check_classes(path, described, spec, len(class_names))
    model = empty_network(spec, class_names=class_names, input_size=input_size, router=form, source=path)
    check_weights(described, model.state_dict(), f"{printable(path)} does not fit {name}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {weight: file.get_tensor(weight) for weight in described}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{printable(path)} is damaged: {printable(error, limit=200)}") from error
    if header.get(CHECKSUM, "") not in ("", _checksum(header, tensors)):
        raise CheckpointError(
            f"{printable(path)} is damaged: its content has changed since it was written (its SHA-256 differs)"
        )
    filled = fill(model, tensors, path)
    filled.trained_on = trained_on
    return filled


def _checked_header(path: Path, header: Mapping[str, str]) -> tuple[str, tuple[str, ...], int]:
    """Architecture, class names and input size."""
    shown = printable(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{shown} is a safetensors file without dyndet's header; only files written by `dyndet train` or "
            "`dynamicdet.save` say which network they hold"
        )
    version = header.get("format_version", "none")
    if version not in FORMAT_VERSIONS:
        raise CheckpointError(
            f"{shown} has format version {printable(version, limit=20)}; this dyndet reads versions "
            f"{' and '.join(FORMAT_VERSIONS)}"
        )
    name = header.get("architecture", "")
    if name not in known_architectures():
        raise CheckpointError(
            f"{shown} holds the unknown network '{printable(name, limit=50)}'; known are "
            f"{', '.join(known_architectures())}"
        )
    try:
        names = json.loads(header["class_names"])
        if not _SIZE.fullmatch(header["input_size"]):
            raise ValueError("not a size")
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{shown} has a damaged header: class names or input size cannot be read") from error
    if not (isinstance(names, list) and names and all(isinstance(item, str) for item in names)):
        raise CheckpointError(f"{shown} has a damaged header: its class names are not a list of strings")
    try:
        return name, check_class_names(names), int(header["input_size"])
    except InputError as error:
        raise CheckpointError(f"{shown} cannot be used: {error}") from error


def _variant(path: Path, header: Mapping[str, str], spec: Spec) -> Spec:
    if "variant" not in header:
        return spec
    try:
        if not isinstance(spec, TwoStageModel):
            raise ValueError("a network without variants")
        return with_variant(spec, header["variant"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{printable(path)} has a variant of {spec.name} that this dyndet does not know; it may be from a later "
            "release"
        ) from error


def _router_form(path: Path, header: Mapping[str, str]) -> RouterForm:
    if "router" not in header:
        return PUBLISHED_ROUTER
    try:
        return RouterForm.from_text(header["router"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{printable(path)} has a router of a form that this dyndet does not know; it may be from a later release"
        ) from error


def _trained_on(path: Path, header: Mapping[str, str]) -> TrainedOn | None:
    if "trained_on" not in header:
        return None
    try:
        return TrainedOn.from_text(header["trained_on"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{printable(path)} has a damaged header: it does not say which pictures trained it"
        ) from error


def _check_classes(path: Path, weights: Mapping[str, DescribedTensor], spec: Spec, named: int) -> None:
    two_stage = isinstance(spec, TwoStageModel)
    bias = weights.get("heads1.box.logits.bias" if two_stage else "predict1.predict.0.conv.bias")
    if bias is None or len(bias.shape) != 1:
        return  # reported with the other weights that do not fit
    predicted = bias.shape[0] - 1 if isinstance(spec, TwoStageModel) else bias.shape[0] // len(spec.anchors[0]) - 5
    if predicted != named:
        raise CheckpointError(f"{printable(path)} names {named} classes but its weights predict {predicted}")

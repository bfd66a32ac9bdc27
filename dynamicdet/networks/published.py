"""Reads the published DynamicDet checkpoints, `{"model": state dict}`, by an explicit map of names."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicdet.errors import CheckpointError
from dynamicdet.networks.architectures import Model
from dynamicdet.networks.network import DynamicDetector
from dynamicdet.networks.published_keys import NEGATED, PUBLISHED, AnchorKeys, anchor_keys, key_map
from dynamicdet.networks.weights import check_names, network_with

_HALF_PRECISION = 2e-3  # relative; published anchors are stored twice, rounded to half precision


def read_published(path: Path, expected: str | None) -> DynamicDetector:
    """The network of a published checkpoint; without `expected`, recognised by the names of its weights.

    Raises CheckpointError if the file is damaged, needs code to load, or is not such a checkpoint.
    """
    weights = _state_dict(path, _unpickle(path))
    spec = _recognise(path, weights, expected)
    names = key_map(spec)
    anchors = _anchors(path, weights, spec)
    ours = {
        name: weights[theirs].float() if weights[theirs].is_floating_point() else weights[theirs]
        for theirs, name in names.items()
    }
    for theirs in NEGATED:
        ours[names[theirs]] = -ours[names[theirs]]
    ours["anchors"] = anchors
    head = next(name for name in names if name.endswith(".m.0.bias"))
    classes = weights[head].numel() // len(spec.anchors[0]) - 5
    return network_with(ours, spec, class_names=None, num_classes=classes, input_size=None, source=path)


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own error says what is wrong with the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise CheckpointError(
                f"{path} needs code to load ({code[1]}) and is refused; accepted are plain tensors, as "
                "torch.save({'model': model.state_dict()}, path) writes them"
            ) from error
        raise CheckpointError(f"{path} is damaged, or is not a file of plain tensors from torch.save") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is damaged: {reason}") from error


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    inner = content.get("model", content) if isinstance(content, dict) else content
    if not (
        isinstance(inner, dict)
        and inner
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in inner.items())
    ):
        raise CheckpointError(f"{path} holds no state dict; expected {{'model': {{name: tensor, ...}}}}")
    return dict(inner)


def _recognise(path: Path, weights: dict[str, Tensor], expected: str | None) -> Model:
    names = {spec.name: _all_names(spec) for spec in PUBLISHED}
    exact = [spec for spec in PUBLISHED if set(names[spec.name]) == set(weights)]
    if exact and expected in (None, exact[0].name):
        return exact[0]
    if exact:
        raise CheckpointError(f"{path} holds {exact[0].name}, not {expected}")
    if expected is not None and expected not in names:
        raise CheckpointError(f"{path} cannot hold {expected}: only {', '.join(names)} were published")
    nearest = expected or max(names, key=lambda name: len(set(names[name]) & set(weights)))
    check_names(weights, names[nearest], f"{path} is not the published {nearest}")
    raise AssertionError("names that differ were reported")


def _all_names(spec: Model) -> list[str]:
    anchors = (name for keys in anchor_keys(spec) for name in (keys.by_stride, keys.pixels))
    return [*key_map(spec), *anchors]


def _anchors(path: Path, weights: dict[str, Tensor], spec: Model) -> Tensor:
    """Anchors in pixels (levels, anchors, 2); each head stores them twice and all four must agree."""
    one, other = (_head_anchors(path, weights, spec, keys) for keys in anchor_keys(spec))
    if not torch.equal(one, other):
        raise CheckpointError(f"{path} has different anchors in head 1 and head 2")
    return one


def _head_anchors(path: Path, weights: dict[str, Tensor], spec: Model, keys: AnchorKeys) -> Tensor:
    by_stride, pixels = weights[keys.by_stride].float(), weights[keys.pixels].float()
    if by_stride.shape != keys.by_stride_shape or pixels.shape != keys.pixels_shape:
        raise CheckpointError(f"{path} does not fit {spec.name}: its anchors have another shape")
    pixels = pixels.reshape(by_stride.shape)
    strides = torch.tensor(spec.strides).view(-1, 1, 1)
    if not torch.allclose(by_stride * strides, pixels, rtol=_HALF_PRECISION):
        raise CheckpointError(
            f"{path} stores anchors that disagree: {keys.by_stride} times stride is not {keys.pixels}"
        )
    return pixels

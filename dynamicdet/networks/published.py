"""Reads published checkpoints by explicit maps of names.

They are DynamicDet's, `{"model": state dict}`, and static detectors of others, from which a two-stage dynamic one
starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicdet.class_names import MOST_CLASSES
from dynamicdet.errors import CheckpointError
from dynamicdet.networks.architectures import Model
from dynamicdet.networks.network import DynamicDetector, Network, TwoStageDetector
from dynamicdet.networks.published_keys import NEGATED, PUBLISHED, AnchorKeys, anchor_keys, key_map
from dynamicdet.networks.stored_tensors import StoredTensor
from dynamicdet.networks.torch_files import TorchFile, open_torch_file
from dynamicdet.networks.two_stage import foreign
from dynamicdet.networks.two_stage.architectures import TWO_STAGE_ARCHITECTURES
from dynamicdet.networks.two_stage.foreign_names import Layout
from dynamicdet.networks.weights import (
    LARGEST_FILE,
    check_names,
    check_numbers,
    check_weights,
    empty_network,
    fill,
)
from dynamicdet.text import printable

_HALF_PRECISION = 2e-3  # relative; published anchors are stored twice, rounded to half precision
_COPIES = 4  # that a checkpoint may have of its weights: themselves, their average, two moments of an optimiser
_FLOAT32_BYTES = 4


def read_published(path: Path, expected: str | None) -> DynamicDetector | TwoStageDetector:
    """The network of a published checkpoint; without `expected`, recognised by the names of its weights.

    A static detector of others becomes a dynamic one whose router is random. Raises CheckpointError if the file is
    damaged, needs code to load, or is not such a checkpoint.
    """
    with open_torch_file(path, largest=LARGEST_FILE) as file:
        stored = _state_dict(path, file.content)
        layout = foreign.recognised(stored)
        if layout is not None or expected in TWO_STAGE_ARCHITECTURES:
            return _read_foreign(path, file, stored, layout, expected)
        spec = _recognise(path, stored, expected)
        names = key_map(spec)
        model = empty_network(spec, num_classes=_classes(path, stored, spec), source=path)
        _check_stored(path, file, stored, model)
        weights = file.tensors(stored)
    ours = {
        name: weights[theirs].float() if weights[theirs].is_floating_point() else weights[theirs]
        for theirs, name in names.items()
    }
    for theirs in NEGATED:
        ours[names[theirs]] = -ours[names[theirs]]
    ours["anchors"] = _anchors(path, weights, spec)
    return fill(model, ours, path)


def _read_foreign(
    path: Path, file: TorchFile, stored: dict[str, StoredTensor], layout: Layout | None, expected: str | None
) -> TwoStageDetector:
    if layout is None:
        assert expected is not None
        layout = foreign.nearest(stored, TWO_STAGE_ARCHITECTURES[expected])
        names = foreign.expected_names(layout, stored)
        check_names(stored, names, f"{printable(path)} is not {layout.of}")
        raise AssertionError("names that differ were reported")
    if expected not in (None, layout.spec.name):
        raise CheckpointError(f"{printable(path)} holds {layout.of}, so it starts {layout.spec.name}, not {expected}")
    classes, outputs = foreign.classes_of(layout, stored, path), foreign.outputs_of(layout, stored)
    spec = foreign.variant_of(layout)
    model = empty_network(spec, num_classes=classes, source=path)
    assert isinstance(model, TwoStageDetector)
    shapes = foreign.foreign_shapes(layout, model, classes, outputs)
    wanted = {name: stored[name] for name in layout.names if name in stored}
    complaint = f"{printable(path)} does not fit {spec.name}"
    check_weights(wanted, {name: shapes[name] for name in wanted}, complaint)
    check_bytes(file, model, complaint)
    ours = foreign.as_ours(layout, file.tensors(wanted), path)
    return fill(model, foreign.with_second_backbone(spec, ours), path)


def start_backbones(network: TwoStageDetector, path: Path) -> None:
    """Give both backbones the weights of a public ImageNet classifier; heads, links and router stay as they are.

    A Swin's output norms, which a classifier has not, stay as well. Raises CheckpointError if the file does not fit.
    """
    with open_torch_file(path, largest=LARGEST_FILE) as file:
        stored = _state_dict(path, file.content)
        layout = foreign.nearest(stored, network.spec, backbone=True)
        check_names(stored, foreign.expected_names(layout, stored), f"{printable(path)} is not {layout.of}")
        own = network.state_dict()
        wanted = {name: stored[name] for name in layout.names if name in stored}
        complaint = f"{printable(path)} does not fit {network.spec.name}"
        check_weights(wanted, {name: own[layout.names[name]] for name in wanted}, complaint)
        check_bytes(file, network, complaint)
        ours = foreign.as_ours(layout, file.tensors(wanted), path)
    ours |= foreign.second_backbone(network.spec, ours)
    check_numbers(ours, path)
    network.load_state_dict({**own, **ours})


def _state_dict(path: Path, content: Any) -> dict[str, StoredTensor]:
    inner = content
    for key in ("model", "state_dict"):  # DynamicDet and Swin, mmdetection
        inner = inner.get(key, inner) if isinstance(inner, dict) else inner
    if not (
        isinstance(inner, dict)
        and inner
        and all(isinstance(name, str) and isinstance(tensor, StoredTensor) for name, tensor in inner.items())
    ):
        raise CheckpointError(f"{printable(path)} holds no state dict; expected {{'model': {{name: tensor, ...}}}}")
    return dict(inner)


def _classes(path: Path, stored: dict[str, StoredTensor], spec: Model) -> int:
    """The number of classes, from the size of a prediction layer."""
    head = next(name for name in key_map(spec) if name.endswith(".m.0.bias"))
    shape, anchors = stored[head].shape, len(spec.anchors[0])
    classes = shape[0] // anchors - 5 if len(shape) == 1 else 0
    if not 1 <= classes <= MOST_CLASSES:
        raise CheckpointError(
            f"{printable(path)} does not fit {spec.name}: {head} is {'x'.join(map(str, shape))}, so it does not "
            f"predict 1 to {MOST_CLASSES:,} classes"
        )
    return classes


def _check_stored(path: Path, file: TorchFile, stored: dict[str, StoredTensor], model: DynamicDetector) -> None:
    """Compare names, shapes and bytes with the network before anything is read."""
    expected = model.state_dict()
    found = {name: stored[theirs] for theirs, name in key_map(model.spec).items()}
    complaint = f"{printable(path)} does not fit {model.spec.name}"
    check_weights(found, {name: tensor for name, tensor in expected.items() if name != "anchors"}, complaint)
    for keys in anchor_keys(model.spec):
        shapes = (stored[keys.by_stride].shape, stored[keys.pixels].shape)
        if shapes != (keys.by_stride_shape, keys.pixels_shape):
            raise CheckpointError(f"{complaint}: its anchors have another shape")
    check_bytes(file, model, complaint)


def check_bytes(file: TorchFile, model: Network, complaint: str) -> None:
    """Raise CheckpointError if a file stores more than a network's training could have."""
    most = _COPIES * _FLOAT32_BYTES * sum(tensor.numel() for tensor in model.state_dict().values())
    if file.stored_bytes > most:
        raise CheckpointError(
            f"{complaint}: it stores {file.stored_bytes:,} bytes of numbers; the weights, their average and the state "
            f"of an optimiser have at most {most:,}"
        )


def _recognise(path: Path, weights: dict[str, StoredTensor], expected: str | None) -> Model:
    names = {spec.name: _all_names(spec) for spec in PUBLISHED}
    exact = [spec for spec in PUBLISHED if set(names[spec.name]) == set(weights)]
    if exact and expected in (None, exact[0].name):
        return exact[0]
    if exact:
        raise CheckpointError(f"{printable(path)} holds {exact[0].name}, not {expected}")
    if expected is not None and expected not in names:
        raise CheckpointError(f"{printable(path)} cannot hold {expected}: only {', '.join(names)} were published")
    nearest = expected or max(names, key=lambda name: len(set(names[name]) & set(weights)))
    check_names(weights, names[nearest], f"{printable(path)} is not the published {nearest}")
    raise AssertionError("names that differ were reported")


def _all_names(spec: Model) -> list[str]:
    anchors = (name for keys in anchor_keys(spec) for name in (keys.by_stride, keys.pixels))
    return [*key_map(spec), *anchors]


def _anchors(path: Path, weights: dict[str, Tensor], spec: Model) -> Tensor:
    """Anchors in pixels (levels, anchors, 2); each head stores them twice and all four must agree."""
    one, other = (_head_anchors(path, weights, spec, keys) for keys in anchor_keys(spec))
    if not torch.equal(one, other):
        raise CheckpointError(f"{printable(path)} has different anchors in head 1 and head 2")
    return one


def _head_anchors(path: Path, weights: dict[str, Tensor], spec: Model, keys: AnchorKeys) -> Tensor:
    by_stride, pixels = weights[keys.by_stride].float(), weights[keys.pixels].float()
    pixels = pixels.reshape(by_stride.shape)
    strides = torch.tensor(spec.strides).view(-1, 1, 1)
    if not torch.allclose(by_stride * strides, pixels, rtol=_HALF_PRECISION):
        raise CheckpointError(
            f"{printable(path)} stores anchors that disagree: {keys.by_stride} times stride is not {keys.pixels}"
        )
    return pixels

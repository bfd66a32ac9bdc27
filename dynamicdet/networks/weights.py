"""Puts weights into a network, strictly: every name and every shape must fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.architectures import Model
from dynamicdet.networks.network import DynamicDetector

_SHOWN = 3


def network_with(
    weights: Mapping[str, Tensor],
    spec: Model,
    *,
    class_names: Sequence[str] | None,
    input_size: int | None,
    source: Path,
    num_classes: int | None = None,
) -> DynamicDetector:
    """A network in evaluation mode that holds exactly these float32 weights.

    Raises CheckpointError that lists the first names that are missing, unexpected or of another shape.
    """
    classes = len(class_names) if class_names is not None else num_classes
    try:
        with torch.device("meta"):  # no time goes into random weights
            model = DynamicDetector(spec, num_classes=classes or 0, class_names=class_names, input_size=input_size)
    except InputError as error:
        raise CheckpointError(f"{source} does not fit {spec.name}: {error}") from error
    expected = model.state_dict()
    check_names(weights, expected, f"{source} does not fit {spec.name}")
    wrong = [
        f"{name} is {_shape(weights[name])}, expected {_shape(tensor)}"
        for name, tensor in expected.items()
        if weights[name].shape != tensor.shape
    ]
    if wrong:
        raise CheckpointError(f"{source} does not fit {spec.name}: {_first(wrong)}")
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(True)
    return model.eval()


def check_names(found: Collection[str], expected: Collection[str], complaint: str) -> None:
    """Raise CheckpointError with the complaint and the first few names that differ, unless both have the same."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reasons = []
    if missing:
        reasons.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected:
        reasons.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    if reasons:
        raise CheckpointError(f"{complaint}: weights {' and '.join(reasons)}")


def _first(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"

"""Puts weights into a network, strictly: every name, every shape and every kind of number must fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, overload

import torch
from torch import Tensor

from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.architectures import Model, Spec
from dynamicdet.networks.network import DynamicDetector, Network, StaticDetector, TwoStageDetector, network_of
from dynamicdet.networks.router.form import PUBLISHED_ROUTER, RouterForm
from dynamicdet.text import counted, printable

LARGEST_FILE = 4 << 30
"""bytes; the weights of the largest network, their average and an optimiser's state have 2.6 GB"""

AnyNetwork = TypeVar("AnyNetwork", bound=Network)

_SHOWN = 3
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Described(Protocol):
    """A tensor, or what a file says about one that was not read yet."""

    @property
    def shape(self) -> Sequence[int]:
        """Its sizes."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its elements."""


@overload
def empty_network(
    spec: Model,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int = 80,
    input_size: int | None = None,
    router: RouterForm = PUBLISHED_ROUTER,
    source: Path,
) -> DynamicDetector: ...
@overload
def empty_network(
    spec: Spec,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int = 80,
    input_size: int | None = None,
    router: RouterForm = PUBLISHED_ROUTER,
    source: Path,
) -> DynamicDetector | StaticDetector | TwoStageDetector: ...
def empty_network(
    spec: Spec,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int = 80,
    input_size: int | None = None,
    router: RouterForm = PUBLISHED_ROUTER,
    source: Path,
) -> DynamicDetector | StaticDetector | TwoStageDetector:
    """A network without memory for its weights, for `fill`. Raises CheckpointError if classes or size do not fit."""
    classes = num_classes if class_names is None else len(class_names)
    try:
        with torch.device("meta"):
            return network_of(spec, num_classes=classes, class_names=class_names, input_size=input_size, router=router)
    except InputError as error:
        raise CheckpointError(f"{printable(source)} does not fit {spec.name}: {error}") from error


def check_weights(found: Mapping[str, Described], expected: Mapping[str, Described], complaint: str) -> None:
    """Raise CheckpointError with the complaint and the first names that are missing, unexpected or different.

    A floating-point weight may have any precision; others must have exactly the expected type.
    """
    check_names(found, expected, complaint)
    wrong = [
        f"{name} is {_shape(found[name])}, expected {_shape(tensor)}"
        for name, tensor in expected.items()
        if tuple(found[name].shape) != tuple(tensor.shape)
    ]
    wrong += [
        f"{name} has numbers of the type {_name(found[name].dtype)}, expected {_name(tensor.dtype)}"
        for name, tensor in expected.items()
        if not (found[name].dtype == tensor.dtype or {found[name].dtype, tensor.dtype} <= set(_FLOATS))
    ]
    if wrong:
        raise CheckpointError(f"{complaint}: {_first(wrong)}")


def check_names(found: Collection[str], expected: Collection[str], complaint: str) -> None:
    """Raise CheckpointError with the complaint and the first few names that differ, unless both have the same."""
    missing = [name for name in expected if name not in found]
    known = set(expected)
    unexpected = [printable(name, limit=100) for name in found if name not in known]
    different = [(names, how) for names, how in ((missing, "missing"), (unexpected, "unexpected")) if names]
    if different:
        (names, how), *others = different
        reasons = [f"{counted(len(names), 'weight', 'weights')} {how} ({_first(names)})"]
        reasons += [f"{len(names):,} {how} ({_first(names)})" for names, how in others]
        raise CheckpointError(f"{complaint}: {' and '.join(reasons)}")


def check_numbers(weights: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError that names the first weight with a number that no network can compute with."""
    # A sum is much faster than a look at every number, and is finite only if they are: in float64 it cannot overflow.
    spoilt = [name for name, one in weights.items() if not torch.isfinite(one.sum(dtype=torch.float64))]
    if spoilt:
        count = sum(int((~torch.isfinite(weights[name])).sum()) for name in spoilt)
        raise CheckpointError(
            f"{printable(source)} has {count:,} NaN or infinite numbers in {len(spoilt)} of {len(weights)} weights, "
            f"the first in {spoilt[0]}; take a checkpoint from before the training went wrong"
        )
    for name, tensor in weights.items():
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{printable(source)} is damaged: {name}, a variance, has numbers below 0")
        if name == "anchors" and not (tensor > 0).all():
            raise CheckpointError(f"{printable(source)} is damaged: its anchors have sizes that are not above 0")


def fill(model: AnyNetwork, weights: Mapping[str, Tensor], source: Path) -> AnyNetwork:
    """The network of `empty_network` with these weights as float32, in evaluation mode.

    Raises CheckpointError if a name, a shape or a number does not fit.
    """
    check_weights(weights, model.state_dict(), f"{printable(source)} does not fit {model.spec.name}")
    single = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    check_numbers(single, source)
    model.load_state_dict(single, assign=True)
    model.compute_constants()
    model.requires_grad_(True)
    model.freeze()
    return model.eval()


def _first(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def _shape(tensor: Described) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Reads the file from which a training resumes. Others may have written it, so nothing in it is taken on trust."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.network import Network
from dynamicdet.networks.stored_tensors import StoredTensor
from dynamicdet.networks.torch_files import open_torch_file
from dynamicdet.networks.weights import LARGEST_FILE, check_numbers, check_weights
from dynamicdet.text import printable

_MOST_STEPS = 10**12


@dataclass(frozen=True)
class TrainingState:
    """What a training had reached."""

    step: int
    epochs_done: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    """by the number of the parameter; see torch.optim.Optimizer.state_dict"""


def read_state(
    path: Path,
    *,
    version: int,
    model: Network,
    parameters: Mapping[int, Tensor],
    recipe: Mapping[str, Any],
    may_change: tuple[str, ...],
    moments: tuple[str, ...],
) -> TrainingState:
    """The state in a file that `Trainer.store` wrote for this network, these `parameters` and this recipe.

    Raises InputError if it is missing, damaged, or of another network or recipe; what is in `may_change` may differ.
    `moments` are the names of what the optimiser stores of a parameter.
    """
    if not path.is_file():
        raise InputError(f"there is nothing to resume: {printable(path)} does not exist")
    with ExitStack() as opened:
        try:
            file = opened.enter_context(open_torch_file(path, largest=LARGEST_FILE))
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{printable(path)} ")
            raise InputError(f"{printable(path)} is not a training state of dyndet: it {reason}") from error
        content = file.content
        if not isinstance(content, dict) or "version" not in content:
            raise _not_a_state(path)
        if content["version"] != version:
            raise InputError(f"{printable(path)} was written by another version of dyndet; start the training again")
        _check_network(path, content, model)
        _check_recipe(path, content, recipe, may_change)
        expected = model.state_dict()
        complaint = f"{printable(path)} does not fit this training"
        read: dict[str, dict[str, Tensor]] = {}
        for part in ("model", "average"):
            stored = _described(path, content.get(part))
            check_weights(stored, expected, complaint)
            read[part] = file.tensors(stored)
            check_numbers(read[part], path)
        stored_moments = _moments(path, content.get("optimizer"))
        check_weights(stored_moments, _expected_moments(stored_moments, parameters, moments), complaint)
        numbers = file.tensors(stored_moments)
        check_numbers(numbers, path)
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in numbers.items():
        number, _, moment = name.partition(".")
        optimizer.setdefault(int(number), {})[moment] = tensor
    return TrainingState(
        step=_count(path, content.get("step")),
        epochs_done=_count(path, content.get("epochs_done")),
        optimizer=optimizer,
        **read,
    )


def _not_a_state(path: Path) -> InputError:
    return InputError(f"{printable(path)} is not a training state of dyndet, or is damaged")


def _check_network(path: Path, content: Mapping[Any, Any], model: Network) -> None:
    name, classes = content.get("architecture"), content.get("class_names")
    if not isinstance(name, str) or not isinstance(classes, list):
        raise _not_a_state(path)
    if name != model.spec.name or classes != list(model.class_names):
        raise InputError(
            f"{printable(path)} is the state of {printable(name, limit=50)} with {len(classes)} classes, not of this "
            "training"
        )


def _check_recipe(
    path: Path, content: Mapping[Any, Any], recipe: Mapping[str, Any], may_change: tuple[str, ...]
) -> None:
    theirs = content.get("recipe")
    if not isinstance(theirs, dict):
        raise _not_a_state(path)
    theirs = {"hold_out": 0.0, **theirs, "processes": content.get("processes")}
    other = [name for name in recipe if name not in may_change and recipe[name] != theirs.get(name)]
    if other:
        found = printable(reprlib.repr(theirs.get(other[0])))
        raise InputError(
            f"{printable(path)} was trained with {other[0]} {found}, not {recipe[other[0]]}; resume with the same "
            "options (only the epochs may change)"
        )


def _described(path: Path, tensors: Any) -> dict[str, StoredTensor]:
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, StoredTensor) for name, tensor in tensors.items()
    ):
        raise _not_a_state(path)
    return tensors


def _moments(path: Path, optimizer: Any) -> dict[str, StoredTensor]:
    """An optimiser's tensors by "NUMBER.MOMENT"."""
    states = optimizer.get("state") if isinstance(optimizer, dict) else None
    if not isinstance(states, dict) or not all(type(number) is int for number in states):
        raise _not_a_state(path)
    return {
        f"{number}.{name}": tensor
        for number, state in states.items()
        for name, tensor in _described(path, state).items()
    }


def _expected_moments(
    found: Mapping[str, object], parameters: Mapping[int, Tensor], moments: tuple[str, ...]
) -> dict[str, Tensor]:
    """Those of all parameters that have any: a parameter without a gradient has none."""
    numbers = {name.partition(".")[0] for name in found}
    return {
        f"{number}.{name}": parameter.flatten()[0] if name == "step" else parameter
        for number, parameter in parameters.items()
        for name in moments
        if str(number) in numbers
    }


def _count(path: Path, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_STEPS:
        raise _not_a_state(path)
    return value

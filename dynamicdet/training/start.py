"""The network that a training begins with: random weights, or a checkpoint, also one of other classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dynamicdet.datasets.dataset import CocoDataset, in_class_order
from dynamicdet.errors import InputError
from dynamicdet.networks.architectures import any_architecture
from dynamicdet.networks.base import Network
from dynamicdet.networks.checkpoints import load_network
from dynamicdet.networks.network import TwoStageDetector, YoloNetwork, network_of

_PREDICTION = re.compile(r"predict[12]\.predict\.\d+\.(scale|conv\.)")
_BY_CLASS = re.compile(r"heads[12]\.(box\.logits|box\.deltas|mask\.logits)\.")
_ROWS = {"box.logits": 1, "box.deltas": 4, "mask.logits": 1}  # of a class


def in_order_of(start: Path | str | None, data: CocoDataset) -> CocoDataset:
    """The data with its classes in the order of the first weights, if they have the same names."""
    return data if start is None else in_class_order(data, load_network(start).class_names)


def first_network(architecture: str, data: CocoDataset, start: Path | str | None) -> Network:
    """The network that training begins with. Raises InputError if `start` is of another architecture or size."""
    classes, side = data.class_names, data.size  # the data may have been read for a detector of others
    if start is None:
        return network_of(any_architecture(architecture), num_classes=len(classes), class_names=classes)
    known = load_network(start)
    if known.spec.name != architecture:
        raise InputError(f"{start} holds {known.spec.name}, not {architecture}; name it with --architecture")
    if known.input_size != side:
        raise InputError(f"{start} reads {known.input_size} px images, but the data set was read at {side} px")
    if known.class_names == classes:
        return known
    model = network_of(known.spec, num_classes=len(classes), class_names=classes, input_size=known.input_size)
    fresh, own = model.state_dict(), known.state_dict()
    for name, tensor in own.items():
        if isinstance(model, YoloNetwork) and _PREDICTION.match(name):
            anchors = model.anchors.shape[1]
            fresh[name] = _predictions(fresh[name], tensor, classes, known.class_names, anchors)
        elif isinstance(model, TwoStageDetector) and (rows := _rows_of_a_class(model, name)):
            fresh[name] = _rows_by_class(fresh[name], tensor, classes, known.class_names, rows)
        else:
            fresh[name] = tensor
    model.load_state_dict(fresh)
    return model


def _predictions(
    fresh: Tensor, known: Tensor, classes: Sequence[str], known_classes: Sequence[str], anchors: int
) -> Tensor:
    """A parameter of a prediction layer: box, objectness and the classes of the same name as they are known.

    The outputs, box (4), objectness and classes for each anchor, are one dimension of the parameter.
    """
    outputs = 0 if known.shape[0] > 1 else 1
    moved = fresh.movedim(outputs, 0)
    own = moved.reshape(anchors, 5 + len(classes), -1).clone()
    given = known.movedim(outputs, 0).reshape(anchors, 5 + len(known_classes), -1)
    own[:, :5] = given[:, :5]
    for index, name in enumerate(classes):
        if name in known_classes:
            own[:, 5 + index] = given[:, 5 + known_classes.index(name)]
    return own.reshape(moved.shape).movedim(0, outputs).contiguous()


def _rows_of_a_class(model: TwoStageDetector, name: str) -> int:
    """How many rows of a parameter belong to each class; 0 if it does not depend on the classes."""
    found = _BY_CLASS.match(name)
    if found is None or (found[1] == "mask.logits" and model.spec.mask is not None and not model.spec.mask.per_class):
        return 0
    return _ROWS[found[1]]


def _rows_by_class(
    fresh: Tensor, known: Tensor, classes: Sequence[str], known_classes: Sequence[str], rows: int
) -> Tensor:
    """A parameter of a two-stage head with so many `rows` for each class, and maybe one for the background behind them.

    The rows of the background and of the classes of the same name are as they are known.
    """
    own = fresh.clone()
    own[rows * len(classes) :] = known[rows * len(known_classes) :]
    for index, name in enumerate(classes):
        if name in known_classes:
            place = known_classes.index(name)
            own[rows * index : rows * (index + 1)] = known[rows * place : rows * (place + 1)]
    return own

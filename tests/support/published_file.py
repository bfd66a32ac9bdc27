"""A network's weights under the names of the published checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from dynamicdet.networks.network import DynamicDetector
from dynamicdet.networks.published_keys import NEGATED, anchor_keys, key_map


def as_published(model: DynamicDetector) -> dict[str, Tensor]:
    """The state dict a published file would hold for this network, in half precision."""
    ours = model.state_dict()
    theirs = {key: ours[name].clone() for key, name in key_map(model.spec).items()}
    for key in NEGATED:
        theirs[key].neg_()
    strides = torch.tensor(model.spec.strides).view(-1, 1, 1)
    for keys in anchor_keys(model.spec):
        theirs[keys.by_stride] = (model.anchors / strides).reshape(keys.by_stride_shape)
        theirs[keys.pixels] = model.anchors.reshape(keys.pixels_shape)
    return {key: value.half() if value.is_floating_point() else value for key, value in theirs.items()}

"""Features of boxes as graphs compute them, in two forms that agree: RoiAlign, and GridSample with an average.

ONNX Runtime is about five times as fast with RoiAlign. TensorRT needs a plugin for RoiAlign and none for GridSample.
Both sample each box once, on a map that holds all levels side by side. RoiAlign cannot be told where a level ends, so
there each level has a margin that repeats its border. Coordinates and arithmetic are fp32 in every bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch
from torch import Tensor
from torch.nn import functional

from dynamicdet.errors import ParityError
from dynamicdet.networks.two_stage.operators import (
    SAMPLES,
    RoiFeatures,
    in_cells,
    looked_up,
    roi_features,
    side_by_side,
)
from dyndet_builder.bundle.parts import Target

_MARGIN = 2  # pixels; an unaligned box is widened to one pixel and may leave the map by as much
_OPSETS_WITH_BILINEAR = range(16, 20)  # from opset 20 on: `linear`, for which TensorRT's parser takes `nearest`


def by_roi_align(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], output: int, aligned: bool
) -> Tensor:
    """Features of boxes by RoiAlign; see `roi_features`, whose result this is."""
    whole, corners = side_by_side([functional.pad(level.float(), [_MARGIN] * 4, mode="replicate") for level in maps])
    low, size = in_cells(boxes, levels, strides, aligned=aligned)
    low = low + looked_up(corners, levels) + (_MARGIN + 0.5)  # to the operator, the centre of the first pixel is 0.5
    rois = torch.cat([low, low + size], dim=-1)  # (B, K, 4)
    images = torch.ones_like(levels).cumsum(0) - 1
    found: Tensor = roi_align(whole, rois.flatten(0, 1), images.flatten(), output)  # (B * K, C, output, output)
    return found.reshape(-1, boxes.shape[1], int(whole.shape[1]), output, output).to(maps[0].dtype)


ROI_FORMS: dict[Target, RoiFeatures] = {"onnxruntime": by_roi_align, "tensorrt": roi_features}
"""The form in the graphs of a bundle for each target; that for TensorRT is the network's own."""


@torch.library.custom_op("dyndet::roi_align", mutates_args=())
def roi_align(features: Tensor, rois: Tensor, images: Tensor, side: int) -> Tensor:
    """ONNX's RoiAlign (half_pixel, average): rois (N, 4) in cells of features (B, C, H, W), image of each."""
    steps = (torch.arange(side * SAMPLES) + 0.5) / (side * SAMPLES)
    low, high = torch.split(rois, 2, dim=-1)
    points = low[:, None] + steps[:, None] * (high - low)[:, None]  # (N, side * SAMPLES, 2)
    height, width = features.shape[2:]
    x, y = (2 * points / torch.tensor([width, height]) - 1).unbind(-1)
    count = side * SAMPLES
    columns, rows = x[:, None, :].expand(-1, count, -1), y[:, :, None].expand(-1, -1, count)
    grid = torch.stack([columns, rows], dim=-1)  # (N, side * SAMPLES, side * SAMPLES, 2)
    sampled = rois.new_empty(len(rois), features.shape[1], side, side)
    for image in torch.unique(images).tolist():
        mine = images == image
        one = features[image : image + 1].expand(int(mine.sum()), -1, -1, -1)
        found = functional.grid_sample(one, grid[mine], mode="bilinear", padding_mode="border", align_corners=False)
        sampled[mine] = functional.avg_pool2d(found, SAMPLES)
    return sampled


@roi_align.register_fake
def _(features: Tensor, rois: Tensor, images: Tensor, side: int) -> Tensor:
    return rois.new_empty(rois.shape[0], features.shape[1], side, side)


# Every attribute is written: the standard's own defaults are not those that parsers assume.
_ATTRIBUTES: dict[str, Any] = {
    "mode": "avg",
    "sampling_ratio": SAMPLES,
    "spatial_scale": 1.0,
    "coordinate_transformation_mode": "half_pixel",
}


def _for_dynamo(features: Any, rois: Any, images: Any, side: int) -> Any:
    return onnxscript.opset18.RoiAlign(features, rois, images, output_height=side, output_width=side, **_ATTRIBUTES)


def _for_torchscript(graph: Any, features: Any, rois: Any, images: Any, side: Any) -> Any:
    size = torch.onnx.symbolic_helper._get_const(side, "i", "side")  # type: ignore[no-untyped-call]
    kinds = {str: "s", int: "i", float: "f"}
    attributes = {f"{name}_{kinds[type(value)]}": value for name, value in _ATTRIBUTES.items()}
    return graph.op("RoiAlign", features, rois, images, output_height_i=size, output_width_i=size, **attributes)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.dyndet.roi_align.default: _for_dynamo}
"""For torch.onnx.export's `custom_translation_table`."""


def register_for_torchscript(opset: int) -> None:
    """Register the operator for the TorchScript exporter."""
    torch.onnx.utils.register_custom_op_symbolic("dyndet::roi_align", _for_torchscript, opset)


def check_sampling(model: onnx.ModelProto) -> None:
    """Raise ParityError if a graph leaves to its reader how features are sampled.

    Parsers disagree about the defaults of RoiAlign, and TensorRT's reads what it does not know as `nearest`.
    """
    (opset,) = (one.version for one in model.opset_import if one.domain == "")
    for node in model.graph.node:
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == "GridSample" and (
            given.get("mode") != b"bilinear" or opset not in _OPSETS_WITH_BILINEAR or "padding_mode" not in given
        ):
            raise ParityError(f"a GridSample at opset {opset} has the mode {given.get('mode')!r} instead of 'bilinear'")
        if node.op_type == "RoiAlign" and (missing := {*_ATTRIBUTES} - {*given}):
            raise ParityError(f"a RoiAlign was exported without {', '.join(sorted(missing))}")

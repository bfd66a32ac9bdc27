"""Features of boxes as graphs compute them, in two forms that agree: RoiAlign, and GridSample with an average.

ONNX Runtime is about five times as fast with RoiAlign. TensorRT needs a plugin for RoiAlign and none for GridSample.

Every box reads one level of the pyramid. The levels lie side by side in one map (an atlas), so a box is sampled once
and not once per level. Sampling points that leave a level read its border, as the network itself does: in the form of
RoiAlign, which cannot be told where a level ends, each level has a margin that repeats its border.

Coordinates and arithmetic are fp32 in every bundle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch
from torch import Tensor
from torch.nn import functional

from dynamicdet.errors import ParityError
from dyndet_builder.bundle.parts import Target

RATIO = 2
"""sampling points per bin and axis, as in torchvision"""
_MARGIN = 2  # pixels; an unaligned box is widened to one pixel and may leave the map by as much
_OPSETS_WITH_BILINEAR = range(16, 20)  # from opset 20 on: `linear`, for which TensorRT's parser takes `nearest`

Roi = Callable[[Sequence[Tensor], Tensor, Tensor, Sequence[int], int, bool], Tensor]
"""maps (B, C, H, W) of a pyramid, boxes (B, K, 4) in pixels inside the image, their levels (B, K), the maps' strides,
the side of the output and whether pixels are aligned, to features (B, K, C, side, side)"""


def by_roi_align(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], side: int, aligned: bool
) -> Tensor:
    """Features of boxes by RoiAlign; see `Roi`."""
    atlas, corners = _atlas([functional.pad(level.float(), (_MARGIN,) * 4, mode="replicate") for level in maps])
    low, size = _in_cells(boxes, levels, strides, aligned)
    low = low + 0.5 + _MARGIN + torch.tensor(corners, dtype=torch.float32)[levels]  # (B, K, 2); 0.5: half_pixel
    rois = torch.cat([low, low + size], dim=-1)  # (B, K, 4)
    images = torch.ones_like(levels).cumsum(0) - 1
    found = roi_align(atlas, rois.flatten(0, 1), images.flatten(), side)  # (B * K, C, side, side)
    return found.unflatten(0, (-1, boxes.shape[1]))


def by_grid_sample(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], side: int, aligned: bool
) -> Tensor:
    """Features of boxes by GridSample; see `Roi`."""
    atlas, corners = _atlas([level.float() for level in maps])
    low, size = _in_cells(boxes, levels, strides, aligned)
    last = torch.tensor([[width - 1.0, height - 1.0] for height, width in map(_sides, maps)])[levels]  # (B, K, 2)
    steps = (torch.arange(side * RATIO, dtype=torch.float32) + 0.5) / (side * RATIO)
    points = low.unsqueeze(2) + steps[:, None] * size.unsqueeze(2)  # (B, K, side * RATIO, 2): x and y of cell centres
    points = torch.minimum(points.clamp(min=0.0), last.unsqueeze(2))
    points = points + torch.tensor(corners, dtype=torch.float32)[levels].unsqueeze(2)
    height, width = _sides(atlas)
    x, y = ((2 * points + 1) / torch.tensor([width, height], dtype=torch.float32) - 1).unbind(-1)
    rows, columns = torch.broadcast_tensors(y.unsqueeze(3), x.unsqueeze(2))  # (B, K, side * RATIO, side * RATIO)
    grid = torch.stack([columns, rows], dim=-1).flatten(1, 2)
    sampled = functional.grid_sample(atlas, grid, mode="bilinear", padding_mode="border", align_corners=False)
    pooled = functional.avg_pool2d(sampled, RATIO)  # (B, C, K * side, side)
    return pooled.unflatten(2, (boxes.shape[1], side)).transpose(1, 2)


ROI_FORMS: dict[Target, Roi] = {"onnxruntime": by_roi_align, "tensorrt": by_grid_sample}
"""The form in the graphs of a bundle for each target."""


def _in_cells(boxes: Tensor, levels: Tensor, strides: Sequence[int], aligned: bool) -> tuple[Tensor, Tensor]:
    """Top left corner and size (B, K, 2) of boxes on their levels, in cells; the centre of the first cell is 0."""
    scale = torch.tensor([1 / stride for stride in strides])[levels].unsqueeze(-1)
    scaled = boxes.float() * scale
    low, high = scaled.split(2, dim=-1)
    if aligned:
        return low - 0.5, high - low
    return low, (high - low).clamp(min=1.0)


def _atlas(maps: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Maps in one: the first on the left, the others below each other on its right; and x, y of their corners."""
    sides = [_sides(level) for level in maps]
    if len(maps) == 1:
        return maps[0], [(0, 0)]
    width = max(other for _, other in sides[1:])
    height = max(sides[0][0], sum(other for other, _ in sides[1:]))
    tops = itertools.accumulate((other for other, _ in sides[1:-1]), initial=0)
    column = torch.cat([functional.pad(level, (0, width - _sides(level)[1])) for level in maps[1:]], dim=2)
    atlas = torch.cat([_with_height(maps[0], height), _with_height(column, height)], dim=3)
    return atlas, [(0, 0), *((sides[0][1], top) for top in tops)]


def _sides(level: Tensor) -> tuple[int, int]:
    """Height and width as plain numbers, which the TorchScript exporter makes tensors."""
    return int(level.shape[2]), int(level.shape[3])


def _with_height(level: Tensor, height: int) -> Tensor:
    return functional.pad(level, (0, 0, 0, height - _sides(level)[0]))


@torch.library.custom_op("dyndet::roi_align", mutates_args=())
def roi_align(features: Tensor, rois: Tensor, images: Tensor, side: int) -> Tensor:
    """ONNX's RoiAlign (half_pixel, average, `RATIO`): rois (N, 4) in cells of features (B, C, H, W), image of each."""
    steps = (torch.arange(side * RATIO) + 0.5) / (side * RATIO)
    low, high = rois.split(2, dim=-1)
    points = low[:, None] + steps[:, None] * (high - low)[:, None]  # (N, side * RATIO, 2)
    height, width = features.shape[2:]
    x, y = (2 * points / torch.tensor([width, height]) - 1).unbind(-1)
    rows, columns = torch.broadcast_tensors(y[:, :, None], x[:, None, :])
    grid = torch.stack([columns, rows], dim=-1)  # (N, side * RATIO, side * RATIO, 2)
    sampled = rois.new_empty(len(rois), features.shape[1], side, side)
    for image in images.unique().tolist():
        mine = images == image
        one = features[image : image + 1].expand(int(mine.sum()), -1, -1, -1)
        found = functional.grid_sample(one, grid[mine], mode="bilinear", padding_mode="border", align_corners=False)
        sampled[mine] = functional.avg_pool2d(found, RATIO)
    return sampled


@roi_align.register_fake
def _(features: Tensor, rois: Tensor, images: Tensor, side: int) -> Tensor:
    return rois.new_empty(rois.shape[0], features.shape[1], side, side)


# Every attribute is written: the standard's own defaults are not those that parsers assume.
_ATTRIBUTES: dict[str, Any] = {
    "mode": "avg",
    "sampling_ratio": RATIO,
    "spatial_scale": 1.0,
    "coordinate_transformation_mode": "half_pixel",
}


def _for_dynamo(features: Any, rois: Any, images: Any, side: int) -> Any:
    return onnxscript.opset18.RoiAlign(features, rois, images, output_height=side, output_width=side, **_ATTRIBUTES)


def _for_torchscript(graph: Any, features: Any, rois: Any, images: Any, side: Any) -> Any:
    size = torch.onnx.symbolic_helper._get_const(side, "i", "side")
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

"""Suppression of overlapping boxes as one operator with two bodies: plain numpy, and standard ONNX operators.

Both keep the same boxes: greedy, in the given order (best first), per class; a box is dropped if its overlap with an
earlier box that stays exceeds the threshold. Boxes are x1 y1 x2 y2.

The graph's body has only static shapes. A K x K matrix says which candidate would suppress which. The greedy result is
the fixed point of "a box stays unless a box that stays suppresses it". It is reached after as many rounds as the
longest chain of candidates that decide each other (a handful). ONNX's NonMaxSuppression would do the same, but
TensorRT-RTX parses it and then has no implementation for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx.parser
import onnxscript
import torch
from torch import Tensor

from dynamicdet.aliases import Float32Array

DOMAIN = "dyndet"
_OP = "KeepMask"
_GRAPH = """
<domain: "dyndet", opset_import: ["": 18]>
KeepMask (boxes, scores, classes, iou) => (keep) {
    left, top, right, bottom = Split <axis = 2, num_outputs = 4> (boxes)
    left_t = Transpose <perm = [0, 2, 1]> (left)
    top_t = Transpose <perm = [0, 2, 1]> (top)
    right_t = Transpose <perm = [0, 2, 1]> (right)
    bottom_t = Transpose <perm = [0, 2, 1]> (bottom)
    inner_right = Min (right, right_t)
    inner_left = Max (left, left_t)
    inner_bottom = Min (bottom, bottom_t)
    inner_top = Max (top, top_t)
    inner_width = Sub (inner_right, inner_left)
    inner_height = Sub (inner_bottom, inner_top)
    shared_width = Relu (inner_width)
    shared_height = Relu (inner_height)
    shared = Mul (shared_width, shared_height)
    width = Sub (right, left)
    height = Sub (bottom, top)
    area = Mul (width, height)
    area_t = Transpose <perm = [0, 2, 1]> (area)
    both = Add (area, area_t)
    union = Sub (both, shared)
    threshold = Cast <to = 1> (iou)
    allowed = Mul (union, threshold)
    overlap = Greater (shared, allowed)

    one = Constant <value = int64[1] {1}> ()
    two = Constant <value = int64[1] {2}> ()
    class_column = Unsqueeze (classes, two)
    class_row = Unsqueeze (classes, one)
    same_class = Equal (class_column, class_row)
    rivals = And (overlap, same_class)
    rival_numbers = Cast <to = 1> (rivals)
    diagonal = Constant <value = int64 {1}> ()
    suppresses = Trilu <upper = 1> (rival_numbers, diagonal)

    zero = Constant <value = float {0.0}> ()
    half = Constant <value = float {0.5}> ()
    usable = Greater (scores, zero)
    usable_numbers = Cast <to = 1> (usable)
    start = Unsqueeze (usable_numbers, one)
    no_limit = Constant <value = int64 {1000000}> ()
    go = Constant <value = bool {1}> ()
    settled = Loop (no_limit, go, start) <body = rounds (int64 round, bool going, float[b, 1, k] stay)
        => (bool changed, float[b, 1, k] next) {
            hits = MatMul (stay, suppresses)
            free = Less (hits, half)
            free_numbers = Cast <to = 1> (free)
            next = Mul (free_numbers, start)
            difference = Sub (next, stay)
            size = Abs (difference)
            largest = ReduceMax <keepdims = 0> (size)
            changed = Greater (largest, half)
        }>
    settled_rows = Squeeze (settled, one)
    keep = Greater (settled_rows, half)
}
"""

_NODE = onnxscript.values.Op(
    onnxscript.values.Opset(DOMAIN, 1),
    _OP,
    onnx.defs.OpSchema(
        _OP,
        DOMAIN,
        1,
        inputs=[
            onnx.defs.OpSchema.FormalParameter("boxes", "tensor(float)"),
            onnx.defs.OpSchema.FormalParameter("scores", "tensor(float)"),
            onnx.defs.OpSchema.FormalParameter("classes", "tensor(int64)"),
            onnx.defs.OpSchema.FormalParameter("iou", "tensor(float)"),
        ],
        outputs=[onnx.defs.OpSchema.FormalParameter("keep", "tensor(bool)")],
    ),
)


def suppress(
    boxes: Float32Array, scores: Float32Array, classes: npt.NDArray[np.int64], *, iou_threshold: float
) -> npt.NDArray[np.bool_]:
    """Which candidates of one image stay: boxes (K, 4), descending scores (K,), classes (K,) to a mask (K,).

    A score of 0 marks an unused row, which never stays. The arithmetic is in single precision, as in a graph.
    """
    suppresses = overlaps(boxes, iou_threshold=iou_threshold) & (classes[:, None] == classes)
    keep = np.zeros(len(scores), np.bool_)
    for row in np.flatnonzero(scores > 0):
        keep[row] = not (suppresses[row] & keep).any()
    return keep


def overlaps(boxes: Float32Array, *, iou_threshold: float) -> npt.NDArray[np.bool_]:
    """Whether the intersection over union of each box (K, 4) with each other exceeds the threshold, (K, K)."""
    left, top, right, bottom = (column[:, None] for column in boxes.T)
    zero = np.float32(0)
    width = np.maximum(np.minimum(right, right.T) - np.maximum(left, left.T), zero)
    height = np.maximum(np.minimum(bottom, bottom.T) - np.maximum(top, top.T), zero)
    shared = width * height
    area = (right - left) * (bottom - top)
    exceeds: npt.NDArray[np.bool_] = shared > (area + area.T - shared) * np.float32(iou_threshold)
    return exceeds


@torch.library.custom_op("dyndet::keep_mask", mutates_args=())
def keep_mask(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Mask (B, K) of the candidates that stay: `suppress` for a batch of boxes (B, K, 4), scores and classes (B, K)."""
    images = zip(boxes.numpy(), scores.numpy(), classes.numpy(), strict=True)
    return torch.from_numpy(np.stack([suppress(b, s, c, iou_threshold=iou_threshold) for b, s, c in images]))


@keep_mask.register_fake
def _(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _for_dynamo(boxes: Any, scores: Any, classes: Any, iou_threshold: float) -> Any:
    iou = onnxscript.opset18.Constant(value_float=iou_threshold)
    return _NODE(boxes, scores, classes, iou)


def _for_torchscript(graph: Any, boxes: Any, scores: Any, classes: Any, iou_threshold: Any) -> Any:
    return graph.op(f"{DOMAIN}::{_OP}", boxes, scores, classes, iou_threshold)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.dyndet.keep_mask.default: _for_dynamo}
"""For torch.onnx.export's `custom_translation_table`: a node that `inline_suppression` replaces."""


def register_for_torchscript(opset: int) -> None:
    """Register the operator for the TorchScript exporter."""
    torch.onnx.utils.register_custom_op_symbolic("dyndet::keep_mask", _for_torchscript, opset)


def inline_suppression(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the operator's nodes by standard operators of the model's opset, at least 14."""
    (opset,) = (one.version for one in model.opset_import if one.domain == "")
    text = _GRAPH.replace('"": 18', f'"": {opset}')
    if opset < 18:
        text = text.replace(", num_outputs = 4", "")  # the outputs are counted
    model.functions.append(onnx.parser.parse_function(text))
    return onnx.inliner.inline_local_functions(model)

"""From a detector's outputs to candidates, the best first, as operators: one function for each kind of answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec, Role
from dyndet_builder.detectors.ops import FLOAT, INT64, Ops

_BEYOND = 1e9
"""no box or score of a detector is as large; NaN is not below it, either"""
_NEVER = -1e9
"""score of what must not be chosen; logits reach it no more than probabilities"""
_LARGEST_LOG = 20.0
"""sides of undecoded boxes are powers of e; this is beyond every picture, and still a number"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output of a detector, as float32 or int64."""

    tensor: str
    dims: tuple[int | None, ...]
    """None: not known"""
    is_float: bool = True


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The best objects, best first."""

    boxes: str
    """(B, K, 4) x1 y1 x2 y2 in pixels of `image`, not clipped"""
    scores: str
    """(B, K); 0 for what is none"""
    classes: str
    """(B, K) int64, as the answer numbers them"""
    count: int
    """K"""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    spec: DetectorSpec
    classes: tuple[int, ...]
    fit: Fit
    wanted: int
    """of candidates"""

    @property
    def scale(self) -> list[float]:
        """Pixels of `image` per unit of the detector's boxes, for x1 y1 x2 y2."""
        height, width = self.spec.input.size if self.spec.output.unit == "pixels" else (1, 1)
        return [self.fit.width / width, self.fit.height / height] * 2


def add_candidates(
    ops: Ops, spec: DetectorSpec, outputs: Mapping[Role, Output], *, fit: Fit, nms: Nms, classes: tuple[int, ...]
) -> Candidates:
    """Add what finds candidates in a detector's outputs. Raises InputError for outputs of another form."""
    wanted = nms.pre_top_k if spec.output.suppress else nms.max_detections
    plan = _Plan(spec=spec, classes=classes, fit=fit, wanted=wanted)
    if spec.output.family in ("rows", "counted", "triple", "dets-labels"):
        return _of_rows(ops, plan, outputs)
    return _of_scores(ops, plan, outputs)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """Boxes with a score for every class. `axis` is that of the rows: 1, or 2 where columns come first."""

    boxes: str
    scores: str
    objectness: str | None
    axis: int
    rows: int
    slots: int


def _of_scores(ops: Ops, plan: _Plan, outputs: Mapping[Role, Output]) -> Candidates:
    """The best pairs of row and class. Two steps find them: the K best rows by their best class contain their rows."""
    found = _scored(ops, plan, outputs)
    table = _table(plan, found.slots)
    activation = plan.spec.output.activation
    scores, axis, width = found.scores, found.axis, found.slots
    if activation == "softmax":
        scores = ops.Softmax(scores, axis=3 - axis)
    if (table < 0).any():
        barred = np.where(table < 0, _NEVER, 0.0).astype(np.float32)
        scores = ops.Add(scores, barred[:, None] if axis == 2 else barred)

    def activated(tensor: str) -> str:
        return str(ops.Sigmoid(tensor)) if activation == "sigmoid" else tensor

    best = ops.largest(scores, 3 - axis)  # (B, N)
    if found.objectness is not None:
        best = ops.Mul(activated(best), activated(ops.Squeeze(found.objectness, [3 - axis])))
    best = _where_number(ops, best, _finite(ops, found.boxes, 3 - axis))
    count = min(plan.wanted, found.rows)
    _, rows = ops.TopK(best, [count], axis=1, outputs=2)  # (B, K)

    boxes = ops.take(found.boxes, rows, width=4, axis=axis)
    chosen = ops.take(scores, rows, width=width, axis=axis)
    if found.objectness is not None:
        objectness = ops.take(found.objectness, rows, width=1, axis=axis)
        chosen = ops.Mul(activated(chosen), activated(objectness))
    kept = ops.GatherElements(_finite(ops, found.boxes, 3 - axis), rows, axis=1)
    if axis == 2:
        boxes, chosen = (ops.Transpose(tensor, perm=[0, 2, 1]) for tensor in (boxes, chosen))
    chosen = _where_number(ops, chosen, ops.Unsqueeze(kept, [2]))  # (B, K, classes)
    pairs = ops.Reshape(chosen, [0, count * width])
    pair_count = min(plan.wanted, count * width)
    scores, places = ops.TopK(pairs, [pair_count], axis=1, outputs=2)
    boxes = ops.take(boxes, ops.Div(places, width), width=4)
    likely = scores if found.objectness is not None else activated(scores)
    return Candidates(
        boxes=_corners(ops, plan, boxes),
        scores=ops.Where(ops.Greater(scores, _NEVER / 2), likely, 0.0),
        classes=ops.Gather(np.maximum(table, 0), ops.Mod(places, width)),
        count=pair_count,
    )


def _scored(ops: Ops, plan: _Plan, outputs: Mapping[Role, Output]) -> _Scored:
    family = plan.spec.output.family
    if family in ("detr", "boxes-scores"):
        role: Role = "logits" if family == "detr" else "scores"
        likely, places = outputs[role], outputs["boxes"]
        rows, width = _sides(places, 1, 2, "boxes", plan)
        scored, slots = _sides(likely, 1, 2, role, plan)
        if width != 4 or scored != rows:
            raise InputError(
                f"the detector's boxes are {_shape(places)} and its {role} are {_shape(likely)}; expected [batch, N, "
                "4] and [batch, N, classes]"
            )
        return _Scored(boxes=places.tensor, scores=likely.tensor, objectness=None, axis=1, rows=rows, slots=slots)
    everything = outputs["all"]
    axis = 2 if family == "yolo" else 1
    rows, width = _sides(everything, axis, 3 - axis, "all", plan)
    if family in ("yolo-objectness", "yolox-raw"):
        boxes, objectness, scores = ops.parts(everything.tensor, 4, 1, _slots(width - 5, everything), axis=2)
        if family == "yolox-raw":
            boxes = _decoded(ops, plan, boxes, rows)
        return _Scored(boxes=boxes, scores=scores, objectness=objectness, axis=1, rows=rows, slots=width - 5)
    boxes, scores = ops.parts(everything.tensor, 4, _slots(width - 4, everything), axis=3 - axis)
    return _Scored(boxes=boxes, scores=scores, objectness=None, axis=axis, rows=rows, slots=width - 4)


def _slots(count: int, output: Output) -> int:
    if count < 1:
        raise InputError(f"the detector's output is {_shape(output)}, which leaves no room for scores of classes")
    return count


def _decoded(ops: Ops, plan: _Plan, raw: str, rows: int) -> str:
    """Centre and size in pixels of undecoded boxes: cells of a grid for each stride, one after another."""
    height, width = plan.spec.input.size
    grids = []
    for stride in plan.spec.output.strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        grids.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], axis=1))
    cells = np.concatenate(grids).astype(np.float32)
    if len(cells) != rows:
        strides = ", ".join(map(str, plan.spec.output.strides))
        raise InputError(f"the detector gives {rows} boxes, but the strides {strides} would give {len(cells)}")
    centre, size = ops.parts(raw, 2, 2, axis=2)
    centre = ops.Mul(ops.Add(centre, cells[:, :2]), cells[:, 2:])
    size = ops.Mul(ops.Exp(ops.Min(size, _LARGEST_LOG)), cells[:, 2:])
    return str(ops.Concat(centre, size, axis=2))


def _of_rows(ops: Ops, plan: _Plan, outputs: Mapping[Role, Output]) -> Candidates:
    """Objects that the detector has chosen itself, sorted again."""
    boxes, scores, labels = _rows(ops, plan, outputs)
    rows = boxes.dims[1]
    if plan.spec.output.activation == "sigmoid":
        scores = ops.Sigmoid(scores)
    classes = _class_of(ops, plan, labels)
    usable = ops.And(_finite(ops, boxes.tensor, 2), ops.GreaterOrEqual(classes, 0))
    if plan.spec.output.family == "counted":
        usable = ops.And(usable, _counted(ops, outputs["count"], boxes.tensor))
    scores = ops.Max(_where_number(ops, scores, usable), 0.0)
    tensors = [boxes.tensor, scores, ops.Max(classes, 0)]
    count = plan.wanted
    if rows is not None:
        count = min(count, rows)
    else:  # as many as there are in a picture: enough empty rows for the top-k behind them
        ends = ([0, 0, 0, 0, count, 0], [0, 0, 0, count], [0, 0, 0, count])
        tensors = [ops.Pad(tensor, end) for tensor, end in zip(tensors, ends, strict=True)]
    scores, order = ops.TopK(tensors[1], [count], axis=1, outputs=2)
    return Candidates(
        boxes=_corners(ops, plan, ops.take(tensors[0], order, width=4)),
        scores=scores,
        classes=ops.GatherElements(tensors[2], order, axis=1),
        count=count,
    )


def _rows(ops: Ops, plan: _Plan, outputs: Mapping[Role, Output]) -> tuple[Output, str, Output]:
    """Boxes (B, K, 4), scores (B, K) and labels (B, K)."""
    family = plan.spec.output.family
    joint = outputs["all" if family == "rows" else "boxes"]
    extra = {"rows": 2, "dets-labels": 1}.get(family, 0)
    if len(joint.dims) != 3 or joint.dims[2] not in (4 + extra, None):
        raise InputError(f"the detector's output is {_shape(joint)}; expected [batch, K, {4 + extra}]")
    for role, output in outputs.items():
        if output is not joint and len(output.dims) != 2 and role != "count":
            raise InputError(f"the detector's {role} are {_shape(output)}; expected [batch, K]")
    boxes, *others = ops.parts(joint.tensor, 4, *[1] * extra, axis=2)
    flat = [ops.Squeeze(one, [2]) for one in others]
    dims = joint.dims[:2]
    scores = flat[0] if flat else outputs["scores"].tensor
    labels = Output(tensor=flat[1], dims=dims) if extra == 2 else outputs["labels"]
    return Output(tensor=boxes, dims=(*dims, 4)), scores, labels


def _class_of(ops: Ops, plan: _Plan, labels: Output) -> str:
    """The number in the answer of each label; -1 for those that are left out, and for what is no label."""
    slots = plan.spec.slots
    lowest, highest = min(slots), max(slots)
    table = np.full(highest - lowest + 3, -1, np.int64)  # with a place for everything below, and one for all above
    for slot, number in zip(slots, plan.classes, strict=True):
        table[slot - lowest + 1] = number
    tensor = labels.tensor
    if labels.is_float:
        inside = ops.And(ops.Greater(tensor, lowest - 0.75), ops.Less(tensor, highest + 0.75))
        tensor = ops.Cast(ops.Round(ops.Where(inside, tensor, float(lowest - 1))), to=INT64)
    place = ops.Min(ops.Max(ops.Sub(tensor, lowest - 1), 0), len(table) - 1)
    return str(ops.Gather(table, place))


def _counted(ops: Ops, count: Output, boxes: str) -> str:
    """Whether a row is one of the first `count`, (B, K)."""
    ends = ops.Cast(ops.Reshape(count.tensor, [-1, 1]), to=FLOAT)
    finite = ops.Cast(_finite(ops, boxes, 2), to=FLOAT)
    ones = ops.Add(ops.Mul(finite, 0.0), 1.0)
    return str(ops.LessOrEqual(ops.CumSum(ones, 1), ends))


def _corners(ops: Ops, plan: _Plan, boxes: str) -> str:
    """Boxes (B, K, 4) as x1 y1 x2 y2 in pixels of `image`."""
    form = plan.spec.output.boxes
    if form == "yxyx":
        boxes = ops.Gather(boxes, [1, 0, 3, 2], axis=2)
    elif form != "xyxy":
        start, size = ops.parts(boxes, 2, 2, axis=2)
        if form == "cxcywh":
            half = ops.Mul(size, 0.5)
            start, end = ops.Sub(start, half), ops.Add(start, half)
        else:
            end = ops.Add(start, size)
        boxes = ops.Concat(start, end, axis=2)
    return str(boxes if set(plan.scale) == {1.0} else ops.Mul(boxes, plan.scale))


def _finite(ops: Ops, boxes: str, axis: int) -> str:
    """Whether all four numbers of a box, which lie along an axis, can be those of a box, (B, N)."""
    numbers = ops.Cast(ops.Less(ops.Abs(boxes), _BEYOND), to=FLOAT)
    return str(ops.Greater(ops.largest(numbers, axis, operator="ReduceMin"), 0.5))


def _where_number(ops: Ops, scores: str, usable: str) -> str:
    """Scores where they are numbers and usable, elsewhere one that is never chosen."""
    return str(ops.Where(ops.And(ops.Less(ops.Abs(scores), _BEYOND), usable), scores, _NEVER))


def _table(plan: _Plan, slots: int) -> npt.NDArray[np.int64]:
    """The number in the answer of each slot; -1 for those that are left out."""
    table = np.full(slots, -1, np.int64)
    for slot, number in zip(plan.spec.slots, plan.classes, strict=True):
        if not 0 <= slot < slots:
            raise InputError(
                f"the detector has scores for {slots} classes, but class {slot} is one of its {len(plan.spec.slots)}"
            )
        table[slot] = number
    return table


def _sides(output: Output, rows: int, columns: int, role: Role, plan: _Plan) -> tuple[int, int]:
    """Number of rows and of columns of an output with three axes."""
    if len(output.dims) != 3:
        raise InputError(
            f"the detector's output {plan.spec.output.tensors[role]} is {_shape(output)}; family "
            f"{plan.spec.output.family} needs 3 axes"
        )
    found = output.dims[rows], output.dims[columns]
    if found[0] is None or found[1] is None:
        raise InputError(f"the detector's output {plan.spec.output.tensors[role]} has no fixed size")
    return found[0], found[1]


def _shape(output: Output) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in output.dims)}]"

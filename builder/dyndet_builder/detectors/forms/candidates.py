"""Families by the names and shapes of outputs: each that could fit, with what it would mean.

Names come first, because shapes repeat: with three classes, RF-DETR's boxes and scores are both [B, 300, 4].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dyndet_builder.bundle.spec import Activation, BoxForm, Family, Role, Unit
from dyndet_builder.detectors.facts import GraphFacts, TensorFacts

_COUNT = ("num_dets", "num_detections", "num_predictions", "numdetections", "keepcount", "nmsed_num", "count")
_BOXES = ("det_boxes", "detection_boxes", "pred_boxes", "boxes", "bboxes", "nmsed_boxes", "bbox")
_SCORES = ("det_scores", "detection_scores", "pred_scores", "scores", "nmsed_scores", "score")
_LABELS = ("det_classes", "detection_classes", "pred_classes", "classes", "nmsed_classes", "labels", "class_ids")
_LOGITS = ("logits", "pred_logits")
_RAW = {"detection_multiclass_scores", "raw_detection_boxes", "raw_detection_scores", "detection_anchor_indices"}
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16))
_DECODING = {"Exp", "Pow"}
"""operators at the end of a graph that only decoding has: sides of boxes are powers"""
_HEADS = {"Conv", "Gemm", "HardSigmoid", "MatMul", "Sigmoid"}
"""operators at the end of a graph that has only these there, so nothing decodes its boxes"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A family that the outputs could have."""

    family: Family
    tensors: Mapping[Role, str]
    why: str
    channels: int | None = None
    """slots of classes, those for background included; None if the answer holds class numbers instead"""
    boxes: BoxForm = "xyxy"
    unit: Unit = "pixels"
    activation: Activation = "none"
    suppress: bool = False
    strides: tuple[int, ...] = STRIDES[0]

    @property
    def has_numbers(self) -> bool:
        """Whether the answer holds class numbers instead of a score for each class."""
        return self.family in ("rows", "counted", "triple", "dets-labels")


def candidates_of(facts: GraphFacts, *, size: tuple[int, int] | None) -> tuple[Candidate, ...]:
    """Every family that the outputs of a graph could have; none for outputs that are none of a detector.

    `size` is height and width of the picture, if they are known: they give the number of boxes of a grid.
    """
    outputs = {_bare(one.name): one for one in facts.outputs}
    for rule in (_counted, _detr, _dets_labels, _triple, _boxes_scores):
        if (found := rule(outputs, facts)) is not None:
            return (found,)
    ranks = [len(one.dims) for one in facts.outputs]
    if ranks.count(3) == 1 and all(rank in (3, 5) for rank in ranks):  # beside maps before they are decoded
        return tuple(_single(facts.outputs[ranks.index(3)], facts, size))
    return ()


def _bare(name: str) -> str:
    """A name without the marks of TensorFlow: `detection_boxes:0`."""
    return name.lower().partition(":")[0]


def _named(outputs: Mapping[str, TensorFacts], names: tuple[str, ...]) -> TensorFacts | None:
    return next((outputs[name] for name in names if name in outputs), None)


def _is_float(*tensors: TensorFacts) -> bool:
    return all(one.dtype in ("float32", "float16") for one in tensors)


def _width(tensor: TensorFacts) -> int | None:
    last = tensor.dims[-1]
    return last if isinstance(last, int) else None


def _counted(outputs: Mapping[str, TensorFacts], facts: GraphFacts) -> Candidate | None:
    parts = [_named(outputs, names) for names in (_COUNT, _BOXES, _SCORES, _LABELS)]
    count, boxes, scores, labels = parts
    if count is None or boxes is None or scores is None or labels is None:
        return None
    if len(boxes.dims) != 3 or len(scores.dims) != 2 or len(labels.dims) != 2:
        return None
    is_tensorflow = bool(_RAW & {*outputs}) or any(one.dtype == "uint8" and one.dims[-1] == 3 for one in facts.inputs)
    return Candidate(
        family="counted",
        tensors={"count": count.name, "boxes": boxes.name, "scores": scores.name, "labels": labels.name},
        why=(
            "four outputs give count, boxes, scores and class numbers, as in TensorFlow's Object Detection API"
            if is_tensorflow
            else "four outputs give count, boxes, scores and class numbers"
        ),
        boxes="yxyx" if is_tensorflow else "xyxy",
        unit="normalised" if is_tensorflow else "pixels",
    )


def _detr(outputs: Mapping[str, TensorFacts], facts: GraphFacts) -> Candidate | None:
    logits, boxes = _named(outputs, _LOGITS), _named(outputs, _BOXES)
    if logits is None and {"dets", "labels"} <= {*outputs} and _is_float(outputs["labels"]):
        logits, boxes = outputs["labels"], outputs["dets"]  # RF-DETR's names; by shape they can be mixed up
    if logits is None or boxes is None or not _is_float(logits, boxes):
        return None
    if len(logits.dims) != 3 or len(boxes.dims) != 3 or _width(boxes) not in (4, None):
        return None
    return Candidate(
        family="detr",
        tensors={"logits": logits.name, "boxes": boxes.name},
        why=f"the outputs {logits.described} and {boxes.described} are those of a DETR: class logits and boxes",
        channels=_width(logits),
        boxes="cxcywh",
        unit="normalised",
        activation="sigmoid",
    )


def _dets_labels(outputs: Mapping[str, TensorFacts], facts: GraphFacts) -> Candidate | None:
    dets, labels = _named(outputs, ("dets",)), _named(outputs, ("labels",))
    if dets is None or labels is None or len(dets.dims) != 3 or _width(dets) != 5 or len(labels.dims) != 2:
        return None
    return Candidate(
        family="dets-labels",
        tensors={"boxes": dets.name, "labels": labels.name},
        why=f"the outputs {dets.described} and {labels.described} are those of mmdeploy: boxes with scores, classes",
    )


def _triple(outputs: Mapping[str, TensorFacts], facts: GraphFacts) -> Candidate | None:
    labels, boxes, scores = (_named(outputs, names) for names in (_LABELS, _BOXES, _SCORES))
    if labels is None or boxes is None or scores is None:
        return None
    if [len(one.dims) for one in (labels, boxes, scores)] != [2, 3, 2] or _width(boxes) not in (4, None):
        return None
    return Candidate(
        family="triple",
        tensors={"labels": labels.name, "boxes": boxes.name, "scores": scores.name},
        why="three outputs give labels, boxes and scores, as in the tools of RT-DETR, D-FINE and DEIM",
    )


def _boxes_scores(outputs: Mapping[str, TensorFacts], facts: GraphFacts) -> Candidate | None:
    if len(outputs) != 2 or not all(len(one.dims) == 3 and _is_float(one) for one in outputs.values()):
        return None
    fours = [name for name, one in outputs.items() if _width(one) == 4]
    if len(fours) == 2:
        fours = [name for name in fours if "box" in name]
    if len(fours) != 1:
        return None
    boxes = outputs[fours[0]]
    (scores,) = (one for one in outputs.values() if one is not boxes)
    if boxes.dims[1] != scores.dims[1]:
        return None
    tails = {role: {*facts.tails.get(one.name, ())} for role, one in (("boxes", boxes), ("scores", scores))}
    return Candidate(
        family="boxes-scores",
        tensors={"boxes": boxes.name, "scores": scores.name},
        why=f"the outputs {boxes.described} and {scores.described} are boxes and class scores before suppression",
        channels=_width(scores),
        unit="normalised" if tails["boxes"] == {"Sigmoid"} else "pixels",
        activation="sigmoid" if tails["scores"] and tails["scores"] <= {"Conv", "Add", "MatMul", "Gemm"} else "none",
        suppress=True,
    )


def _single(tensor: TensorFacts, facts: GraphFacts, size: tuple[int, int] | None) -> Iterator[Candidate]:
    """Families of one tensor of rank 3. Its second or third axis counts boxes, as many as a grid has cells."""
    if not _is_float(tensor):
        return
    _, rows, columns = tensor.dims
    tail = {*facts.tails.get(tensor.name, ())}
    on_rows, on_columns, thrice = (_strides(side, size, times) for side, times in ((rows, 1), (columns, 1), (rows, 3)))
    here: Mapping[Role, str] = {"all": tensor.name}
    shown = tensor.described
    is_yolo = on_columns is not None or (isinstance(columns, str) and isinstance(rows, int))
    # Where the number of boxes is no grid's, the longer axis counts them, except in lists of the best.
    if is_yolo or (size is None and isinstance(rows, int) and isinstance(columns, int) and rows < columns):
        if isinstance(rows, int) and rows >= 5:
            yield Candidate(
                family="yolo",
                tensors=here,
                why=f"the output {shown} has {rows} numbers for each cell of a grid: a box and a score for each class",
                channels=rows - 4,
                boxes="cxcywh",
                suppress=True,
            )
        if on_columns is not None:
            return
    if not isinstance(columns, int):
        return
    is_grid = on_rows is not None or thrice is not None
    if columns == 6 and not is_grid and tail != {"Sigmoid"}:
        yield Candidate(
            family="rows", tensors=here, why=f"the output {shown} has a row for each box: corners, score and class"
        )
    if columns >= 6 and (is_grid or isinstance(rows, str)):
        yield from _with_objectness(here, shown, columns, tail, on_rows if thrice is None else None, thrice is not None)
    is_undecoded = is_grid and _ends_undecoded(tail)
    if columns >= 5 and thrice is None and not is_undecoded and "TopK" not in tail:
        yield _joined(here, shown, columns, tail, is_grid)


def _with_objectness(
    here: Mapping[Role, str], shown: str, columns: int, tail: set[str], strides: tuple[int, ...] | None, anchors: bool
) -> Iterator[Candidate]:
    why = f"the output {shown} has a row for each cell of a grid: a box, objectness, and a score for each class"
    if anchors:
        why += "; three rows for each cell are three anchors"
    if strides is None or not _ends_undecoded(tail):
        yield Candidate(
            family="yolo-objectness", tensors=here, why=why, channels=columns - 5, boxes="cxcywh", suppress=True
        )
    if strides is not None and not tail & _DECODING:
        reason = ", since nothing computes with them" if _ends_undecoded(tail) else ""
        yield Candidate(
            family="yolox-raw",
            tensors=here,
            why=f"{why}; the boxes are offsets in the grid{reason}",
            channels=columns - 5,
            boxes="cxcywh",
            suppress=True,
            strides=strides,
        )


def _ends_undecoded(tail: set[str]) -> bool:
    """Whether a graph ends in its head, by the operators at its end; False if these are not known."""
    return bool(tail) and tail <= _HEADS


def _joined(here: Mapping[Role, str], shown: str, columns: int, tail: set[str], is_grid: bool) -> Candidate:
    why = f"the output {shown} has a row for each box: a box and a score for each class"
    if tail == {"Sigmoid"}:
        why += "; sigmoids give both, so boxes are parts of the picture"
    return Candidate(
        family="joined",
        tensors=here,
        why=why,
        channels=columns - 4,
        boxes="cxcywh",
        unit="pixels" if is_grid else "normalised",
        suppress=is_grid,
    )


def _strides(count: int | str, size: tuple[int, int] | None, times: int) -> tuple[int, ...] | None:
    """Strides of the grids that have so many cells together; None if no usual ones have."""
    if size is None or isinstance(count, str):
        return None
    for strides in STRIDES:
        if times * sum(-(-size[0] // one) * -(-size[1] // one) for one in strides) == count:
            return strides
    return None

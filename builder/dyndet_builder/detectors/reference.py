"""A detector's own file in ONNX Runtime, with pre-processing and decoding in numpy: what a merged graph must equal.

Everything is computed in the plainest way, and nothing is shared with the graph but the rule of fitting and the plain
suppression. So a mistake in one of them shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import Float32Array, UInt8Array
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.nms import suppress
from dyndet_builder.bundle.sessions import Array, Tensors, run_session, session_of
from dyndet_builder.bundle.spec import DetectorSpec, ExtraInput


@dataclass(frozen=True, kw_only=True)
class Found:
    """Objects in one picture, the best first."""

    boxes: Float32Array
    """(n, 4) x1 y1 x2 y2, pixels"""
    scores: Float32Array
    """(n,)"""
    classes: npt.NDArray[np.int64]
    """(n,) numbers in the detector's own class names"""

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, rows: Any) -> Found:
        """Only these rows."""
        return Found(boxes=self.boxes[rows], scores=self.scores[rows], classes=self.classes[rows])


class Reference:
    """Runs a detector's file as its makers meant it. Raises InputError for a file that ONNX Runtime does not load."""

    def __init__(self, file: Path, spec: DetectorSpec, *, nms: Nms | None = None, threads: int | None = None) -> None:
        self.spec = spec
        self._nms = nms or Nms()
        self._name = printable(file)
        self._session = session_of(file, threads=threads)

    def answer(self, picture: UInt8Array) -> Found:
        """Objects in an RGB picture (H, W, 3) of any size, suppressed where the detector leaves that to others.

        Boxes are in pixels of the picture and clipped to it.
        """
        fitted = self.spec.input.fit(picture)
        (found,) = self.candidates(fitted.image[None])
        found = found.at(slice(self._nms.pre_top_k))
        if self.spec.output.suppress:
            keep = suppress(found.boxes, found.scores, found.classes, iou_threshold=self._nms.iou_threshold)
            found = found.at(keep)
        found = found.at(slice(self._nms.max_detections))
        return Found(boxes=fitted.to_original(found.boxes), scores=found.scores, classes=found.classes)

    def candidates(self, images: Array) -> list[Found]:
        """All objects that reach the score floor in each of the fitted uint8 pictures (B, H, W, 3), before suppression.

        Pictures of another size than the detector's are resized, linear between the centres of pixels. Boxes are in
        pixels of the detector's input, not clipped.
        """
        outputs = self.outputs(images)
        return [self._decoded({name: values[row] for name, values in outputs.items()}) for row in range(len(images))]

    def outputs(self, images: Array) -> Tensors:
        """The file's own outputs for fitted uint8 pictures (B, H, W, 3), by name; pictures of `batch: one` one by one.

        Raises InputError if ONNX Runtime cannot run the file with them.
        """
        if self.spec.input.batch == "one" and len(images) > 1:
            singles = [self.outputs(image[None]) for image in images]
            return {name: np.concatenate([single[name] for single in singles]) for name in singles[0]}
        feed = {self.spec.input.name: self._tensor(images)}
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        feed |= {one.name: self._extra(one, shapes.get(one.name, []), len(images)) for one in self.spec.input.extra}
        return run_session(self._session, feed, name=self._name)

    def _tensor(self, images: Array) -> Array:
        spec = self.spec.input
        pixels = images.astype(np.float64)
        if images.shape[1:3] != spec.size:
            pixels = _resized(_resized(pixels, spec.size[0], axis=1), spec.size[1], axis=2)
        if spec.colour == "BGR":
            pixels = pixels[..., ::-1]
        if spec.dtype == "uint8":
            pixels = np.rint(pixels)
        pixels = (pixels / spec.divide_by - np.array(spec.mean)) / np.array(spec.std)
        if spec.layout == "NCHW":
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels.astype(np.float32).astype(spec.dtype))

    def _extra(self, extra: ExtraInput, shape: Sequence[object], batch: int) -> Array:
        height, width = self.spec.input.size
        numbers = {"width-height": [width, height], "height-width": [height, width]}.get(extra.kind, [1, 1])
        if extra.kind != "mask":
            return np.array([numbers] * batch, extra.dtype)
        sides = [side if isinstance(side, int) else given for side, given in zip(shape[-2:], (height, width))]  # noqa: B905
        return np.ones((batch, *[1] * (len(shape) - 3), *sides), extra.dtype)

    def _decoded(self, outputs: Mapping[str, Array]) -> Found:
        """The candidates in the outputs for one picture."""
        spec = self.spec.output
        named: dict[str, Array] = {role: outputs[name].astype(np.float64) for role, name in spec.tensors.items()}
        with np.errstate(all="ignore"):  # what is no number is left out
            if spec.family in ("rows", "counted", "triple", "dets-labels"):
                boxes, scores, classes = _chosen(self.spec, named)
            else:
                boxes, scores, classes = _scored(self.spec, named, self._nms.score_floor)
            boxes = _corners(boxes, spec.boxes)
            if spec.unit == "normalised":
                height, width = self.spec.input.size
                boxes = boxes * [width, height, width, height]
            usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & (scores >= self._nms.score_floor)
            usable &= (scores > 0) & (classes >= 0)
        order = np.argsort(-scores[usable], kind="stable")
        found = Found(
            boxes=boxes[usable].astype(np.float32),
            scores=np.minimum(scores[usable], 1).astype(np.float32),
            classes=classes[usable].astype(np.int64),
        )
        return found.at(order)


def _scored(spec: DetectorSpec, named: Mapping[str, Array], floor: float) -> tuple[Array, Array, Array]:
    """Boxes (M, 4) as they are, scores (M,) and classes (M,) of every pair of row and class with such a score."""
    family, objectness = spec.output.family, None
    if family == "detr":
        boxes, scores = named["boxes"], named["logits"]
    elif family == "boxes-scores":
        boxes, scores = named["boxes"], named["scores"]
    else:
        rows = named["all"].T if family == "yolo" else named["all"]
        boxes, scores = rows[:, :4], rows[:, 4:]
        if family in ("yolo-objectness", "yolox-raw"):
            objectness, scores = scores[:, :1], scores[:, 1:]
        if family == "yolox-raw":
            boxes = _from_grid(spec, boxes)
    scores = _activated(scores, spec.output.activation)
    if objectness is not None:
        scores = scores * (_activated(objectness, "sigmoid") if spec.output.activation == "sigmoid" else objectness)
    scores = scores[:, list(spec.slots)]
    rows, classes = np.nonzero(scores >= floor)
    return boxes[rows], scores[rows, classes], classes


def _chosen(spec: DetectorSpec, named: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """Boxes (M, 4) as they are, scores (M,) and classes (M,) of the rows that the detector has chosen."""
    family = spec.output.family
    if family == "rows":
        boxes, scores, labels = named["all"][:, :4], named["all"][:, 4], named["all"][:, 5]
    elif family == "dets-labels":
        boxes, scores, labels = named["boxes"][:, :4], named["boxes"][:, 4], named["labels"]
    else:
        boxes, scores, labels = named["boxes"], named["scores"], named["labels"]
        if family == "counted":
            count = int(named["count"].ravel()[0])
            boxes, scores, labels = boxes[:count], scores[:count], labels[:count]
    numbers = {slot: number for number, slot in enumerate(spec.slots)}
    classes = [numbers.get(round(label), -1) if np.isfinite(label) else -1 for label in labels.tolist()]
    return boxes, _activated(scores, spec.output.activation), np.array(classes, np.int64)


def _activated(scores: Array, activation: str) -> Array:
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-scores)))
    if activation == "softmax":
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
    return scores


def _from_grid(spec: DetectorSpec, raw: Array) -> Array:
    height, width = spec.input.size
    boxes, row = np.empty_like(raw), 0
    for stride in spec.output.strides:
        for y in range(height // stride):
            for x in range(width // stride):
                boxes[row, :2] = (raw[row, :2] + [x, y]) * stride
                boxes[row, 2:] = np.exp(raw[row, 2:]) * stride
                row += 1
    return boxes


def _corners(boxes: Array, form: str) -> Array:
    a, b, c, d = boxes.T
    forms = {
        "xyxy": (a, b, c, d),
        "yxyx": (b, a, d, c),
        "xywh": (a, b, a + c, b + d),
        "cxcywh": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }
    return np.stack(forms[form], axis=1)


def _resized(pixels: Array, wanted: int, *, axis: int) -> Array:
    """Linear between the centres of pixels, along one axis."""
    side = pixels.shape[axis]
    places = np.clip((np.arange(wanted) + 0.5) * side / wanted - 0.5, 0, side - 1)
    lower = np.floor(places).astype(int)
    upper = np.minimum(lower + 1, side - 1)
    part = (places - lower).reshape([-1 if one == axis else 1 for one in range(pixels.ndim)])
    return np.asarray(pixels.take(lower, axis) * (1 - part) + pixels.take(upper, axis) * part)

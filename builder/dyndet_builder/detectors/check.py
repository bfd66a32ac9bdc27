"""How far a merged graph is from the detector's own file, and how far it may be.

Suppression is all or nothing, and so is a limit on the number of objects. Comparing results would blame a graph for a
coin toss: an overlap at the threshold, plus or minus a rounding error. So the answer is held against the conditions
that only the right one meets, each with a small tolerance:

1. Every object in the answer is a candidate of the file: the same class, score and box.
2. No two of them suppress each other.
3. Every candidate that is missing is either suppressed by a better object in the answer, or too weak for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from dynamicdet.aliases import Float32Array, UInt8Array
from dynamicdet.errors import InputError, ParityError
from dynamicdet.letterbox import Fit
from dynamicdet.text import distinct, printable
from dyndet_builder.bundle.manifest import AdapterCheck, Nms, Precision
from dyndet_builder.bundle.parity import BARS, BATCH_SIZES, Bars
from dyndet_builder.bundle.sessions import Tensors
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.detectors.facts import read_facts
from dyndet_builder.detectors.finish import Table
from dyndet_builder.detectors.reference import Found, Reference
from dyndet_builder.detectors.runner import DetectorRunner

_TIE_OVERLAP = 1e-3
"""of the intersection over union: within it of the threshold, either answer is right"""
_BATCH_SHARE = 0.01
"""of a file's numbers may change with the batch, such as queries that tie"""


def check_adapter(
    model: onnx.ModelProto,
    file: Path,
    spec: DetectorSpec,
    pictures: Iterable[UInt8Array],
    *,
    fit: Fit,
    nms: Nms,
    classes: Sequence[int],
    calibration: Table = (),
) -> AdapterCheck:
    """Compare `model`, which `build_graph` made with these arguments, with the file on RGB pictures (H, W, 3).

    Pictures are compared at batch 1, and at batch 3 if the graph takes it. Raises ParityError, with the numbers, if
    boxes or scores differ by more than `parity.BARS` accepts or an object is missing or too much; InputError without a
    picture, and if the file or the graph does not run.
    """
    runner, reference = DetectorRunner(model), Reference(file, spec, nms=nms)
    precision = precision_of(file)
    sizes = (1,) if spec.input.batch == "one" else BATCH_SIZES
    worst = _Worst(_Rules(spec, fit, nms, np.array(classes), calibration, BARS[precision]))
    count = 0
    for group in _groups((fit(picture).image for picture in pictures), max(sizes)):
        for size in sizes:
            for start in range(0, len(group), size):
                images = np.stack(group[start : start + size])
                answer, expected = runner.run(images), reference.candidates(images)
                for row, candidates in enumerate(expected):
                    worst.take({name: values[row] for name, values in answer.items()}, candidates, count + start + row)
        if count == 0 and len(sizes) > 1 and (reason := _fixed_batch(reference, np.stack(group))):
            raise ParityError(
                f"{printable(file)} does not take several pictures at a time, as its description says: {reason}"
            )
        count += len(group)
    if not count:
        raise InputError("the comparison of a graph with its file needs at least one picture")
    _refuse(worst, count, precision, BARS[precision])
    return AdapterCheck(images=count, batch_sizes=sizes, box_px=worst.box_px, score=worst.score)


def fixed_batch(file: Path, spec: DetectorSpec, pictures: Sequence[UInt8Array]) -> str:
    """Why a file with a dynamic batch takes only one picture at a time after all, in a sentence; empty if it does not.

    Some exporters write a batch of 1 into the middle of a graph. It runs, and then answers for one picture with parts
    of another, or it fails. `pictures` are RGB (H, W, 3), at least two of different content.
    """
    images = np.stack([spec.input.fit(picture).image for picture in pictures])
    return _fixed_batch(Reference(file, spec), images)


def precision_of(file: Path) -> Precision:
    """`fp16` if most of a file's weights are in half precision; that decides how far answers may differ."""
    weights = read_facts(file).weights
    return "fp16" if weights.get("float16", 0) > weights.get("float32", 0) else "fp32"


def _fixed_batch(reference: Reference, images: npt.NDArray[np.uint8]) -> str:
    if len(images) == 1:
        images = np.concatenate([images, images[:, ::-1, ::-1]])
    try:
        together = reference.outputs(images)
    except InputError as error:
        return f"{error}; use `batch: one`"
    singles = [reference.outputs(image[None]) for image in images]
    for name in reference.spec.output.tensors.values():
        alone = [single[name] for single in singles]
        if len(together[name]) != len(images):
            rows = f"{len(together[name])} rows for {len(images)} pictures"
            return f"its output {printable(name)} has {rows}; use `batch: one`"
        if any(one.shape[1:] != together[name].shape[1:] for one in alone):
            continue  # as many objects as there are in the fullest picture
        apart = _apart(together[name], np.concatenate(alone))
        if apart > _BATCH_SHARE:
            return f"{apart:.0%} of the numbers in {printable(name)} change with the batch; use `batch: one`"
    return ""


def _apart(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> float:
    """Share of numbers that differ by more than 1 % of the largest one."""
    a, b = (np.nan_to_num(values.astype(np.float64)) for values in (first, second))
    return float((np.abs(a - b) > 0.01 * max(1e-6, np.abs(b).max())).mean()) if a.size else 0.0


@dataclass(frozen=True)
class _Rules:
    spec: DetectorSpec
    fit: Fit
    nms: Nms
    classes: npt.NDArray[np.int64]
    calibration: Table
    bars: Bars

    @property
    def scale(self) -> Float32Array:
        """Pixels of `image` per pixel of the detector's input."""
        height, width = self.spec.input.size
        return np.array([self.fit.width / width, self.fit.height / height] * 2, np.float32)

    def expected(self, found: Found) -> Found:
        """Candidates as the graph numbers them, without classes that are left out."""
        found = Found(boxes=found.boxes, scores=found.scores, classes=self.classes[found.classes])
        return found.at(found.classes >= 0)

    def calibrated(self, scores: Float32Array) -> Float32Array:
        if not self.calibration:
            return scores
        given, wanted = np.array(self.calibration).T
        return np.interp(scores, given, wanted).astype(np.float32)


class _Worst:
    """The largest differences so far, and the first object that is missing or too much."""

    def __init__(self, rules: _Rules) -> None:
        self.box_px = self.score = 0.0
        self.fault = ""
        self._rules = rules

    def take(self, answer: Tensors, candidates: Found, picture: int) -> None:
        """Hold one picture's answer against its candidates."""
        expected = self._rules.expected(candidates)
        count = int(answer["num_detections"][0])
        boxes, scores, classes = (answer[name] for name in ("boxes", "scores", "classes"))
        fault = ""
        if not all(np.isfinite(values).all() for values in (boxes, scores)):
            fault = "it gives something that is no number"
        elif any(values[count:].any() for values in (boxes, scores, classes)):
            fault = "it has rows beyond the number of objects"
        elif (np.diff(scores[:count]) > 0).any():
            fault = "its scores do not descend"
        else:
            found = Found(boxes=boxes[:count], scores=scores[:count], classes=classes[:count].astype(np.int64))
            rows = self._match(found, expected)
            fault = "" if rows is None else self._set_fault(found, expected, rows)
        if fault and not self.fault:
            self.fault = f"in picture {picture + 1}, {fault}"

    def _match(self, found: Found, expected: Found) -> npt.NDArray[np.int64] | None:
        """The candidate of each object; None if an object is none, which then shows in the differences."""
        rules, bars = self._rules, self._rules.bars
        height, width = rules.spec.input.size
        corners = np.array([width, height] * 2, np.float32)
        clipped, scores = expected.boxes.clip(0, corners), rules.calibrated(expected.scores)
        free = np.ones(len(expected), np.bool_)
        rows = np.empty(len(found), np.int64)
        for number, (box, score, kind) in enumerate(zip(found.boxes / rules.scale, found.scores, found.classes)):  # noqa: B905
            likely = np.flatnonzero(free & (expected.classes == kind) & (np.abs(scores - score) <= 10 * bars.score))
            if not likely.size:
                self.fault = self.fault or f"an object of class {kind} with a score of {score:.3f} is not in the file's"
                return None
            box_px, apart = np.abs(clipped[likely] - box).max(axis=1), np.abs(scores[likely] - score)
            best = int(np.argmin(box_px / bars.box_px + apart / bars.score))
            rows[number] = likely[best]
            free[rows[number]] = False
            self.score = max(self.score, float(apart[best]))
            if score >= bars.box_from_score:
                self.box_px = max(self.box_px, float(box_px[best]))
        return rows

    def _set_fault(self, found: Found, expected: Found, rows: npt.NDArray[np.int64]) -> str:
        """Whether the objects are those that suppression and limits leave of the candidates."""
        rules, nms, tie = self._rules, self._rules.nms, self._rules.bars.score
        kept = expected.at(rows)
        left = np.ones(len(expected), np.bool_)
        left[rows] = False
        limit = nms.score_floor
        if len(found) == nms.max_detections:
            limit = max(limit, float(kept.scores.min()))
        if rules.spec.output.suppress and len(expected) > nms.pre_top_k:
            limit = max(limit, float(expected.scores[nms.pre_top_k - 1]))
        missing = expected.at(left & (expected.scores > limit + tie))
        if rules.spec.output.suppress:
            over = _overlap(kept, kept)
            np.fill_diagonal(over, 0.0)
            if (over > nms.iou_threshold + _TIE_OVERLAP).any():
                return "two objects of a class overlap by more than the suppression allows"
            better = kept.scores[None] >= missing.scores[:, None] - tie
            excused = (_overlap(missing, kept) > nms.iou_threshold - _TIE_OVERLAP) & better
            missing = missing.at(~excused.any(axis=1))
        if not len(missing):
            return ""
        return f"an object of class {missing.classes[0]} with a score of {missing.scores[0]:.3f} is missing"


def _refuse(worst: _Worst, count: int, precision: Precision, bars: Bars) -> None:
    pairs = (("box_px", worst.box_px, bars.box_px), ("score", worst.score, bars.score))
    over = [
        "{} is {} (at most {})".format(name, *distinct(value, limit))
        for name, value, limit in pairs
        if not value <= limit
    ]
    if over or worst.fault:
        raise ParityError(
            f"the {precision} graph differs too much from the detector's own file on {count} images, so nothing was "
            "written: " + ", ".join([*over, *([worst.fault] if worst.fault else [])])
        )


def _overlap(first: Found, second: Found) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes of the same class, otherwise 0, (N, M)."""
    a, b = first.boxes[:, None].astype(np.float64), second.boxes[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.asarray(ratio * (first.classes[:, None] == second.classes[None]))


def _groups(images: Iterable[UInt8Array], size: int) -> Iterator[list[UInt8Array]]:
    iterator = iter(images)
    while group := list(itertools.islice(iterator, size)):
        yield group

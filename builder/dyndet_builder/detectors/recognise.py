"""Tells how a detector's outputs become boxes, from names, shapes and operators; what stays open is a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.spec import Activation, Background, OutputSpec
from dyndet_builder.detectors.facts import GraphFacts
from dyndet_builder.detectors.forms.candidates import Candidate, candidates_of
from dyndet_builder.detectors.forms.inputs import inputs_of
from dyndet_builder.detectors.forms.refusals import looks_like, refuse_operators, refuse_shape, refuse_task
from dyndet_builder.detectors.layers import COCO_IDS, Classes, Found, Layer, Question, first

_COCO_SLOTS = {90: "COCO's numbers minus 1", 91: "COCO's numbers", 92: "COCO's numbers, and one for no object"}


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What the outputs are."""

    output: OutputSpec | None
    """the likely form while questions are open; None if not even that can be told"""
    reasons: tuple[str, ...]
    questions: tuple[Question, ...]
    channels: int | None
    """slots of classes in the output, those for background included; None if it holds class numbers, or is not told"""


def recognise(
    facts: GraphFacts,
    *,
    class_names: Sequence[str] | None = None,
    classes: Classes | None = None,
    said: Sequence[Layer] = (),
) -> Recognition:
    """Tell what the outputs of an ONNX file are.

    `class_names`, or `classes` with their slots, decide between forms that only differ in the number of classes. What
    `said` holds about outputs wins over what was found; the first source wins over the second.

    Raises InputError, in one sentence, for graphs that no detector can be made of, with the export that works where
    there is one, and if class names or what was said do not fit the outputs.
    """
    if classes is None and class_names is not None:
        classes = Classes(names=tuple(class_names))
    refuse_operators(facts)
    refuse_task(facts)
    inputs = inputs_of(facts)
    refuse_shape(facts)
    size = first(said, "size")
    found = candidates_of(facts, size=inputs.size or (size.value if size else None))
    if not found:
        shown = ", ".join(one.described for one in facts.outputs[:4])
        raise InputError(f"the file holds no detector that can be used: {looks_like(facts)} (outputs: {shown})")
    fitting = _chosen(_fitting(found, classes, facts), said)
    likely = fitting[0]
    questions = [] if len(fitting) == 1 else [_family_question(fitting)]
    return _described(likely, facts, classes, said, questions)


def _fitting(found: Sequence[Candidate], classes: Classes | None, facts: GraphFacts) -> list[Candidate]:
    """The candidates that the number of classes and the metadata allow."""
    left = list(found)
    if facts.metadata.get("end2end", "").lower() == "true" or "NonMaxSuppression" in facts.operators:
        left = [one for one in left if one.family == "rows"] or left
    if classes is None:
        return left
    fits = [one for one in left if one.channels is None or _slots_fit(one, classes)]
    if not fits:
        counts = " or ".join(dict.fromkeys(str(one.channels) for one in left))
        raise InputError(f"{left[0].why}; that is {counts} classes, but there are {len(classes.names)} class names")
    return fits


def _slots_fit(candidate: Candidate, classes: Classes) -> bool:
    extra = candidate.channels - classes.slots if candidate.channels is not None else 0
    if candidate.family == "detr":
        return extra in (0, 1) or (classes.are_coco and candidate.channels in _COCO_SLOTS)
    return extra == 0 or (classes.are_coco and candidate.channels in _COCO_SLOTS)


def _chosen(fitting: list[Candidate], said: Sequence[Layer]) -> list[Candidate]:
    family = first(said, "family")
    if family is None:
        return fitting
    if chosen := [one for one in fitting if one.family == family.value]:
        return chosen
    raise InputError(
        f"the family {family.value} ({family.source}) does not fit the outputs; these families do: "
        f"{', '.join(one.family for one in fitting)}"
    )


def _family_question(fitting: Sequence[Candidate]) -> Question:
    meanings = ", ".join(
        f"{one.family} ({'class numbers' if one.channels is None else f'{one.channels} classes'})" for one in fitting
    )
    return Question(
        field="output.family",
        text=f"the outputs fit several families: {meanings}; the class names can decide, too",
        option="--family",
        choices=tuple(one.family for one in fitting),
        likely=fitting[0].family,
    )


def _described(
    likely: Candidate,
    facts: GraphFacts,
    classes: Classes | None,
    said: Sequence[Layer],
    questions: list[Question],
) -> Recognition:
    reasons = [likely.why]
    activation, background = _scores(likely, facts, classes, said, questions, reasons)
    ids, offset = _numbers(likely, facts, classes, said, questions, reasons)
    boxes, unit = (first(said, name) for name in ("boxes", "unit"))
    reasons += [f"{one.value} boxes: {one.source}" for one in (boxes, unit) if one is not None]
    if unit is None and likely.family == "triple" and not inputs_of(facts).extra:
        questions.append(
            Question(
                field="output.unit",
                text="boxes can be in pixels of the input or in parts of it (0..1)",
                option="--unit",
                choices=("pixels", "normalised"),
                likely="normalised",
            )
        )
        likely = replace(likely, unit="normalised")
    output = OutputSpec(
        family=likely.family,
        tensors=dict(likely.tensors),
        boxes=likely.boxes if boxes is None else boxes.value,
        unit=likely.unit if unit is None else unit.value,
        activation=activation,
        background=background,
        class_offset=offset,
        class_ids=ids,
        strides=likely.strides,
        suppress=likely.suppress,
    )
    return Recognition(output=output, reasons=tuple(reasons), questions=tuple(questions), channels=likely.channels)


def _scores(
    likely: Candidate,
    facts: GraphFacts,
    classes: Classes | None,
    said: Sequence[Layer],
    questions: list[Question],
    reasons: list[str],
) -> tuple[Activation, Background]:
    """How logits become scores, and which slot stands for no object."""
    activation, background = first(said, "activation"), first(said, "background")
    reasons += [f"{kind}: {one.value}, {one.source}" for kind, one in _kinds(activation, background)]
    if likely.family != "detr":
        return (
            likely.activation if activation is None else activation.value,
            "none" if background is None else background.value,
        )
    spare = _spare(likely.channels, classes)
    softmax = activation is not None and activation.value == "softmax"
    names = {one.name.lower() for one in facts.outputs}
    if activation is None and not names & {"dets", "pred_logits"} and not (spare == 0 and classes is not None):
        questions.append(
            Question(
                field="output.activation",
                text="class logits can need a sigmoid (RT-DETR, D-FINE, deformable DETR) or a softmax (DETR, YOLOS)",
                option="--activation",
                choices=("sigmoid", "softmax"),
                likely="softmax" if spare == 1 else "sigmoid",
            )
        )
        softmax = spare == 1
    elif activation is None:
        reasons.append("sigmoid: " + ("as in RF-DETR and TAO" if spare else "no slot is left for no object"))
    likely_background: Background = "last" if softmax or spare == 1 else "none"
    if background is None and spare == 1 and not softmax:
        questions.append(
            Question(
                field="output.background",
                text="there is one slot more than there are classes; it can be the first or the last",
                option="--background",
                choices=("last", "first"),
                likely="last",
            )
        )
    return (
        "softmax" if softmax else "sigmoid" if activation is None else activation.value,
        likely_background if background is None else background.value,
    )


def _kinds(activation: Found | None, background: Found | None) -> list[tuple[str, Found]]:
    return [(kind, one) for kind, one in (("activation", activation), ("background", background)) if one is not None]


def _spare(channels: int | None, classes: Classes | None) -> int:
    """Slots beyond those that the classes need; COCO's unused numbers are none."""
    if channels is None or classes is None:
        return 0
    if classes.are_coco and classes.ids is None and channels in _COCO_SLOTS:
        return 1 if channels == 92 else 0
    return max(0, channels - classes.slots)


def _numbers(
    likely: Candidate,
    facts: GraphFacts,
    classes: Classes | None,
    said: Sequence[Layer],
    questions: list[Question],
    reasons: list[str],
) -> tuple[tuple[int, ...] | None, int]:
    """Slots of the classes, and the number of the first class."""
    offset = first(said, "class_offset")
    if offset is not None:
        reasons.append(f"the first class has the number {offset.value}: {offset.source}")
    if classes is not None and classes.ids is not None:
        return classes.ids, 0
    first_class = 0 if offset is None else int(offset.value)
    if likely.channels in _COCO_SLOTS and classes is not None and classes.are_coco:
        reasons.append(f"{likely.channels} slots for COCO's 80 classes are {_COCO_SLOTS[likely.channels]}")
        return tuple(one - (likely.channels == 90) for one in COCO_IDS), 0
    if not likely.has_numbers or offset is not None:
        return None, first_class
    if likely.boxes == "yxyx":  # TensorFlow counts classes from 1, those of COCO as COCO does
        if classes is not None and classes.are_coco:
            reasons.append("TensorFlow numbers COCO's classes as COCO does")
            return COCO_IDS, 0
        reasons.append("TensorFlow numbers classes from 1")
        return None, 1
    if likely.family == "triple" and not inputs_of(facts).extra:
        questions.append(
            Question(
                field="output.class_offset",
                text="class numbers can begin with 0, or with 1 if 0 is the background",
                option="--class-offset",
                choices=("0", "1"),
                likely="0",
            )
        )
    return None, 0


def classes_question(recognition: Recognition) -> Question:
    """The question for class names, where no source has them."""
    channels = recognition.channels
    if channels is None:
        return Question(field="class_names", text="the names of the classes", option="--classes")
    meaning = f", which are {_COCO_SLOTS[channels]} if they are COCO's" if channels in _COCO_SLOTS else ""
    coco = "coco" if channels in (80, *_COCO_SLOTS) else None
    text = printable(f"the names of the classes; the file has {channels} slots for them{meaning}")
    return Question(field="class_names", text=text, option="--classes", likely=coco)

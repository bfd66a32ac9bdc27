"""Finds out how a detector of others is used: from options, `detector.yaml`, files beside it, metadata and the graph.

What none of these tells is a question. A likely answer is shown, and never taken in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynamicdet.class_names import default_class_names
from dynamicdet.errors import InputError
from dynamicdet.records import UNREADABLE, reason_of
from dynamicdet.text import printable
from dyndet_builder.bundle.spec import DetectorSpec, InputSpec, OutputSpec
from dyndet_builder.detectors.facts import GraphFacts, read_facts
from dyndet_builder.detectors.findings import Finding, findings_of
from dyndet_builder.detectors.forms.inputs import Inputs, inputs_of
from dyndet_builder.detectors.layers import OPTIONS, Classes, Given, Layer, Question, first
from dyndet_builder.detectors.recognise import Recognition, classes_question, recognise
from dyndet_builder.detectors.sidecars import sidecar_layers
from dyndet_builder.detectors.sources.metadata import layer_of_metadata
from dyndet_builder.detectors.sources.recipes import RECIPES, recipe
from dyndet_builder.detectors.spec_file import ENDING, check_spec, read_spec

_OUTPUT_FIELDS = ("family", "boxes", "unit", "activation", "background", "class_offset")
_INPUT_FIELDS = ("size", "colour", "divide_by", "mean", "std", "resize", "place", "pad", "filter")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is known about a detector, and what is not."""

    facts: GraphFacts
    spec: DetectorSpec | None
    """complete; None while questions are open"""
    draft: DetectorSpec | None
    """the same with the likely answers to open questions, for trials; None if too little is known for one"""
    reasons: tuple[str, ...]
    """where each value comes from, one sentence or less each"""
    questions: tuple[Question, ...]
    findings: tuple[Finding, ...]
    usual_recipe: str | None = None
    """the preparation that exports of this form usually need, where a part of it is a question"""


def inspect(path: Path, *, given: Given | None = None) -> Inspection:
    """Find out how the detector in an ONNX file is used, without running it.

    Raises InputError, in one sentence that names the file, if no detector can be made of it, and if what was said about
    it does not fit.
    """
    return inspect_facts(read_facts(path), path=path, given=given)


def inspect_facts(facts: GraphFacts, *, path: Path, given: Given | None = None) -> Inspection:
    """The same for facts that were read before, or recorded; `path` is where the ONNX file is, or would be.

    Raises InputError as `inspect` does.
    """
    given = given or Given()
    spec_file = spec_file_of(path) if given.spec_file is None else given.spec_file
    try:
        if spec_file is not None:
            return _described(facts, spec_file, given)
        return _found(path, facts, given)
    except InputError as error:
        text = str(error)
        raise InputError(text if printable(path.name) in text else f"{printable(path)}: {text}") from error


def spec_for(path: Path, *, given: Given | None = None) -> DetectorSpec:
    """How the detector in an ONNX file is used.

    Raises InputError as `inspect` does, and if questions are open: it names them, and what answers them.
    """
    found = inspect(path, given=given)
    if found.spec is None:
        raise InputError(open_questions(path, found.questions))
    return found.spec


def spec_file_of(path: Path) -> Path | None:
    """`NAME.detector.yaml` beside `NAME.onnx`; None if there is none."""
    beside = path.with_name(path.stem + ENDING)
    try:
        return beside if beside.exists() else None
    except OSError:  # a name that is too long with this ending
        return None


def open_questions(path: Path, questions: Sequence[Question]) -> str:
    """One sentence with the open questions and the options of `dyndet inspect` that answer them."""
    named = ", ".join(f"{one.field} ({one.option})" for one in questions)
    beside = path.with_name(path.stem + ENDING)
    return (
        f"{printable(path)} does not tell all that is needed: {named}; `dyndet inspect` explains these options, and "
        f"writes the answers down with `-o {printable(beside)}`"
    )


def _described(facts: GraphFacts, file: Path, given: Given) -> Inspection:
    """The detector as a `detector.yaml` describes it, with the options over it."""
    spec = read_spec(file)
    layers = _said(given)
    changes: dict[str, dict[str, object]] = {"input": {}, "output": {}}
    for part, names in (("input", _INPUT_FIELDS), ("output", _OUTPUT_FIELDS)):
        for name in names:
            if (value := first(layers, name)) is not None:
                changes[part][name] = value.value
    content = spec.model_dump()
    content["input"] |= changes["input"]
    content["output"] |= changes["output"]
    if (classes := first(layers, "classes")) is not None:
        content["class_names"] = classes.value.names
        content["output"]["class_ids"] = classes.value.ids
    changed = _validated(content)
    check_spec(changed, facts, source=printable(file.name))
    reasons = [f"{printable(file.name)} describes the detector"]
    reasons += [f"{name}: {OPTIONS}" for part in changes.values() for name in part]
    return Inspection(
        facts=facts,
        spec=changed,
        draft=changed,
        reasons=tuple(reasons),
        questions=(),
        findings=findings_of(facts, changed),
    )


def _validated(content: dict[str, object]) -> DetectorSpec:
    try:
        return DetectorSpec.model_validate(content)
    except UNREADABLE as error:
        raise InputError(f"the detector cannot be described: {reason_of(error)}") from error


def _said(given: Given) -> list[Layer]:
    named = [] if given.recipe is None else [recipe(given.recipe, source=f"the recipe {given.recipe}")]
    return [given.said, *named]


def _found(path: Path, facts: GraphFacts, given: Given) -> Inspection:
    """The detector as its file, the files beside it and the options tell."""
    metadata, notes = layer_of_metadata(facts)
    layers = [*_said(given), *sidecar_layers(path, facts), metadata]
    classes = first(layers, "classes")
    recognition = recognise(facts, classes=None if classes is None else classes.value, said=layers)
    inputs = inputs_of(facts)
    if inputs.dtype == "uint8":
        source = f"the input {printable(inputs.name)} takes whole numbers, so the graph scales them itself"
        none = Layer(source=source, divide_by=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        layers.append(none)
    likely = _likely(recognition, facts)
    prepared = _input_questions(inputs, layers, likely)
    questions = [*recognition.questions, *prepared]
    reasons = [*recognition.reasons, *_sources(layers, inputs)]
    if classes is None:
        questions.append(classes_question(recognition))
    else:
        reasons.append(f"{len(classes.value.names)} class names: {classes.source}")
    draft = _draft(inputs, recognition, layers, likely)
    return Inspection(
        facts=facts,
        spec=None if questions else draft,
        draft=draft,
        reasons=tuple(reasons),
        questions=tuple(questions),
        findings=(
            *findings_of(facts, draft),
            *(Finding(kind="metadata", text=note, is_warning=True) for note in notes),
        ),
        usual_recipe=likely if any(one.field != "input.size" for one in prepared) else None,
    )


def _likely(recognition: Recognition, facts: GraphFacts) -> str | None:
    """The recipe that exports of this form usually need; None if there is no usual one."""
    output = recognition.output
    if output is None:
        return None
    names = {one.name.lower() for one in (*facts.inputs, *facts.outputs)}
    if output.family == "detr":
        return "rf-detr" if "dets" in names else "detr" if output.activation == "softmax" else "rt-detr"
    if output.family == "yolo-objectness" and "three anchors" not in recognition.reasons[0]:
        return "yolox"
    if output.family == "boxes-scores":  # YOLO-NAS gives boxes first, DAMO-YOLO gives scores first
        return "yolo-nas" if facts.outputs[0].name == output.tensors["boxes"] else "damo-yolo"
    return {
        "yolo": "yolo",
        "yolo-objectness": "yolo",
        "yolox-raw": "yolox",
        "rows": "yolo",
        "joined": "ultralytics-rt-detr",
        "triple": "rt-detr",
        "dets-labels": "rtmdet",
    }.get(output.family)


def _input_questions(inputs: Inputs, layers: Sequence[Layer], likely: str | None) -> list[Question]:
    """What no source says about the preparation of pictures."""
    usual = RECIPES[likely] if likely is not None else None
    found: list[Question] = []
    if inputs.size is None and first(layers, "size") is None:
        text = "the size: the file accepts several, and that of the training is right"
        found.append(Question(field="input.size", text=text, option="--size"))
    if first(layers, "colour") is None:
        text = "the order of the colours"
        colour = None if usual is None else usual.colour
        found.append(
            Question(field="input.colour", text=text, option="--colour", choices=("RGB", "BGR"), likely=colour)
        )
    if first(layers, "divide_by") is None:
        text = "whether pixels are 0..1, 0..255 or normalised"
        found.append(Question(field="input.scale", text=text, option="--divide-by, --mean and --std"))
    if first(layers, "resize") is None:
        text = "whether pictures keep their ratio"
        choices = ("letterbox", "stretch")
        rule = None if usual is None else usual.resize
        found.append(Question(field="input.resize", text=text, option="--resize", choices=choices, likely=rule))
    return found


def _sources(layers: Sequence[Layer], inputs: Inputs) -> list[str]:
    """Which source each value of the input comes from, grouped by source."""
    by_source: dict[str, list[str]] = {}
    for name in _INPUT_FIELDS:
        value = None if name == "size" and inputs.size is not None else first(layers, name)
        if value is not None:
            by_source.setdefault(value.source, []).append(name)
    return [f"{', '.join(names)}: {source}" for source, names in by_source.items()]


def _draft(
    inputs: Inputs, recognition: Recognition, layers: Sequence[Layer], likely: str | None
) -> DetectorSpec | None:
    """The description, with likely values where no source says anything."""
    all_layers = [*layers, *([replace(RECIPES[likely], source="")] if likely is not None else [])]
    values = {name: found.value for name in _INPUT_FIELDS if (found := first(all_layers, name)) is not None}
    said = first(layers[:1], "size")
    if inputs.size is not None:
        if said is not None and said.value != inputs.size:
            height, width = inputs.size
            raise InputError(f"the graph takes only pictures of {height} x {width} (height x width)")
        values["size"] = inputs.size
    if "size" not in values or recognition.output is None:
        return None
    input_spec = {
        "name": inputs.name,
        "dtype": inputs.dtype,
        "layout": inputs.layout,
        "batch": inputs.batch,
        "extra": inputs.extra,
        **values,
    }
    classes = first(layers, "classes")
    licence = first(layers, "licence")
    names = _placeholders(recognition) if classes is None else classes.value
    content: dict[str, object] = {
        "input": _part(InputSpec, input_spec),
        "output": recognition.output,
        "class_names": names.names,
        "licence": None if licence is None else licence.value,
    }
    return _validated(content)


def _part(kind: type[InputSpec], content: dict[str, object]) -> InputSpec:
    try:
        return kind.model_validate(content)
    except UNREADABLE as error:
        raise InputError(f"the input of the detector cannot be described: {reason_of(error)}") from error


def _placeholders(recognition: Recognition) -> Classes:
    """Names for trials: as many as the output has slots for."""
    output, channels = recognition.output, recognition.channels
    count = 80 if channels is None else channels - (_has_background(output))
    return Classes(names=default_class_names(max(1, min(count, 1000))))


def _has_background(output: OutputSpec | None) -> bool:
    return output is not None and output.background != "none"

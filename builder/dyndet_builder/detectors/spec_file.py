"""`detector.yaml`: reads and writes the description of a detector, and checks it against its ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.records import UNREADABLE, read_bytes, reason_of
from dynamicdet.text import printable
from dyndet_builder.bundle.spec import DetectorSpec, Family, Role
from dyndet_builder.detectors.facts import GraphFacts, TensorFacts
from dyndet_builder.detectors.forms.inputs import inputs_of
from dyndet_builder.detectors.forms.refusals import refuse_operators
from dyndet_builder.detectors.sources.yaml_files import yaml_of

ENDING = ".detector.yaml"
_LARGEST = 1 << 20
_ADVICE = "write one with `dyndet inspect FILE.onnx -o detector.yaml`"
_COMMENTS = {
    "input": "how a picture becomes the input tensor",
    "name": "of the tensor in the ONNX file",
    "dtype": "float32, float16 or uint8",
    "layout": "NCHW or NHWC",
    "size": "height and width, pixels",
    "batch": "dynamic; one: the file takes one picture at a time",
    "colour": "RGB or BGR",
    "divide_by": "255 gives 0..1; 1 leaves 0..255",
    "mean": "subtracted after that, by channel in the order of colour",
    "std": "divided by after that",
    "resize": "letterbox keeps the ratio and pads; stretch does neither",
    "place": "of the picture in its borders: centre or top-left",
    "pad": "grey level of the borders, 0..255",
    "filter": "linear: as OpenCV; antialias: as Pillow; cubic",
    "extra": "inputs beside the picture",
    "output": "how the output tensors become boxes",
    "family": "docs/detectors.md lists the families",
    "tensors": "names in the ONNX file, by role",
    "boxes": "xyxy, cxcywh, yxyx or xywh",
    "unit": "pixels of the input, or normalised to 0..1",
    "activation": "what makes scores of the numbers: none, sigmoid or softmax",
    "background": "slot that means no object: none, first or last",
    "class_offset": "number of the first class",
    "class_ids": "slot of each class; null: 0, 1, 2, ...",
    "strides": "of the grids, for yolox-raw",
    "suppress": "whether overlapping boxes are still to be suppressed",
    "class_names": "in the order of their numbers",
    "licence": "as the metadata of the file name it",
}
_ROLES: Mapping[Family, set[Role]] = {
    "counted": {"count", "boxes", "scores", "labels"},
    "detr": {"logits", "boxes"},
    "triple": {"labels", "boxes", "scores"},
    "dets-labels": {"boxes", "labels"},
    "boxes-scores": {"boxes", "scores"},
}
"""of the tensors in families with several"""
_WIDTHS: Mapping[Family, Mapping[Role, int]] = {
    "rows": {"all": 6},
    "dets-labels": {"boxes": 5},
    "counted": {"boxes": 4},
    "detr": {"boxes": 4},
    "triple": {"boxes": 4},
    "boxes-scores": {"boxes": 4},
}
"""columns of the tensors that hold boxes"""
_SLOTS: Mapping[Family, tuple[Role, int, int]] = {
    "yolo": ("all", 1, 4),
    "joined": ("all", 2, 4),
    "yolo-objectness": ("all", 2, 5),
    "yolox-raw": ("all", 2, 5),
    "detr": ("logits", 2, 0),
    "boxes-scores": ("scores", 2, 0),
}
"""where a score for each class lies: tensor, axis, and other numbers along it"""
_EXACT = ("yolo", "joined", "yolo-objectness", "yolox-raw")
"""families whose output has no slots but those of its classes"""
_RANKS = {"count": (1, 2), "boxes": (3,), "scores": (2, 3), "labels": (2,), "logits": (3,), "all": (3,)}


def read_spec(path: Path) -> DetectorSpec:
    """Read a `detector.yaml` that a person may have edited.

    Raises InputError, in one sentence that names the key, for anything else.
    """
    content = read_bytes(path, advice=_ADVICE, largest=_LARGEST)
    try:
        found = yaml_of(content)
        if not isinstance(found, Mapping):
            raise ValueError("it is not a list of keys with values")
        return DetectorSpec.model_validate_json(json.dumps(found), strict=True)
    except (*UNREADABLE, TypeError) as error:
        raise InputError(
            f"{printable(path)} is not a detector.yaml of schema version 1: {reason_of(error, DetectorSpec)}; {_ADVICE}"
        ) from error


def write_spec(spec: DetectorSpec, path: Path) -> None:
    """Write a `detector.yaml` with a comment on each key. Raises InputError if the file cannot be written."""
    with whole_file(path) as temporary:
        temporary.write_text(spec_text(spec), encoding="utf-8")


def spec_text(spec: DetectorSpec) -> str:
    """Content of a `detector.yaml`."""
    content = spec.model_dump(mode="json")
    lines = ["# How dyndet uses an ONNX file of a detector. docs/detectors.md explains each key; edit it as you like."]
    for key, value in content.items():
        comment = f"  # {_COMMENTS[key]}" if key in _COMMENTS else ""
        if isinstance(value, Mapping):
            lines.append(f"{key}:{comment}")
            lines += [f"  {inner}: {_flow(one)}  # {_COMMENTS[inner]}" for inner, one in value.items()]
        elif key == "class_names":
            lines.append(f"{key}:{comment}")
            lines += [f"- {_flow(one)}" for one in value]
        else:
            lines.append(f"{key}: {_flow(value)}{comment}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value on one line. Texts other than plain words stand in quotes: `no` would be false."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def check_spec(spec: DetectorSpec, facts: GraphFacts, *, source: str) -> None:
    """Check that a description fits its ONNX file: tensors, types, sizes, batch, number of classes.

    Raises InputError, in one sentence, if it does not, or if the graph has operators that are not accepted.
    """
    refuse_operators(facts)
    inputs = inputs_of(facts)
    given = spec.input
    pairs: list[tuple[str, object, object]] = [
        ("input.name", given.name, inputs.name),
        ("input.dtype", given.dtype, inputs.dtype),
        ("input.layout", given.layout, inputs.layout),
        ("input.size", given.size, inputs.size or given.size),
        ("input.batch", given.batch, "one" if inputs.batch == "one" else given.batch),
        ("input.extra", _named(given.extra), _named(inputs.extra)),
    ]
    for field, said, found in pairs:
        if said != found:
            raise InputError(f"{source} says that {field} is {_shown(said)}, but the ONNX file has {_shown(found)}")
    wanted = _ROLES.get(spec.output.family, {"all"})
    if {*spec.output.tensors} != wanted:
        raise InputError(
            f"{source} gives the family {spec.output.family} the tensors {', '.join(spec.output.tensors)}; it needs "
            f"{', '.join(sorted(wanted))}"
        )
    outputs = {one.name: one for one in facts.outputs}
    for role, name in spec.output.tensors.items():
        if name not in outputs:
            raise InputError(
                f"{source} names the output {printable(name)!r}, which the ONNX file does not have; it has "
                f"{', '.join(one.described for one in facts.outputs)}"
            )
        if len(outputs[name].dims) not in _RANKS[role] and outputs[name].dims != ("...",):
            raise InputError(
                f"{source} says that {outputs[name].described} has the role {role}, which needs "
                f"{' or '.join(map(str, _RANKS[role]))} dimensions"
            )
    _check_widths(spec, outputs, source)
    if spec.output.family == "yolox-raw":
        _check_grid(spec, outputs[spec.output.tensors["all"]], source)


def _check_widths(spec: DetectorSpec, outputs: Mapping[str, TensorFacts], source: str) -> None:
    """Check the axis that holds the numbers of a box, and the slots of the classes, as far as the file gives sizes."""
    output = spec.output
    for role, width in _WIDTHS.get(output.family, {}).items():
        tensor = outputs[output.tensors[role]]
        if tensor.dims[-1] != width and isinstance(tensor.dims[-1], int):
            raise InputError(f"{source} says that {tensor.described} has the role {role}, which needs {width} columns")
    if output.family not in _SLOTS:
        return
    role, axis, others = _SLOTS[output.family]
    tensor = outputs[output.tensors[role]]
    side = tensor.dims[axis] if len(tensor.dims) == 3 else "?"
    needed = max(spec.slots) + 1 + (output.background == "last")
    if not isinstance(side, int) or side - others == needed:
        return
    # Unused slots are usual in DETRs. Elsewhere they show that the output has another form, unless they are named.
    if side - others < needed or (output.family in _EXACT and output.class_ids is None):
        raise InputError(
            f"{source} needs {needed} slots of classes, but in the family {output.family} {tensor.described} has "
            f"{max(0, side - others)}; change class_names, class_ids or family"
        )


def _check_grid(spec: DetectorSpec, tensor: TensorFacts, source: str) -> None:
    """Check that the strides give as many cells as the output has rows."""
    height, width = spec.input.size
    cells = sum((height // stride) * (width // stride) for stride in spec.output.strides)
    rows = tensor.dims[1] if len(tensor.dims) == 3 else "?"
    if isinstance(rows, int) and rows != cells:
        raise InputError(
            f"{source} gives strides {_shown(spec.output.strides)} of {cells} cells, but {tensor.described} has {rows} "
            "rows"
        )


def _named(extra: Any) -> tuple[str, ...]:
    return tuple(sorted(one.name for one in extra))


def _shown(value: object) -> str:
    return printable(json.dumps(value) if not isinstance(value, str) else value, limit=120)

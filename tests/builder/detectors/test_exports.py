"""What the exports of many makers are recognised as, what is asked about them, and which are refused.

`exports.json` holds their names, shapes, operators and metadata. `tails` are the operators that compute an output.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.class_names import COCO
from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.detectors.facts import GraphFacts
from dyndet_builder.detectors.inspect import Inspection, inspect_facts
from dyndet_builder.detectors.layers import COCO_IDS, Classes, Given, Layer

_EXPORTS = {name: json.dumps(facts) for name, facts in json.loads(
    Path(__file__).with_name("exports.json").read_text()
).items()}  # fmt: skip
_PREPARED = ("input.colour", "input.scale", "input.resize")
_ASKED = (*_PREPARED, "class_names")
_YOLO = ("yolo", "cxcywh", "pixels", "none")
_ROWS = ("rows", "xyxy", "pixels", "none")
_OBJECTNESS = ("yolo-objectness", "cxcywh", "pixels", "none")
_RAW = ("yolox-raw", "cxcywh", "pixels", "none")
_TRIPLE = ("triple", "xyxy", "pixels", "none")
_DETR = ("detr", "cxcywh", "normalised", "sigmoid")
_PAIR = ("boxes-scores", "xyxy", "pixels", "none")

# family, boxes, unit, activation; the recipe that its metadata name, or that is usual; what is asked
_RECOGNISED: dict[str, tuple[tuple[str, ...], str | None, tuple[str, ...]]] = {
    "Ultralytics YOLO11": (_YOLO, None, ()),
    "Ultralytics YOLO11, dynamic": (_YOLO, None, ()),
    "Ultralytics YOLOv8 with nms=True": (_ROWS, None, ()),
    "Ultralytics YOLO26": (_ROWS, None, ()),
    "Ultralytics YOLO26 with end2end=False": (_YOLO, None, ()),
    "Ultralytics RT-DETR": (("joined", "cxcywh", "normalised", "none"), None, ()),
    "YOLOv10 (THU-MIG)": (_ROWS, None, ()),
    "YOLOv5": (_OBJECTNESS, None, ()),
    "YOLOv9": (_YOLO, None, ()),
    "YOLOv7 with --grid": (_OBJECTNESS, "yolo", _ASKED),
    "YOLOX": (_RAW, "yolox", _ASKED),
    "YOLOX nano": (_RAW, "yolox", _ASKED),
    "YOLOX with --decode_in_inference": (_OBJECTNESS, "yolox", ("output.family", *_ASKED)),
    "RT-DETR": (_TRIPLE, "rt-detr", _ASKED),
    "D-FINE": (_TRIPLE, "rt-detr", _ASKED),
    "DEIM": (_TRIPLE, "rt-detr", _ASKED),
    "Hugging Face RT-DETR": (_DETR, "rt-detr", ("output.activation", "input.size", *_ASKED)),
    "Hugging Face DETR": (_DETR, "rt-detr", ("output.activation", "input.size", *_ASKED)),
    "Hugging Face YOLOS": (_DETR, "rt-detr", ("output.activation", "input.size", *_ASKED)),
    "Hugging Face Conditional DETR": (_DETR, "rt-detr", ("output.activation", "input.size", *_ASKED)),
    "RF-DETR": (_DETR, "rf-detr", _ASKED),
    "RF-DETR with 3 classes": (_DETR, "rf-detr", _ASKED),
    "mmdeploy RTMDet": (("dets-labels", "xyxy", "pixels", "none"), "rtmdet", ("input.size", *_ASKED)),
    "YOLO-NAS": (("counted", "xyxy", "pixels", "none"), None, ("input.colour", "input.resize", "class_names")),
    "YOLO-NAS, raw": (_PAIR, "yolo-nas", _ASKED),
    "DAMO-YOLO": (_PAIR, "damo-yolo", _ASKED),
    "TAO RT-DETR": (_DETR, "rt-detr", _ASKED),
    "TensorFlow Object Detection API": (
        ("counted", "yxyx", "normalised", "none"),
        None,
        ("input.size", "input.colour", "input.resize", "class_names"),
    ),
    "LightlyTrain LTDETR": (_DETR, "rt-detr", ("input.colour", "input.resize")),
    "LibreYOLO YOLOX": (_OBJECTNESS, None, ()),
    "LibreYOLO D-FINE": (_DETR, None, ()),
    "two classes and six columns": (_ROWS, None, ("output.family",)),
}
_REFUSED = {
    "YOLOv7 with --end2end for TensorRT": "EfficientNMS_TRT, which only TensorRT has; export it without suppression",
    "YOLOv7 with --end2end --max-wh": "without an axis for the batch; export it without suppression (YOLOv7: `--grid`",
    "YOLOv7 without --grid": "the anchors are not in the file; export it with boxes (YOLOv7: `--grid`)",
    "mmdeploy for TensorRT": "TRTBatchedNMS, which only TensorRT has; export it for ONNX Runtime",
    "PaddleDetection PP-YOLOE": "without an axis for the batch, as in PaddleDetection",
    "TAO YOLOv4": "BatchedNMSDynamic_TRT, which only TensorRT has; export the graph up to its boxes",
    "torchvision Faster R-CNN": "has no axis for the batch, as in exports of torchvision",
    "ONNX zoo YOLOv3": "lists places in other outputs",
    "Ultralytics YOLO11 for segmentation": "is for instance segmentation, not for detection",
    "a classifier": "it looks like a classifier: its only output is output float32 [1, 1000]",
    "a segmentation model": "it looks like a model for segmentation or depth",
    "a language model": "takes no picture, so it is no detector that can be used",
}


def _inspected(name: str, folder: Path, *, recipe: str | None = None, **said: Any) -> Inspection:
    facts = GraphFacts.of_json(_EXPORTS[name])
    assert GraphFacts.of_json(facts.as_json()) == facts
    given = Given(said=Layer(source="the options", **said), recipe=recipe)
    return inspect_facts(facts, path=folder / "model.onnx", given=given)


@pytest.mark.parametrize("name", _EXPORTS)
def test_each_export_is_recognised_or_refused_and_only_what_it_does_not_tell_is_asked(
    name: str, tmp_path: Path
) -> None:
    if name in _REFUSED:
        with pytest.raises(InputError) as refused:
            _inspected(name, tmp_path)
        assert _REFUSED[name] in str(refused.value) and str(refused.value) == printable(refused.value)
        return
    form, usual, asked = _RECOGNISED[name]
    found = _inspected(name, tmp_path)
    assert (tuple(one.field for one in found.questions), found.usual_recipe) == (asked, usual)
    assert (found.spec is None) == bool(asked) and found.reasons
    draft = found.draft or _inspected(name, tmp_path, size=(640, 640)).draft
    assert draft is not None
    output = draft.output
    assert (output.family, output.boxes, output.unit, output.activation) == form
    assert output.suppress == (output.family in ("yolo", "yolo-objectness", "yolox-raw", "boxes-scores"))
    names = {one.name for one in found.facts.outputs}
    assert {*output.tensors.values()} <= names


@pytest.mark.parametrize("name", [name for name, (_, usual, _) in _RECOGNISED.items() if usual])
def test_the_usual_recipe_and_the_class_names_answer_all_that_is_asked(name: str, tmp_path: Path) -> None:
    """What stays are numbers that only the training knows: the size, or which of two forms logits have."""
    first = _inspected(name, tmp_path)
    wants_names = any(one.field == "class_names" for one in first.questions)
    count = 3 if name in ("RF-DETR with 3 classes", "TAO RT-DETR") else 80
    classes = Classes(names=COCO[:count]) if wants_names else None
    said: dict[str, Any] = {"size": (640, 640)} if any(one.field == "input.size" for one in first.questions) else {}
    found = _inspected(name, tmp_path, recipe=first.usual_recipe, classes=classes, **said)
    left = {one.field for one in found.questions}
    assert left <= {"output.activation", "output.background"}
    assert (left == {"output.activation"}) == (name in ("Hugging Face DETR", "Hugging Face YOLOS"))
    assert (left == {"output.background"}) == (count == 3)


@pytest.mark.parametrize(
    ("name", "ids", "background"),
    [
        ("RF-DETR", COCO_IDS, "none"),
        ("Hugging Face DETR", COCO_IDS, "last"),
        ("TensorFlow Object Detection API", COCO_IDS, "none"),
        ("Hugging Face RT-DETR", None, "none"),
        ("YOLOX", None, "none"),
    ],
)
def test_the_80_classes_of_coco_lie_in_the_slots_that_the_maker_gives_them(
    name: str, ids: tuple[int, ...] | None, background: str, tmp_path: Path
) -> None:
    draft = _inspected(name, tmp_path, classes=Classes(names=COCO), size=_size(name)).draft
    assert draft is not None and len(draft.class_names) == 80
    assert draft.output.class_ids == ids and draft.output.background == background
    assert ids is None or (ids[0], ids[-1]) == (1, 90)


def _size(name: str) -> tuple[int, int] | None:
    facts = GraphFacts.of_json(_EXPORTS[name])
    return None if all(isinstance(side, int) for side in facts.inputs[0].dims[2:]) else (640, 640)


def test_boxes_and_scores_of_one_shape_are_told_by_their_names(tmp_path: Path) -> None:
    draft = _inspected("RF-DETR with 3 classes", tmp_path).draft
    assert draft is not None and draft.output.tensors == {"logits": "labels", "boxes": "dets"}


@pytest.mark.parametrize(
    ("said", "family"), [({}, "rows"), ({"family": "joined"}, "joined"), ({"family": "rows"}, "rows")]
)
def test_six_columns_and_two_classes_are_a_question_until_somebody_says_it(
    said: dict[str, Any], family: str, tmp_path: Path
) -> None:
    found = _inspected("two classes and six columns", tmp_path, **said)
    assert found.draft is not None and found.draft.output.family == family
    assert [one.field for one in found.questions] == ([] if said else ["output.family"])


def test_class_names_of_a_wrong_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="80 classes, but there are 3 class names"):
        _inspected("Ultralytics YOLO11", tmp_path, classes=Classes(names=("a", "b", "c")))
    with pytest.raises(InputError, match=r"family detr \(the options\) does not fit the outputs"):
        _inspected("Ultralytics YOLO11", tmp_path, family="detr")


def test_findings_name_floors_licences_and_files_for_one_picture(tmp_path: Path) -> None:
    found = {one.kind: one.text for one in _inspected("Ultralytics YOLOv8 with nms=True", tmp_path).findings}
    assert "below 0.25" in found["score floor"] and "AGPL-3.0" in found["licence"]
    assert "one picture at a time" in found["batch"]
    assert not [one for one in _inspected("RT-DETR", tmp_path).findings]


_HF = {"size": {"height": 640, "width": 640}, "rescale_factor": 0.00392156862745098, "resample": 2}
_DETR_NAMES = {str(number): "N/A" for number in range(91)} | {
    str(number): name for number, name in zip(COCO_IDS, COCO, strict=True)
}
_STEPS = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "keep_ratio": True, "size": [640, 640]},
    {"type": "Normalize", "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395], "to_rgb": False},
]
_NETWORK = {
    "training_input_size": {"height": 384, "width": 384},
    "dynamic_spatial_size_supported": False,
    "color_mode": "rgb",
    "resize_mode": "stretch",
    "input_channels": 3,
    "scaling_factor": 255,
    "normalization": [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
}
_SIDECARS: dict[str, tuple[str, dict[str, Any], dict[str, Any], set[str]]] = {
    "RT-DETR of Hugging Face": (
        "Hugging Face RT-DETR",
        {
            "config.json": {"model_type": "rt_detr", "id2label": dict(enumerate(COCO))},
            "preprocessor_config.json": {**_HF, "do_normalize": False},
        },
        {"size": (640, 640), "divide_by": 255, "mean": (0, 0, 0), "resize": "stretch", "filter": "antialias"},
        set(),
    ),
    "DETR of Hugging Face, whose pictures have several sizes": (
        "Hugging Face DETR",
        {
            "config.json": {"model_type": "detr", "id2label": _DETR_NAMES},
            "preprocessor_config.json": {
                "size": {"shortest_edge": 800, "longest_edge": 1333},
                "do_normalize": True,
                "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225],
            },
        },
        {},
        {"input.size", "input.resize"},
    ),
    "Roboflow": (
        "RF-DETR with 3 classes",
        {"inference_config.json": {"network_input": _NETWORK}, "class_names.txt": "cat\ndog\nbird\n"},
        {"colour": "RGB", "divide_by": 255, "std": (0.229, 0.224, 0.225), "resize": "stretch"},
        {"output.background"},
    ),
    "mmdeploy": (
        "mmdeploy RTMDet",
        {"pipeline.json": {"pipeline": {"input": ["img"], "tasks": [{"type": "Task", "transforms": _STEPS}]}}},
        {"colour": "BGR", "divide_by": 1, "resize": "letterbox", "place": "top-left"},
        {"input.size", "class_names"},
    ),
    "TAO": ("TAO RT-DETR", {"labels.txt": "cat\ndog\nbird\n"}, {}, {*_PREPARED, "output.background"}),
}


@pytest.mark.parametrize("kind", _SIDECARS)
def test_files_beside_an_export_answer_what_it_does_not_tell(kind: str, tmp_path: Path) -> None:
    name, files, values, asked = _SIDECARS[kind]
    for file, content in files.items():
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    found = _inspected(name, tmp_path)
    assert {one.field for one in found.questions} == asked
    draft = found.draft or _inspected(name, tmp_path, size=(640, 640)).draft
    assert draft is not None
    assert {key: getattr(draft.input, key) for key in values} == values
    if name == "Hugging Face DETR":
        assert (draft.output.class_ids, draft.output.activation, draft.output.background) == (
            COCO_IDS,
            "softmax",
            "last",
        )
    for file in files:
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(b"\xff\x00{")
        with pytest.raises(InputError, match=file):
            _inspected(name, tmp_path)
        (tmp_path / file).write_bytes(whole)


def test_paddles_file_tells_the_preparation(tmp_path: Path) -> None:
    """For a graph without Paddle's own suppression, whose outputs have an axis for the batch."""
    facts = json.loads(_EXPORTS["YOLO-NAS, raw"])
    facts["inputs"][0]["name"] = "image"
    (tmp_path / "infer_cfg.yml").write_text(
        "arch: YOLO\nPreprocess:\n- interp: 2\n  keep_ratio: false\n  target_size: [640, 640]\n  type: Resize\n"
        "- is_scale: true\n  mean: [0.485, 0.456, 0.406]\n  std: [0.229, 0.224, 0.225]\n  type: NormalizeImage\n"
        "- type: Permute\n"
    )
    found = inspect_facts(GraphFacts.of_json(json.dumps(facts)), path=tmp_path / "model.onnx")
    assert found.draft is not None and [one.field for one in found.questions] == ["class_names"]
    assert (found.draft.input.filter, found.draft.input.mean[0]) == ("cubic", 0.485)

"""A tiny bundle whose routes and failures are commanded by an image's pixels: real ONNX graphs for the real server.

| pixel [0, 0] | meaning |
| --- | --- |
| red | difficulty = red / 255; red 255 gives NaN |
| green | 200 makes detector 2 fail, 201 head 1, 202 backbone 1, 203 the masks of both detectors |
| blue | `scores[0]` = blue / 255 |

Detector 1 answers `num_detections` 1, detector 2 answers 2. The lower right corner of `boxes[0]` is the mean of the
features (the pixels of the image), plus 1000 for detector 2; the other corner is 2000 less, so that the box has an area
in the image. The other boxes are the same.

With masks, those of the first two rows are full from the left (detector 1) or from the top (detector 2) as far as
red / 252 of their side. Detector 2 then reads the features alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from dyndet_builder.bundle.manifest import FILE_NAME, Bundle, Nms, Parity, Source, Stage, StageName, Tensor, file_sha256

SIZE, ROWS = 32, 4
FAIL_DETECTOR2, FAIL_HEAD1, FAIL_BACKBONE1, FAIL_MASKS = 200, 201, 202, 203
NAN = 255
CLASSES = ("cat", 'quoted "dog"', "Größe")

_OPSET = 17
_IMAGE = Tensor(name="image", dtype="uint8", shape=(SIZE, SIZE, 3))
_FEATURES = Tensor(name="features_8", dtype="float32", shape=(3, SIZE, SIZE))
_DETECTIONS = (
    Tensor(name="num_detections", dtype="int32", shape=(1,)),
    Tensor(name="boxes", dtype="float32", shape=(ROWS, 4)),
    Tensor(name="scores", dtype="float32", shape=(ROWS,)),
    Tensor(name="classes", dtype="int32", shape=(ROWS,)),
)
_MASKS = Tensor(name="masks", dtype="uint8", shape=(ROWS, 28, 28))
_TYPES = {
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
}


def image(red: int, green: int = 0, blue: int = 0, *, seed: int = 0) -> np.ndarray[Any, Any]:
    """An image that commands a difficulty, a failure and a score; the other pixels are noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, _IMAGE.shape, dtype=np.uint8)
    pixels[0, 0] = red, green, blue
    return pixels


def toy_mask(red: int, *, detector: int) -> np.ndarray[Any, Any]:
    """The mask of the first object in an image, (28, 28)."""
    columns = np.where(np.arange(28) < red / 9, 255, 0).astype(np.uint8)
    rows = np.broadcast_to(columns, (28, 28))
    return rows if detector == 1 else rows.T


def write_toy_bundle(folder: Path, name: str = "toy", *, masks: bool = False) -> Path:
    """Write the bundle and return its folder."""
    folder.mkdir(parents=True)
    first, second = _detector(1, FAIL_HEAD1, 0.0), _detector(2, FAIL_DETECTOR2, 1e3, reads_image=not masks)
    outputs, read = _DETECTIONS, (_IMAGE, _FEATURES)
    if masks:
        outputs, read = (*_DETECTIONS, _MASKS), (_FEATURES,)
        _add_masks(first, axis=3)
        _add_masks(second, axis=2)
    stages: dict[StageName, Stage] = {
        "backbone1": _stage(folder, "backbone1", _backbone1(), (_IMAGE,), _backbone1_outputs()),
        "head1": _stage(folder, "head1", first, (_FEATURES,), outputs),
        "detector2": _stage(folder, "detector2", second, read, outputs),
    }
    bundle = Bundle(
        name=name,
        architecture="toy",
        input_size=SIZE,
        class_names=CLASSES,
        precision="fp32",
        opset=_OPSET,
        exporter="dynamo",
        stages=stages,
        nms=Nms(max_detections=ROWS),
        source=Source(checkpoint="none", sha256="0" * 64),
        tool_versions={"onnx": onnx.__version__},
        parity=Parity(images=0, batch_sizes=(1,), box_px=0, score=0, difficulty=0, route_flip_share=0),
    )
    (folder / FILE_NAME).write_text(bundle.model_dump_json(indent=2))
    return folder


def write_toy_data(folder: Path) -> Path:
    """Four pictures that one object fills; the toy detector says that they are 20, 40, 60 and 80 % difficult."""
    (folder / "images").mkdir(parents=True)
    numbers = range(1, 5)
    for number in numbers:
        Image.fromarray(image(51 * number, blue=200, seed=number)).save(folder / "images" / f"{number}.png")
    content = {
        "images": [{"id": one, "file_name": f"{one}.png", "width": SIZE, "height": SIZE} for one in numbers],
        "annotations": [
            {"id": one, "image_id": one, "category_id": 1, "bbox": [0, 0, SIZE, SIZE], "iscrowd": 0} for one in numbers
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def describe_as(folder: Path, bundle: Bundle) -> Path:
    """Give a toy bundle another description, and its graphs the tensors in it; nothing can run these graphs."""
    stages = {}
    for name, stage in bundle.stages.items():
        model = onnx.load(folder / stage.file)
        for values, tensors in ((model.graph.input, stage.inputs), (model.graph.output, stage.outputs)):
            del values[:]
            values.extend(_info(tensor) for tensor in tensors)
        onnx.save(model, folder / stage.file)
        stages[name] = stage.model_copy(update={"sha256": file_sha256(folder / stage.file)})
    (folder / FILE_NAME).write_text(bundle.model_copy(update={"stages": stages}).model_dump_json(indent=2))
    return folder


def _backbone1_outputs() -> tuple[Tensor, ...]:
    return (Tensor(name="difficulty", dtype="float32", shape=(1,)), _FEATURES)


def _stage(folder: Path, name: str, graph: _Graph, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Stage:
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, name, [_info(each) for each in inputs], [_info(each) for each in outputs], graph.constants
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return Stage(file=path.name, sha256=file_sha256(path), inputs=inputs, outputs=outputs)


def _info(tensor: Tensor) -> Any:
    return helper.make_tensor_value_info(tensor.name, _TYPES[tensor.dtype], ["batch", *tensor.shape])


class _Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def pixel(self, source: str, channel: int, name: str) -> str:
        """Value of one channel of pixel [0, 0] of features (batch, 3, H, W), as (batch, 1)."""
        starts = self.constant(f"{name}_starts", [channel, 0, 0], np.int64)
        ends = self.constant(f"{name}_ends", [channel + 1, 1, 1], np.int64)
        axes = self.constant(f"{name}_axes", [1, 2, 3], np.int64)
        cut = self.op("Slice", [source, starts, ends, axes], f"{name}_cut")
        return self.op("Reshape", [cut, self.constant(f"{name}_shape", [-1, 1], np.int64)], name)

    def fail_when(self, green: str, command: int, output: str) -> str:
        """Zeros (batch, 1); the graph fails when any image's green is the command: an index out of range."""
        asked = self.op("Equal", [green, self.constant(f"{output}_command", float(command))], f"{output}_asked")
        index = self.op("Cast", [asked], f"{output}_index", to=TensorProto.INT64)
        return self.op("Gather", [self.constant(f"{output}_only", [0.0]), index], output)


def _backbone1() -> _Graph:
    graph = _Graph()
    pixels = graph.op("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    graph.op("Transpose", [pixels], "features_8", perm=[0, 3, 1, 2])
    red = graph.pixel("features_8", 0, "red")
    zero = graph.fail_when(graph.pixel("features_8", 1, "green"), FAIL_BACKBONE1, "zero")
    share = graph.op("Div", [red, graph.constant("full", 255.0)], "share")
    is_nan = graph.op("Equal", [red, graph.constant("nan_red", float(NAN))], "is_nan")
    value = graph.op("Where", [is_nan, graph.constant("nan", float("nan")), share], "value")
    graph.op("Add", [value, zero], "difficulty")
    return graph


def _detector(count: int, command: int, offset: float, *, reads_image: bool = True) -> _Graph:
    graph = _Graph()
    zero = graph.fail_when(graph.pixel("features_8", 1, "green"), command, "zero")
    counts = graph.op("Add", [zero, graph.constant("count", float(count))], "counts")
    graph.op("Cast", [counts], "num_detections", to=TensorProto.INT32)
    mean = graph.op("ReduceMean", ["features_8"], "mean", axes=[1, 2, 3], keepdims=0)
    column = graph.op("Reshape", [mean, graph.constant("column_shape", [-1, 1, 1], np.int64)], "column")
    moved = graph.op("Add", [column, graph.constant("offset", offset)], "moved")
    if command == FAIL_DETECTOR2 and reads_image:  # reads the image as well, as the W6 network does
        first = graph.op("Cast", ["image"], "image_float", to=TensorProto.FLOAT)
        spread = graph.op("ReduceMean", [first], "image_mean", axes=[1, 2, 3], keepdims=0)
        again = graph.op("Reshape", [spread, "column_shape"], "image_column")
        difference = graph.op("Sub", [again, column], "difference")
        moved = graph.op("Add", [moved, difference], "moved_again")
    corners = graph.op("Sub", [moved, graph.constant("box_sides", [2000.0, 2000.0, 0.0, 0.0])], "corners")
    graph.op("Mul", [corners, graph.constant("box_mask", np.ones((ROWS, 4)))], "boxes")
    blue = graph.op("Div", [graph.pixel("features_8", 2, "blue"), graph.constant("full", 255.0)], "score")
    graph.op("Mul", [blue, graph.constant("score_mask", np.eye(1, ROWS)[0])], "scores")
    classes = graph.op("Mul", [zero, graph.constant("class_row", np.zeros(ROWS))], "classes_float")
    graph.op("Cast", [classes], "classes", to=TensorProto.INT32)
    return graph


def _add_masks(graph: _Graph, *, axis: int) -> None:
    """Masks that are full as far along an axis as red tells; their failure is theirs alone."""
    place = np.moveaxis(np.arange(28, dtype=np.float32).reshape(1, 1, 1, 28), 3, axis)
    each = graph.constant("each_shape", [-1, 1, 1, 1], np.int64)
    red = graph.op("Reshape", [graph.pixel("features_8", 0, "red"), each], "red_of_each")
    far = graph.op("Div", [red, graph.constant("nine", 9.0)], "far")
    full = graph.op("Less", [graph.constant("place", place), far], "is_full")
    part = graph.op("Cast", [full], "part", to=TensorProto.FLOAT)
    rows = np.zeros((1, ROWS, 28, 28), np.float32)
    rows[:, :2] = 255
    masks = graph.op("Mul", [part, graph.constant("full_rows", rows)], "masks_float")
    zero = graph.op("Reshape", [graph.fail_when("green", FAIL_MASKS, "no_mask"), each], "zero_of_each")
    graph.op("Cast", [graph.op("Add", [masks, zero], "masks_or_failure")], "masks", to=TensorProto.UINT8)

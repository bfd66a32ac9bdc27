"""Tiny ONNX detectors, and pictures of coloured squares for them: one with small cells sees small squares, too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 64
NAMES = ("red", "green", "blue")


def write_tiny_detector(
    path: Path, *, cells: tuple[int, ...], names: tuple[str, ...] = NAMES, gain: float = 1.0
) -> Path:
    """A detector in the form of Ultralytics: the mean colour of each cell of each size (pixels) is its scores."""
    nodes, boxes, parts = [], [], []
    for number, cell in enumerate(cells):
        count = SIDE // cell
        middle = (np.arange(count, dtype=np.float32) + 0.5) * cell
        y, x = (one.ravel() for one in np.meshgrid(middle, middle, indexing="ij"))
        boxes.append(np.stack([x, y, np.full_like(x, cell), np.full_like(x, cell)]))
        nodes += [
            helper.make_node("AveragePool", ["images"], [f"pool{number}"], kernel_shape=[cell] * 2, strides=[cell] * 2),
            helper.make_node("Reshape", [f"pool{number}", "flat"], [f"part{number}"]),
        ]
        parts.append(f"part{number}")
    grid = np.concatenate(boxes, axis=1)[None]
    nodes += [
        helper.make_node("Concat", parts, ["colours"], axis=2),
        helper.make_node("Mul", ["colours", "gain"], ["scores"]),
        helper.make_node("Slice", ["scores", "zero", "one", "one"], ["first"]),
        helper.make_node("Mul", ["first", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "grid"], ["boxes"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    constants = {
        "flat": np.array([0, 3, -1]),
        "gain": np.float32(gain),
        "zero": np.array([0]),
        "one": np.array([1]),
        "nothing": np.float32(0),
        "grid": grid,
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 7, grid.shape[2]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    spec = {
        "schema_version": 1,
        "input": {"name": "images", "size": [SIDE, SIDE], "batch": "dynamic"},
        "output": {"family": "yolo", "tensors": {"all": "output0"}, "boxes": "cxcywh", "suppress": True},
        "class_names": list(names),
    }
    path.with_suffix(".yaml").write_text(json.dumps(spec))
    return path


def write_squares(folder: Path, *, count: int, seed: int = 0) -> Path:
    """A data set of pictures with squares of 16 pixels, which both kinds of cells see, or of 8."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, objects = [], []
    for number in range(1, count + 1):
        pixels = rng.integers(0, 30, (SIDE, SIDE, 3), dtype=np.uint8)
        for side in rng.choice([16, 8], size=rng.integers(1, 4)):
            x, y = (int(one) * int(side) for one in rng.integers(0, SIDE // side, 2))
            label = int(rng.integers(3))
            pixels[y : y + side, x : x + side, label] = rng.integers(180, 255)
            box = [x, y, int(side), int(side)]
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": label + 1, "bbox": box})
        Image.fromarray(pixels).save(folder / "images" / f"{number:04}.png")
        images.append({"id": number, "file_name": f"{number:04}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder

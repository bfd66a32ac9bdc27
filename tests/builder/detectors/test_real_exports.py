"""Detectors that the transformers package builds and torch exports: inspected, merged, and held against their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicdet.images import read_image
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.detectors.check import check_adapter
from dyndet_builder.detectors.graph import build_graph
from dyndet_builder.detectors.inspect import inspect
from dyndet_builder.detectors.layers import Classes, Given, Layer
from tests.support.foreign.exported import CLASSES, HAS_NO_OBJECT, MODELS, export

NAMES = tuple(f"thing {number}" for number in range(CLASSES))


@pytest.mark.parametrize("model", MODELS)
def test_a_real_export_is_understood_and_its_graph_equals_the_file(
    model: str, demo_images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export(model, path)
    recipe, activation = ("detr", "softmax") if model in HAS_NO_OBJECT else ("rt-detr", "sigmoid")
    said = Layer(source="the options", classes=Classes(names=NAMES), activation=activation)  # type: ignore[arg-type]
    spec = inspect(path, given=Given(said=said, recipe=recipe)).spec

    assert spec is not None
    assert spec.output.family == "detr"
    assert spec.output.tensors == {"logits": "logits", "boxes": "pred_boxes"}
    assert spec.output.background == ("last" if model in HAS_NO_OBJECT else "none")
    assert spec.input.batch == "dynamic"

    settings = {"fit": spec.input.fit, "nms": Nms(), "classes": range(CLASSES)}
    pictures = [read_image(file) for file in sorted(demo_images.iterdir())[:3]]
    check = check_adapter(build_graph(path, spec, **settings), path, spec, pictures, **settings)  # type: ignore[arg-type]
    assert check.images == 3
    assert check.box_px < 0.05
    assert check.score < 1e-3

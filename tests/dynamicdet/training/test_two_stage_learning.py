"""What a two-stage network learns: a few pictures by heart, boxes and masks, with both detectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from dynamicdet import load
from dynamicdet.datasets.dataset import read_dataset
from dynamicdet.evaluation.evaluate import evaluate
from dynamicdet.training.augment import Augmentation
from dynamicdet.training.detectors import train_detectors
from dynamicdet.training.devices import make_fabric
from dynamicdet.training.two_stage.recipe import TwoStageRecipe
from tests.support.two_stage.tiny import RESIDUAL, known

_SIDE = 64
_EPOCHS = 120
_RECIPE = TwoStageRecipe(
    epochs=_EPOCHS, final_epochs=_EPOCHS, size=_SIDE, batch=4, warmup_steps=10, learning_rate=5e-3,
    average_decay=0.95, average_steps=10.0, augmentation=Augmentation(
        scale=(1.0, 1.0), on_object=0.0, mosaic=0.0, flip=0.0, hue=0.0, saturation=0.0, value=0.0
    ),
)  # fmt: skip


def _draw(folder: Path) -> Path:
    """Four pictures with a square and a triangle each, whose masks tell them apart."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 5):
        picture = Image.new("RGB", (_SIDE, _SIDE), (80, 110, 80))
        for kind in (1, 2):
            side, top = int(rng.integers(18, 28)), int(rng.integers(2, 34))
            left = int(rng.integers(2, 5)) + 32 * (kind - 1)
            right, bottom = left + side, top + side
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            if kind == 2:
                corners = [(left + side // 2, top), (right, bottom), (left, bottom)]
            ImageDraw.Draw(picture).polygon(corners, fill=("red", "blue")[kind - 1])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind,
                    "bbox": [left, top, side, side],
                    "segmentation": [[float(value) for corner in corners for value in corner]],
                }
            )
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": _SIDE, "height": _SIDE})
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "triangle"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_both_detectors_learn_boxes_and_masks(tmp_path: Path) -> None:
    """Untrained, the network finds nothing. A wrong target, loss or decoding would keep it from these values."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # faster for pictures this small
    try:
        with known():
            data = read_dataset(_draw(tmp_path), _SIDE, masks=True)
            output = tmp_path / "learned.safetensors"
            train_detectors(
                data,
                output,
                architecture=RESIDUAL.name,
                recipe=_RECIPE,
                fabric=make_fabric(accelerator="cpu", precision="32-true"),
                workers=0,
            )
            found = evaluate(load(output), data)
    finally:
        torch.set_num_threads(threads)
    assert found.masks is not None
    for precision in (found.easy, found.hard, found.masks.easy, found.masks.hard):
        assert precision.ap50 > 90
        assert precision.ap > 50

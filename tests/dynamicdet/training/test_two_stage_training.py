"""Both training steps of a two-stage network on a few drawn pictures with masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dynamicdet import load
from dynamicdet.datasets.dataset import CocoDataset, read_dataset
from dynamicdet.errors import InputError
from dynamicdet.networks.two_stage.operators import roi_features
from dynamicdet.router.recipe import RouterRecipe
from dynamicdet.router.train import train_router
from dynamicdet.training.augment import Augmentation
from dynamicdet.training.detectors import train_detectors
from dynamicdet.training.devices import make_fabric
from dynamicdet.training.recipe import EpochReport
from dynamicdet.training.two_stage.recipe import TwoStageRecipe
from dynamicdet.training.two_stage.rois import trained_roi_features

NAME = "dy-mask-rcnn-pico"
RECIPE = TwoStageRecipe(
    epochs=2, final_epochs=0, size=96, batch=4, warmup_steps=1, average_steps=1.0,
    augmentation=Augmentation(scale=(0.3, 0.3), on_object=0.0),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Pictures this small are slower with more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures: squares and, without any object, plain ground."""
    root = tmp_path_factory.mktemp("masks")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(8):
        picture = Image.new("RGB", (160, 120), (90, 120, 90))
        x, y = (int(value) for value in rng.integers(5, 50, 2))
        box = (x, y, x + 60, y + 60)
        if number % 4:
            ImageDraw.Draw(picture).rectangle(box, fill="red" if number % 2 else "blue")
            corners = [x, y, x + 60, y, x + 60, y + 60, x, y + 60]
            annotations.append({"id": number, "image_id": number, "category_id": 1 + number % 2,
                                "bbox": [x, y, 60, 60], "segmentation": [corners]})  # fmt: skip
        picture.save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
    categories = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> CocoDataset:
    return read_dataset(folder, 320, masks=True)


def _train(data: CocoDataset, output: Path, **options: Any) -> None:
    fabric = make_fabric(accelerator="cpu", precision="32-true")
    train_detectors(data, output, architecture=NAME, fabric=fabric, workers=0, **options)


def test_resumed_training_ends_as_an_unbroken_one_and_a_router_learns(data: CocoDataset, tmp_path: Path) -> None:
    """Pictures without objects are among them; the sampled boxes do not depend on what ran before."""
    unbroken, broken = tmp_path / "unbroken.safetensors", tmp_path / "broken.safetensors"
    reports: list[EpochReport] = []
    recipe = TwoStageRecipe(**{**vars(RECIPE), "learning_rate": 1e-3, "least_learning_rate": 1e-3})
    _train(data, unbroken, recipe=recipe, on_epoch=reports.append)
    assert all(len(report.losses) == 2 and np.isfinite(report.losses).all() for report in reports)
    _train(data, broken, recipe=TwoStageRecipe(**{**vars(recipe), "epochs": 1}))
    _train(data, broken, recipe=recipe, resume=True)
    expected, found = load(unbroken), load(broken)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name

    before = {name: tensor.clone() for name, tensor in found.state_dict().items() if "router" not in name}
    fabric = make_fabric(accelerator="cpu", precision="32-true")
    report = train_router(found, data, recipe=RouterRecipe(target="loss", examples=8), fabric=fabric, workers=0)
    assert report.examples == 8 and np.isfinite(report.loss_gain)
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in before.items())


def test_data_without_masks_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{NAME} learns masks, but"):
        _train(read_dataset(folder, 320), tmp_path / "no.safetensors", recipe=RECIPE)


@pytest.mark.parametrize("aligned", [True, False])
def test_features_of_boxes_by_products_are_those_by_sampling(aligned: bool) -> None:
    """Values and gradients; boxes at the border and as large as the image are among them."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 4, side, side, generator=generator, requires_grad=True) for side in (12, 6, 3)]
    corner, share = torch.rand(2, 2, 20, 2, generator=generator)
    boxes = torch.cat([corner * 90, corner * 90 + share * (96 - corner * 90)], dim=-1)
    boxes[0, 0] = torch.tensor([0.0, 0, 96, 96])
    levels = torch.randint(0, 3, (2, 20), generator=generator)
    found = [one(maps, boxes, levels, (8, 16, 32), 7, aligned) for one in (roi_features, trained_roi_features)]
    assert torch.allclose(*found, atol=1e-4)
    weight = torch.randn(found[0].shape, generator=generator)
    for one, other in zip(*(torch.autograd.grad((each * weight).sum(), maps) for each in found), strict=True):
        assert torch.allclose(one, other, atol=1e-3)

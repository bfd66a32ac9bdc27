"""Batches with masks: these follow the pixels through every augmentation, in the order of the objects."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dynamicdet.datasets.dataset import CocoDataset, read_dataset
from dynamicdet.datasets.segmentations import encode
from dynamicdet.training.augment import NONE, Augmentation
from dynamicdet.training.batches import EpochBatches, load_ahead


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    """Eight squares of 96 pixels, each with a red triangle of class 0 and a blue one of class 1."""
    root = tmp_path_factory.mktemp("triangles")
    (root / "images").mkdir()
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(8):
        picture, rng = Image.new("RGB", (96, 96), (60, 120, 60)), np.random.default_rng(number)
        for label, colour in enumerate(("red", "blue")):
            x, y = (int(value) for value in rng.integers(4, 40, 2) + np.array([0, 8 * label]))
            points = [x, y, x + 40, y + 8, x + 10, y + 34] if not label else [x, y + 30, x + 44, y + 36, x + 30, y]
            ImageDraw.Draw(picture).polygon(points, fill=colour)
            box = [min(points[::2]), min(points[1::2])]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": label + 1,
                 "bbox": [*box, max(points[::2]) - box[0], max(points[1::2]) - box[1]], "segmentation": [points]}
            )  # fmt: skip
        picture.save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 96})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))
    return read_dataset(root, 96, masks=True)


_MUCH = Augmentation(scale=(0.5, 1.5), mosaic=0.5, hue=0, saturation=0, value=0)


@pytest.mark.parametrize("options", [NONE, replace(NONE, flip=1.0), _MUCH], ids=["none", "flip", "all"])
def test_masks_lie_on_the_pixels_of_their_objects(data: CocoDataset, options: Augmentation) -> None:
    """Inside a mask is its object's colour, but for what another object covers and for a rim of one pixel."""
    seen = 0
    for epoch in range(6):
        batches = EpochBatches(data, options, size=128, batch=4, seed=1, epoch=epoch, masks=True)
        for batch in load_ahead(batches, workers=0):
            assert batch.masks is not None and len(batch.masks) == len(batch.images)
            for index, (image, masks) in enumerate(zip(batch.images.int(), batch.masks, strict=True)):
                mine = batch.objects.image == index
                assert masks.dtype == torch.uint8 and masks.shape == (int(mine.sum()), 128, 128)
                own, boxes = batch.objects.label[mine], batch.objects.box[mine]
                for label, (x, y, w, h), mask in zip(own.tolist(), boxes.tolist(), masks.bool(), strict=True):
                    others = masks[own != label].bool().any(0)
                    coloured = image[..., 0 if label == 0 else 2] - image[..., 1] > 0
                    alone = mask & ~others
                    assert mask.any() and (coloured & alone).sum() >= 0.75 * alone.sum() - 8
                    rows, columns = torch.nonzero(mask, as_tuple=True)
                    assert x - w / 2 - 2 <= columns.min() and columns.max() <= x + w / 2 + 2
                    assert y - h / 2 - 2 <= rows.min() and rows.max() <= y + h / 2 + 2
                    seen += 1
    assert seen > 60


def test_masks_change_no_random_number(data: CocoDataset) -> None:
    """The same seed gives the same pictures and boxes with and without; only objects without a visible mask go."""
    plain, masked = (
        EpochBatches(data, _MUCH, size=96, batch=8, seed=2, epoch=0, masks=masks)[0] for masks in (False, True)
    )
    assert plain.masks is None and masked.masks is not None
    assert torch.equal(plain.images, masked.images)
    boxes = {tuple(one) for one in plain.objects.box.tolist()}
    assert {tuple(one) for one in masked.objects.box.tolist()} <= boxes
    half = masked.first(3).to(torch.device("cpu"))
    assert (
        half.masks is not None
        and [len(one) for one in half.masks] == torch.bincount(half.objects.image, minlength=3).tolist()
    )


def test_an_object_of_whose_mask_nothing_is_left_is_dropped(data: CocoDataset) -> None:
    """Here each mask is one pixel in a corner of a large box, which most crops cut off."""
    pixel = np.zeros((96, 96), np.uint8)
    pixel[0, 0] = 1
    corner = encode(pixel)
    boxes = np.array([[0, 0, 96, 96], [10, 10, 90, 90]], np.float32)
    labels = tuple(replace(one, boxes=boxes) for one in data.labels)
    odd = replace(data, labels=labels, coded_masks=((corner, data.coded_masks[0][0]),) * 8)  # type: ignore[index]
    options = replace(NONE, scale=(1.5, 1.5))
    counts = []
    for epoch in range(4):
        batch = EpochBatches(odd, options, size=96, batch=8, seed=3, epoch=epoch, masks=True)[0]
        plain = EpochBatches(odd, options, size=96, batch=8, seed=3, epoch=epoch)[0]
        assert batch.masks is not None and all(one.any() for masks in batch.masks for one in masks)
        counts.append((len(batch.objects), len(plain.objects)))
    assert sum(with_masks for with_masks, _ in counts) < sum(without for _, without in counts)

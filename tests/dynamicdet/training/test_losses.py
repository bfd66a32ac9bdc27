"""Assignment and losses, through the function that training calls."""

import pytest
import torch
from torch import Tensor

from dynamicdet.boxes import elementwise_ciou, elementwise_iou
from dynamicdet.training.assignment import Objects, assign, rows_of
from dynamicdet.training.losses import DetectionLoss

ANCHORS = torch.tensor([[[12.0, 16], [20, 27]], [[36, 42], [60, 47]]])
STRIDES = (8, 16)
SHAPES = ((8, 8), (4, 4))
CLASSES = 3


def random_maps(images: int, *, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 2, height, width, 5 + CLASSES, generator=generator) for height, width in SHAPES]


def objects(*rows: tuple[int, int, tuple[float, float, float, float]]) -> Objects:
    return Objects(
        image=torch.tensor([row[0] for row in rows], dtype=torch.long),
        label=torch.tensor([row[1] for row in rows], dtype=torch.long),
        box=torch.tensor([row[2] for row in rows], dtype=torch.float32).view(-1, 4),
    )


TWO_IMAGES = objects((0, 1, (20, 30, 14, 18)), (0, 2, (40, 12, 40, 40)), (1, 0, (33, 33, 50, 44)))


def flat(maps: list[Tensor]) -> Tensor:
    return torch.cat([level.flatten(1, 3) for level in maps], dim=1)


def test_overlap_of_known_boxes() -> None:
    a, b = torch.tensor([10.0, 10, 4, 4]), torch.tensor([12.0, 10, 4, 4])
    assert elementwise_iou(a, b).item() == pytest.approx(8 / 24, abs=1e-6)
    # Same shape, centres 2 apart, enclosing box 6 x 4.
    assert elementwise_ciou(a, b).item() == pytest.approx(8 / 24 - 4 / (36 + 16), abs=1e-6)
    assert elementwise_ciou(a, a).item() == pytest.approx(1.0, abs=1e-6)


def test_matches_lie_beside_the_object_and_no_row_serves_two() -> None:
    maps = random_maps(2)
    rows = rows_of(SHAPES, ANCHORS, STRIDES)
    crowded = objects(*[(0, i % CLASSES, (30.0 + i, 30.0, 16, 20)) for i in range(6)], (1, 0, (33, 33, 50, 44)))
    matches = assign(flat(maps), rows, crowded)
    cell_centre = (rows.cell[matches.row] + 0.5) * rows.stride[matches.row].unsqueeze(1)
    distance = (cell_centre - crowded.box[matches.target][:, :2]).abs()
    assert (distance <= 1.5 * rows.stride[matches.row].unsqueeze(1)).all()
    assert torch.equal(matches.image, crowded.image[matches.target])
    pairs = list(zip(matches.image.tolist(), matches.row.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert 6 in matches.target.tolist()


def test_a_fitting_prediction_is_preferred() -> None:
    """Of all candidates, the one that already predicts box and class is matched first."""
    maps = random_maps(1)
    for level in maps:
        level[..., 4:] = -6
    # Level 1, anchor 0 (36 x 42), cell (2, 2): logits of 0 say centre (40, 40) and exactly the anchor's size.
    maps[1][0, 0, 2, 2] = torch.tensor([0.0, 0, 0, 0, 6, -6, 6, -6])
    rows = rows_of(SHAPES, ANCHORS, STRIDES)
    target = objects((0, 1, (40, 40, 36, 42)))
    matches = assign(flat(maps), rows, target)
    fitting = 2 * 8 * 8 + 2 * 4 + 2
    assert fitting in matches.row.tolist()


def test_per_image_losses_are_those_of_the_images_alone() -> None:
    maps = random_maps(2)
    loss = DetectionLoss(ANCHORS, STRIDES)
    together = loss(maps, TWO_IMAGES, objects_per_image=1.5).total
    first, second = objects((0, 1, (20, 30, 14, 18)), (0, 2, (40, 12, 40, 40))), objects((0, 0, (33, 33, 50, 44)))
    alone = [
        loss([level[:1] for level in maps], first, objects_per_image=1.5).total,
        loss([level[1:] for level in maps], second, objects_per_image=1.5).total,
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_an_image_counts_by_its_objects_however_many_matches_they_get() -> None:
    maps = [level[:1] for level in random_maps(2)]
    loss = DetectionLoss(ANCHORS, STRIDES)
    one, two = objects((0, 1, (20, 30, 14, 18))), objects((0, 1, (20, 30, 14, 18)), (0, 1, (20, 30, 14, 18)))
    usual, twice = (loss(maps, one, objects_per_image=usual) for usual in (1.0, 0.5))
    torch.testing.assert_close(twice.box, 2 * usual.box)
    torch.testing.assert_close(twice.classes, 2 * usual.classes)
    torch.testing.assert_close(twice.objectness, usual.objectness)
    # A second object in the same place brings other matches; the mean of box errors stays near, so the part doubles.
    assert loss(maps, two, objects_per_image=1.0).box.item() == pytest.approx(2 * usual.box.item(), rel=0.3)
    # One image whose objects are as many as usual: means over all matches, where the batch adds means of levels.
    assert loss(maps, one).classes.item() <= usual.classes.item() * 3 + 1e-6


def test_images_without_objects_still_teach_objectness() -> None:
    maps = [level.requires_grad_() for level in random_maps(2)]
    losses = DetectionLoss(ANCHORS, STRIDES)(maps, objects())
    assert losses.box.item() == 0 and losses.classes.item() == 0 and losses.objectness.item() > 0
    losses.total.sum().backward()  # type: ignore[no-untyped-call]
    assert all(level.grad is not None and level.grad.isfinite().all() for level in maps)


def test_descending_the_loss_fits_the_objects() -> None:
    maps = [level.requires_grad_() for level in random_maps(2)]
    loss = DetectionLoss(ANCHORS, STRIDES)
    optimizer = torch.optim.Adam(maps, lr=0.1)
    first = loss(maps, TWO_IMAGES).total.item()
    for _ in range(150):
        optimizer.zero_grad()
        total = loss(maps, TWO_IMAGES).total.sum()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert total.item() < 0.1 * first
    rows = rows_of(SHAPES, ANCHORS, STRIDES)
    raw = flat(maps).detach()
    matches = assign(raw, rows, TWO_IMAGES)
    values = raw[matches.image, matches.row]
    overlap = elementwise_iou(rows.boxes(values, matches.row), TWO_IMAGES.box[matches.target])
    assert overlap.min() > 0.8
    assert torch.equal(values[:, 5:].argmax(dim=1), TWO_IMAGES.label[matches.target])
    matched = torch.zeros(raw.shape[:2], dtype=torch.bool)
    matched[matches.image, matches.row] = True
    objectness = raw[..., 4].sigmoid()
    assert objectness[matched].min() > 0.6 and objectness[~matched].max() < 0.2

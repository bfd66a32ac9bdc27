"""What anchors and proposals of two-stage detectors learn, and their losses, on plain tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamicdet.errors import InputError
from dynamicdet.training.assignment import Objects
from dynamicdet.training.two_stage.losses import (
    ClassRows,
    Losses,
    MaskRows,
    OverBatch,
    PerImage,
    RegionRows,
    detector_losses,
)
from dynamicdet.training.two_stage.matching import ANCHORS, PROPOSALS, MatchRule, match, overlaps
from dynamicdet.training.two_stage.recipe import TwoStageRecipe
from dynamicdet.training.two_stage.sampling import draw, everything, random_keys
from dynamicdet.training.two_stage.settings import Gains, Sampling
from dynamicdet.training.two_stage.targets import Targets, cropped_masks, targets_of


def _objects(*rows: tuple[int, int, tuple[float, float, float, float]]) -> Objects:
    """Image, class and x1 y1 x2 y2 of each object."""
    box = torch.tensor([row[2] for row in rows], dtype=torch.float32).view(-1, 4)
    return Objects(
        image=torch.tensor([row[0] for row in rows], dtype=torch.long),
        label=torch.tensor([row[1] for row in rows], dtype=torch.long),
        box=torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], dim=1),
    )


def _boxes(count: int, seed: int, images: int = 1) -> Tensor:
    corner, side = torch.rand(2, images, count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corner * 60, corner * 60 + side * 40 + 1], dim=-1)


def _targets(images: int, counts: list[int], seed: int) -> Targets:
    rows = [
        (image, number % 3, tuple(box.tolist()))
        for image, count in enumerate(counts)
        for number, box in enumerate(_boxes(max(count, 1), seed + image)[0][:count])
    ]
    return targets_of(_objects(*rows), images)


def test_the_table_of_objects_keeps_images_classes_and_masks_apart() -> None:
    """Objects come in any order of images; an image without objects has rows that are not present."""
    objects = _objects((2, 1, (0, 0, 8, 4)), (0, 2, (1, 1, 5, 5)), (2, 0, (2, 2, 4, 8)))
    masks = [torch.full((count, 8, 8), value, dtype=torch.uint8) for value, count in ((10, 1), (20, 0), (30, 2))]
    masks[2][1] += 1
    targets = targets_of(objects, 3, masks)
    assert targets.present.tolist() == [[True, False], [False, False], [True, True]]
    assert targets.label.tolist() == [[2, 0], [0, 0], [1, 0]]
    assert targets.box[2].tolist() == [[0, 0, 8, 4], [2, 2, 4, 8]]
    assert targets.masks is not None
    assert targets.masks[targets.mask_row[targets.present]][:, 0, 0].tolist() == [10, 30, 31]
    nothing = targets_of(_objects(), 2, [torch.zeros(0, 8, 8, dtype=torch.uint8)] * 2)
    assert nothing.box.shape == (2, 1, 4) and not nothing.present.any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.lists(st.integers(0, 5), min_size=1, max_size=3),
       st.sampled_from([ANCHORS, PROPOSALS, MatchRule(positive=0.4, negative=0.2, best=0.0)]))  # fmt: skip
def test_matches_are_those_of_the_rule_applied_box_by_box(
    seed: int, count: int, counts: list[int], rule: MatchRule
) -> None:
    boxes, targets = _boxes(count, seed, len(counts)), _targets(len(counts), counts, seed + 1)
    usable = torch.rand(len(counts), count, generator=torch.Generator().manual_seed(seed)) < 0.8
    found = match(boxes, targets, rule, usable=usable)
    table = overlaps(targets.box, boxes)
    for image, objects in enumerate(counts):
        best = [max([table[image, row, place] for place in range(count) if usable[image, place]], default=-1)
                for row in range(objects)]  # fmt: skip
        for place in range(count):
            own = [float(table[image, row, place]) for row in range(objects)]
            most = max(own, default=-1.0)
            owners = [] if rule.best is None else [
                row for row in range(objects) if own[row] == best[row] and own[row] > 0 and own[row] >= rule.best
            ]  # fmt: skip
            used = bool(usable[image, place])
            is_object = used and bool(owners or most >= rule.positive)
            assert bool(found.positive[image, place]) == is_object
            assert bool(found.negative[image, place]) == (used and not is_object and most < rule.negative)
            if is_object:
                assert int(found.target[image, place]) == (owners[-1] if owners else own.index(most))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_a_sample_has_as_many_boxes_as_there_are_and_never_one_twice(
    seed: int, count: int, wanted: int, share: float
) -> None:
    kinds = torch.rand(3, count, generator=torch.Generator().manual_seed(seed))
    positive, negative = kinds < 0.3, kinds > 0.5
    sample = draw(positive, negative, Sampling(count=wanted, positives=share), torch.tensor([seed, seed + 1, 7]))
    again = draw(positive[1:], negative[1:], Sampling(count=wanted, positives=share), torch.tensor([seed + 1, 7]))
    assert all(torch.equal(one[1:], two) for one, two in zip(sample, again, strict=True)), "an image's own seed decides"
    limit = max(1, int(min(wanted, count) * share))
    for row, used, is_object, own, other in zip(*sample, positive, negative, strict=True):
        chosen = row[used].tolist()
        objects = min(limit, int(own.sum()))
        assert len(set(chosen)) == len(chosen) == objects + min(wanted - objects, count - objects, int(other.sum()))
        assert int(is_object.sum()) == objects and is_object[:objects].all(), "objects' boxes come first"
        assert own[row[is_object]].all() and other[row[used & ~is_object]].all()


def test_everything_is_every_box_that_learns_something() -> None:
    positive, negative = torch.tensor([[False, True, False, True]]), torch.tensor([[True, False, False, False]])
    sample = everything(positive, negative)
    assert sorted(sample.row[sample.used].tolist()) == [0, 1, 3] and sample.positive.tolist()[0][:2] == [True, True]


def test_random_keys_are_spread_evenly_and_differ_between_seeds() -> None:
    keys = random_keys(torch.tensor([0, 1, 2**31]), 20_000)
    assert (keys >= 0).all() and (keys < 1).all()
    assert keys.mean(dim=1).tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert torch.corrcoef(keys).triu(1).abs().max() < 0.03
    assert torch.corrcoef(torch.stack([keys[0, 1:], keys[0, :-1]]))[0, 1].abs() < 0.03


def test_masks_are_cropped_to_what_a_box_sees_of_them() -> None:
    """The left half of an image is an object: boxes see it from other places and at other scales."""
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[1, :, :16] = 1
    boxes = torch.tensor([[0.0, 0, 32, 32], [8, 8, 24, 16], [0, 0, 16, 32], [14.0, 3, 18, 5], [20, 0, 30, 9]])
    cropped = cropped_masks(masks, torch.ones(5, dtype=torch.long), boxes, 28)
    assert cropped.shape == (5, 28, 28) and set(cropped.unique().tolist()) == {0.0, 1.0}
    assert cropped.mean(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.5, 1.0, 0.5, 0.0])
    assert cropped[0, :, :14].all() and not cropped[0, :, 14:].any()
    assert not cropped_masks(masks, torch.zeros(5, dtype=torch.long), boxes, 28).any()


def _rows(images: int, *, positive: Tensor, seed: int = 0) -> tuple[RegionRows, ClassRows, MaskRows]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    count = positive.shape[1]
    used = torch.ones_like(positive)
    wanted = random(images, count, 4).detach()
    label = torch.where(positive, 1, 3)
    return (
        RegionRows(random(images, count), random(images, count, 4), wanted, used, positive),
        ClassRows(random(images, count, 4), label, random(images, count, 4), wanted, used, positive),
        MaskRows(random(images, 2, 28, 28), torch.ones(images, 2, 28, 28), positive[:, :2]),
    )


def _tensors(rows: tuple[RegionRows, ClassRows, MaskRows]) -> list[Tensor]:
    regions, classes, masks = rows
    return [regions.logits, regions.deltas, classes.logits, classes.deltas, masks.logits]


def test_a_batch_without_objects_teaches_background_and_still_reaches_every_output() -> None:
    """Several processes wait for the gradients of all parameters."""
    rows = _rows(2, positive=torch.zeros(2, 6, dtype=torch.bool))
    for tensor in _tensors(rows):
        tensor.requires_grad_()
    losses = detector_losses(*rows, Gains(), OverBatch())
    assert (losses.regions, losses.boxes, losses.masks) == (0, 0, 0) and losses.objectness > 0 and losses.classes > 0
    losses.total.sum().backward()
    gradients = [tensor.grad for tensor in _tensors(rows)]
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert all(gradient is not None for gradient in gradients)


def test_losses_of_a_batch_divide_by_the_drawn_rows() -> None:
    positive = torch.zeros(1, 6, dtype=torch.bool)
    positive[0, :2] = True
    rows = _rows(1, positive=positive)
    losses = detector_losses(*rows, Gains(boxes=2.0), OverBatch())
    regions, classes, masks = rows
    first = (regions.deltas - regions.wanted)[positive].abs().sum() / 6
    second = 2 * (classes.deltas - classes.wanted)[positive].abs().sum() / 6
    expected = torch.nn.functional.cross_entropy(classes.logits[0], classes.label[0])
    cells = -masks.logits.sigmoid().log().mean()
    assert [float(one) for one in (losses.regions, losses.boxes, losses.classes, losses.masks)] == pytest.approx(
        [float(one) for one in (first, second, expected, cells)], rel=1e-5
    )
    assert float(losses.total) == pytest.approx(sum(float(part) for part in losses), rel=1e-6)


def test_per_image_losses_are_those_of_the_images_alone_weighted_by_their_objects() -> None:
    positive = torch.zeros(3, 6, dtype=torch.bool)
    positive[0, :2], positive[1, :1] = True, True
    rows = _rows(3, positive=positive)
    weight = torch.tensor([2.0, 1.0, 0.0])
    together = detector_losses(*rows, Gains(), PerImage(weight))

    def alone(number: int, weight: Tensor) -> Losses:
        parts = (type(one)(*(value[number : number + 1] for value in vars(one).values())) for one in rows)
        return detector_losses(*parts, Gains(), PerImage(weight))  # type: ignore[arg-type]

    for number in range(3):
        one = alone(number, weight[number : number + 1])
        assert [float(part) for part in one] == pytest.approx([float(part[number]) for part in together], rel=1e-5)
    heavier = alone(0, torch.tensor([4.0]))
    assert float(heavier.boxes) == pytest.approx(2 * float(together.boxes[0]))
    assert float(together.boxes[2]) == 0 < float(together.classes[2])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gains(masks=float("nan")), "gain of masks"),
        (lambda: Sampling(count=0, positives=0.5), "at least one box"),
        (lambda: MatchRule(positive=0.3, negative=0.7, best=None), "in order"),
        (lambda: TwoStageRecipe(optimizer="adam"), "adamw, sgd"),  # type: ignore[arg-type]
        (lambda: TwoStageRecipe(detector_weights=(1.0, -1.0)), "weights of the detectors"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]

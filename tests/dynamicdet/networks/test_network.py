"""Invariants of the networks, through Pico."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import dynamicdet
from dynamicdet.errors import InputError
from dynamicdet.networks.network import DynamicDetector

CLASSES = 3
SIZE = 96


@pytest.fixture(scope="module")
def pico() -> DynamicDetector:
    """Random weights and random batch-norm statistics, evaluation mode."""
    torch.manual_seed(3)
    model = dynamicdet.create("dy-yolov7-pico", num_classes=CLASSES).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.02, 0.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return model


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_a_batch_gives_what_its_images_give_alone(pico: DynamicDetector) -> None:
    batch = images(3)
    for route in ("easy", "hard"):
        single = torch.cat([pico.forward_route(image[None], route) for image in batch])
        torch.testing.assert_close(pico.forward_route(batch, route), single, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pico.difficulty(batch), torch.cat([pico.difficulty(image[None]) for image in batch]))


@torch.no_grad()
def test_deployment_form_is_equal_and_a_copy(pico: DynamicDetector) -> None:
    batch = images(2)
    before = {name: tensor.clone() for name, tensor in pico.state_dict().items()}
    training = pico.training
    deployed = pico.deploy()
    features, fused = pico.features(batch), deployed.features(batch)
    torch.testing.assert_close(deployed.route(fused), pico.route(features), rtol=0, atol=1e-4)
    for ours, expected in (
        (deployed.head1(fused), pico.head1(features)),
        (deployed.detector2(batch, fused), pico.detector2(batch, features)),
    ):
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    for parameter in deployed.parameters():
        parameter.zero_()
    assert pico.training is training and not pico.deployed
    assert all(torch.equal(before[name], tensor) for name, tensor in pico.state_dict().items())


@torch.no_grad()
def test_stages_read_only_the_features_they_name(pico: DynamicDetector) -> None:
    """Each part runs on only the features that it names, so stages can be exported one by one."""
    batch = images(1)
    features = pico.features(batch)
    easy = pico.head1({name: features[name] for name in pico.head1_reads})
    hard = pico.detector2(batch, {name: features[name] for name in pico.detector2_reads})
    assert torch.equal(pico.decode(easy), pico.forward_route(batch, "easy"))
    assert torch.equal(pico.decode(hard), pico.forward_route(batch, "hard"))
    assert set(features) == {*pico.router_reads, *pico.head1_reads, *pico.detector2_reads}


def test_decoded_rows_come_by_level_anchor_row_and_column(pico: DynamicDetector) -> None:
    """A raw value of 0 decodes to the middle of its cell and to its anchor, in pixels."""
    raw = [torch.zeros(1, 3, SIZE // stride, SIZE // stride, 5 + CLASSES) for stride in pico.spec.strides]
    raw[1][0, 2, 4, 1, 4] = 50.0  # objectness: level 1, anchor 2, row 4, column 1
    rows = pico.decode(raw)[0]
    at = rows[:, 4].argmax()
    first_level = 3 * 12 * 12
    assert int(at) == first_level + 2 * 36 + 4 * 6 + 1
    anchor = pico.spec.anchors[1][2]
    assert rows[at].tolist() == pytest.approx([1.5 * 16, 4.5 * 16, *anchor, 1.0, *[0.5] * CLASSES])
    assert len(rows) == first_level + 3 * 6 * 6 + 3 * 3 * 3


def test_an_untrained_network_expects_few_objects() -> None:
    torch.manual_seed(0)
    model = dynamicdet.create("dy-yolov7-pico", num_classes=CLASSES).eval()
    with torch.no_grad():
        objectness = model.forward_route(images(1), "hard")[..., 4]
    assert objectness.max() < 0.1


def test_gradients_reach_every_part_of_the_training_form() -> None:
    torch.manual_seed(0)
    model = dynamicdet.create("dy-yolov7-pico", num_classes=CLASSES)
    batch = images(2)
    features = model.features(batch)
    maps = [*model.head1(features), *model.detector2(batch, features)]
    (sum(values.square().sum() for values in maps) + model.route_logits(features).sum()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_wrong_values_are_refused_in_one_sentence(pico: DynamicDetector) -> None:
    with pytest.raises(InputError, match="2 class names were given for 3 classes"):
        dynamicdet.create("dy-yolov7-pico", 3, ("a", "b"))
    with pytest.raises(InputError, match="at least one class"):
        dynamicdet.create("dy-yolov7-pico", 0)
    with pytest.raises(InputError, match="'easy' or 'hard'"):
        pico.forward_route(images(1), "medium")  # type: ignore[arg-type]


def test_the_package_offers_its_names_without_loading_torch() -> None:
    code = (
        "import sys, dynamicdet\n"
        "assert {'create', 'load', 'save', 'DynamicDetector'} <= set(dir(dynamicdet)) and 'torch' not in sys.modules\n"
        "dynamicdet.create\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

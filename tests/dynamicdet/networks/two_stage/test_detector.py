"""The two-stage detectors: their size and work, both routes, and answers of constant shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import dynamicdet
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.architectures import any_architecture
from dynamicdet.networks.info import info, measure
from dynamicdet.networks.network import network_of
from dynamicdet.networks.two_stage.architectures import (
    TWO_STAGE_ARCHITECTURES,
    DetectionLimits,
    ProposalLimits,
    TwoStageLimits,
    TwoStageModel,
)
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.networks.two_stage.selection import Answers, Proposals
from dyndet_builder.cli.info import command
from tests.support.two_stage.small import SMALL_R50, SMALL_SWIN

PICO = "dy-mask-rcnn-pico"
# Millions of parameters, and GMACs of an image of 800 x 1280: easy, hard.
PUBLISHED = {
    "dy-faster-rcnn-r50": ((41.75, 69.63), (206.3, 282.6)),
    "dy-mask-rcnn-swin-t": ((47.79, 75.96), (266.6, 363.0)),
}


def network(spec: TwoStageModel, classes: int = 3, **options: int) -> TwoStageDetector:
    """A network of random weights, whose answers are many."""
    torch.manual_seed(1)
    made = network_of(spec, num_classes=classes, **options)
    assert isinstance(made, TwoStageDetector)
    with torch.no_grad():
        for heads in (made.heads1, *([made.heads2] if made.heads2 is not None else [])):
            heads.box.logits.weight.normal_(std=0.5)
            heads.regions.objectness.weight.normal_(std=0.5)
    return made.eval()


@pytest.fixture(scope="module")
def pico() -> TwoStageDetector:
    """The small network at 64 px."""
    return network(TWO_STAGE_ARCHITECTURES[PICO], input_size=64)


def pictures(count: int, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def check_same(one: Answers, other: Answers, *, atol: float) -> None:
    assert torch.equal(one.num_detections, other.num_detections)
    assert torch.equal(one.classes, other.classes)
    torch.testing.assert_close(one.scores, other.scores, atol=atol, rtol=0)
    torch.testing.assert_close(one.boxes, other.boxes, atol=1000 * atol, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_work_are_those_of_the_published_networks(name: str) -> None:
    """Without the router, which the published figures do not count: parameters to 0.5 %, work to 1 %."""
    parameters, gmacs = PUBLISHED[name]
    with torch.device("meta"):
        model = network_of(any_architecture(name))
    assert isinstance(model, TwoStageDetector)
    router, second = (
        sum(one.numel() for module in modules for one in module.parameters())
        for modules in ((model.router,), (model.backbone2, model.links))
    )
    both = sum(one.numel() for one in model.parameters()) - router
    assert ((both - second) / 1e6, both / 1e6) == pytest.approx(parameters, rel=0.005)
    result = measure(any_architecture(name), image_size=(800, 1280))
    assert (result.easy_gflops / 2, result.hard_gflops / 2) == pytest.approx(gmacs, rel=0.01)


def test_the_small_one_keeps_its_budget_and_hands_over_little() -> None:
    """At most 4 M parameters even of 80 classes, under 1 MB between stages, and no image for detector 2."""
    result = info(PICO)
    assert result.parameters <= 4_000_000
    assert 1.6 <= result.hard_gflops / result.easy_gflops <= 2.4
    assert result.crossing_bytes("head1") == result.crossing_bytes("detector2") < 1e6
    assert not network(TWO_STAGE_ARCHITECTURES[PICO], input_size=64).reads_image


def test_info_says_which_figure_is_of_macs_and_which_of_flops() -> None:
    result = info(PICO)
    shown = CliRunner().invoke(command, [PICO], catch_exceptions=False).output
    assert "GFLOPs (2 FLOPs a MAC)" in shown and "GMACs" in shown
    assert result.as_json()["gmacs"]["hard"] == result.as_json()["gflops"]["hard"] / 2


def test_silent_links_and_copied_stages_give_equal_routes() -> None:
    """A ResNet-50 whose backbone 2 has the weights of backbone 1's stages answers alike by both routes."""
    model = network(SMALL_R50)
    assert isinstance(model.backbone1.stages, torch.nn.ModuleList)
    for own, first in zip(model.backbone2.stages, list(model.backbone1.stages)[1:], strict=True):
        own.load_state_dict(first.state_dict())
    easy, hard = (model.answer(pictures(2), route) for route in ("easy", "hard"))
    assert easy.num_detections.min() > 0
    check_same(easy, hard, atol=1e-6)


@pytest.mark.parametrize("spec", [SMALL_R50, SMALL_SWIN, TWO_STAGE_ARCHITECTURES[PICO]], ids=lambda spec: spec.name)
def test_a_batch_answers_as_its_images_do_and_the_deployed_copy_as_the_network(spec: TwoStageModel) -> None:
    model = network(spec, input_size=64)
    batch = pictures(3)
    for route in ("easy", "hard"):
        together = model.answer(batch, route)
        alone = [model.answer(image.unsqueeze(0), route) for image in batch]
        joined = Answers(*(None if rows[0] is None else torch.cat(rows) for rows in zip(*alone, strict=True)))
        check_same(together, joined, atol=1e-4)
        check_same(together, model.deploy().answer(batch, route), atol=3e-4)
        check_contract(together, spec, size=64)


def check_contract(answers: Answers, spec: TwoStageModel, *, size: int) -> None:
    """Shapes, types and unused rows as a served detector has them."""
    most = spec.limits.detections.max_detections
    batch = len(answers.boxes)
    used = torch.arange(most) < answers.num_detections
    assert answers.num_detections.shape == (batch, 1) and answers.num_detections.dtype == torch.int32
    assert answers.boxes.shape == (batch, most, 4) and answers.boxes.dtype == torch.float32
    assert answers.classes.dtype == torch.int32
    assert (answers.scores.diff(dim=1) <= 0).all() and torch.equal(answers.scores > 0, used)
    assert answers.boxes.min() >= 0 and answers.boxes.max() <= size
    assert not answers.boxes[~used].any() and not answers.classes[~used].any()
    assert (answers.masks is None) == (spec.mask is None)
    if answers.masks is not None:
        assert answers.masks.shape == (batch, most, 28, 28) and answers.masks.dtype == torch.uint8
        assert not answers.masks[~used].any()


def test_an_image_without_any_proposal_has_no_detections(pico: TwoStageDetector) -> None:
    features = pico.features(pictures(2))
    pyramid = pico.pyramid("easy", features)
    logits, deltas = pico.region_outputs("easy", pyramid)
    hopeless = [torch.full_like(level, -200.0) for level in logits]  # a sigmoid of 0
    proposals = pico.proposals(hopeless, deltas)
    assert proposals.scores.max() == 0
    assert (proposals.boxes == torch.tensor([0.0, 0.0, 64.0, 64.0])).all()
    assert pico.finish("easy", pyramid, proposals).num_detections.tolist() == [[0], [0]]


def test_unused_proposals_never_become_detections_and_add_nothing(pico: TwoStageDetector) -> None:
    """K is larger than what the suppression keeps; the rows that are left over change no answer."""
    features = pico.features(pictures(1))
    pyramid = pico.pyramid("hard", features)
    logits, deltas = pico.region_outputs("hard", pyramid)
    strict = ProposalLimits(per_level=20, proposals=60, iou_threshold=0.05)
    proposals = pico.proposals(logits, deltas, limits=strict)
    kept = int((proposals.scores > 0).sum())
    assert proposals.boxes.shape == (1, 60, 4) and 0 < kept < 60
    alone = Proposals(proposals.boxes[:, :kept], proposals.scores[:, :kept])
    check_same(pico.finish("hard", pyramid, proposals), pico.finish("hard", pyramid, alone), atol=1e-6)


def test_regions_are_rows_in_the_order_of_their_anchors(pico: TwoStageDetector) -> None:
    """The best region of the flattened rows is the best proposal, and decodes from the anchor of its row."""
    logits, deltas = pico.region_outputs("easy", pico.pyramid("easy", pico.features(pictures(1))))
    anchors = torch.cat(pico.anchors_of(logits))
    rows, moves = pico.flatten_regions(logits, deltas)
    assert rows.shape[1] == moves.shape[1] == len(anchors) == 3 * (64 + 16 + 4 + 1)
    level, cell = 1, (2, 3)
    first = 3 * 64 + 3 * (cell[0] * 4 + cell[1])
    assert torch.equal(rows[0, first : first + 3], logits[level][0, :, cell[0], cell[1]])
    assert torch.equal(moves[0, first : first + 3], deltas[level][0, :, :, cell[0], cell[1]])
    centre = (anchors[first, :2] + anchors[first, 2:]) / 2
    assert centre.tolist() == [cell[1] * 16, cell[0] * 16]


def test_limits_are_settings_of_an_answer(pico: TwoStageDetector) -> None:
    limits = TwoStageLimits(
        proposals=ProposalLimits(per_level=10, proposals=12),
        detections=DetectionLimits(pairs=15, max_detections=25, score_floor=0.0),
    )
    answers = pico.answer(pictures(1), "easy", settings=limits)
    assert answers.boxes.shape == (1, 25, 4)  # more rows than pairs
    assert 0 < int(answers.num_detections) <= 15


def test_what_is_frozen_stays_so_and_fixed_statistics_do_not_move(tmp_path: Path) -> None:
    model = network(SMALL_R50).train()
    before = {name: one.clone() for name, one in model.named_buffers()}
    model.features(pictures(2))
    assert all(torch.equal(one, before[name]) for name, one in model.named_buffers())
    frozen = {name.split(".")[1] for name, one in model.named_parameters() if not one.requires_grad}
    assert frozen == {"stem", "stages"} and model.backbone1.stages[1][0].reduce.conv.weight.requires_grad


def test_heads_of_its_own_for_each_route_are_an_option_that_a_checkpoint_keeps(tmp_path: Path) -> None:
    """Shared heads are stored once; a file of separate ones says so, and what it says is checked."""
    shared, separate = (dynamicdet.create(PICO, 2, input_size=64, shared_heads=choice) for choice in (None, False))
    assert isinstance(shared, TwoStageDetector) and isinstance(separate, TwoStageDetector)
    assert shared.heads_of("easy") is shared.heads_of("hard") and separate.heads2 is separate.heads_of("hard")
    assert not any(name.startswith("heads2") for name in shared.state_dict())
    dynamicdet.save(separate, tmp_path / "own.safetensors")
    loaded = dynamicdet.load(tmp_path / "own.safetensors")
    assert loaded.spec == replace(TWO_STAGE_ARCHITECTURES[PICO], shared_heads=False)
    assert all(torch.equal(one, separate.state_dict()[name]) for name, one in loaded.state_dict().items())
    with pytest.raises(InputError, match="dy-yolov7-pico has a head of its own for each route"):
        dynamicdet.create("dy-yolov7-pico", shared_heads=True)


def test_a_half_precision_file_of_the_small_one_is_at_most_8_mb(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    dynamicdet.save(dynamicdet.create(PICO, 20), path, half=True)
    assert path.stat().st_size <= 8_000_000
    loaded = dynamicdet.load(path)
    assert isinstance(loaded, TwoStageDetector) and loaded.num_classes == 20
    assert loaded.answer(pictures(1, 320), "hard").boxes.shape == (1, 20, 4)
    with pytest.raises(CheckpointError, match="holds dy-mask-rcnn-pico, not dy-faster-rcnn-r50"):
        dynamicdet.load(path, "dy-faster-rcnn-r50")


def test_a_route_that_there_is_not_and_masks_of_a_box_detector_are_refused() -> None:
    model = network(SMALL_R50)
    with pytest.raises(InputError, match="unknown route 'soft'"):
        model.answer(pictures(1), "soft")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no masks"):
        model.mask_outputs("easy", model.pyramid("easy", model.features(pictures(1))), torch.zeros(1, 1, 4))

"""Public static detectors as starting points: their names and every difference to ours, on files made up here.

The names below are written out from the published layouts, and share nothing with the maps under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import dynamicdet
from dynamicdet.errors import CheckpointError
from dynamicdet.networks.architectures import ARCHITECTURES
from dynamicdet.networks.network import network_of
from dynamicdet.networks.published import start_backbones
from dynamicdet.networks.two_stage.architectures import TWO_STAGE_ARCHITECTURES
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.networks.two_stage.swin import Merging
from tests.support.two_stage.small import SMALL_R50, SMALL_SWIN

Weights = dict[str, Tensor]
OUTS, WIDTH, HIDDEN = (16, 24, 32, 40), 8, 12  # of the small ResNet; of the pyramid and the box head
SWIN, DEPTHS, HEADS = (12, 24, 48, 96), (2, 2, 6, 2), (1, 2, 3, 4)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels behind the real names."""
    torch.manual_seed(0)
    for spec in (SMALL_R50, SMALL_SWIN):
        monkeypatch.setitem(TWO_STAGE_ARCHITECTURES, spec.name, spec)
        monkeypatch.setitem(ARCHITECTURES, spec.name, spec)


def layer(name: str, *shape: int) -> Weights:
    """The weight and the bias of a layer."""
    return {f"{name}.weight": torch.randn(shape) * 0.2, f"{name}.bias": torch.randn(shape[0]) * 0.1}


def norm(name: str, width: int, *, counts: bool) -> Weights:
    values = {
        "weight": torch.rand(width) + 0.5,
        "bias": torch.randn(width) * 0.1,
        "running_mean": torch.randn(width) * 0.1,
        "running_var": torch.rand(width) * 1e-4 + 1e-6,  # so small that eps matters
    }
    counter = {f"{name}.num_batches_tracked": torch.tensor(7)} if counts else {}
    return {f"{name}.{leaf}": value for leaf, value in values.items()} | counter


def resnet(prefix: str, *, counts: bool) -> Weights:
    """The names of a ResNet-50 at mmdetection, and of torchvision's."""
    found = {f"{prefix}conv1.weight": torch.randn(8, 3, 7, 7) * 0.1, **norm(f"{prefix}bn1", 8, counts=counts)}
    before = 8
    for stage, (out, blocks) in enumerate(zip(OUTS, (3, 4, 6, 3), strict=True), 1):
        for block in range(blocks):
            here, width = f"{prefix}layer{stage}.{block}", out // 4
            shapes = ((width, before, 1, 1), (width, width, 3, 3), (out, width, 1, 1))
            for number, shape in enumerate(shapes, 1):
                found[f"{here}.conv{number}.weight"] = torch.randn(shape) * 1e-3
                found |= norm(f"{here}.bn{number}", shape[0], counts=counts)
            if block == 0:
                found[f"{here}.downsample.0.weight"] = torch.randn(out, before, 1, 1) * 1e-3
                found |= norm(f"{here}.downsample.1", out, counts=counts)
            before = out
    return found


def torchvision(outputs: int = 91, *, old: bool = False) -> Weights:
    found, nested = resnet("backbone.body.", counts=False), "" if old else ".0"
    for level, width in enumerate(OUTS):
        found |= layer(f"backbone.fpn.inner_blocks.{level}{nested}", WIDTH, width, 1, 1)
        found |= layer(f"backbone.fpn.layer_blocks.{level}{nested}", WIDTH, WIDTH, 3, 3)
    found |= layer("rpn.head.conv" if old else "rpn.head.conv.0.0", WIDTH, WIDTH, 3, 3)
    found |= layer("rpn.head.cls_logits", 3, WIDTH, 1, 1) | layer("rpn.head.bbox_pred", 12, WIDTH, 1, 1)
    found |= layer("roi_heads.box_head.fc6", HIDDEN, WIDTH * 49) | layer("roi_heads.box_head.fc7", HIDDEN, HIDDEN)
    found |= layer("roi_heads.box_predictor.cls_score", outputs, HIDDEN)
    return found | layer("roi_heads.box_predictor.bbox_pred", 4 * outputs, HIDDEN)


def mmdetection_heads(widths: tuple[int, ...], classes: int, *, masks: bool) -> Weights:
    found: Weights = {}
    for level, width in enumerate(widths):
        found |= layer(f"neck.lateral_convs.{level}.conv", WIDTH, width, 1, 1)
        found |= layer(f"neck.fpn_convs.{level}.conv", WIDTH, WIDTH, 3, 3)
    found |= layer("rpn_head.rpn_conv", WIDTH, WIDTH, 3, 3)
    found |= layer("rpn_head.rpn_cls", 3, WIDTH, 1, 1) | layer("rpn_head.rpn_reg", 12, WIDTH, 1, 1)
    found |= layer("roi_head.bbox_head.shared_fcs.0", HIDDEN, WIDTH * 49)
    found |= layer("roi_head.bbox_head.shared_fcs.1", HIDDEN, HIDDEN)
    found |= layer("roi_head.bbox_head.fc_cls", classes + 1, HIDDEN)
    found |= layer("roi_head.bbox_head.fc_reg", 4 * classes, HIDDEN)
    if masks:
        for number in range(4):
            found |= layer(f"roi_head.mask_head.convs.{number}.conv", 8, 8, 3, 3)
        found |= layer("roi_head.mask_head.upsample", 8, 8, 2, 2)
        found |= layer("roi_head.mask_head.conv_logits", classes, 8, 1, 1)
    return found


def swin(prefix: str, *, authors: bool) -> Weights:
    """A Swin-T at mmdetection, or at its authors'."""
    stages, attention = ("layers", "attn") if authors else ("stages", "attn.w_msa")
    mlp = ("mlp.fc1", "mlp.fc2") if authors else ("ffn.layers.0.0", "ffn.layers.1")
    found = layer(f"{prefix}patch_embed.{'proj' if authors else 'projection'}", 12, 3, 4, 4)
    found |= layer(f"{prefix}patch_embed.norm", 12)
    for stage, (width, depth, heads) in enumerate(zip(SWIN, DEPTHS, HEADS, strict=True)):
        for block in range(depth):
            here = f"{prefix}{stages}.{stage}.blocks.{block}"
            found |= layer(f"{here}.norm1", width) | layer(f"{here}.norm2", width)
            found |= layer(f"{here}.{attention}.qkv", 3 * width, width)
            found |= layer(f"{here}.{attention}.proj", width, width)
            found[f"{here}.{attention}.relative_position_bias_table"] = torch.randn(169, heads)
            found[f"{here}.{attention}.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
            found |= layer(f"{here}.{mlp[0]}", 4 * width, width) | layer(f"{here}.{mlp[1]}", width, 4 * width)
        if stage < 3:
            found |= layer(f"{prefix}{stages}.{stage}.downsample.norm", 4 * width)
            found[f"{prefix}{stages}.{stage}.downsample.reduction.weight"] = torch.randn(2 * width, 4 * width)
    return found


def swin_detector(*, authors: bool, classes: int = 5) -> Weights:
    norms = [layer(f"backbone.norm{stage}", width) for stage, width in enumerate(SWIN)]
    return {
        **swin("backbone.", authors=authors),
        **{name: one for leaves in norms for name, one in leaves.items()},
        **mmdetection_heads(SWIN, classes, masks=True),
    }


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., TwoStageDetector]:
    """Writes a file and loads it."""

    def load(content: Any, architecture: str | None = None) -> TwoStageDetector:
        torch.save(content, tmp_path / "public.pth")
        model = dynamicdet.load(tmp_path / "public.pth", architecture)
        assert isinstance(model, TwoStageDetector)
        return model

    return load


@torch.no_grad()
def check_equal_routes(model: TwoStageDetector) -> None:
    """Maps of both routes, from which everything else follows."""
    features = model.features(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    for easy, hard in zip(*(model.pyramid(route, features) for route in ("easy", "hard")), strict=True):
        assert easy.isfinite().all() and easy.any()
        torch.testing.assert_close(easy, hard, rtol=1e-4, atol=1e-5 * float(easy.abs().max()))


def test_mmdetections_r50_starts_both_routes_alike(loaded: Callable[..., TwoStageDetector]) -> None:
    """With its `meta` and its optimiser's state beside the weights; without a name it is recognised."""
    weights = resnet("backbone.", counts=True) | mmdetection_heads(OUTS, 6, masks=False)
    state = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.02}]}
    model = loaded({"meta": {"epoch": 12, "CLASSES": ("a", "b")}, "state_dict": weights, "optimizer": state})
    assert (model.spec, model.num_classes) == (SMALL_R50, 6)
    assert torch.equal(model.heads1.box.logits.weight, weights["roi_head.bbox_head.fc_cls.weight"])
    assert torch.equal(model.backbone2.stages[2][1].spatial.conv.weight, weights["backbone.layer4.1.conv2.weight"])
    assert all(not one.norm.weight.any() for convs in model.links.convs for one in convs)
    frozen = {name for name, one in model.named_parameters() if not one.requires_grad}
    assert frozen and all(name.startswith(("backbone1.stem.", "backbone1.stages.0.")) for name in frozen)
    check_equal_routes(model)


def test_torchvisions_r50_loses_its_background_row_its_gaps_and_its_eps(
    loaded: Callable[..., TwoStageDetector], tmp_path: Path
) -> None:
    weights = torchvision()
    model = loaded(weights)
    assert model.num_classes == 80
    scores, deltas = (weights[f"roi_heads.box_predictor.{part}.weight"] for part in ("cls_score", "bbox_pred"))
    box = model.heads1.box
    assert torch.equal(box.logits.weight[80], scores[0])  # the background
    for row, coco_id in ((0, 1), (10, 11), (11, 13), (24, 27), (79, 90)):
        assert torch.equal(box.logits.weight[row], scores[coco_id])
        assert torch.equal(box.deltas.weight[4 * row : 4 * row + 4], deltas[4 * coco_id : 4 * coco_id + 4])
    # A convolution and its norm, as torchvision computes them: without an eps.
    x = torch.randn(1, 3, 32, 32)
    mean, var, scale, shift = (
        weights[f"backbone.body.bn1.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    conv = functional.conv2d(x, weights["backbone.body.conv1.weight"], stride=2, padding=3)
    wanted = functional.relu(functional.batch_norm(conv, mean, var, scale, shift, eps=0.0))
    torch.testing.assert_close(model.backbone1.stem(x), wanted, rtol=1e-3, atol=1e-3)
    # RoI features and anchors as torchvision's, also after saving.
    dynamicdet.save(model, tmp_path / "own.safetensors")
    again = dynamicdet.load(tmp_path / "own.safetensors")
    for one in (model, again):
        assert isinstance(one, TwoStageDetector)
        assert (one.spec.aligned, one.spec.anchor_rule) == (False, "whole")
    check_equal_routes(model)


def test_torchvisions_older_names_give_the_same_network(loaded: Callable[..., TwoStageDetector]) -> None:
    """And another number of classes has no gaps."""
    old, new = (list(torchvision(8, old=old).items()) for old in (True, False))
    values = [value for _, value in old]
    first = loaded(dict(old))
    second = loaded({name: value for (name, _), value in zip(new, values, strict=True)})
    assert first.num_classes == 7
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_torchvisions_names_in_full_size_are_as_many_as_published() -> None:
    assert len(torchvision()) == 295


def test_both_layouts_of_a_swin_detector_give_the_same_merging(loaded: Callable[..., TwoStageDetector]) -> None:
    """The merging of mmdetection unfolds; computed as there, it equals ours after conversion."""
    theirs = swin_detector(authors=False)
    model = loaded({"state_dict": theirs})
    assert (model.spec, model.num_classes) == (SMALL_SWIN, 5)
    x = torch.randn(2, 6, 4, SWIN[0])
    unfolded = functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    here = "backbone.stages.0.downsample"
    normed = functional.layer_norm(unfolded, (4 * SWIN[0],), theirs[f"{here}.norm.weight"], theirs[f"{here}.norm.bias"])
    wanted = normed @ theirs[f"{here}.reduction.weight"].T
    for backbone in (model.backbone1, model.backbone2):
        merging = backbone.stages[0].merging
        assert isinstance(merging, Merging)
        torch.testing.assert_close(merging(x).flatten(1, 2), wanted, rtol=1e-4, atol=1e-4)
    authors = swin_detector(authors=True)
    original = loaded(authors)
    kept = original.backbone1.stages[0].merging
    assert torch.equal(kept.reduction.weight, authors["backbone.layers.0.downsample.reduction.weight"])
    assert torch.equal(
        original.backbone2.stages[2].blocks[5].attention.position_bias,
        authors["backbone.layers.2.blocks.5.attn.relative_position_bias_table"],
    )
    assert all(not one.any() for one in original.links.parameters())


def _wrong() -> Iterator[tuple[str, Callable[[Weights], object], str]]:
    yield "missing", lambda weights: weights.pop("rpn.head.bbox_pred.bias"), "1 weight missing .rpn.head.bbox_pred.bias"
    yield "more", lambda weights: weights.update(mine=torch.zeros(2)), "1 weight unexpected .mine"
    yield (
        "shape",
        lambda weights: weights.update({"rpn.head.cls_logits.bias": torch.zeros(5)}),
        "rpn.head.cls_logits.bias",
    )
    yield (
        "variance",
        lambda weights: weights["backbone.body.bn1.running_var"].zero_(),
        "a variance, has numbers that are not above 0",
    )
    yield (
        "classes",
        lambda weights: weights.update({"roi_heads.box_predictor.cls_score.weight": torch.zeros(1, HIDDEN)}),
        "so it does not predict 1 to",
    )


@pytest.mark.parametrize(("change", "message"), [pytest.param(*case[1:], id=case[0]) for case in _wrong()])
def test_a_file_that_does_not_fit_is_refused_with_the_name_that_differs(
    loaded: Callable[..., TwoStageDetector], change: Callable[[Weights], object], message: str
) -> None:
    weights = torchvision(8)
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        loaded(weights, "dy-faster-rcnn-r50")


def test_a_file_of_another_network_or_without_a_public_twin_is_refused(
    loaded: Callable[..., TwoStageDetector],
) -> None:
    with pytest.raises(CheckpointError, match="so it starts dy-faster-rcnn-r50, not dy-mask-rcnn-swin-t"):
        loaded(torchvision(8), "dy-mask-rcnn-swin-t")
    with pytest.raises(CheckpointError, match="dy-mask-rcnn-pico has no public static twin"):
        loaded({"mine": torch.zeros(2)}, "dy-mask-rcnn-pico")


def test_imagenet_classifiers_start_both_backbones(tmp_path: Path) -> None:
    """Their classifiers are named, and have no place; a Swin's output norms stay as they are."""
    classifier = resnet("", counts=True) | layer("fc", 10, OUTS[-1])
    torch.save(classifier, tmp_path / "resnet50.pth")
    model = network_of(SMALL_R50, num_classes=3)
    assert isinstance(model, TwoStageDetector)
    start_backbones(model, tmp_path / "resnet50.pth")
    assert torch.equal(model.backbone1.stages[3][0].reduce.conv.weight, classifier["layer4.0.conv1.weight"])
    assert torch.equal(model.backbone2.stages[0][3].expand.norm.bias, classifier["layer2.3.bn3.bias"])
    weights = swin("", authors=True) | layer("norm", SWIN[-1]) | layer("head", 10, SWIN[-1])
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    torch.save({"model": weights}, tmp_path / "swin.pth")
    other = network_of(SMALL_SWIN, num_classes=3)
    assert isinstance(other, TwoStageDetector)
    start_backbones(other, tmp_path / "swin.pth")
    for backbone in (other.backbone1, other.backbone2):
        assert torch.equal(backbone.stages[1].blocks[0].reduce.bias, weights["layers.1.blocks.0.mlp.fc2.bias"])
    weights.pop("head.bias")
    torch.save({"model": weights}, tmp_path / "swin.pth")
    with pytest.raises(
        CheckpointError, match=r"is not the Swin authors' ImageNet network: 1 weight missing .head.bias"
    ):
        start_backbones(other, tmp_path / "swin.pth")

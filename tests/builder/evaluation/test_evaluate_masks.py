"""`dyndet evaluate` on a two-stage detector: boxes and masks, the same of its checkpoint and of its bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dynamicdet
from dynamicdet.datasets.dataset import read_dataset
from dynamicdet.masks import to_rle
from dynamicdet.networks.network import TwoStageDetector
from dyndet_builder.bundle.export import export
from dyndet_builder.cli import dyndet, run
from dyndet_builder.evaluation.evaluate import evaluate
from tests.support.small_data import write_small_data
from tests.support.two_stage.tiny import RESIDUAL, known, save_decided


@pytest.fixture(autouse=True)
def small_architectures() -> Iterator[None]:
    """Checkpoints of the small detectors can be read."""
    with known():
        yield


def write_found_data(folder: Path, network: TwoStageDetector, images: Path) -> Path:
    """Eight pictures labelled with the best five objects that each detector finds: so neither is right or wrong."""
    write_small_data(folder, images, network.class_names, count=8)
    content = json.loads((folder / "annotations.json").read_text())
    for one in content["annotations"]:
        one["category_id"] = 1
    (folder / "annotations.json").write_text(json.dumps(content))
    data = read_dataset(folder, network.input_size)
    x = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
    objects = []
    for answers in (network.answer(x, "easy"), network.answer(x, "hard")):
        assert answers.masks is not None
        for index, place in enumerate(data.placements):
            size = (place.original_width, place.original_height)
            rows = slice(0, min(5, int(answers.num_detections[index])))
            frames = answers.boxes[index, rows].numpy()
            boxes, spans = place.to_original(frames), place.to_original(frames, clipped=False)
            shapes = to_rle(answers.masks[index, rows].numpy(), spans, *size)
            classes = answers.classes[index, rows].tolist()
            for box, shape, label in zip(boxes.tolist(), shapes, classes, strict=True):
                x1, y1, x2, y2 = box
                if min(x2 - x1, y2 - y1) < 8 or not shape["counts"].strip() or _empty(shape["counts"]):
                    continue
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": data.image_ids[index],
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "segmentation": shape,
                    }
                )
    content["annotations"] = objects
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def _empty(counts: str) -> bool:
    from pycocotools import mask

    return not int(mask.area({"size": [10_000, 10_000], "counts": counts.encode()}))


def test_checkpoint_and_bundle_agree_in_boxes_and_masks(
    demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At every point of both curves. The command prints both tables, and writes the card and the plot with both."""
    checkpoint, bundle = tmp_path / "small.safetensors", tmp_path / "bundle"
    save_decided(RESIDUAL, checkpoint)
    export(checkpoint, bundle, images=demo_images, parity_images=2, exporter="torchscript")
    network = dynamicdet.load(checkpoint)
    assert isinstance(network, TwoStageDetector)
    data = write_found_data(tmp_path / "data", network, demo_images)
    reports = [evaluate(source, data=data, random_draws=1) for source in (checkpoint, bundle)]
    one, two = (report.evaluation for report in reports)
    assert one.masks is not None and two.masks is not None
    assert one.curve[0].oracle is not None and two.curve[0].oracle is None
    for first, second in ((one, two), (one.masks, two.masks)):
        assert 5 < first.hard.ap < 100 and 5 < first.easy.ap < 100
        for mine, other in zip(first.curve, second.curve, strict=True):
            assert mine.precision.ap == pytest.approx(other.precision.ap, abs=0.2)

    card, plot = tmp_path / "CARD.md", tmp_path / "ap.svg"
    words = ["evaluate", str(bundle), "--data", str(data), "--cache", str(tmp_path / "cache")]
    for _ in range(2):  # the second time from the stored detections
        assert run(dyndet, [*words, "--card", str(card), "--plot", str(plot)]) in (0, 9)
    text = capsys.readouterr().out
    assert text.count("box AP all easy") == text.count("mask AP all easy") == 2 and "earlier run" in text
    assert f"| {two.easy.ap:.1f} | {two.easy.ap50:.1f} | {two.masks.easy.ap:.1f} |" in card.read_text()

    content = json.loads((data / "annotations.json").read_text())
    del content["annotations"][0]["segmentation"]
    (data / "annotations.json").write_text(json.dumps(content))
    assert run(dyndet, [*words, "--json"]) in (0, 9)
    found = json.loads(capsys.readouterr().out)
    assert "mask_ap" not in found and any("not all objects have a segmentation" in note for note in found["notes"])

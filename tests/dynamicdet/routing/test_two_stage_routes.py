"""Both routes of a two-stage network on a data set: its own answers, in original pixels, with losses of both."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dynamicdet import create
from dynamicdet.datasets.dataset import CocoDataset, read_dataset
from dynamicdet.evaluation.evaluate import evaluate
from dynamicdet.networks.network import TwoStageDetector
from dynamicdet.routing.routes import RouteResults, run_routes

_SIZE = 96


@pytest.fixture(scope="module")
def network() -> TwoStageDetector:
    torch.manual_seed(0)
    network = create("dy-mask-rcnn-pico", 2, ["round", "square"], input_size=_SIZE)
    assert isinstance(network, TwoStageDetector)
    return network.eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    """Five noisy pictures, wide and high, with two polygons each."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, objects = [], []
    for number, (width, height) in enumerate([(96, 96), (150, 60), (60, 150), (96, 48), (48, 96)], 1):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for category, x in ((1, 4), (2, 26)):
            box = [x, 10, 18, 30]
            corners = [x, 10, x + 18, 10, x + 18, 40, x, 40]
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": 540,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
    categories = [{"id": 1, "name": "round"}, {"id": 2, "name": "square"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return read_dataset(folder, _SIZE, masks=None)


@pytest.fixture(scope="module")
def results(network: TwoStageDetector, data: CocoDataset) -> RouteResults:
    return run_routes(network, data, batch=2)


def test_the_results_are_the_answers_of_the_network_in_original_pixels(
    network: TwoStageDetector, data: CocoDataset, results: RouteResults
) -> None:
    assert data.has_masks and results.has_masks
    x = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(results.difficulties, network.difficulty(x).detach().numpy(), atol=1e-5)
    for route, found in (("easy", results.easy), ("hard", results.hard)):
        answers = network.answer(x, route)
        assert answers.masks is not None
        for index, (one, place) in enumerate(zip(found, data.placements, strict=True)):
            used = int(answers.num_detections[index])
            assert used == len(one.scores) > 0 and one.masks is not None and one.frames is not None
            torch.testing.assert_close(one.scores, answers.scores[index, :used], atol=1e-4, rtol=0)
            boxes = place.to_original(answers.boxes[index, :used].numpy())
            np.testing.assert_allclose(one.boxes.numpy(), boxes, atol=0.05)
            differences = (one.masks.int() - answers.masks[index, :used].int()).abs()
            assert (differences <= 2).float().mean() > 0.99


def test_the_losses_say_which_images_gain(data: CocoDataset, results: RouteResults, network: TwoStageDetector) -> None:
    """They are of each image alone, whatever the batch."""
    assert results.loss_gains is not None and np.isfinite(results.loss_gains).all()
    assert len(np.unique(results.loss_gains.round(5))) == len(data)
    again = run_routes(network, data, batch=5)
    assert again.loss_gains is not None
    np.testing.assert_allclose(again.loss_gains, results.loss_gains, atol=1e-3)


def test_masks_are_evaluated_if_the_data_set_has_them(network: TwoStageDetector, data: CocoDataset) -> None:
    both = evaluate(network, data, hard_shares=(0.4,), random_draws=1)
    assert both.masks is not None and both.points[0].oracle is not None
    plain = replace(data, coded_masks=None)
    boxes = evaluate(network, plain, hard_shares=(0.4,), random_draws=1)
    assert boxes.masks is None
    assert (boxes.easy, boxes.hard) == (both.easy, both.hard)
    assert not run_routes(network, plain).has_masks

"""Both training steps on a tiny set of drawn pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dynamicdet import create, load, save
from dynamicdet.augment import NONE, Augmentation, Sample, augment
from dynamicdet.dataset import CocoDataset, read_dataset
from dynamicdet.errors import InputError
from dynamicdet.router_training import (
    RouterRecipe,
    RunningMedian,
    adaptive_offset_objective,
    train_router,
)
from dynamicdet.training import DetectorRecipe, EpochReport, state_file, train_detectors

RECIPE = DetectorRecipe(
    epochs=3, final_epochs=0, size=64, batch=4, warmup_steps=1, learning_rate=2e-3, average_steps=1.0, bfloat16=False,
    augmentation=Augmentation(scale=(0.2, 0.25), on_object=0.0),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of a red square or a blue disc each, of different shapes."""
    root = tmp_path_factory.mktemp("shapes")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(12):
        width, height = (160, 120) if number % 2 else (100, 140)
        picture = Image.new("RGB", (width, height), (90, 120, 90))
        x, y = (int(value) for value in rng.integers(5, 40, 2))
        side = int(rng.integers(30, 55))
        box = (x, y, x + side, y + side)
        draw = ImageDraw.Draw(picture)
        if number % 3:
            draw.ellipse(box, fill="blue")
        else:
            draw.rectangle(box, fill="red")
        picture.save(root / "images" / f"{number}.png")
        images.append({"id": number + 7, "file_name": f"{number}.png", "width": width, "height": height})
        annotations.append(
            {"id": number, "image_id": number + 7, "category_id": 5 if number % 3 else 3, "bbox": [x, y, side, side]}
        )
    categories = [{"id": 5, "name": "disc"}, {"id": 3, "name": "square"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> CocoDataset:
    return read_dataset(folder, 320)


def test_training_lowers_the_loss_and_resumes(data: CocoDataset, tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    output = tmp_path / "network.safetensors"
    recipe = replace(RECIPE, epochs=24)
    train_detectors(data, output, recipe=recipe, workers=0, on_epoch=reports.append)
    for losses in ([report.loss1 for report in reports], [report.loss2 for report in reports]):
        assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert load(output).class_names == ("square", "disc")

    train_detectors(data, output, recipe=replace(recipe, epochs=25), resume=True, workers=0, on_epoch=reports.append)
    assert [report.epoch for report in reports] == list(range(1, 26))
    assert reports[-1].loss1 < 0.8 * reports[0].loss1


def test_a_stopped_training_ends_where_an_unbroken_one_does(data: CocoDataset, tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken.safetensors", tmp_path / "broken.safetensors"
    recipe = replace(RECIPE, epochs=2)
    train_detectors(data, unbroken, recipe=recipe, workers=0)

    def stop(epoch: int, step: int, steps: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_detectors(data, broken, recipe=recipe, workers=0, on_step=stop)
    train_detectors(data, broken, recipe=recipe, resume=True, workers=0)
    expected = load(unbroken).state_dict()
    for name, tensor in load(broken).state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_resuming_without_or_with_a_foreign_state_is_one_sentence(data: CocoDataset, tmp_path: Path) -> None:
    output = tmp_path / "network.safetensors"
    with pytest.raises(InputError, match="nothing to resume"):
        train_detectors(data, output, recipe=RECIPE, resume=True, workers=0)
    state_file(output).write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="not a training state"):
        train_detectors(data, output, recipe=RECIPE, resume=True, workers=0)


def test_the_router_step_changes_the_router_alone(data: CocoDataset) -> None:
    torch.manual_seed(0)
    model = create("dy-yolov7-pico", 2, data.class_names)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = train_router(model, data, recipe=RouterRecipe(examples=12, epochs=20, batch=4), workers=0)
    assert report.examples == 12
    assert report.objective < report.objective_before
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("router."), name


def test_adaptive_offset_is_the_median_gain() -> None:
    """Objective and offset against numbers worked out by hand."""
    median = RunningMedian()
    assert median.add(torch.tensor([0.4, 0.1, 0.2])) == pytest.approx(0.2)
    assert median.add(torch.tensor([0.8, 0.6])) == pytest.approx(0.4)
    assert median.add(torch.tensor([0.6])) == pytest.approx(0.5)
    phi, loss1, loss2 = torch.tensor([0.25, 1.0]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.5])
    # D = 0.5: 0.75 * 1.75 + 0.25 * 1.25 = 1.625 and 0 + 1 * 2.75.
    assert adaptive_offset_objective(phi, loss1, loss2, 0.5).item() == pytest.approx((1.625 + 2.75) / 2)


def test_the_objective_sends_the_larger_gains_to_detector_2() -> None:
    gain = torch.linspace(-1, 1, 21)
    logits = torch.zeros(21, requires_grad=True)
    offset = RunningMedian().add(gain + 0.3)
    adaptive_offset_objective(logits.sigmoid(), gain + 0.3, torch.zeros(21), offset).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.equal(logits.grad < -1e-7, gain > 1e-6)


def test_boxes_follow_the_pixels_of_an_augmented_picture(data: CocoDataset) -> None:
    """The object's colour fills its box in the augmented picture, mosaic and flip included."""
    rng = np.random.default_rng(3)
    options = replace(NONE, scale=(0.4, 0.7), mosaic=0.5, flip=0.5, least_visible=0.95, least_side=12.0)
    seen = 0
    for _ in range(60):

        def draw() -> Sample:
            index = int(rng.integers(len(data)))
            return data.images[index], data.labels[index]

        image, labels = augment(draw, 192, options, rng)
        for box, label in zip(labels.boxes, labels.classes, strict=True):
            x, y = (box[:2] + box[2:]) / 2
            pixel = image[int(y), int(x)].astype(int)
            assert pixel[0 if label == 0 else 2] > 180 and pixel.sum() < 400
            seen += 1
    assert seen > 60


def test_cached_images_are_the_decoded_ones(folder: Path, data: CocoDataset, tmp_path: Path) -> None:
    read_dataset(folder, 320, cache=tmp_path)
    again = read_dataset(folder, 320, cache=tmp_path)
    assert isinstance(again.images, np.memmap)
    assert np.array_equal(again.images, data.images)
    assert again.placements[0].scale_x == data.placements[0].scale_x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "no list 'categories'"),
        (lambda content: content["annotations"][0].update(image_id=999), "unknown image 999"),
        (lambda content: content["annotations"][0].update(category_id=77), "unknown category 77"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, "three", 4]), "a box is four numbers"),
        (lambda content: content["images"][0].update(file_name="absent.png"), "absent.png"),
        (lambda content: content["images"][0].pop("file_name"), "without 'file_name'"),
    ],
)
def test_broken_data_sets_are_named(folder: Path, tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    content = json.loads((folder / "annotations.json").read_text())
    change(content)
    (tmp_path / "images").symlink_to(folder / "images")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, 320)


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a data set is a folder with images/ and"):
        read_dataset(tmp_path / "missing", 320)
    (tmp_path / "annotations.json").write_text("{no json")
    with pytest.raises(InputError, match="not valid JSON"):
        read_dataset(tmp_path, 320)


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    model = create("dy-yolov7-pico", 2)
    save(model, tmp_path / "full.safetensors")
    save(model, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * (tmp_path / "full.safetensors").stat().st_size
    expected = model.state_dict()
    for name, tensor in load(tmp_path / "half.safetensors").state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)

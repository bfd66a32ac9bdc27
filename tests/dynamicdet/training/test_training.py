"""Both training steps on a tiny set of drawn pictures."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dynamicdet import create, load, save
from dynamicdet.datasets.dataset import CocoDataset, read_dataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation.evaluate import evaluate
from dynamicdet.networks.router.form import PUBLISHED_ROUTER
from dynamicdet.networks.router.layers import Router
from dynamicdet.router.examples import RouterExamples
from dynamicdet.router.paper import RunningMedian, fit_to_losses, routing_objective
from dynamicdet.router.recipe import PAPER, RouterRecipe
from dynamicdet.router.report import RouterReport
from dynamicdet.router.train import fit_router, train_router
from dynamicdet.training.augment import NONE, Augmentation, Sample, augment
from dynamicdet.training.batches import EpochBatches
from dynamicdet.training.detectors import state_file, train_detectors
from dynamicdet.training.devices import make_fabric
from dynamicdet.training.loss_weights import LossWeights
from dynamicdet.training.recipe import DetectorRecipe, EpochReport
from dyndet_builder.cli import dyndet, run

RECIPE = DetectorRecipe(
    epochs=3, final_epochs=0, size=64, batch=4, warmup_steps=1, learning_rate=2e-3, average_steps=1.0,
    augmentation=Augmentation(scale=(0.2, 0.25), on_object=0.0),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Pictures this small are slower with more, and much slower beside other work."""
    torch.set_num_threads(1)


def _train(data: CocoDataset, output: Path, **options: Any) -> None:
    train_detectors(data, output, fabric=make_fabric(accelerator="cpu", precision="32-true"), workers=0, **options)


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


def _often(data: CocoDataset, times: int) -> CocoDataset:
    """The same images several times per epoch, so a few epochs have many steps."""
    return replace(
        data,
        images=np.tile(data.images, (times, 1, 1, 1)),
        labels=data.labels * times,
        placements=data.placements * times,
        image_ids=data.image_ids * times,
    )


def test_training_lowers_the_loss_and_goes_on(data: CocoDataset, small_network: str, tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    output = tmp_path / "network.safetensors"
    recipe, often = replace(RECIPE, epochs=8, learning_rate=1e-2), _often(data, 3)
    _train(often, output, architecture=small_network, recipe=recipe, on_epoch=reports.append)
    for losses in zip(*(report.losses for report in reports), strict=True):
        assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    assert load(output).class_names == ("square", "disc")

    longer = replace(recipe, epochs=9)
    _train(often, output, architecture=small_network, recipe=longer, resume=True, on_epoch=reports.append)
    assert [report.epoch for report in reports] == list(range(1, 10))
    assert sum(reports[-1].losses) < 0.8 * sum(reports[0].losses)


def test_a_static_detector_is_trained_goes_on_and_is_evaluated_alone(
    folder: Path, small_static: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One loss, which falls, and one average precision."""
    data, output, reports = read_dataset(folder, 64), tmp_path / "static.safetensors", list[EpochReport]()
    recipe = replace(RECIPE, epochs=5, learning_rate=1e-2)
    _train(_often(data, 3), output, architecture=small_static, recipe=recipe, on_epoch=reports.append)
    assert all(len(report.losses) == 1 for report in reports)
    assert reports[-1].losses[0] < reports[0].losses[0]
    longer = replace(recipe, epochs=6)
    _train(_often(data, 3), output, architecture=small_static, recipe=longer, resume=True, on_epoch=reports.append)
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5, 6]

    status = run(dyndet, ["evaluate", str(output), "--data", str(folder), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert status == (0 if printed["ap"]["ap"] >= 1 else 9)
    assert (printed["kind"], printed["architecture"], printed["images"]) == ("static", small_static, 12)
    assert printed["ap"]["ap50"] >= printed["ap"]["ap"]


@pytest.mark.slow
def test_pictures_are_learned_by_heart(demo_images: Path, small_network: str, tmp_path: Path) -> None:
    """Both detectors find what they were shown 200 times: the whole chain of loss, assignment, decoding and AP.

    Four pictures with two objects each, of six classes, and one without objects. Without the box or the class loss of
    either detector, or with wrong matches or labels, the precision stays far below the bars.
    """
    data = _five_pictures(demo_images, tmp_path)
    torch.manual_seed(0)
    model = create(small_network, len(data.class_names), data.class_names, input_size=64)
    model.anchors *= 64 / 320  # made for pictures of 320 px
    save(model, tmp_path / "start.safetensors")
    recipe = DetectorRecipe(
        epochs=1, final_epochs=0, size=64, batch=5, learning_rate=5e-3, warmup_steps=5, weight_decay=0.0,
        clip_norm=1.0, average_decay=0.9, average_steps=10.0, augmentation=NONE,
        loss=LossWeights(box=0.15, objectness=10.0, classes=3.0),
    )  # fmt: skip
    options: dict[str, Any] = {"architecture": small_network, "start": tmp_path / "start.safetensors"}
    _train(_often(data, 200), tmp_path / "network.safetensors", recipe=recipe, **options)
    found = evaluate(load(tmp_path / "network.safetensors"), data, hard_shares=())
    for precision in (found.easy, found.hard):
        assert precision.ap > 70


def _five_pictures(images: Path, folder: Path) -> CocoDataset:
    """Of the demo's pictures with two objects that do not overlap, those of the largest ones, at 64 px.

    The last one's objects are left out.
    """
    content = json.loads((images.parent / "annotations.json").read_text())
    sides = {image["id"]: max(image["width"], image["height"]) for image in content["images"]}
    boxes: dict[int, list[list[float]]] = {}
    for one in content["annotations"]:
        boxes.setdefault(one["image_id"], []).append(one["bbox"])
    pairs = {number: pair for number, pair in boxes.items() if len(pair) == 2 and not _overlap(*pair)}
    chosen = sorted(pairs, key=lambda number: -min(min(box[2:]) for box in pairs[number]) / sides[number])[:5]
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in chosen[:4]]
    (folder / "five.json").write_text(json.dumps(content))
    return read_dataset(folder / "five.json", 64, images=images)


def _overlap(one: list[float], other: list[float]) -> bool:
    """Of boxes x y w h."""
    return all(
        max(one[axis], other[axis]) < min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) for axis in (0, 1)
    )


@pytest.mark.slow
def test_killed_training_ends_bit_for_bit_where_an_unbroken_one_does(folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch costs only that epoch."""
    unbroken, broken = tmp_path / "unbroken.safetensors", tmp_path / "broken.safetensors"
    assert run(dyndet, _words(folder, unbroken)) == 9  # so short a training finds nothing
    process = _start("-m", "dyndet_builder.cli", *_words(folder, broken))
    deadline = time.monotonic() + 120
    while not state_file(broken).exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert run(dyndet, [*_words(folder, broken), "--resume"]) == 9
    expected, found = load(unbroken).state_dict(), load(broken).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.slow
def test_processes_that_torchrun_starts_share_the_work(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "network.safetensors"
    started = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun = [*started, "-m", "--", "dyndet_builder.cli"]
    assert (
        _start(*torchrun, *_words(folder, output)).wait(240) == 1
    )  # torchrun's own status, as the first process has 9
    state = torch.load(state_file(output), weights_only=True)
    assert (state["processes"], state["step"]) == (2, 3 * 3)  # 12 images in steps of 2 x 2
    assert load(output).class_names == ("square", "disc")


def _words(folder: Path, output: Path) -> list[str]:
    words = ["train", "detectors", str(folder), "-o", str(output), "--epochs", "3", "--final-epochs", "0"]
    return [*words, "--size", "64", "--batch", "4", "--accelerator", "cpu", "--precision", "32-true", "--workers", "0"]


def _start(*words: str) -> Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_small_training_says_what_it_will_be_and_what_came_of_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch larger than the data set, and fewer steps than the usual warm-up has."""
    words = _words(folder, tmp_path / "network.safetensors")
    assert run(dyndet, [*words, "--batch", "64", "--epochs", "2"]) == 9
    printed = capsys.readouterr()
    assert (
        "2 epochs of 1 step: 2 steps of 12 images, at 64 px, learning rate up to 0.002 after 1 warm-up step"
        in printed.out
    )
    assert "random weights learn little in 2 steps: give --start, or about --epochs 1000" in printed.out
    assert "of the training images: not usable\n" in printed.out and "Next:" not in printed.out
    said = "Not usable: the detectors find next to nothing after 2 steps; give more --epochs, or --start"
    assert said in printed.err and (tmp_path / "network.safetensors").exists()
    assert "expected time for all epochs: about" in printed.err

    router = [
        "train",
        "router",
        str(tmp_path / "network.safetensors"),
        str(folder),
        "--examples",
        "13",
        "--compare",
        str(folder),
    ]
    written = tmp_path / "routed.safetensors"
    status = run(dyndet, [*router, "-o", str(written), "--accelerator", "cpu", "--workers", "0"])
    assert status in (0, 9) and written.exists()
    said = capsys.readouterr()
    assert ("Not usable: " in said.err) == (status == 9)
    assert "\n13 examples, target ap" in said.out, "as many as were asked for, also with 12 images"
    assert "these images trained the detectors, which misleads the router" in said.out
    assert "12 images: AP all easy 0." in said.out and "there is nothing to compare" in said.out


def test_accumulated_parts_make_one_step(data: CocoDataset, small_network: str, tmp_path: Path) -> None:
    """As many steps as with whole batches; a batch that cannot be split evenly is refused."""
    output = tmp_path / "network.safetensors"
    recipe = replace(RECIPE, epochs=2, batch=4)
    steps = []
    for parts in (1, 2):
        _train(data, output, architecture=small_network, recipe=replace(recipe, accumulate=parts))
        steps.append(torch.load(state_file(output), weights_only=True)["step"])
    assert steps == [6, 6]
    with pytest.raises(InputError, match="multiple of 3"):
        _train(data, output, architecture=small_network, recipe=replace(recipe, accumulate=3))


def test_training_starts_from_weights_that_are_given(data: CocoDataset, small_network: str, tmp_path: Path) -> None:
    """All weights if the classes are the same, otherwise all except what predicts unknown classes."""
    start, output = tmp_path / "start.safetensors", tmp_path / "network.safetensors"
    frozen = replace(RECIPE, epochs=1, learning_rate=0.0, least_learning_rate=0.0)

    def saved(classes: int, names: Sequence[str] | None) -> None:
        save(create(small_network, classes, names, input_size=data.size), start)

    def train() -> None:
        _train(data, output, architecture=small_network, recipe=frozen, start=start)

    for classes, names in ((2, data.class_names), (5, None), (2, ("other", "names"))):
        torch.manual_seed(1)
        saved(classes, names)
        train()
        given, trained = load(start).state_dict(), load(output).state_dict()
        learnt = [name for name in given if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        other = {name for name in learnt if not torch.equal(given[name], trained[name])}
        assert all("predict.predict" in name.replace("1", "").replace("2", "") for name in other)
        assert bool(other) == (names != data.class_names)
    saved(3, ["other", "disc", "names"])
    train()  # data.class_names are square, disc
    for name in ("predict1.predict.0.conv.weight", "predict2.predict.2.conv.bias", "predict1.predict.1.scale"):
        given, trained = (load(path).state_dict()[name].flatten() for path in (start, output))
        given, trained = given.view(3, 5 + 3, -1), trained.view(3, 5 + 2, -1)  # by anchor
        assert torch.equal(given[:, :5], trained[:, :5]), "box and objectness belong to no class"
        assert torch.equal(given[:, 5 + 1], trained[:, 5 + 1])  # disc
        assert name.endswith("bias") or not torch.equal(given[:, 5 + 0], trained[:, 5 + 0])  # square is not "other"
    saved(2, ["disc", "square"])
    train()
    assert load(output).class_names == ("disc", "square")  # matched by name
    with pytest.raises(InputError, match=f"holds {small_network}, not dy-yolov7"):
        _train(data, output, recipe=frozen, start=start, architecture="dy-yolov7")


def test_a_start_of_another_input_size_or_architecture_is_refused(data: CocoDataset, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save(create("dy-yolov7-pico", 2, data.class_names, input_size=96), start)
    with pytest.raises(InputError, match="reads 96 px images, but the data set was read at 320 px"):
        _train(data, tmp_path / "network.safetensors", recipe=RECIPE, start=start)
    with pytest.raises(InputError, match="holds dy-yolov7-pico, not dy-yolov7;"):
        _train(data, tmp_path / "network.safetensors", recipe=RECIPE, start=start, architecture="dy-yolov7")


def test_sizes_vary_only_where_asked_and_the_same_for_all_processes(data: CocoDataset) -> None:
    def sizes(part: int, size_range: float) -> list[int]:
        batches = EpochBatches(data, NONE, size=128, batch=4, seed=0, epoch=1, share=(part, 2), size_range=size_range)
        return [batches[index].images.shape[1] for index in range(len(batches))]

    assert sizes(0, 0.0) == [128] * 3
    varied = [sizes(0, 0.5), sizes(1, 0.5)]
    assert varied[0] == varied[1] and len(set(varied[0])) > 1
    assert all(size % 32 == 0 and 64 <= size <= 192 for size in varied[0])


def test_resuming_what_cannot_be_is_one_sentence(data: CocoDataset, small_network: str, tmp_path: Path) -> None:
    output = tmp_path / "network.safetensors"

    def train(recipe: DetectorRecipe = RECIPE, *, resume: bool = True) -> None:
        _train(data, output, architecture=small_network, recipe=recipe, resume=resume)

    with pytest.raises(InputError, match="nothing to resume"):
        train()
    state_file(output).write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="not a training state"):
        train()
    train(replace(RECIPE, epochs=1), resume=False)
    with pytest.raises(InputError, match=r"trained with learning_rate 0\.002, not 0\.1"):
        train(replace(RECIPE, learning_rate=0.1))
    stored = torch.load(state_file(output), weights_only=True)
    states = stored["optimizer"]["state"]
    hostile = {
        "not a training state": {"step": -1},
        "written by another version": {"version": [[1]]},
        "is the state of": {"class_names": ["\x1b[31m", "b"]},
        r"has 1 NaN or infinite numbers .* the first in router\.layer2\.bias": {
            "average": stored["average"] | {"router.layer2.bias": torch.tensor([float("nan")])}
        },
        r"does not fit this training: 0\.exp_avg is 3, expected": {
            "optimizer": {"state": states | {0: states[0] | {"exp_avg": torch.zeros(3)}}}
        },
        "claims a tensor of 1000000x1000000 numbers": {"other": torch.zeros(1).expand(10**6, 10**6)},
    }
    for complaint, change in hostile.items():
        torch.save(stored | change, state_file(output))
        with pytest.raises(InputError, match=complaint) as refused:
            train()
        assert str(refused.value).isprintable()


def test_the_router_step_changes_the_router_alone(data: CocoDataset) -> None:
    torch.manual_seed(0)
    model = create("dy-yolov7-pico", 2, data.class_names)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = train_router(model, data, recipe=replace(PAPER, examples=12, epochs=20, batch=4), workers=0)
    assert report.examples == 12 and report.objective is not None
    assert report.objective.after < min(report.objective.before, report.objective.chance)
    for name, tensor in model.state_dict().items():
        assert name.startswith("router.") or torch.equal(tensor, before[name]), name
    assert not torch.equal(model.router.layer1.weight, before["router.layer1.weight"])


def test_adaptive_offset_is_the_median_gain() -> None:
    """Objective and offset against numbers worked out by hand."""
    median = RunningMedian()
    assert median.add(torch.tensor([0.4, 0.1, 0.2])) == pytest.approx(0.2)
    assert median.add(torch.tensor([0.8, 0.6])) == pytest.approx(0.4)
    assert median.add(torch.tensor([0.6])) == pytest.approx(0.5)
    phi, loss1, loss2 = torch.tensor([0.25, 1.0]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.5])
    # D = 0.5: 0.75 * 1.75 + 0.25 * 1.25 = 1.625 and 0 + 1 * 2.75.
    assert routing_objective(phi, loss1, loss2, 0.5).item() == pytest.approx((1.625 + 2.75) / 2)


def _told_apart(gain: torch.Tensor) -> RouterExamples:
    """Inputs by which a router can tell each image from all others; detector 2 lowers the loss by `gain`."""
    count = len(gain)
    pooled = torch.cat([torch.zeros(count, 24), 10 * torch.eye(count, 192)], dim=1).view(count, 216, 1, 1)
    return RouterExamples(pooled=pooled, loss1=gain + 1, loss2=torch.ones(count), groups=np.arange(count))


def _routed(gain: torch.Tensor) -> RouterReport:
    torch.manual_seed(0)
    recipe = replace(PAPER, epochs=50, learning_rate=0.01)
    return fit_router(Router([24, 192], form=recipe.form), _told_apart(gain), recipe)


def test_a_router_that_is_none_is_called_so() -> None:
    gain = torch.linspace(0.1, 2.0, 40)
    report = _routed(gain)
    assert report.shortcomings() == [] and report.objective is not None
    assert "there is no gap" in _routed(-gain).shortcomings()[0]
    assert "nearly the same difficulty" in _routed(gain[:1]).shortcomings()[0]
    by_chance = replace(report, objective=replace(report.objective, after=2.0, chance=2.0))
    assert "not better than chance" in by_chance.shortcomings()[0]


def test_the_papers_objectives_differ_in_what_they_send_to_detector_2() -> None:
    """Detector 2 is better on all images: naive sends all, penalty those that gain more, adaptive the better half."""
    gain = torch.linspace(0.1, 2.0, 40)
    examples = _told_apart(gain)

    def hard(**objective: Any) -> list[bool]:
        torch.manual_seed(0)
        router = Router([24, 192], form=PUBLISHED_ROUTER)
        fit_to_losses(router, examples, replace(PAPER, **objective, epochs=200, learning_rate=0.01))
        with torch.no_grad():
            return (router.difficulty(router.value(examples.pooled)) > 0.5).tolist()

    assert hard(objective="naive") == [True] * 40
    assert hard(objective="adaptive") == [False] * 20 + [True] * 20
    assert hard(objective="penalty", penalty=1.5) == (gain > 1.5).tolist()
    with pytest.raises(InputError, match="the objective 'penalty' needs a penalty"):
        RouterRecipe(penalty=1.0)
    with pytest.raises(InputError, match="the target 'ap' has no objective 'naive'"):
        RouterRecipe(objective="naive")


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
        (lambda content: content["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "a box is four numbers"),
        (lambda content: content["images"][0].update(file_name="absent.png"), "absent.png does not exist"),
        (lambda content: content["images"][0].pop("file_name"), "entry 1 of 'images' has no 'file_name'"),
        (lambda content: content["images"][1].update(id=7), "image id 7 occurs twice"),
        (lambda content: content["images"][1].update(id=[7]), "an id is a number or string of digits"),
        (lambda content: content["categories"][1].update(id=5), "category id 5 occurs twice"),
        (lambda content: content["annotations"][4].update(id=3), "annotation id 3 occurs twice"),
        (
            lambda content: [one.update(category_id=77) for one in content["annotations"][:3]],
            "unknown category 77; the same fault occurs 2 more times$",
        ),
    ],
)
def test_broken_data_sets_are_named(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    content = json.loads((folder / "annotations.json").read_text())
    change(content)
    (tmp_path / "images").symlink_to(folder / "images")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, 320)


def test_what_is_unusual_is_counted(folder: Path, tmp_path: Path) -> None:
    """And handled: in another place than the usual one, with boxes clipped, dropped, or ignored."""
    content = json.loads((folder / "annotations.json").read_text())
    x, y, *_ = content["annotations"][0]["bbox"]
    content["annotations"][0]["bbox"] = [x, y, 1000, 20]
    content["annotations"][1]["bbox"][2] = 0
    content["annotations"][2]["bbox"] = [5000, 5, 20, 20]
    content["annotations"][3]["iscrowd"] = 1
    content["annotations"].pop(4)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    read = read_dataset(path, 320, images=folder / "images")
    summary = read.summary
    assert (summary.images, summary.objects, summary.classes) == (12, 8, 2)
    assert [summary.count(kind) for kind in ("negatives", "crowds", "cut", "empty")] == [4, 1, 1, 2]
    assert len(summary.sentences()) == 5
    assert [len(labels.classes) for labels in read.labels[:5]] == [1, 0, 0, 0, 0]
    assert read.labels[0].boxes.max() <= 320


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

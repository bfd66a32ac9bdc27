"""Routers that learn the change of AP: what they are worth on new pictures, their difficulties, their pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dynamicdet
from dynamicdet.aliases import IntArray
from dynamicdet.datasets.dataset import CocoDataset, Labels, read_dataset
from dynamicdet.datasets.hold_out import fingerprint, held_out
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.origin import TrainedOn
from dynamicdet.networks.router.form import RouterForm
from dynamicdet.networks.router.layers import Router
from dynamicdet.router.compare import ORACLE_AP, ORACLE_LOSS, RANDOM, TRUTH, compare
from dynamicdet.router.examples import RouterExamples
from dynamicdet.router.recipe import RouterRecipe
from dynamicdet.router.rules import RULES
from dynamicdet.router.train import fit_router, router_pictures
from dynamicdet.routing.routes import RouteResults
from dynamicdet.training.augment import NONE
from dynamicdet.training.batches import EpochBatches
from dyndet_builder.pairing.truth import Truth, detections_of, mixed_precision
from tests.support.foreign.two_detectors import two_detectors
from tests.support.tiny_data import write_tiny_data

PICTURES = 300


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard errors need not be exact here, and more threads only wait for each other."""
    monkeypatch.setattr("dynamicdet.router.kept_gain.DRAWS", 10)
    torch.set_num_threads(1)


def _examples(*, informed: bool = True) -> RouterExamples:
    """Detector 2 finds more where there are many objects; one of 12 inputs tells how many, if they are informed."""
    small, large, truth = two_detectors(PICTURES)
    objects = _objects(truth)
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(PICTURES, 12))
    inputs[:, 3] = 5 * (objects if informed else rng.permutation(objects)) + rng.normal(size=PICTURES)
    inputs[:, 4] = 7.0  # never changes
    gains = torch.from_numpy(0.1 * objects + rng.normal(size=PICTURES)).float()
    return RouterExamples(
        pooled=torch.from_numpy(inputs).float().view(PICTURES, 12, 1, 1),
        loss1=gains + 1,
        loss2=torch.ones(PICTURES),
        groups=np.arange(PICTURES),
        score=mixed_precision(truth, small, large),
    )


def _objects(truth: Truth) -> IntArray:
    return np.bincount([one["image_id"] for one in truth.annotations["annotations"]], minlength=len(truth) + 1)[1:]


def _router(form: RouterForm) -> Router:
    return Router([4] if form.inputs == "rich" else [12], form=form)


@pytest.mark.parametrize("inputs", ["rich", "mean"])
def test_a_router_that_learns_the_change_of_ap_keeps_more_of_the_gain_on_new_pictures(inputs: str) -> None:
    recipe = RouterRecipe(inputs=inputs)  # type: ignore[arg-type]
    examples = _examples()
    routers = [_router(recipe.form) for _ in range(2)]
    if inputs == "mean":
        routers = [Router([48], form=recipe.form) for _ in range(2)]
        examples = replace(examples, pooled=examples.pooled.repeat(1, 4, 1, 1))
    reports = [fit_router(router, examples, recipe) for router in routers]
    assert reports[0] == reports[1]
    assert all(torch.equal(one, routers[1].state_dict()[name]) for name, one in routers[0].state_dict().items())
    kept = reports[0].kept
    assert kept is not None and kept.at[0.2] > 0.3 and kept.at[0.5] > 0.65 and min(kept.error.values()) > 0
    assert reports[0].shortcomings() == []
    assert reports[0].quartiles == pytest.approx((0.25, 0.5, 0.75), abs=0.02)


def test_a_router_whose_inputs_say_nothing_is_called_no_better_than_chance() -> None:
    report = fit_router(_router(RouterForm(inputs="rich", ranked=True)), _examples(informed=False), RouterRecipe())
    assert report.kept is not None
    assert report.kept.at[0.5] < 0.65, "the router was judged on pictures that it had learned from"


def test_few_pictures_are_fitted_but_nothing_is_said_of_new_ones() -> None:
    """Views of one picture are not many pictures."""
    examples = replace(_examples(), groups=np.arange(PICTURES) // 3)
    report = fit_router(_router(RouterForm(inputs="rich", ranked=True)), examples, RouterRecipe())
    assert (report.pictures, report.kept) == (100, None) and report.shortcomings() == []


def test_ranks_keep_the_order_also_as_float16_and_beyond_what_was_seen() -> None:
    router = Router([4], form=RouterForm(ranked=True))
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)).exp()
    router.ranks.fit(values[:1000].double().numpy())
    wide = torch.cat([values.unique(), torch.tensor([-1e3, 1e3])]).sort().values
    for form in (router, router.half().float()):
        ranks = form.difficulty(wide)
        assert (ranks.diff() >= 0).all() and 0 < ranks[0] and ranks[-1] < 1
        assert form.difficulty(values[:1000]).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist() == pytest.approx(
            [0.25, 0.5, 0.75], abs=0.02
        )


def test_a_checkpoint_says_which_form_its_router_has_and_what_trained_it(small_network: str, tmp_path: Path) -> None:
    network = dynamicdet.create(small_network, 2)
    path = tmp_path / "network.safetensors"
    dynamicdet.save(network, path)
    assert b'"format_version":"1"' in path.read_bytes()[:4000], "older releases can read it"
    network.router = network.fresh_router(RouterForm(inputs="rich", ranked=True))
    network.trained_on = TrainedOn(pictures=40, fingerprint="0" * 64, held_out=0.25)
    dynamicdet.save(network, path)
    loaded = dynamicdet.load(path)
    assert (loaded.router.form, loaded.trained_on) == (network.router.form, network.trained_on)
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.difficulty(x), network.eval().difficulty(x))


@pytest.mark.parametrize(
    ("entry", "instead", "complaint"),
    [
        (b"rich", b"poor", "a router of a form that this dyndet does not know"),
        (b"0" * 64, b"x" * 64, "does not say which pictures trained it"),
        (b"0.25", b"0.26", "its content has changed"),
    ],
)
def test_entries_of_a_checkpoint_that_were_changed_are_refused(
    small_network: str, tmp_path: Path, entry: bytes, instead: bytes, complaint: str
) -> None:
    network = dynamicdet.create(small_network, 2)
    network.router = network.fresh_router(RouterForm(inputs="rich", ranked=True))
    network.trained_on = TrainedOn(pictures=40, fingerprint="0" * 64, held_out=0.25)
    path = tmp_path / "network.safetensors"
    dynamicdet.save(network, path)
    content = path.read_bytes()
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, instead))
    with pytest.raises(CheckpointError, match=complaint):
        dynamicdet.load(path)


def _data(names: list[str]) -> CocoDataset:
    """As many pictures as names; each picture is of its own grey."""
    small, _, truth = two_detectors(len(names))
    images = [{"id": place, "file_name": name, "width": 9, "height": 9} for place, name in enumerate(names, 1)]
    return CocoDataset(
        folder=truth.folder, image_folder=truth.folder, digest="", summary=None, fit=small.fit,  # type: ignore[arg-type]
        images=np.arange(len(names), dtype=np.uint8)[:, None, None, None] + np.zeros((1, 8, 8, 3), np.uint8),
        labels=(), placements=(), image_ids=truth.image_ids, category_ids=truth.category_ids,
        class_names=truth.class_names, annotations={**truth.annotations, "images": images},
    )  # fmt: skip


def test_the_router_gets_the_pictures_that_were_held_out(small_network: str) -> None:
    """Of the data that trained the detectors, those that were held out; of other data, all; else it says so."""
    network = dynamicdet.create(small_network, 3, ("cat", "dog", "owl"))
    data = _data([f"{name:03}.png" for name in range(200)])
    chosen = router_pictures(network, data)
    assert chosen.data is data and "does not say which images trained its detectors" in chosen.remark
    network.trained_on = TrainedOn(pictures=200, fingerprint=fingerprint(data), held_out=0.2)
    held = held_out(data, 0.2)
    assert held.sum() == 40 and np.array_equal(held, held_out(data, 0.2))
    again = replace(data, annotations={**data.annotations, "images": data.annotations["images"][::-1]})
    assert fingerprint(again) == fingerprint(data)
    other = _data([f"other {name:03}.png" for name in range(200)])
    assert router_pictures(network, other).data is other
    network.trained_on = replace(network.trained_on, held_out=0.0)
    assert "these images trained the detectors" in router_pictures(network, data).remark


def test_pictures_of_a_clip_are_held_out_together() -> None:
    clips = _data([f"{camera}_{frame:02}.png" for camera in "abcdefghijklmnopqrst" for frame in range(10)])
    held = held_out(clips, 0.2).reshape(20, 10)
    assert held.sum() == 40 and (held.all(axis=1) | ~held.any(axis=1)).all()
    with pytest.raises(InputError, match="5% of 200 pictures are 10, too few"):
        held_out(clips, 0.05)
    with pytest.raises(InputError, match=r"must be from 0 to 0\.5, got 0\.7"):
        held_out(clips, 0.7)


def test_detectors_never_see_what_is_held_out(tmp_path: Path) -> None:
    """Neither as an image of a batch nor as a part of a mosaic."""
    data = _data([f"{name:03}.png" for name in range(60)])
    labels = read_dataset(write_tiny_data(tmp_path), 64).labels[:1] * 60
    used = np.arange(60) % 3 != 0
    mosaics = replace(NONE, mosaic=1.0)
    batches = EpochBatches(replace(data, labels=labels), mosaics, size=8, batch=8, seed=0, epoch=0, used=used)
    assert len(batches) == 5
    seen = {int(grey) for number in range(5) for grey in np.unique(batches[number].images)} - {114}
    assert len(seen) > 30 and all(used[grey] for grey in seen)


def test_the_comparison_has_routers_rules_truth_and_oracles() -> None:
    pictures = 120
    small, large, truth = two_detectors(pictures)
    data = _data([f"{name:03}.png" for name in range(pictures)])
    objects = _objects(truth)
    data = replace(
        data,
        labels=tuple(Labels(boxes=np.zeros((n, 4), np.float32), classes=np.zeros(n, np.int64)) for n in objects),
        placements=(small.fit.place_of(400, 300),) * pictures,
        annotations={**truth.annotations, "images": data.annotations["images"]},
    )
    easy, hard = detections_of(small), detections_of(large)
    difficulties = objects.astype(np.float64)
    results = RouteResults(easy=easy, hard=hard, difficulties=difficulties, loss_gains=difficulties)
    found = compare(results, data, {"own": difficulties, "none": -difficulties})
    rows = {row.name: row for row in found.rows}
    assert list(rows)[:2] == ["own", "none"] and list(rows)[-4:] == [TRUTH, ORACLE_LOSS, ORACLE_AP, RANDOM]
    rules = [row.kept.mean for row in found.rows[2:-4]]
    assert len(rules) == len(RULES) and rules == sorted(rules, reverse=True)
    assert rows["own"].kept == rows[TRUTH].kept == rows[ORACLE_LOSS].kept
    assert rows["own"].kept.mean > rows[RANDOM].kept.mean > rows["none"].kept.mean
    assert rows[ORACLE_AP].kept.mean > rows["own"].kept.mean
    assert rows[ORACLE_AP].mean_ap > rows[RANDOM].mean_ap and min(rows["own"].kept.error.values()) > 0
    assert compare(replace(results, hard=easy), data, {"own": difficulties}).rows == ()

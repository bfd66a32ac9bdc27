"""`dyndet evaluate` on checkpoints and bundles: agreement, kept detections, the plot, bad input."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dynamicdet
from dynamicdet.datasets.dataset import read_dataset
from dynamicdet.errors import MissingExtraError
from dynamicdet.files import cache_folder
from dynamicdet.routing.cache import read_results
from dyndet_builder.bundle.manifest import file_sha256
from dyndet_builder.cli import dyndet, run
from dyndet_builder.evaluation.card import Card, card_markdown
from dyndet_builder.evaluation.evaluate import EvaluationReport
from dyndet_builder.evaluation.evaluate import evaluate as evaluate_with_draws
from dyndet_builder.evaluation.sources import BundleSource, CheckpointSource
from tests.support.small_data import write_small_data

_IMAGES = 10

evaluate = partial(evaluate_with_draws, random_draws=1)


@pytest.fixture(scope="module")
def data(demo_checkpoint: Path, demo_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = dynamicdet.load(demo_checkpoint).class_names
    return write_small_data(tmp_path_factory.mktemp("data") / "small", demo_images, names, count=_IMAGES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def report(demo_checkpoint: Path, data: Path, cache: Path) -> EvaluationReport:
    """The checkpoint's first evaluation, which fills the cache."""
    return evaluate(demo_checkpoint, data=data, cache=cache)


def test_a_bundle_agrees_with_its_checkpoint(demo_checkpoint: Path, bundle_folder: Path, data: Path) -> None:
    """In AP, and in what leads to it, which says more while weights are random: difficulties and scores."""
    checkpoint, bundle = CheckpointSource(demo_checkpoint), BundleSource(bundle_folder)
    truth = read_dataset(data, checkpoint.fit)
    one, two = (source.run(truth) for source in (checkpoint, bundle))
    np.testing.assert_allclose(one.difficulties, two.difficulties, atol=1e-3)
    for first, second in zip(one.easy + one.hard, two.easy + two.hard, strict=True):
        assert len(first.scores) == pytest.approx(len(second.scores), abs=1)
        most = min(len(first.scores), len(second.scores))
        np.testing.assert_allclose(first.scores[:most], second.scores[:most], atol=1e-3)
    reports = [evaluate(source, data=data, thresholds=(0.5,)) for source in (demo_checkpoint, bundle_folder)]
    evaluations = [report.evaluation for report in reports]
    for pairs in zip(*((e.easy, e.hard, *(p.precision for p in e.curve)) for e in evaluations), strict=True):
        assert pairs[0].ap == pytest.approx(pairs[1].ap, abs=0.2)
    assert evaluations[0].points[0].oracle is not None
    assert evaluations[1].points[0].oracle is None  # a bundle has no raw maps


def test_a_second_run_takes_the_kept_detections(
    report: EvaluationReport, demo_checkpoint: Path, data: Path, cache: Path
) -> None:
    assert not report.from_cache and report.cache_file is not None
    assert list(cache.iterdir()) == [report.cache_file]  # one file, no temporary left
    again = evaluate(demo_checkpoint, data=data, cache=cache, hard_shares=(0.3,))
    assert again.from_cache and again.cache_file == report.cache_file
    assert again.evaluation.curve == report.evaluation.curve
    assert again.evaluation.seconds.passes == report.evaluation.seconds.passes > 0


def test_names_and_places_do_not_matter_but_content_does(
    report: EvaluationReport, demo_checkpoint: Path, data: Path, cache: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "other.safetensors"
    copied.write_bytes(demo_checkpoint.read_bytes())
    assert evaluate(copied, data=data, cache=cache).from_cache

    moved = write_copy(data, tmp_path / "moved")
    assert evaluate(demo_checkpoint, data=moved, cache=cache).from_cache
    content = json.loads((moved / "annotations.json").read_text())
    content["annotations"][0]["bbox"][0] += 1
    (moved / "annotations.json").write_text(json.dumps(content))
    assert not evaluate(demo_checkpoint, data=moved, cache=cache).from_cache

    painted = write_copy(data, tmp_path / "painted")
    picture = next((painted / "images").iterdir())
    with Image.open(picture) as image:
        Image.new("RGB", image.size).save(picture)
    assert not evaluate(demo_checkpoint, data=painted, cache=cache).from_cache

    other = dynamicdet.load(demo_checkpoint)
    learned = {name for name, _ in other.router.named_parameters()}  # the rest is a map to ranks, which has its form
    weights = {name: value + 0.01 * (name in learned) for name, value in other.router.state_dict().items()}
    other.router.load_state_dict(weights)
    dynamicdet.save(other, copied)
    assert not evaluate(copied, data=data, cache=cache).from_cache


def write_copy(data: Path, folder: Path) -> Path:
    for path in data.rglob("*.*"):
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


def test_damaged_detections_are_made_again(
    report: EvaluationReport, demo_checkpoint: Path, data: Path, cache: Path
) -> None:
    assert report.cache_file is not None
    whole = report.cache_file.read_bytes()
    assert read_results(report.cache_file, _IMAGES + 1) is None
    rng = np.random.default_rng(0)
    flipped = [bytearray(whole) for _ in range(20)]
    for damaged in flipped:
        for position in rng.integers(0, len(whole), 50):
            damaged[position] ^= 0xFF
    for damaged in (b"", whole[:100], whole[:-100], b"no archive", *map(bytes, flipped)):
        report.cache_file.write_bytes(damaged)
        assert read_results(report.cache_file, _IMAGES) is None
    again = evaluate(demo_checkpoint, data=data, cache=cache)
    assert not again.from_cache
    assert again.evaluation.curve == report.evaluation.curve
    assert read_results(report.cache_file, _IMAGES) is not None


def test_the_default_cache_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("detections") == tmp_path / "dyndet" / "detections"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("detections") == tmp_path / ".cache" / "dyndet" / "detections"


def test_the_command_prints_numbers_and_times_and_draws(
    report: EvaluationReport,
    demo_checkpoint: Path,
    data: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["evaluate", str(demo_checkpoint), "--data", str(data), "--cache", str(cache)]
    plot = tmp_path / "ap.png"
    assert run(dyndet, [*words, "--hard-share", "0.5", "--threshold", "1", "--plot", str(plot), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["from_cache"] and found["images"] == _IMAGES
    assert [point["hard_share"] for point in found["operating_points"]] == [0.5, 0.0]
    assert len(found["curve"]) == 21
    assert set(found["operating_points"][0]["gap_recovered"]) == {"router", "random", "oracle"}
    assert set(found["seconds"]) == {"passes", "losses", "scoring", "thresholds", "ratio"}
    with Image.open(plot) as image:
        assert image.width >= 1000

    drawn = plot.with_suffix(".svg")
    assert run(dyndet, [*words, "--plot", str(drawn)]) == 0
    text = capsys.readouterr().out
    assert "AP all easy" in text and "x the routes alone" in text and str(drawn) in text.replace("\n", "")
    assert drawn.read_text().lstrip().startswith("<?xml")


def test_the_card_has_the_results_and_asks_for_the_rest(
    report: EvaluationReport,
    demo_checkpoint: Path,
    data: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In Markdown whose tables are whole, with the plot beside it, and without any place of this machine."""
    words = ["evaluate", str(demo_checkpoint), "--data", str(data), "--cache", str(cache)]
    card = tmp_path / "CARD.md"
    assert run(dyndet, [*words, "--plot", str(tmp_path / "ap.png"), "--card", str(card)]) == 0
    assert f"Wrote {card}." in capsys.readouterr().out.replace("\n", "")
    text = card.read_text()
    assert f"| all easy (detector 1) | {report.evaluation.easy.ap:.1f} | {report.evaluation.easy.ap50:.1f} |" in text
    assert file_sha256(demo_checkpoint) in text and f"{_IMAGES} images of {report.data} with" in text
    assert "(<ap.png>)" in text and "- Weights: [licence]" in text and str(tmp_path) not in text
    half = report.evaluation.curve[10]
    assert f"| {half.hard_share:.0%} | {half.threshold:.4f} | {half.precision.ap:.1f} |" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert max(map(len, text.splitlines())) <= 160


def test_a_card_shows_masks_and_names_as_they_are(report: EvaluationReport) -> None:
    """What others named is text, also where it looks like Markdown; masks have columns and a table of their own."""
    card = Card(
        name="<b>*my* | detector",
        facts={"checkpoint": "a|b"},
        data="data",
        images=10,
        objects=1,
        class_names=("[x](y)", "plain"),
        notes=("# note",),
        evaluation=replace(report.evaluation, masks=report.evaluation),
        plot=None,
    )
    text = card_markdown(card)
    assert "# Model card: &lt;b&gt;\\*my\\* \\| detector" in text and "| checkpoint | a\\|b |" in text
    assert "10 images of data with 1 object of 2 classes: \\[x\\](y), plain." in text and "- \\# note" in text
    assert "| route | box AP | box AP50 | mask AP | mask AP50 |" in text
    boxes, masks = (text.index(f"### Routing by difficulty: {kind} AP") for kind in ("box", "mask"))
    assert "| 100% |" in text[boxes:masks] and "| 100% |" in text[masks:]


def test_without_matplotlib_a_plot_says_what_to_install(
    demo_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "dyndet_builder.evaluation.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"a plot needs matplotlib; `.* install .*\[train\]'"):
        evaluate(demo_checkpoint, data=data, plot=tmp_path / "ap.png")


def test_a_router_that_decides_nothing_is_a_status_of_its_own_not_an_error(
    demo_checkpoint: Path, demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results are printed as ever. The classes of the data set are in another order, and matched by name."""
    network = dynamicdet.load(demo_checkpoint)
    for value in network.router.parameters():
        value.data.zero_()
    dynamicdet.save(network, tmp_path / "same.safetensors")
    data = write_small_data(tmp_path / "data", demo_images, network.class_names, count=2)
    content = json.loads((data / "annotations.json").read_text())
    most = max(one["id"] for one in content["categories"]) + 1
    for entries, field in ((content["categories"], "id"), (content["annotations"], "category_id")):
        for one in entries:
            one[field] = most - one[field]
    (data / "annotations.json").write_text(json.dumps(content))
    words = ["evaluate", str(tmp_path / "same.safetensors"), "--data", str(data), "--no-cache", "--random-draws", "1"]
    assert run(dyndet, [*words, "--json"]) == 9
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "all images have the same difficulty" in found["shortcomings"][-1]
    assert "matched by name" in found["notes"][-1]
    assert printed.err.splitlines()[-1].startswith("Not usable: ")
    assert found["ap"]["hard"]["ap"] > 5


def test_bad_input_ends_in_one_sentence(
    demo_checkpoint: Path, data: Path, demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(demo_checkpoint)
    strange = write_small_data(tmp_path / "strange", demo_images, ["one", "two", *"abcdefg"], count=2)
    (tmp_path / "text.pt").write_text("no checkpoint at all")
    (tmp_path / "file").touch()
    cases: list[tuple[list[str], str]] = [
        ([], "evaluate one detector"),
        ([good, "--url", "127.0.0.1:1"], "evaluate one detector"),
        (["--url", "127.0.0.1:1"], "no Triton server answers at 127.0.0.1:1"),
        ([str(tmp_path / "none")], "does not exist"),
        ([str(tmp_path)], "is not a bundle"),
        ([str(tmp_path / "text.pt")], "neither a safetensors file nor a PyTorch checkpoint"),
        ([good, "--hard-share", "1.5"], "a share of hard images must be from 0 to 1, got 1.5"),
        ([good, "--threshold", "-1"], "a threshold must be from 0 to 1, got -1.0"),
        ([good, "--plot", "ap.pdf"], "a plot is a .png or .svg file"),
        ([good, "--plot", str(tmp_path / "none" / "ap.png")], "cannot be written: the folder"),
        ([good, "--card", good], "a model card is a .md file, not "),
        ([good, "--card", str(tmp_path / "none" / "a.md")], "cannot be written: the folder"),
        ([good, "--data", str(strange)], "has other classes than"),
        ([good, "--data", str(tmp_path / "none")], "a data set is a folder with"),
        ([good, "--cache", str(tmp_path / "file")], "try --no-cache"),
    ]
    for words, expected in cases:
        given = words if "--data" in words else [*words, "--data", str(data)]
        assert run(dyndet, ["evaluate", *given]) in (2, 6), words
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("Error: ") and expected in error, (words, error)

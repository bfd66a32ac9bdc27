"""`dyndet tune` on the real server: settings meet in heats, and the repository gets the best one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.statistic import THROUGHPUT
from dyndet_builder.calibration.tune import Setting, tune
from dyndet_builder.operating_points import UNCALIBRATED, read_operating_points
from dyndet_builder.repository.marker import MARKER_FILE, read_marker
from dyndet_builder.repository.render import RenderOptions, render
from tests.support.toy_bundle import image, write_toy_bundle


def test_the_repository_gets_the_best_of_the_settings_that_were_measured(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    for number in range(4):
        Image.fromarray(image(red=60 * number, seed=number)).save(tmp_path / f"{number}.png")
    before = RenderOptions(topology="fused", instances=3, threads=1, latency_buckets_ms=(5, 50))
    repository = render(bundle, tmp_path / "models", before)
    result = tune(repository, images=tmp_path, model="toy", load=Load(concurrency=2), statistic=THROUGHPUT, rounds=1)
    settings = [one.setting for one in result.tried]
    assert Setting(instances=3, threads=1) in settings  # what the repository had
    assert result.default.setting == Setting(instances=1, threads=0)
    last = result.tried[-1 if result.best is result.default else -2 :]
    assert result.best.value == max(one.value for one in last)  # judged by the last heat alone
    assert len(set(settings)) <= 8
    options = read_marker(repository).detectors["toy"].options
    assert (options["instances"], options["threads"]) == (result.best.setting.instances, result.best.setting.threads)
    assert (options["topology"], options["latency_buckets_ms"]) == ("fused", [5, 50])  # all else is kept
    assert read_operating_points(repository / "toy" / "1" / "operating_points.json").default == UNCALIBRATED
    assert result.written == (result.best.setting != Setting(instances=3, threads=1))


def test_a_repository_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.pbtxt").write_text("")
    with pytest.raises(InputError, match="was not rendered by this version of dyndet"):
        tune(tmp_path, images=tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            MARKER_FILE,
            "{",
            r"models/dyndet\.json is damaged, or was written by another version: [^)]*\); render it",
        ),
        (MARKER_FILE, "[]", r"models/dyndet\.json is damaged"),
        (MARKER_FILE, '{"options": 5}', r"models/dyndet\.json is damaged"),
        (MARKER_FILE, None, r"models/dyndet\.json cannot be read: No such file or directory"),
        ("toy/bundle.json", "{}", r"models/toy/bundle\.json is not a bundle of schema version 1 or 2: "),
        ("toy/bundle.json", None, r"models/toy holds no bundle\.json"),
        ("toy_head1/1/model.onnx", "cut", r"models/toy_head1/1/model\.onnx has changed since it was rendered"),
        ("toy_head1/1/model.onnx", None, r"holds no detector 'toy' with a stage head1"),
        ("toy/1/operating_points.json", '{"default": "a", "points": {}}', r"has no point 'a'"),
    ],
)
def test_a_damaged_repository_is_named_as_the_user_did(
    tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    repository = render(write_toy_bundle(tmp_path / "bundle"), tmp_path / "models", RenderOptions())
    if content is None:
        (repository / file).unlink()
    else:
        (repository / file).write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        tune(repository, images=tmp_path, model="toy")
    text = str(caught.value)
    assert "\n" not in text and "dyndet-tune-" not in text and "Expecting" not in text

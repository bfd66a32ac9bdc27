"""`dyndet-build` of two detectors of others on the real server: other families, sizes and rules of fitting."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dynamicdet.images import read_image
from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.build import BuildOptions, PairFiles, build
from dyndet_builder.bundle.manifest import OWN
from dyndet_builder.bundle.runner import BundleRunner
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.pairing import timing
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.targets import parse_targets
from dyndet_client.detector import Detector
from tests.support.foreign.pair import write_pair

_TOLERANCE = 0.9
_FROM_SCORE = 0.05
_HALF = "p50:50%"
"""the median: other tests make an answer late, and one of a few moves a mean by more than a detector costs"""
_EFFORT = Effort(
    max_images=16,
    requests_per_run=8,
    range_rounds=1,
    trial_rounds=1,
    verification_rounds=1,
    extra_trial_rounds=1,
    tolerance=_TOLERANCE,
    accept_ill_conditioned=True,
)


def test_a_pair_is_calibrated_and_answers_as_its_bundle_does(
    demo_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.1)  # enough to tell a small detector from a large one
    write_pair(tmp_path / "files")
    photos = tmp_path / "photos"
    photos.mkdir()
    for picture in spread(pictures_in(demo_images), 16):
        shutil.copy(picture, photos)
    files = {name: tmp_path / "files" / f"{name}.onnx" for name in ("small", "large")}
    specs = {f"{name}_spec": tmp_path / "files" / f"{name}.yaml" for name in files}
    pair = PairFiles(**files, **specs, cache=tmp_path / "answers")
    options = BuildOptions(topology="bls", effort=_EFFORT, parity_images=2)
    result = build(pair, tmp_path / "out", images=photos, targets=parse_targets(_HALF), options=options)
    point = result.points[_HALF]
    assert 0 < point.threshold < 1
    assert result.evidence.held_out_images > 0 and point.error is not None and abs(point.error) <= _TOLERANCE
    again = build(pair, tmp_path / "out", images=photos, targets=parse_targets(_HALF), options=options)
    assert again.reused == ("export", "render", "calibrate") and again.points == result.points

    runner = BundleRunner(result.bundle)
    assert OWN in runner.bundle.stages and runner.bundle.resizing is not None
    with (
        TritonServer(result.repository, ServerOptions(log_file=tmp_path / "server.log")) as server,
        Detector(server.grpc_url) as detector,
    ):
        for path in pictures_in(photos)[:3]:
            placed = runner.bundle.fit(read_image(path))
            for threshold, offline in zip((1.0, 0.0), runner.both(placed.image[None]), strict=True):
                answer = detector.detect(path, threshold=threshold, min_score=_FROM_SCORE)
                boxes = placed.to_original(offline.detector["boxes"][0])
                sides = boxes[:, 2:] - boxes[:, :2]  # 0 outside of the picture; the client leaves these out
                seen = (offline.detector["scores"][0] >= _FROM_SCORE) & (sides > 0).all(axis=1)
                assert answer.route == ("easy" if threshold else "hard")
                assert answer.difficulty == pytest.approx(float(offline.difficulty[0]), abs=1e-5)
                np.testing.assert_allclose(answer.boxes, boxes[seen], atol=1e-2)
                np.testing.assert_allclose(answer.scores, offline.detector["scores"][0, seen], atol=1e-5)
                np.testing.assert_array_equal(answer.classes, offline.detector["classes"][0, seen])

"""Half precision is judged by the images whose route flips at the thresholds that will be served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dynamicdet
from dynamicdet.errors import InputError, ParityError
from dynamicdet.letterbox import Fit
from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.bundle.export import export, letterboxed
from dyndet_builder.bundle.manifest import Parity
from dyndet_builder.bundle.parity import BARS, check_parity, measure_flips, route_flip_share
from dyndet_builder.bundle.runner import BundleRunner


def test_an_image_counts_once_however_many_thresholds_it_flips_at() -> None:
    expected = np.linspace(0.05, 0.95, 10, dtype=np.float32)
    measured = expected.copy()
    measured[2] = 0.9  # was 0.25: crosses both
    assert route_flip_share(expected, measured, tie=1e-5, thresholds=(0.3, 0.7)) == pytest.approx(0.1)
    assert route_flip_share(expected, measured, tie=1e-5, thresholds=(0.1,)) == 0
    assert route_flip_share(expected, measured, tie=0.06, thresholds=(0.3,)) == 0, "too close to call"


def test_more_than_half_a_percent_is_an_error_with_numbers() -> None:
    def parity(flips: int) -> Parity:
        share = {"route_flip_share": flips / 200, "route_images": 200}
        return Parity(images=36, batch_sizes=(1,), box_px=0, score=0, difficulty=0, **share)

    check_parity(parity(1), BARS["fp16"], "fp16")
    with pytest.raises(ParityError, match=r"routes: 200.*route_flip_share is 0\.01 \(at most 0\.005\)"):
        check_parity(parity(2), BARS["fp16"], "fp16")


def test_difficulties_of_the_half_bundle_keep_the_routes(
    half_bundle_folder: Path, demo_checkpoint: Path, demo_images: Path
) -> None:
    network = dynamicdet.load(demo_checkpoint)
    images = letterboxed(spread(pictures_in(demo_images), 12), Fit.square(network.input_size))
    share, count = measure_flips(network, BundleRunner(half_bundle_folder), images, thresholds=(0.5, 0.95), tie=1e-5)
    assert (share, count) == (0, 12)


def test_a_missing_file_of_thresholds_is_noticed_before_the_work(
    demo_checkpoint: Path, demo_images: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"points\.json does not exist"):
        export(demo_checkpoint, tmp_path / "b", images=demo_images, operating_points=tmp_path / "points.json")
    assert not list(tmp_path.iterdir())

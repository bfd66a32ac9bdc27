"""A served detector is as precise as its checkpoint and its bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dynamicdet
from dynamicdet.datasets.dataset import read_dataset
from dyndet_builder.evaluation.evaluate import evaluate
from dyndet_builder.evaluation.sources import BundleSource, ServedSource
from dyndet_builder.server.triton import TritonServer
from tests.support.small_data import write_small_data

_IMAGES = 12


@pytest.fixture(scope="module")
def data(demo_checkpoint: Path, demo_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = dynamicdet.load(demo_checkpoint).class_names
    return write_small_data(tmp_path_factory.mktemp("data") / "small", demo_images, names, count=_IMAGES)


def test_all_three_sources_agree(
    demo_checkpoint: Path, bundle_folder: Path, server: TritonServer, data: Path, tmp_path: Path
) -> None:
    shares = (0.0, 0.5, 1.0)
    checkpoint = evaluate(demo_checkpoint, data=data, hard_shares=shares)
    bundle = evaluate(bundle_folder, data=data, hard_shares=shares)
    served = evaluate(url=server.grpc_url, model="dyndet", data=data, hard_shares=shares, cache=tmp_path)
    for report in (bundle, served):
        for one, two in zip(checkpoint.evaluation.points, report.evaluation.points, strict=True):
            assert one.precision.ap == pytest.approx(two.precision.ap, abs=0.2)
            assert one.precision.ap50 == pytest.approx(two.precision.ap50, abs=0.2)
    assert not served.from_cache
    again = evaluate(url=server.grpc_url, model="dyndet", data=data, hard_shares=shares, cache=tmp_path)
    assert again.from_cache and again.evaluation.points == served.evaluation.points


def test_both_routes_arrive_whole_through_the_server(bundle_folder: Path, server: TritonServer, data: Path) -> None:
    """Every detection down to the lowest score, with its box in the original picture, as from the bundle itself."""
    bundle, served = BundleSource(bundle_folder), ServedSource(server.grpc_url, "dyndet")
    assert served.class_names == bundle.class_names
    truth = read_dataset(data, served.fit)
    one, two = (source.run(truth) for source in (bundle, served))
    np.testing.assert_allclose(one.difficulties, two.difficulties, atol=1e-4)
    for first, second in zip(one.easy + one.hard, two.easy + two.hard, strict=True):
        assert len(first.scores) == len(second.scores)
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
        np.testing.assert_allclose(first.boxes.numpy().max(axis=0), second.boxes.numpy().max(axis=0), atol=1.0)

"""Pairs that take stretched pictures and no squares, on the real server: boxes are in the user's pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from dynamicdet.letterbox import Fit
from dyndet_builder.evaluation.sources import ServedSource
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.triton import TritonServer
from dyndet_client import Detector
from tests.support.toy_pair import TWO_RULES, Variant, pair_box, write_toy_pair

pytest.importorskip("aiohttp")

_FIT = Fit(height=24, width=40, resize="stretch", filter="linear")


@pytest.fixture(scope="module")
def pair_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("fits")
    for name, variant in (("one", Variant(first=_FIT, second=_FIT)), ("two", TWO_RULES)):
        bundle = write_toy_pair(folder / name, variant=variant)
        render(bundle, folder / "models", RenderOptions(name=name, topology="fused", bls_instances=1), add=True)
    with TritonServer(folder / "models") as server:
        yield server


def test_boxes_are_in_the_users_pixels_by_every_transport(pair_server: TritonServer) -> None:
    pixels = np.random.default_rng(0).integers(100, 190, (211, 130, 3), np.uint8)  # these colours command no failure
    fitted = _FIT(pixels)
    grpc, http = pair_server.grpc_url, f"http://{pair_server.http_url}"
    for url, transport in ((grpc, "network"), (http, "network"), (grpc, "shared-memory"), (http, "shared-memory")):
        with Detector(url, "one", transport=transport) as detector:  # type: ignore[arg-type]
            assert (detector.fit, detector.input_size, detector.transport) == (_FIT, 40, transport)
            for threshold, route in ((1.0, "easy"), (0.0, "hard")):
                found = detector.detect(pixels, threshold=threshold, min_score=0.0)
                box = pair_box(float(fitted.image.mean()), _FIT, second=route == "hard")
                assert (found.route, found.image_size) == (route, (130, 211))
                np.testing.assert_allclose(found.boxes[:1], fitted.to_original([box]), atol=0.05)
                ready = detector.detect(fitted.image, threshold=threshold, min_score=0.0)
                np.testing.assert_allclose(ready.boxes[:1], [box], atol=0.01)


def test_a_served_pair_of_two_rules_is_evaluated_by_the_one_that_clients_use(pair_server: TritonServer) -> None:
    one, two = (ServedSource(pair_server.grpc_url, name) for name in ("one", "two"))
    assert (one.fit, one.notes) == (_FIT, ())
    assert two.fit == TWO_RULES.second and "fitted for detector 2" in two.notes[0]

"""The pictures that the demo shows, asked of the real server."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from dynamicdet.aliases import silent
from dynamicdet.datasets.truth import read_objects
from dynamicdet.matching import match
from dyndet_builder.demo_pictures import MIN_SCORE, show_pictures
from dyndet_builder.server.triton import TritonServer
from dyndet_client import Detector


def test_both_answers_come_from_the_server_and_the_route_from_the_threshold(
    server: TritonServer, demo_images: Path
) -> None:
    truth = dict(islice(read_objects(demo_images.parent).items(), 24))
    with Detector(server.grpc_url) as detector:
        difficulties = [detector.detect(file, threshold=1).difficulty for file in truth]
        threshold = float(np.median(difficulties))
        showing = show_pictures(detector, truth, threshold=threshold, progress=silent)
        shown = showing.shown
        assert [one.difficulty for one in shown] == sorted(one.difficulty for one in shown)
        assert [one.is_hard for one in shown] == [False] * 3 + [True] * 3
        for one in (shown[0], shown[-1]):
            for side, end in ((one.easy, 1.0), (one.hard, 0.0)):
                found = detector.detect(one.picture, threshold=end, min_score=MIN_SCORE)
                assert found.to_dict() == side.detections.to_dict()
                assert side.matches.hits == match(truth[one.picture], found).hits
                assert side.latency_ms > 0
    totals = showing.totals
    assert (totals.pictures, totals.hard_share) == (24, 0.5)
    assert totals.objects == sum(len(objects) for objects in truth.values())
    assert max(totals.easy.found, totals.hard.found) <= totals.objects

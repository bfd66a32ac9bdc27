"""The queueing estimate of `dyndet deploy plan` against what a sweep measures on the real server."""

from __future__ import annotations

import pytest

from dyndet_builder.deployment.plan import plan
from dyndet_builder.deployment.plan_check import check_against, typical_error
from tests.support.sweeps import Swept


@pytest.mark.timing
def test_the_estimate_is_near_what_a_sweep_measures(swept: Swept) -> None:
    """The bounds are wide: client and server share two cores, so that a cell scatters by itself."""
    checks = check_against(swept.record)
    means = [check for check in checks if check.statistic == "mean"]
    assert len(means) == len(swept.record.cells) - 2  # all but those that the server refuses
    assert typical_error([check for check in means if not check.open]) < 0.25
    assert typical_error([check for check in means if check.open]) < 0.5
    found = plan(swept.folder, request_rate=300, promise="p95:120ms", hard_share=0.5)
    assert 3 <= found.replicas <= 30
    assert found.correction >= 1

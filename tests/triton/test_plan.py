"""The queueing estimate of `dyndet deploy plan` against what a sweep measures on the real server."""

from __future__ import annotations

from pathlib import Path

from dyndet_bench.measuring.load import Load
from dyndet_bench.sweep.sweep import SweepPlan, sweep
from dyndet_builder.deployment.plan import plan
from dyndet_builder.deployment.plan_check import check_against, typical_error
from dyndet_builder.server.triton import TritonServer

_PLAN = SweepPlan(
    hard_shares=(0, 1),
    loads=(Load(), Load(concurrency=3), Load(request_rate=20)),
    repetitions=1,
    max_images=16,
)


def test_the_estimate_is_near_what_a_sweep_measures(server: TritonServer, demo_images: Path, tmp_path: Path) -> None:
    """The bounds are wide: client and server share two cores, and other work may, so that a cell scatters by itself."""
    record = sweep(server.grpc_url, tmp_path / "out", images=demo_images, plan=_PLAN)
    checks = check_against(record)
    means = [check for check in checks if check.statistic == "mean"]
    assert len(means) == len(record.cells)
    assert typical_error([check for check in means if not check.open]) < 0.25
    assert typical_error([check for check in means if check.open]) < 0.5
    found = plan(tmp_path / "out", request_rate=300, promise="p95:120ms", hard_share=0.5)
    assert 3 <= found.replicas <= 30
    assert found.correction >= 1

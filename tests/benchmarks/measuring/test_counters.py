"""What is read from a server's counters, where each model counts on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dyndet_bench.measuring.counters import RouteCounts, ServerCounters


class _Statistics:
    """Numbers as Triton reports them, of which those of detector 2 arrive some reads later."""

    def __init__(self, late_reads: int) -> None:
        self.late_reads = late_reads

    def __call__(self, model: str) -> Sequence[Mapping[str, Any]]:
        images = {"toy": 10, "toy_head1": 4, "toy_detector2": 6}[model]
        if model == "toy_detector2" and self.late_reads > 0:
            self.late_reads -= 1
            images -= 1
        return [{"inference_count": images}]


def test_a_stage_that_counts_late_is_waited_for() -> None:
    counters = ServerCounters("toy", _Statistics(late_reads=3))
    counts = counters.counts_after(RouteCounts(total=0, hard=0), 10)
    assert (counts.total, counts.hard, counts.answered) == (10, 6, 10)


def test_images_that_no_stage_answered_end_the_wait() -> None:
    """A request that was refused is counted by the public model alone."""
    counters = ServerCounters("toy", _Statistics(late_reads=10**9))
    counts = counters.counts_after(RouteCounts(total=0, hard=0), 10)
    assert (counts.total, counts.hard) == (10, 5)

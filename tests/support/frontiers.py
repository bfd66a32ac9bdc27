"""A record of a dynamic detector beside static ones, in numbers that are easy to follow."""

from __future__ import annotations

import numpy as np

from dyndet_bench.frontier.along import Measured, compare, compare_on_average
from dyndet_bench.frontier.record import DynamicPoint, FrontierRecord, Interval, Latency, StaticPoint
from dyndet_bench.measuring.machine import Circumstances

_SHARES = (0.0, 0.2, 0.5, 1.0)
_STATIC = ((9.0, 30.0), (12.0, 33.0), (15.0, 35.0))
"""ms and AP"""


def frontier_record(*, lead: float = 0.0, noise: float = 0.01, word: str = "static") -> FrontierRecord:
    """A dynamic detector that is `lead` AP above the line from 30 AP at 9 ms to 35 AP at 15 ms.

    `noise` is relative; `word` stands wherever a name comes from outside.
    """
    rng = np.random.default_rng(0)

    def measured(ms: float, ap: float) -> Measured:
        spread = 1 + noise * rng.normal(size=(2, 200))
        return Measured(ms=ms, ap=ap, ms_draws=ms * spread[0], ap_draws=ap * spread[1])

    dynamic = [measured(9.5 + 5 * share, 30.5 + 4.2 * share + lead) for share in _SHARES]
    static = [measured(*values) for values in _STATIC]
    return FrontierRecord(
        model="demo",
        architecture="dy-yolov7-pico",
        topology="fused",
        bundle_sha256="0" * 64,
        data=word,
        images=500,
        timed_images=100,
        rounds=3,
        draws=200,
        dynamic=tuple(
            DynamicPoint(
                threshold=1 - share,
                hard_share=share,
                latency_ms=_latency(one),
                ap=Interval.of(one.ap, one.ap_draws),
                random_ap=one.ap - 0.3,
                beside=compare(one, static),
            )
            for share, one in zip(_SHARES, dynamic, strict=True)
        ),
        static=tuple(
            StaticPoint(
                name=f"{word} {number}",
                architecture="yolov7-pico-s",
                gflops=number,
                checkpoint_sha256="0" * 64,
                latency_ms=_latency(one),
                ap=Interval.of(one.ap, one.ap_draws),
            )
            for number, one in enumerate(static, 1)
        ),
        on_average=compare_on_average(dynamic, static),
        circumstances=Circumstances(machine={"cpu": word}, versions={}, command="dyndet", date="2026-01-01"),
    )


def _latency(one: Measured) -> Latency:
    return Latency(mean=Interval.of(one.ms, one.ms_draws), p50=one.ms, p99=2 * one.ms)

"""What a server has counted of one detector: images by route, and where requests spent their time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dyndet_bench.measuring.own_metrics import OwnMetrics

STAGES = ("backbone1", "head1", "detector2")
STAGES_PARAMETER = "dyndet_stages"
"""parameter of a public model whose stage models have other names than NAME_STAGE: their names by stage, as JSON"""
_COUNTED_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RouteCounts:
    """Images that the server has counted since it started."""

    total: int
    hard: int
    answered: int = field(default=0, compare=False)
    """images that left the last stage of a route, head 1 or detector 2"""

    def since(self, before: RouteCounts) -> RouteCounts:
        """What was counted between `before` and this."""
        return RouteCounts(
            total=self.total - before.total, hard=self.hard - before.hard, answered=self.answered - before.answered
        )


@dataclass(frozen=True, kw_only=True)
class ServerTimes:
    """Total time of all requests since the server started, by its own statistics, milliseconds."""

    requests: int = 0
    """to the public model"""
    inside_ms: float = 0.0
    """from arrival to answer"""
    queue_ms: float = 0.0
    """waiting for an instance: of the public model, and of the stages for its calls"""
    compute_ms: float = 0.0
    """in the stages' graphs"""

    def since(self, before: ServerTimes) -> ServerTimes:
        """What was spent between `before` and this."""
        return ServerTimes(
            requests=self.requests - before.requests,
            inside_ms=self.inside_ms - before.inside_ms,
            queue_ms=self.queue_ms - before.queue_ms,
            compute_ms=self.compute_ms - before.compute_ms,
        )


def stage_models(config: Mapping[str, Any]) -> dict[str, str]:
    """The stage models of a detector by stage, by its configuration as Triton gives it in JSON."""
    named = config.get("parameters", {}).get(STAGES_PARAMETER, {}).get("string_value")
    given = json.loads(named) if named else {}
    return {stage: str(given.get(stage, f"{config.get('name')}_{stage}")) for stage in STAGES}


class ServerCounters:
    """The counters of one detector: Triton's per model or, for a detector without stage models, its own.

    Every method raises ServerError if the server does not answer, or if it does not count the model's requests.
    """

    def __init__(
        self,
        detector: str,
        statistics: Callable[[str], Sequence[Mapping[str, Any]]],
        own_metrics: OwnMetrics | None = None,
        *,
        stages: Mapping[str, str] | None = None,
    ) -> None:
        """`statistics` returns the entries of Triton's `model_stats` for a model.

        `stages` are the stage models by stage, by default NAME_STAGE. `own_metrics` are those of a detector without
        stage models, of the topology `fused`.
        """
        self._detector = detector
        self._statistics = statistics
        self._own_metrics = own_metrics
        self._stages = stages or {stage: f"{detector}_{stage}" for stage in STAGES}

    def counts(self) -> RouteCounts:
        """Images answered, and images that reached detector 2."""
        if self._own_metrics is not None:
            routed, probed = self._own_metrics.routed(images=self._taken)
            total = self._taken() - probed
            return RouteCounts(total=total, hard=int(routed["hard"]), answered=total)
        total = self._taken()
        easy, hard = (self._images(self._stages[stage]) for stage in ("head1", "detector2"))
        return RouteCounts(total=total, hard=hard, answered=easy + hard)

    def counts_after(self, before: RouteCounts, images: int) -> RouteCounts:
        """The counters, as soon as they have grown by `images`: a model answers a request before it counts it.

        Each model counts on its own, so the public model's count can be complete before that of the last stage. Waits
        at most a second, then returns the counters as they are.
        """
        deadline = time.monotonic() + _COUNTED_S
        while True:
            counts = self.counts()
            counted = counts.since(before)
            if min(counted.total, counted.answered) >= images or time.monotonic() >= deadline:
                return counts
            time.sleep(0.005)

    def times(self) -> ServerTimes:
        """Time spent in the public model and in the stages behind it."""
        public = self._times(self._detector)
        if self._own_metrics is not None:
            self._own_metrics.routed(images=self._taken)
            stage_seconds = self._own_metrics.read("dyndet_stage_seconds_total")
            return replace(public, compute_ms=1e3 * sum(stage_seconds.values()))
        stages = [self._times(self._stages[stage]) for stage in STAGES]
        return replace(
            public,
            queue_ms=public.queue_ms + sum(stage.queue_ms for stage in stages),
            compute_ms=sum(stage.compute_ms for stage in stages),
        )

    def _taken(self) -> int:
        """Images that the public model has taken, of failed requests too."""
        return self._images(self._detector)

    def _images(self, model: str) -> int:
        return sum(int(entry.get("inference_count", 0)) for entry in self._statistics(model))

    def _times(self, model: str) -> ServerTimes:
        statistics = [entry.get("inference_stats", {}) for entry in self._statistics(model)]

        def spent_ms(*names: str) -> float:
            return sum(int(entry.get(name, {}).get("ns", 0)) for entry in statistics for name in names) / 1e6

        return ServerTimes(
            requests=sum(int(entry.get("success", {}).get("count", 0)) for entry in statistics),
            inside_ms=spent_ms("success"),
            queue_ms=spent_ms("queue"),
            compute_ms=spent_ms("compute_input", "compute_infer", "compute_output"),
        )

"""What a server has counted of one detector: images by route, and where requests spent their time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dynamicdet.errors import ServerError
from dynamicdet.text import printable
from dyndet_bench.measuring.own_metrics import OwnMetrics

STAGES = ("backbone1", "head1", "detector2")
"""of a dynamic detector"""
PAIR_STAGES = ("detector1", "detector1_own", "detector2")
"""of a pair, which may lack the second"""
STAGES_PARAMETER = "dyndet_stages"
"""parameter of the public model of a pair, and of one whose stage models have other names than NAME_STAGE: their names
by stage, as JSON"""
KIND_PARAMETER, PAIR = "dyndet_kind", "pair"
"""parameter of a detector that is one graph, and its value for a pair; without stages, nothing else tells"""
_LATENCY, _WAITED, _SECONDS = "dyndet_latency_ms_sum", "dyndet_waited_ms_total", "dyndet_stage_seconds_total"
_COUNTED_S = 1.0
_LARGEST_COUNT = 1 << 64
_LONGEST_NAME, _LONGEST_REASON = 200, 300


@dataclass(frozen=True, kw_only=True)
class RouteCounts:
    """Images that the server has counted since it started."""

    total: int
    hard: int
    answered: int = field(default=0, compare=False)
    """images that left the last stage of a route, head 1 or detector 2; of a pair: all that left detector 1"""

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
    """waiting: in the queue of the public model, for an instance of it, and of the stages for its calls"""
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
    """The stage models of a detector by stage, by its configuration as Triton gives it in JSON.

    Raises ServerError if the configuration names others than printable ones.
    """
    model = config.get("name")
    try:
        named = config.get("parameters", {}).get(STAGES_PARAMETER, {}).get("string_value")
        given = json.loads(named) if named else {}
        of_pair = {stage: given[stage] for stage in PAIR_STAGES if stage in given} if PAIR_STAGES[0] in given else {}
        stages = of_pair or {stage: given.get(stage, f"{model}_{stage}") for stage in STAGES}
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise _not_as_expected(model, STAGES_PARAMETER, error) from error
    for name in stages.values():
        if not (isinstance(name, str) and name and name.isprintable() and len(name) <= _LONGEST_NAME):
            raise _not_as_expected(model, STAGES_PARAMETER, f"{name!r} is not the name of a model")
    return stages


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
        times_of: OwnMetrics | None = None,
    ) -> None:
        """`statistics` returns the entries of Triton's `model_stats` for a model.

        `stages` are the stage models by stage, by default NAME_STAGE. There is none for a detector that is one graph:
        then nobody counts routes, and `hard` is always 0 (see `Served.hard_images`). `own_metrics` are those of a
        detector without stage models, of the topology `fused`. `times_of` are those of a detector with stage models:
        where they cannot be read, the time in its own queue counts as outside the server.
        """
        self._detector = detector
        self._statistics = statistics
        self._own_metrics = own_metrics
        self._times_of = own_metrics or times_of
        self._stages = {stage: f"{detector}_{stage}" for stage in STAGES} if stages is None else dict(stages)

    def counts(self) -> RouteCounts:
        """Images answered, and images that reached detector 2."""
        if self._own_metrics is not None:
            routed, without_route = self._own_metrics.routed(images=self._taken)
            total = int(sum(routed.values())) + without_route  # not Triton's: an image more may have come since
            return RouteCounts(total=total, hard=int(routed.get("hard", 0)), answered=total)
        if self._is_pair:
            return self._counts_of_pair()
        total = self._taken()
        if not self._stages:
            return RouteCounts(total=total, hard=0, answered=total)
        easy, hard = (self._images(self._stages[stage]) for stage in ("head1", "detector2"))
        return RouteCounts(total=total, hard=hard, answered=easy + hard)

    @property
    def _is_pair(self) -> bool:
        return self._own_metrics is None and PAIR_STAGES[0] in self._stages

    def _counts_of_pair(self) -> RouteCounts:
        """All images pass detector 1. The public model takes a hard one twice, if its detectors fit it by two rules."""
        total, twice = self._taken(), "detector1_own" in self._stages
        first = sum(self._images(name) for stage, name in self._stages.items() if stage != "detector2")
        hard = self._images(self._stages["detector2"])
        return RouteCounts(total=first if twice else total, hard=hard, answered=first)

    def counts_after(self, before: RouteCounts, images: int) -> RouteCounts:
        """The counters, as soon as they have grown by `images`: a model answers a request before it counts it.

        Each model counts on its own, so the public model's count can be complete before that of the last stage. Waits
        at most a second, then returns the counters as they are.
        """
        deadline, last = time.monotonic() + _COUNTED_S, before
        while True:
            counts = self.counts()
            counted = counts.since(before)
            # Nothing tells how many images of a pair are still to be counted at detector 2, except that none comes.
            settled = not self._is_pair or counts == last
            if (settled and min(counted.total, counted.answered) >= images) or time.monotonic() >= deadline:
                return counts
            last = counts
            time.sleep(0.005)

    def times(self) -> ServerTimes:
        """Time spent in the public model and in the stages behind it."""
        public = self._times(self._detector)
        own = self._own_times()
        if own is not None:  # Triton's time ends where the detector's own queue begins
            public = replace(
                public,
                inside_ms=public.queue_ms + sum(own[_LATENCY].values()),
                queue_ms=public.queue_ms + sum(own[_WAITED].values()),
            )
        if self._own_metrics is not None and own is not None:
            return replace(public, compute_ms=1e3 * sum(own[_SECONDS].values()))
        if not self._stages:
            return public
        stages = [self._times(name) for name in self._stages.values()]
        return replace(
            public,
            queue_ms=public.queue_ms + sum(stage.queue_ms for stage in stages),
            compute_ms=sum(stage.compute_ms for stage in stages),
        )

    def _own_times(self) -> Mapping[str, Mapping[str, float]] | None:
        """The detector's own times once all its requests are counted; None for one that can do without."""
        if self._times_of is None:
            return None
        try:
            self._times_of.routed(images=self._taken)
            return self._times_of.read_several(_LATENCY, _WAITED, _SECONDS)
        except ServerError:
            if self._own_metrics is not None:
                raise
            return None

    def _taken(self) -> int:
        """Images that the public model has taken, of failed requests too."""
        return self._images(self._detector)

    def _images(self, model: str) -> int:
        return sum(_count(model, entry, "inference_count") for entry in self._statistics(model))

    def _times(self, model: str) -> ServerTimes:
        statistics = [_part(model, entry, "inference_stats") for entry in self._statistics(model)]

        def spent_ms(*names: str) -> float:
            return sum(_count(model, _part(model, one, name), "ns") for one in statistics for name in names) / 1e6

        return ServerTimes(
            requests=sum(_count(model, _part(model, one, "success"), "count") for one in statistics),
            inside_ms=spent_ms("success"),
            queue_ms=spent_ms("queue"),
            compute_ms=spent_ms("compute_input", "compute_infer", "compute_output"),
        )


def _part(model: str, entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a server's statistics; absent means that nothing was counted."""
    part = entry.get(name, {}) if isinstance(entry, Mapping) else None
    if not isinstance(part, Mapping):
        raise _not_as_expected(model, name, "it is not an object")
    return part


def _count(model: str, entry: Mapping[str, Any], name: str) -> int:
    """A count in a server's statistics; gRPC's JSON has large ones as texts. Absent means 0."""
    value = entry.get(name, 0) if isinstance(entry, Mapping) else None
    is_text = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if not (is_text or is_count) or not 0 <= int(value) < _LARGEST_COUNT:
        raise _not_as_expected(model, name, f"{value!r} is not a count")
    return int(value)


def _not_as_expected(model: object, name: str, reason: object) -> ServerError:
    said = printable(reason, limit=_LONGEST_REASON)
    named = printable(model, limit=_LONGEST_NAME)
    return ServerError(f"the server's {name} of model {named!r} is not as expected: {said}")

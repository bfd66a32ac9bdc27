"""A measured threshold, and how far it is from a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dynamicdet.errors import ServerError
from dyndet_bench.measuring.measure import Run, hard_share
from dyndet_bench.measuring.statistic import Statistic, bootstrap_interval, pooled
from dyndet_builder.targets import Target


@dataclass(frozen=True, kw_only=True)
class TrialRound:
    """Three runs, measured in the same minutes."""

    easy: Run
    hard: Run
    mixed: Run


@dataclass(frozen=True)
class Trial:
    """A threshold measured on held-out images, together with all-easy and all-hard runs of the same minutes."""

    threshold: float
    target: Target
    rounds: Sequence[TrialRound] = field(repr=False)

    @property
    def easy(self) -> list[Run]:
        """Runs of the easy route."""
        return [measured.easy for measured in self.rounds]

    @property
    def hard(self) -> list[Run]:
        """Runs of the hard route."""
        return [measured.hard for measured in self.rounds]

    @property
    def mixed(self) -> list[Run]:
        """Runs at the threshold."""
        return [measured.mixed for measured in self.rounds]

    @property
    def goal(self) -> float:
        """The value to reach, given both routes in this trial."""
        return self.target.resolve(self.target.statistic.of(self.easy), self.target.statistic.of(self.hard))

    @cached_property
    def error(self) -> float:
        """Relative difference between the value measured and the goal; see `_error`."""
        return self._error(self.rounds)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `error`."""
        redrawn = _redrawn if self.target.statistic.level is not None else None
        return bootstrap_interval(self._error, self.rounds, redrawn)

    @property
    def half_width(self) -> float:
        """Half of the width of the interval."""
        return (self.interval[1] - self.interval[0]) / 2

    @property
    def reached(self) -> float:
        """The value at the threshold, for the speed of both routes in this trial."""
        return self.goal * (1 + self.error)

    def value(self, statistic: Statistic) -> float:
        """Any statistic at the threshold, as measured."""
        return statistic.of(self.mixed)

    @property
    def easy_share(self) -> float:
        """Share of images that the server counted as answered without detector 2. Raises ServerError if it has none."""
        share = hard_share(self.mixed)
        if share is None:
            raise ServerError(f"the server counted no image at threshold {self.threshold}, though it answered")
        return 1 - share

    @property
    def above_mixture(self) -> float:
        """The value divided by the mixture's prediction at the counted share: 1 if no request queues."""
        (predicted,) = self.target.statistic.predicted(self.easy, self.hard, (self.easy_share,))
        return self.value(self.target.statistic) / float(predicted)

    def goodput(self) -> float | None:
        """Share of requests within the target, of those whose latency is known; None for a throughput."""
        runs = [run for run in self.mixed if run.latencies_ms is not None]
        if self.target.statistic.unit != "ms" or not runs:
            return None
        return float(np.mean(pooled(runs) <= self.goal))

    def _error(self, rounds: Sequence[TrialRound]) -> float:
        """For a mean and a throughput: the median over rounds, each compared with the routes of the same round.

        A machine that gets slower then does not look like an error if the target is a share of the range. A percentile
        needs the requests of all rounds together.
        """
        statistic, target = self.target.statistic, self.target
        if statistic.level is not None:
            trial = replace(self, rounds=rounds)
            return statistic.of(trial.mixed) / trial.goal - 1
        ratios = []
        for measured in rounds:
            easy, hard, mixed = (statistic.of([run]) for run in (measured.easy, measured.hard, measured.mixed))
            ratios.append(mixed / target.resolve(easy, hard))
        return float(np.median(ratios)) - 1


def _redrawn(measured: TrialRound, rng: np.random.Generator) -> TrialRound:
    easy, hard, mixed = (_redrawn_run(run, rng) for run in (measured.easy, measured.hard, measured.mixed))
    return TrialRound(easy=easy, hard=hard, mixed=mixed)


def _redrawn_run(run: Run, rng: np.random.Generator) -> Run:
    latencies = run.latencies_ms
    assert latencies is not None
    return replace(run, latencies_ms=rng.choice(latencies, latencies.size))

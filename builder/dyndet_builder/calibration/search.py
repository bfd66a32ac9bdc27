"""Searches the thresholds that meet some targets: a guess from the two routes, then corrections by measurement."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dynamicdet.aliases import FloatArray, Progress
from dynamicdet.errors import TargetOutOfReachError, TooNoisyError
from dynamicdet.thresholds import threshold_for_easy_share
from dyndet_bench.measuring.measure import Run
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.calibration.route_model import corrected_easy_share, first_easy_share
from dyndet_builder.calibration.trial import Trial, TrialRound
from dyndet_builder.targets import Target

_RECENT = 5
"""rounds of both routes that a correction rests on: earlier the machine may have had another speed"""


@dataclass
class _Search:
    """Where the search for one target stands. Easy shares are those of the calibration images."""

    target: Target
    tolerance: float
    share: float
    threshold: float
    candidate: bool = False
    """whether a trial met the target"""
    verified: Trial | None = None
    corrections: int = 0
    too_slow: float = 0.0
    """largest counted easy share that was too slow"""
    too_fast: float = 1.0
    """smallest counted easy share that was faster than it had to be"""
    last_side: int = 0
    missed: set[float] = field(default_factory=set)
    """thresholds that miss the target by more than noise"""


@dataclass
class ThresholdSearch:
    """Finds and verifies a threshold for each target; all are measured in the same rounds.

    A correction moves the share of easy images by what the server's counters say about the held-out ones, and by how
    far the measured figure lies from the mixture of both routes. Trials on either side of the target bracket it.
    """

    rounds: Rounds
    targets: Sequence[Target]
    difficulties: FloatArray
    """of the calibration images"""
    effort: Effort
    tell: Progress
    corrections: int = 0
    warnings: list[str] = field(default_factory=list)
    """of targets that were met, on a machine too noisy to be sure of it"""
    started: float = field(default_factory=time.monotonic)
    _easy: list[Run] = field(default_factory=list)
    _hard: list[Run] = field(default_factory=list)
    _searches: list[_Search] = field(default_factory=list)
    _verifications: list[dict[float, Run]] = field(default_factory=list)
    """rounds of all verifications: a threshold that is verified again, because of noise, keeps what it had"""
    _seen: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """of each statistic: counted easy shares, and how far above the mixture the figure was there"""

    def find(self) -> list[Trial]:
        """The verified thresholds, in the order of the targets. Raises TargetOutOfReachError and TooNoisyError."""
        self._measure_range()
        searches = self._searches = [self._begin(target) for target in self.targets]
        while unverified := [search for search in searches if search.verified is None]:
            on_trial = [search for search in unverified if not search.candidate]
            if on_trial:
                self._try(on_trial)
            else:
                self._verify(unverified)
        return [search.verified for search in searches if search.verified is not None]

    def _measure_range(self) -> None:
        number = self.effort.range_rounds
        tell = self._teller("measure lat1 and lat2", number * 2)
        for _ in range(number):
            easy, hard = self.rounds.measure((ALL_EASY, ALL_HARD), tell, latencies_of=self._with_latencies())
            self._easy.append(easy)
            self._hard.append(hard)

    def _begin(self, target: Target) -> _Search:
        tolerance = self.effort.tolerance_of(target.statistic)
        share = first_easy_share(target, self._easy, self._hard, tolerance)
        return _Search(target, tolerance, share, threshold_for_easy_share(self.difficulties, share))

    def _try(self, searches: Sequence[_Search]) -> None:
        most = max(search.corrections for search in searches)
        step = "measure thresholds" if most == 0 else f"correct thresholds ({most})"
        rounds = self._measure(searches, self.effort.trial_rounds, step)
        for _ in range(self.effort.extra_trial_rounds):
            if not any(_undecided(trial, search.tolerance) for search, trial in _trials(searches, rounds)):
                break
            rounds += self._measure(searches, 1, f"{step}, noisy: again")
        for search, trial in _trials(searches, rounds):
            self._learn(trial)
            search.candidate = abs(trial.error) <= search.tolerance
            if not search.candidate:
                self._correct(search, trial)

    def _verify(self, searches: Sequence[_Search]) -> None:
        step = "verify on held-out images"
        rounds = self._verifications
        rounds += self._measure(searches, self.effort.verification_rounds, step, goodput=True)
        # One round alone says nothing about noise, and was asked for so.
        while self.effort.verification_rounds > 1:
            noisy = [search for search, trial in _trials(searches, rounds) if trial.half_width > search.tolerance]
            if not noisy or time.monotonic() - self.started > self.effort.time_budget_s:
                break
            rounds += self._measure(noisy, 1, f"{step}, noisy: again")
        for search, trial in _trials(searches, rounds):
            self._learn(trial)
            if abs(trial.error) > search.tolerance:
                search.candidate = False
                self._correct(search, trial)
                continue
            if self.effort.verification_rounds > 1 and trial.half_width > search.tolerance:
                self.warnings.append(self._too_noisy(search, trial))
            search.verified = trial

    def _correct(self, search: _Search, trial: Trial) -> None:
        """Choose the next threshold on trial. Raises TargetOutOfReachError and TooNoisyError."""
        if search.corrections == self.effort.max_corrections:
            if abs(trial.error) - trial.half_width <= search.tolerance:
                raise TooNoisyError(self._too_noisy(search, trial))
            raise TargetOutOfReachError(self._gave_up(search, trial))
        search.corrections += 1
        self.corrections = max(self.corrections, search.corrections)
        counted = trial.easy_share
        wanted = self._bracketed(search, trial, counted)
        share = min(max(search.share + wanted - counted, 0.0), 1.0)
        threshold = threshold_for_easy_share(self.difficulties, share)
        if abs(trial.error) > search.tolerance + trial.half_width:
            search.missed.add(trial.threshold)
        if threshold in search.missed:
            raise TargetOutOfReachError(self._stuck(search, trial))
        search.share, search.threshold = share, threshold

    def _bracketed(self, search: _Search, trial: Trial, counted: float) -> float:
        """The share of easy images to aim at: where the corrected mixture meets the target, inside the bracket."""
        slow = (trial.error > 0) == (search.target.statistic.unit == "ms")
        if slow:
            search.too_slow = max(search.too_slow, counted)
        else:
            search.too_fast = min(search.too_fast, counted)
        if search.too_slow >= search.too_fast:  # the machine changed its speed meanwhile
            search.too_slow, search.too_fast = (counted, 1.0) if slow else (0.0, counted)
        side = 1 if slow else -1
        stalls = search.last_side == side and search.corrections > 2
        search.last_side = side
        seen = self._seen.get(search.target.statistic.name, ())
        expected = corrected_easy_share(search.target, self._easy, self._hard, seen)
        if stalls and search.too_slow > 0 and search.too_fast < 1:
            expected = (search.too_slow + search.too_fast) / 2
        elif stalls:  # towards the side that no trial has reached yet
            expected = counted + 2 * (expected - counted)
        return min(max(expected, search.too_slow), search.too_fast)

    def _measure(
        self, searches: Sequence[_Search], number: int, step: str, *, goodput: bool = False
    ) -> list[dict[float, Run]]:
        """Rounds of both routes and of each search's threshold, the runs by threshold.

        Single latencies take long to fetch: for `goodput` alone they are fetched in the first round only.
        """
        thresholds = list(dict.fromkeys((ALL_EASY, ALL_HARD, *(search.threshold for search in searches))))
        tell = self._teller(step, number * len(thresholds))
        found = []
        for index in range(number):
            wanted = self._with_latencies(searches, goodput=goodput and index == 0)
            found.append(self.rounds.measure(thresholds, tell, latencies_of=wanted))
        for threshold in thresholds[2:]:
            self.rounds.workload.discard(threshold)
        rounds = [dict(zip(thresholds, runs, strict=True)) for runs in found]
        self._easy = [*self._easy, *(runs[ALL_EASY] for runs in rounds)][-_RECENT:]
        self._hard = [*self._hard, *(runs[ALL_HARD] for runs in rounds)][-_RECENT:]
        return rounds

    def _with_latencies(self, searches: Sequence[_Search] = (), *, goodput: bool = False) -> set[float]:
        """Thresholds whose single latencies are needed: for percentiles those of both routes and of the trial."""
        # Of all searches, also those not measured now: two targets may share a threshold.
        percentiles = {search.threshold for search in self._searches if search.target.statistic.level is not None}
        if any(target.statistic.level is not None for target in self.targets):
            percentiles |= {ALL_EASY, ALL_HARD}
        return percentiles | ({search.threshold for search in searches} if goodput else set())

    def _learn(self, trial: Trial) -> None:
        """Remember how far a figure lies from the mixture, unless that is noise: corrections would follow it."""
        if len(trial.rounds) > 1 and abs(trial.above_mixture - 1) <= trial.half_width:
            return
        self._seen.setdefault(trial.target.statistic.name, []).append((trial.easy_share, trial.above_mixture))

    def _teller(self, step: str, of: int) -> Callable[[], None]:
        """To be called after each run of a step."""
        done = itertools.count(1)
        self.tell(step, 0, of)
        return lambda: self.tell(step, next(done), of)

    def _stuck(self, search: _Search, trial: Trial) -> str:
        low, high = self._range(trial)
        ends = sorted((search.target.statistic.of(trial.easy), search.target.statistic.of(trial.hard)))
        if not ends[0] < trial.goal < ends[1]:
            images = "no image" if trial.threshold >= ALL_EASY else "every image"
            return (
                f"{search.target.text} is out of reach: with {images} on the hard route this server has "
                f"{_figure(trial, trial.reached)} instead of {_figure(trial, trial.goal)}; ask for {low} to {high}"
            )
        return (
            f"{search.target.text} lies between two thresholds: {trial.threshold:.6g} gives "
            f"{_figure(trial, trial.reached)}, and too few images differ in difficulty for a finer one; give more "
            f"images, or ask for another figure within {low} to {high}"
        )

    def _gave_up(self, search: _Search, trial: Trial) -> str:
        low, high = self._range(trial)
        return (
            f"{search.target.text} was not met: after {search.corrections} corrections it is "
            f"{_figure(trial, trial.reached)} instead of {_figure(trial, trial.goal)} ({trial.error:+.1%}, give or "
            f"take {trial.half_width:.1%}); the load is too uneven, or the machine changed its speed; ask for {low} to "
            f"{high}"
        )

    def _too_noisy(self, search: _Search, trial: Trial) -> str:
        low, high = trial.interval
        return (
            f"this machine is too noisy to say whether {search.target.text} is met: after {len(trial.rounds)} rounds "
            f"the error lies between {low:+.1%} and {high:+.1%} (95 %), and ±{search.tolerance:.1%} was asked for; "
            "quiet it, measure longer (--time-budget), or accept more (--tolerance)"
        )

    def _range(self, trial: Trial) -> list[str]:
        statistic = trial.target.statistic
        return [_figure(trial, end) for end in sorted((statistic.of(trial.easy), statistic.of(trial.hard)))]


def _figure(trial: Trial, value: float) -> str:
    unit = trial.target.statistic.unit
    return f"{value:.4g} ms" if unit == "ms" else f"{value:.4g}{unit}"


def _trials(searches: Sequence[_Search], rounds: Sequence[dict[float, Run]]) -> list[tuple[_Search, Trial]]:
    """What the rounds say about each search's threshold."""
    found = []
    for search in searches:
        own = [
            TrialRound(easy=runs[ALL_EASY], hard=runs[ALL_HARD], mixed=runs[search.threshold])
            for runs in rounds
            if search.threshold in runs
        ]
        found.append((search, Trial(search.threshold, search.target, own)))
    return found


def _undecided(trial: Trial, tolerance: float) -> bool:
    """Whether noise hides on which side of the tolerance the error lies. One round alone says nothing about noise."""
    if len(trial.rounds) < 2:
        return False
    return trial.half_width > tolerance or abs(abs(trial.error) - tolerance) < trial.half_width / 2

"""Searches for the thresholds that meet targets: a guess from the two routes, then corrections by measurement."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dynamicdet.aliases import FloatArray, Progress
from dynamicdet.errors import DyndetError, IllConditionedError, TargetOutOfReachError, TooNoisyError
from dynamicdet.thresholds import easy_shares, threshold_for_easy_share
from dyndet_bench.measuring.measure import Run
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD
from dyndet_builder.calibration import messages
from dyndet_builder.calibration.bracket import Bracket
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.calibration.route_model import RouteModel
from dyndet_builder.calibration.trial import Trial, TrialRound
from dyndet_builder.targets import Target


@dataclass
class _Search:
    """The state of the search for one target."""

    target: Target
    tolerance: float
    bracket: Bracket
    """of easy shares of the calibration images"""
    threshold: float
    """on trial"""
    candidate: bool = False
    """whether a trial met the target"""
    verified: Trial | None = None
    corrections: int = 0

    def is_certain_miss(self, trial: Trial) -> bool:
        """Whether a trial misses the target by more than noise."""
        return abs(trial.error) > self.tolerance + trial.half_width

    def hides_in_noise(self, trial: Trial) -> bool:
        """Whether noise hides on which side of the tolerance the error is. A single round does not show noise."""
        if len(trial.rounds) < 2:
            return False
        near = abs(abs(trial.error) - self.tolerance) < trial.half_width / 2
        return near or trial.half_width > self.tolerance


@dataclass
class ThresholdSearch:
    """Finds and verifies a threshold for each target; all are measured in the same rounds.

    A correction moves the share of easy images. It uses the share that the server counted among the held-out images,
    and the distance of the measured value from the mixture of both routes. Trials on either side of the target bracket
    it.
    """

    rounds: Rounds
    targets: Sequence[Target]
    difficulties: FloatArray
    """of the calibration images"""
    held_out: int
    """number of the other images, with which `rounds` measures"""
    effort: Effort
    tell: Progress
    warnings: list[str] = field(default_factory=list)
    """about targets that were met, but not for certain or not on other images"""
    started: float = field(default_factory=time.monotonic)
    _model: RouteModel = field(default_factory=RouteModel)
    _searches: list[_Search] = field(default_factory=list)
    _verifications: list[dict[float, Run]] = field(default_factory=list)
    """rounds of all verifications: a threshold that is verified again because of noise keeps its earlier rounds"""

    @property
    def corrections(self) -> int:
        """Of the target that needed most."""
        return max((search.corrections for search in self._searches), default=0)

    def find(self) -> list[Trial]:
        """The verified thresholds, in the order of the targets.

        Raises TargetOutOfReachError, IllConditionedError and TooNoisyError.
        """
        self._measure_range()
        self._searches = [self._begin(target) for target in self.targets]
        while unverified := [search for search in self._searches if search.verified is None]:
            on_trial = [search for search in unverified if not search.candidate]
            if on_trial:
                self._try(on_trial)
            else:
                self._verify(unverified)
        return [search.verified for search in self._searches if search.verified is not None]

    def _measure_range(self) -> None:
        number = self.effort.range_rounds
        tell = self._teller("measure lat1 and lat2", number * 2)
        for _ in range(number):
            easy, hard = self.rounds.measure((ALL_EASY, ALL_HARD), tell, latencies_of=self._with_latencies())
            self._model.add(easy, hard)

    def _begin(self, target: Target) -> _Search:
        """The search for one target, unless both routes show already that no threshold can keep it."""
        tolerance = self.effort.tolerance_of(target.statistic)
        self._model.check_reachable(target, tolerance)
        shares = easy_shares(self.difficulties)
        goal, ends = self._model.goal(target), self._model.ends(target)
        missed = [abs(end / goal - 1) > tolerance for end in ends]
        if not any(missed):
            self.warnings.append(messages.same_everywhere(target, ends, tolerance))
        if shares.tolist() == [0, 1] and all(missed):
            raise TargetOutOfReachError(messages.same_difficulty(target, goal, ends, self.difficulties))
        share = self._model.first_share(target, tolerance)
        if not self.effort.accept_ill_conditioned:
            self._check_conditioned(target, 1 - share, tolerance)
        bracket = Bracket(shares, share)
        return _Search(target, tolerance, bracket, self._threshold(bracket.share))

    def _check_conditioned(self, target: Target, hard_share: float, tolerance: float) -> bool:
        """Whether other images would meet a target. Raises IllConditionedError unless the effort accepts the answer."""
        valley = self._model.valley(target, hard_share, images=self.held_out, tolerance=tolerance)
        if valley is None:
            return True
        accepted = self.effort.accept_ill_conditioned
        message = messages.ill_conditioned(target, valley, self.held_out, accepted=accepted)
        if not accepted:
            raise IllConditionedError(message)
        self.warnings.append(message)
        return False

    def _not_sure(self, search: _Search, trial: Trial, *, met: bool = False) -> str:
        """Why it is not certain that a target is met; the interval counts about two standard errors."""
        target, tolerance = search.target, search.tolerance
        hard_share = 1 - trial.easy_share
        steep = self._model.valley(target, hard_share, images=self.held_out, tolerance=tolerance, errors=1.96)
        return messages.not_sure(trial, tolerance, steep=steep is not None, met=met)

    def _threshold(self, share: float) -> float:
        return threshold_for_easy_share(self.difficulties, share)

    def _try(self, searches: Sequence[_Search]) -> None:
        most = max(search.corrections for search in searches)
        step = "measure thresholds" if most == 0 else f"correct thresholds ({most})"
        rounds = self._measure(searches, self.effort.trial_rounds, step)
        for _ in range(self.effort.extra_trial_rounds):
            if not any(search.hides_in_noise(trial) for search, trial in _trials(searches, rounds)):
                break
            rounds += self._measure(searches, 1, f"{step}, noisy: again")
        for search, trial in _trials(searches, rounds):
            self._model.learn(trial)
            search.candidate = abs(trial.error) <= search.tolerance
            if not search.candidate:
                self._correct(search, trial)

    def _verify(self, searches: Sequence[_Search]) -> None:
        step = "verify on held-out images"
        rounds = self._verifications
        rounds += self._measure(searches, self.effort.verification_rounds, step, goodput=True)
        # A single round shows no noise; the caller chose that.
        while self.effort.verification_rounds > 1:
            noisy = [search for search, trial in _trials(searches, rounds) if trial.half_width > search.tolerance]
            if not noisy or time.monotonic() - self.started > self.effort.time_budget_s:
                break
            rounds += self._measure(noisy, 1, f"{step}, noisy: again")
        for search, trial in _trials(searches, rounds):
            self._model.learn(trial)
            if abs(trial.error) > search.tolerance:
                search.candidate = False
                self._correct(search, trial)
                continue
            well = self._check_conditioned(search.target, 1 - trial.easy_share, search.tolerance)
            if well and self.effort.verification_rounds > 1 and trial.half_width > search.tolerance:
                self.warnings.append(self._not_sure(search, trial, met=True))
            search.verified = trial

    def _correct(self, search: _Search, trial: Trial) -> None:
        """Choose the next threshold on trial. Raises TargetOutOfReachError, IllConditionedError and TooNoisyError."""
        if search.corrections == self.effort.max_corrections:
            raise self._failure(search, trial, messages.gave_up(trial, search.corrections))
        search.corrections += 1
        above = trial.error > 0
        share = search.bracket.next(
            too_slow=above if search.target.statistic.unit == "ms" else not above,
            certain=search.is_certain_miss(trial),
            # The model predicts the counted share, which differs from that of the calibration images by as much as now.
            expected=search.bracket.share + self._model.corrected_share(search.target) - trial.easy_share,
        )
        if share is None:
            raise self._failure(search, trial, messages.between_thresholds(trial, self.difficulties))
        search.threshold = self._threshold(share)

    def _failure(self, search: _Search, trial: Trial, if_certain: str) -> DyndetError:
        """Why no threshold is left after a trial. Noise is the cause only where nothing else explains the miss."""
        target, tolerance = search.target, search.tolerance
        valley = self._model.valley(target, 1 - trial.easy_share, images=self.held_out, tolerance=tolerance)
        if valley is not None:
            accepted = self.effort.accept_ill_conditioned
            return IllConditionedError(
                messages.ill_conditioned(target, valley, self.held_out, accepted=accepted, missed=True)
            )
        if search.is_certain_miss(trial):
            return TargetOutOfReachError(if_certain)
        between = search.bracket.between
        if (
            not messages.has_few_requests(trial)
            and between is not None
            and all(abs(self._model.expected_error(target, at)) > tolerance for at in between)
        ):
            return TargetOutOfReachError(messages.between_thresholds(trial, self.difficulties))
        return TooNoisyError(self._not_sure(search, trial))

    def _measure(
        self, searches: Sequence[_Search], number: int, step: str, *, goodput: bool = False
    ) -> list[dict[float, Run]]:
        """Rounds of both routes and of each search's threshold, the runs by threshold.

        Fetching single latencies takes long: if only `goodput` needs them, only the first round fetches them.
        """
        thresholds = list(dict.fromkeys((ALL_EASY, ALL_HARD, *(search.threshold for search in searches))))
        tell = self._teller(step, number * len(thresholds))
        rounds = []
        for index in range(number):
            latencies_of = self._with_latencies(searches, goodput=goodput and index == 0)
            runs = self.rounds.measure(thresholds, tell, latencies_of=latencies_of)
            rounds.append(dict(zip(thresholds, runs, strict=True)))
        for threshold in thresholds[2:]:
            self.rounds.workload.discard(threshold)
        for by_threshold in rounds:
            self._model.add(by_threshold[ALL_EASY], by_threshold[ALL_HARD])
        return rounds

    def _with_latencies(self, searches: Sequence[_Search] = (), *, goodput: bool = False) -> set[float]:
        """Thresholds whose single latencies are needed: for percentiles those of both routes and of the trial."""
        # Of all searches, also those not measured now: two targets may share a threshold.
        percentiles = {search.threshold for search in self._searches if search.target.statistic.level is not None}
        if any(target.statistic.level is not None for target in self.targets):
            percentiles |= {ALL_EASY, ALL_HARD}
        return percentiles | ({search.threshold for search in searches} if goodput else set())

    def _teller(self, step: str, of: int) -> Callable[[], None]:
        """A callback for after each run of a step."""
        done = itertools.count(1)
        self.tell(step, 0, of)
        return lambda: self.tell(step, next(done), of)


def _trials(searches: Sequence[_Search], rounds: Sequence[dict[float, Run]]) -> list[tuple[_Search, Trial]]:
    """What the rounds say about each search's threshold."""
    return [
        (search, Trial(search.threshold, search.target, _rounds_of(search.threshold, rounds))) for search in searches
    ]


def _rounds_of(threshold: float, rounds: Sequence[dict[float, Run]]) -> list[TrialRound]:
    return [
        TrialRound(easy=runs[ALL_EASY], hard=runs[ALL_HARD], mixed=runs[threshold])
        for runs in rounds
        if threshold in runs
    ]

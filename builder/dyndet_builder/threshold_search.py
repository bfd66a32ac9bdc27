"""Searches the threshold that meets a latency target: the paper's rule, then corrections by measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.thresholds import easy_share_for_target, threshold_for_easy_share
from dyndet_bench.measure import Run
from dyndet_bench.rounds import Rounds, standard_error
from dyndet_bench.served import ALL_EASY, ALL_HARD
from dyndet_builder.targets import Target

Progress = Callable[[str, int, int], None]
"""Told the step, how much of it is done, and of how much."""

FEWEST_IMAGES = 8

_RECENT = 5
"""rounds that corrections rest on; older ones may have been measured at another speed of the machine"""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How carefully to measure. A round is one run all-easy, one all-hard and one at the threshold on trial."""

    max_images: int = 200
    """drawn from the folder by the seed; half calibrate, half verify"""
    requests_per_run: int | None = None
    """none: each held-out image once"""
    range_rounds: int = 3
    trial_rounds: int = 2
    verification_rounds: int = 5
    extra_rounds: int = 3
    """added to a trial or verification while noise hides whether the target is met"""
    max_corrections: int = 4
    tolerance: float = 0.03
    """largest accepted relative difference between measured and target latency"""

    def __post_init__(self) -> None:
        for field in ("range_rounds", "trial_rounds", "verification_rounds"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.max_images < FEWEST_IMAGES:
            raise InputError(f"calibration needs at least {FEWEST_IMAGES} images, max_images is {self.max_images}")
        if self.requests_per_run is not None and self.requests_per_run < 1:
            raise InputError(f"requests_per_run must be at least 1, got {self.requests_per_run}")
        if not 0 < self.tolerance < 1:
            raise InputError(f"the tolerance must lie between 0 and 1, got {self.tolerance}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A threshold measured on held-out images, among all-easy and all-hard runs of the same minutes."""

    threshold: float
    target: Target
    easy: Sequence[Run]
    hard: Sequence[Run]
    mixed: Sequence[Run]

    @property
    def lat1_ms(self) -> float:
        """Mean latency all-easy."""
        return median_ms(self.easy)

    @property
    def lat2_ms(self) -> float:
        """Mean latency all-hard."""
        return median_ms(self.hard)

    @property
    def target_ms(self) -> float:
        """What the mean latency at the threshold should be, given lat1 and lat2 of this trial."""
        return self.target.resolve_ms(self.lat1_ms, self.lat2_ms)

    @property
    def error(self) -> float:
        """Relative difference between latency and target: the median over rounds.

        Each round is judged by its own lat1 and lat2, so that a machine that grows slower does not look like an error
        where the target is a share of the range.
        """
        return float(np.median(self._ratios())) - 1

    @property
    def latency_ms(self) -> float:
        """Mean latency at the threshold, at the speed the machine had when lat1 and lat2 were these."""
        return self.target_ms * (1 + self.error)

    @property
    def uncertainty(self) -> float:
        """Standard error of `error`, from how the rounds scatter."""
        return standard_error(self._ratios())

    @property
    def counted_easy_share(self) -> float:
        """Share of images that the server answered without detector 2."""
        total = sum(run.counts.total for run in self.mixed)
        return 1 - sum(run.counts.hard for run in self.mixed) / total

    @property
    def deviations(self) -> list[float]:
        """Of each round: how far the latency lies above the mixture of the two routes, as a share of their range."""
        found = []
        for easy, hard, mixed in self._rounds():
            span = hard.mean_ms - easy.mean_ms
            if span > 0:
                mixture = easy.mean_ms + (1 - mixed.counts.easy_share) * span
                found.append((mixed.mean_ms - mixture) / span)
        return found

    def _ratios(self) -> list[float]:
        return [
            mixed.mean_ms / self.target.resolve_ms(easy.mean_ms, hard.mean_ms) for easy, hard, mixed in self._rounds()
        ]

    def _rounds(self) -> list[tuple[Run, Run, Run]]:
        return list(zip(self.easy, self.hard, self.mixed, strict=True))


class ThresholdSearch:
    """The paper's threshold, then corrections of the easy share by what was measured.

    A correction has two parts. The server's counters say exactly by how much the share of easy images among the
    held-out ones differs from the share asked for. By how much latency differs from the mixture of the two routes is
    noisy, so it is estimated from the latest rounds, those of earlier trials too.
    """

    def __init__(
        self, rounds: Rounds, target: Target, difficulties: FloatArray, effort: Effort, tell: Progress
    ) -> None:
        self._rounds = rounds
        self._target = target
        self._difficulties = difficulties
        self._effort = effort
        self._tell = tell
        self._easy: list[Run] = []
        self._hard: list[Run] = []
        self._deviations: list[float] = []
        self.corrections = 0

    def find(self) -> Trial:
        """The verified threshold. Raises TargetOutOfReachError."""
        self._measure_range()
        share = self._mixture_share()
        while True:
            threshold = threshold_for_easy_share(self._difficulties, share)
            step = "measure the threshold" if self.corrections == 0 else f"correct it ({self.corrections})"
            trial = self._measure(threshold, self._effort.trial_rounds, step)
            if abs(trial.error) <= self._effort.tolerance:
                trial = self._measure(threshold, self._effort.verification_rounds, "verify on held-out images")
                if abs(trial.error) <= self._effort.tolerance:
                    return trial
            if self.corrections == self._effort.max_corrections:
                raise TargetOutOfReachError(self._gave_up(trial))
            self.corrections += 1
            share = self._corrected(share, trial)

    def _measure_range(self) -> None:
        number = self._effort.range_rounds
        tell = self._teller("measure lat1 and lat2", number * 2)
        self._easy, self._hard = self._rounds.measure((ALL_EASY, ALL_HARD), number, tell)

    def _mixture_share(self) -> float:
        """The paper's rule on lat1 and lat2 as they were measured latest."""
        lat1, lat2 = median_ms(self._easy), median_ms(self._hard)
        target_ms = self._target.resolve_ms(lat1, lat2)
        # A target this close to an end is met by the end itself.
        margin = self._effort.tolerance
        if lat1 < lat2 and lat1 * (1 - margin) <= target_ms <= lat2 * (1 + margin):
            target_ms = min(max(target_ms, lat1), lat2)
        return easy_share_for_target(lat1, lat2, target_ms)

    def _corrected(self, share: float, trial: Trial) -> float:
        deviation = float(np.median(self._deviations)) if self._deviations else 0.0
        wanted = self._mixture_share() + deviation
        corrected = min(max(share + wanted - trial.counted_easy_share, 0.0), 1.0)
        if threshold_for_easy_share(self._difficulties, corrected) != trial.threshold:
            return corrected
        if abs(trial.error) <= self._effort.tolerance + 2 * trial.uncertainty:
            return share  # noise may have hidden a hit; measure again
        if trial.threshold in (ALL_EASY, ALL_HARD):
            images = "no image" if trial.threshold == ALL_EASY else "every image"
            raise TargetOutOfReachError(
                f"{trial.target_ms:.4g} ms is out of reach: with {images} on the hard route this server takes "
                f"{trial.latency_ms:.4g} ms; ask for {trial.lat1_ms:.4g} to {trial.lat2_ms:.4g} ms"
            )
        raise TargetOutOfReachError(
            f"{trial.target_ms:.4g} ms lies between two thresholds: {trial.threshold:.6g} gives "
            f"{trial.latency_ms:.4g} ms, and too few images differ in difficulty for a finer one; give more images, or "
            f"ask for another latency within {trial.lat1_ms:.4g} to {trial.lat2_ms:.4g} ms"
        )

    def _gave_up(self, trial: Trial) -> str:
        return (
            f"after {self.corrections} corrections the latency is {trial.latency_ms:.4g} ms instead of "
            f"{trial.target_ms:.4g} ms ({trial.error:+.1%}, standard error {trial.uncertainty:.1%}); the machine is "
            f"too noisy or the load too uneven; its range is {trial.lat1_ms:.4g} to {trial.lat2_ms:.4g} ms"
        )

    def _measure(self, threshold: float, number: int, step: str) -> Trial:
        tell = self._teller(step, number * 3)
        trial = self._trial(threshold, self._rounds.measure((ALL_EASY, ALL_HARD, threshold), number, tell))
        for _ in range(self._effort.extra_rounds):
            if not _undecided(trial, self._effort.tolerance):
                break
            more = self._rounds.measure((ALL_EASY, ALL_HARD, threshold), 1, self._teller(f"{step} (noisy: again)", 3))
            both = [[*old, *new] for old, new in zip((trial.easy, trial.hard, trial.mixed), more, strict=True)]
            trial = self._trial(threshold, both)
        if threshold not in (ALL_EASY, ALL_HARD):
            self._rounds.workload.discard(threshold)
        self._easy = [*self._easy, *trial.easy][-_RECENT:]
        self._hard = [*self._hard, *trial.hard][-_RECENT:]
        self._deviations = [*self._deviations, *trial.deviations][-_RECENT:]
        return trial

    def _trial(self, threshold: float, runs: Sequence[Sequence[Run]]) -> Trial:
        easy, hard, mixed = runs
        return Trial(threshold=threshold, target=self._target, easy=easy, hard=hard, mixed=mixed)

    def _teller(self, step: str, of: int) -> Callable[[int], None]:
        self._tell(step, 0, of)
        return lambda done: self._tell(step, done, of)


def _undecided(trial: Trial, tolerance: float) -> bool:
    """Whether noise hides on which side of the tolerance the error lies. One round alone says nothing about noise."""
    if len(trial.mixed) < 2:
        return False
    return trial.uncertainty > tolerance / 2 or abs(abs(trial.error) - tolerance) < trial.uncertainty


def median_ms(runs: Sequence[Run]) -> float:
    """The median of the runs' means: a burst of other work on the machine spoils one run, not the result."""
    return float(np.median([run.mean_ms for run in runs]))

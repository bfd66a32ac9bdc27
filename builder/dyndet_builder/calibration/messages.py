"""Messages about a target that is not met or not sure: one sentence that names the cause and what to do about it."""

from __future__ import annotations

import math

import numpy as np

from dynamicdet.aliases import FloatArray
from dyndet_builder.calibration.route_model import Valley
from dyndet_builder.calibration.trial import Trial
from dyndet_builder.targets import Target

_FEW_BEYOND = 3
"""a percentile with fewer requests beyond it is the latency of one of the slowest (or fastest)"""


def same_difficulty(target: Target, goal: float, ends: tuple[float, float], difficulties: FloatArray) -> str:
    """A target between the ends, although a threshold can only choose between the ends; `ends` are easy and hard."""
    known = difficulties[~np.isnan(difficulties)]
    easy, hard = (_number(target, end) for end in ends)
    return (
        f"{target.text} ({_number(target, goal)}) is out of reach: all {difficulties.size} calibration images have the "
        f"same difficulty ({known[0]:.4g}), so a threshold sends all of them to detector 2 ({hard}) or none ({easy}); "
        "give images that differ, check the router, or ask for one of these values"
    )


def between_thresholds(trial: Trial, difficulties: FloatArray) -> str:
    """No threshold is left: the target is between two of them, or outside the range of both routes in this trial."""
    target, goal = trial.target, trial.goal
    easy, hard = target.statistic.of(trial.easy), target.statistic.of(trial.hard)
    low, high = _reachable(trial)
    if not min(easy, hard) < goal < max(easy, hard):
        images, end = ("no image", easy) if abs(goal - easy) < abs(goal - hard) else ("every image", hard)
        return (
            f"{target.text} is out of reach: with {images} on the hard route this server gives {_value(trial, end)} "
            f"instead of {_value(trial, goal)}; ask for {low} to {high}"
        )
    return (
        f"{target.text} is between two thresholds: {trial.threshold:.6g} gives {_value(trial, trial.reached)} instead "
        f"of {_value(trial, goal)}, and {_levels(difficulties)} leave no threshold in between; give more images, or "
        f"ask for another value within {low} to {high}"
    )


def ill_conditioned(
    target: Target, valley: Valley, images: int, *, accepted: bool = False, missed: bool = False
) -> str:
    """Other images would move a percentile too far; `images` are the held-out ones."""
    name, (low, high) = target.statistic.name, _outside(valley.values_ms)
    jumps = "jumps" if valley.images is None else "rises"
    shares = " and ".join(f"{share:.0%}" for share in valley.shares)
    more = "" if valley.images is None else f", or give {2 * valley.images} images (also --max-images)"
    start = "was not met, because it is ill-conditioned" if missed else "is ill-conditioned"
    way_out = "" if accepted else "; --accept-ill-conditioned accepts it"
    return (
        f"{target.text} {start}: {name} {jumps} from {low:g} to {high:g} ms between hard shares of {shares}, "
        f"and images other than the {images} held-out ones change the hard share by {100 * valley.deviation:.2g} "
        f"points; ask for a mean, for another percentile, or for a latency outside {low:g} to {high:g} ms{more}"
        f"{way_out}"
    )


def gave_up(trial: Trial, corrections: int) -> str:
    """The last of many corrections misses the target by more than noise."""
    low, high = _reachable(trial)
    return (
        f"{trial.target.text} was not met: after {corrections} corrections it is {_value(trial, trial.reached)} "
        f"instead of {_value(trial, trial.goal)} ({trial.error:+.1%}, give or take {trial.half_width:.1%}); the load "
        f"is too uneven, or the machine changed its speed; ask for {low} to {high}"
    )


def not_sure(trial: Trial, tolerance: float, *, steep: bool = False, met: bool = False) -> str:
    """It is not certain whether the target is met: for lack of rounds or requests, otherwise because of noise.

    `steep` says that a percentile changes so much with the images' hard share that this explains its interval. `met`
    says that the measurements meet the target, so that this is a warning.
    """
    text = trial.target.text
    is_met, whether = f"{text} is met, but this is not certain", f"to say whether {text} is met"
    accept = "or accept a larger error (--tolerance of `dyndet-build` and `dyndet calibrate`)"
    if len(trial.rounds) == 1:
        return (
            f"one round is too few {whether}: its error is {trial.error:+.1%}, the tolerance is "
            f"±{tolerance:.1%}, and a single round does not show how much of that is chance; measure 3 or more "
            "(--rounds), or accept a larger error (--tolerance)"
        )
    low, high = trial.interval
    error = f"after {len(trial.rounds)} rounds the error is between {low:+.1%} and {high:+.1%} (95 %)"
    if has_few_requests(trial):
        requests, beyond = _beyond(trial)
        needed = math.ceil(_FEW_BEYOND * requests / beyond)
        few = f"{requests} requests are"
        few = f"{is_met}, because {few} few" if met else f"{few} too few {whether}"
        return (
            f"{few}: {trial.target.statistic.name} needs at least {needed}, {error}, and the tolerance is "
            f"±{tolerance:.1%}; give more images, or --requests or --rounds of `dyndet calibrate`, {accept}"
        )
    if steep:
        unclear = f"{is_met} from these images" if met else f"these images are not enough {whether}"
        return (
            f"{unclear}: {trial.target.statistic.name} depends strongly on which of them are hard; {error}, and the "
            f"tolerance is ±{tolerance:.1%}; give more images, ask for a mean or another percentile, {accept}"
        )
    noisy = f"{is_met}, because this machine is noisy" if met else f"this machine is too noisy {whether}"
    return (
        f"{noisy}: {error}, and the tolerance is ±{tolerance:.1%}; stop other work on it, measure longer "
        "(--time-budget) or accept a larger error (--tolerance of `dyndet-build` and `dyndet calibrate`)"
    )


def _levels(difficulties: FloatArray) -> str:
    known = difficulties[~np.isnan(difficulties)]
    levels = np.unique(known).size
    without = difficulties.size - known.size
    different = "one difficulty" if levels == 1 else f"{levels} different difficulties"
    return f"{difficulties.size} images with {different}" + (f" ({without} have none: NaN)" if without else "")


def has_few_requests(trial: Trial) -> bool:
    """Whether a percentile is the latency of one of the slowest (or fastest) requests."""
    return _beyond(trial)[1] < _FEW_BEYOND


def same_everywhere(target: Target, ends: tuple[float, float], tolerance: float) -> str:
    """Every threshold meets a target, because the two routes are too close to each other."""
    easy, hard = (_number(target, end) for end in ends)
    return (
        f"every threshold meets {target.text}: all-easy ({easy}) and all-hard ({hard}) are both within "
        f"±{tolerance:.1%} of it"
    )


def _beyond(trial: Trial) -> tuple[int, float]:
    """Requests at the threshold, and how many of them are beyond the percentile; infinite for other statistics."""
    requests, level = sum(run.requests for run in trial.mixed), trial.target.statistic.level
    return requests, math.inf if level is None else requests * min(level, 1 - level)


def _outside(values_ms: tuple[float, float]) -> tuple[float, float]:
    """Rounded to three digits, away from each other, so that both are still outside a valley when typed."""
    low, high = values_ms
    unit_low, unit_high = (10.0 ** (math.floor(math.log10(value)) - 2) for value in values_ms)
    return math.floor(low / unit_low) * unit_low, math.ceil(high / unit_high) * unit_high


def _reachable(trial: Trial) -> list[str]:
    statistic = trial.target.statistic
    return [_value(trial, end) for end in sorted((statistic.of(trial.easy), statistic.of(trial.hard)))]


def _value(trial: Trial, value: float) -> str:
    return _number(trial.target, value)


def _number(target: Target, value: float) -> str:
    unit = target.statistic.unit
    return f"{value:.4g} ms" if unit == "ms" else f"{value:.4g}{unit}"

"""Messages of a search that does not meet a target: one sentence about its last trial, with the reachable range."""

from __future__ import annotations

from dyndet_builder.calibration.trial import Trial


def between_thresholds(trial: Trial) -> str:
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
        f"{target.text} is between two thresholds: {trial.threshold:.6g} gives {_value(trial, trial.reached)}, and "
        "too few images differ in difficulty for a finer one; give more images, or ask for another value within "
        f"{low} to {high}"
    )


def gave_up(trial: Trial, corrections: int) -> str:
    """The last of many corrections misses the target by more than noise."""
    low, high = _reachable(trial)
    return (
        f"{trial.target.text} was not met: after {corrections} corrections it is {_value(trial, trial.reached)} "
        f"instead of {_value(trial, trial.goal)} ({trial.error:+.1%}, give or take {trial.half_width:.1%}); the load "
        f"is too uneven, or the machine changed its speed; ask for {low} to {high}"
    )


def too_noisy(trial: Trial, tolerance: float) -> str:
    """Noise hides whether the target is met."""
    if len(trial.rounds) > 1:
        low, high = trial.interval
        error = f"after {len(trial.rounds)} rounds the error is between {low:+.1%} and {high:+.1%} (95 %)"
    else:
        error = f"the error of its only round is {trial.error:+.1%}"
    return (
        f"this machine is too noisy to say whether {trial.target.text} is met: {error}, and the tolerance is "
        f"±{tolerance:.1%}; stop other work on it, measure longer (--time-budget), or accept a larger error "
        "(--tolerance)"
    )


def _reachable(trial: Trial) -> list[str]:
    statistic = trial.target.statistic
    return [_value(trial, end) for end in sorted((statistic.of(trial.easy), statistic.of(trial.hard)))]


def _value(trial: Trial, value: float) -> str:
    unit = trial.target.statistic.unit
    return f"{value:.4g} ms" if unit == "ms" else f"{value:.4g}{unit}"

"""What became of a router's training."""

from __future__ import annotations

from dataclasses import dataclass

from dynamicdet.networks.router.form import RouterInputs
from dynamicdet.router.compare import Comparison
from dynamicdet.router.kept_gain import HARD_SHARES, KeptGain
from dynamicdet.router.paper import ObjectiveReport
from dynamicdet.router.recipe import Target

_SAME_DIFFICULTY = 1e-3
_CHANCE = sum(HARD_SHARES) / len(HARD_SHARES)
"""mean share of the gain that random routing keeps"""


@dataclass(frozen=True, kw_only=True)
class RouterReport:
    """Outcome of the router's training, on its own examples."""

    examples: int
    pictures: int
    """how many different ones the examples are of, clips counting as one"""
    target: Target
    inputs: RouterInputs
    quartiles: tuple[float, float, float]
    """of the difficulties"""
    range: float
    """largest difficulty minus the smallest"""
    correlation: float
    """rank correlation of difficulty and target"""
    loss_gain: float
    """mean of loss 1 - loss 2"""
    ap_gain: float | None
    """AP all hard minus AP all easy; None if no example has an object"""
    kept: KeptGain | None = None
    """of the target `ap`: share of the gain that is kept on pictures that the router has not seen (cross-validation);
    None if there are too few pictures to tell, or no gain"""
    learned_from: str = ""
    """of the target `ap`: the quantities whose sum is learned"""
    objective: ObjectiveReport | None = None
    """of the target `loss`"""
    comparisons: tuple[Comparison, ...] = ()
    """on other images, for each data set that was given"""

    def sentences(self) -> list[str]:
        """For a user."""
        lines = [f"{self.examples:,} examples, target {self.target}, inputs {self.inputs}"]
        if self.objective is not None:
            one = self.objective
            lines[0] += f"; objective {one.before:.5f} -> {one.after:.5f}, offset {one.offset:.5f}"
        if self.learned_from:
            lines[0] += f"; learned from {self.learned_from}"
        low, middle, high = self.quartiles
        lines.append(
            f"difficulty at 25, 50, 75 %: {low:.3f} {middle:.3f} {high:.3f}; rank correlation with the gain of "
            f"detector 2: {self.correlation:.2f}"
        )
        if self.kept is not None:
            kept = ", ".join(
                f"{100 * value:.0f} % (+- {100 * self.kept.error[share]:.0f}) at {share:.0%} hard images"
                for share, value in self.kept.at.items()
            )
            lines.append(f"share of the gain kept on images that the router has not seen: {kept}")
        return lines

    def shortcomings(self) -> list[str]:
        """Why the router is not usable, the most important reason first; empty if it is."""
        found = []
        if self.target == "loss" and not self.loss_gain > 0:
            found.append("there is no gap: the loss of detector 2 is on average not lower than that of detector 1")
        if self.target == "ap" and not (self.ap_gain or 0.0) > 0:
            found.append("there is no gap: detector 2 is not better than detector 1 on these images")
        if not self.range > _SAME_DIFFICULTY:
            found.append("all examples have nearly the same difficulty, so the router decides nothing")
        elif self.objective is not None and not self.objective.after < self.objective.chance:
            found.append(
                f"the router is not better than chance (objective {self.objective.after:.5f}, and "
                f"{self.objective.chance:.5f} if every image had the mean difficulty)"
            )
        elif self.kept is not None and not self.kept.mean > _CHANCE:
            found.append(
                f"the router is not better than chance: it keeps {self.kept.mean:.0%} of the gain on images that it "
                f"has not seen, and random routing {_CHANCE:.0%}"
            )
        return found

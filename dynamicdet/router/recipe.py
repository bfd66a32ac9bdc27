"""How a router is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from dynamicdet.errors import InputError
from dynamicdet.networks.router.form import ROUTER_INPUTS, RouterForm, RouterInputs
from dynamicdet.training.augment import Augmentation
from dynamicdet.training.loss_weights import LossWeights

Target = Literal["ap", "loss"]
TARGETS: tuple[Target, ...] = get_args(Target)
Objective = Literal["adaptive", "naive", "penalty"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True, kw_only=True)
class RouterRecipe:
    """How the router is trained. Raises InputError for what there is not, and for options that do not go together."""

    target: Target = "ap"
    """what it learns: `ap`, the change of AP if detector 2 answers an image; `loss`, one of the paper's objectives"""
    inputs: RouterInputs = "rich"
    """what it reads of the features; see `RouterForm`"""
    objective: Objective = "adaptive"
    """of the target `loss`"""
    penalty: float | None = None
    """D of the objective `penalty`, in units of the detection loss; the other objectives have none"""
    examples: int = 6000
    """images to learn from; if they are more than there are, each image has several augmented views"""
    epochs: int = 60
    """of the target `loss`"""
    batch: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1.0
    """keeps difficulties away from 0 and 1, where thresholds could not separate them"""
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(scale=(0.8, 1.1), on_object=0.0))

    def __post_init__(self) -> None:
        for what, value, known in (
            ("target", self.target, TARGETS),
            ("inputs", self.inputs, ROUTER_INPUTS),
            ("objective", self.objective, OBJECTIVES),
        ):
            if value not in known:
                raise InputError(f"unknown {what} {value!r}; choose one of {', '.join(known)}")
        if (self.penalty is not None) != (self.objective == "penalty"):
            raise InputError("the objective 'penalty' needs a penalty; the other objectives do not accept one")
        if self.target == "ap" and self.objective != "adaptive":
            raise InputError(f"the target 'ap' has no objective {self.objective!r}; it belongs to the target 'loss'")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"the learning rate must be a finite number above 0, got {self.learning_rate}")
        if self.penalty is not None and not math.isfinite(self.penalty):
            raise InputError(f"the penalty must be a finite number, got {self.penalty}")
        if self.examples < 1:
            raise InputError(f"the router needs at least one example, got {self.examples}")

    @property
    def form(self) -> RouterForm:
        """Of the router that this recipe trains."""
        return RouterForm(inputs=self.inputs, ranked=True)

    @property
    def words(self) -> str:
        """What it learns and reads, in few words."""
        learned = self.target if self.target == "ap" else f"{self.target}, {self.objective}"
        return f"{learned}, {self.inputs}"


PAPER = RouterRecipe(target="loss", inputs="mean", objective="adaptive")
"""the paper's objective that needs no tuning, and its inputs"""

"""How good the trained detectors are, in words, on a few images: enough to see whether a training was worth it."""

from __future__ import annotations

from dataclasses import dataclass

from dynamicdet.aliases import BoolArray, Progress, silent
from dynamicdet.datasets.dataset import CocoDataset, some_with_objects
from dynamicdet.evaluation.precision import Precision, average_precision
from dynamicdet.evaluation.static import run_static
from dynamicdet.networks.network import Network, RoutedNetwork, StaticDetector
from dynamicdet.routing.routes import run_routes

IMAGES = 100
_WORDS = ((1.0, "not usable"), (10.0, "weak"), (100.0, "usable"))
"""AP below which a word holds"""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Average precision of both detectors, or of a static one, on some images."""

    images: int
    detector1: Precision
    detector2: Precision | None
    """None: the detector is static"""
    masks: tuple[Precision, Precision] | None = None
    """of both detectors; None if the detectors or the images have none"""

    @property
    def word(self) -> str:
        """`not usable`, `weak` or `usable`, by the better detector."""
        best = self.detector1.ap if self.detector2 is None else max(self.detector1.ap, self.detector2.ap)
        return next(word for limit, word in _WORDS if best < limit or limit == _WORDS[-1][0])

    def sentence(self, *, started: bool) -> str:
        """For a user; `started` says that the first weights of the training were not random."""
        numbers = f"AP {self.detector1.ap:.1f}"
        if self.detector2 is not None:
            numbers += f" (detector 1) and {self.detector2.ap:.1f} (detector 2)"
        if self.masks is not None:
            numbers += f", of masks {self.masks[0].ap:.1f} and {self.masks[1].ap:.1f},"
        line = f"{numbers} on {self.images} of the training images: {self.word}"
        advice = {"usable": "; `dyndet evaluate` measures it on other images", "weak": f"; {_way_out(started)}"}
        return line + advice.get(self.word, "")

    def shortcoming(self, *, steps: int, started: bool) -> str:
        """Why the detectors are not usable after so many steps of training, and what to do; empty if they are."""
        if self.word != _WORDS[0][1]:
            return ""
        after = f"{steps:,} step{'' if steps == 1 else 's'}"
        who = "the detector finds" if self.detector2 is None else "the detectors find"
        return f"{who} next to nothing after {after}; {_way_out(started)}"


def _way_out(started: bool) -> str:
    return "give more --epochs" if started else "give more --epochs, or --start with trained weights"


def measure_quality(
    model: Network,
    data: CocoDataset,
    *,
    images: int = IMAGES,
    used: BoolArray | None = None,
    progress: Progress = silent,
) -> Quality:
    """Run the detectors on at most this many images that have objects, of those that are `used` (N,)."""
    chosen = some_with_objects(data, images, used=used)
    if isinstance(model, StaticDetector):
        found = run_static(model, chosen, progress=progress)
        return Quality(images=len(chosen), detector1=average_precision(found, chosen), detector2=None)
    if not isinstance(model, RoutedNetwork):
        raise TypeError(f"{type(model).__name__} is neither a static nor a dynamic detector")
    results = run_routes(model, chosen, progress=progress)
    masks = None
    if results.has_masks and chosen.has_masks:
        masks = (
            average_precision(results.easy, chosen, "masks"),
            average_precision(results.hard, chosen, "masks"),
        )
    return Quality(
        images=len(chosen),
        detector1=average_precision(results.easy, chosen),
        detector2=average_precision(results.hard, chosen),
        masks=masks,
    )

"""The influence of each picture on the average precision of a pair; see `dynamicdet.router.influence`."""

from __future__ import annotations

import numpy.typing as npt

from dynamicdet.aliases import FloatArray
from dynamicdet.router.influence import OPERATING_MIX, influence_of
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.truth import Truth, mixed_precision


def influence(truth: Truth, small: Answers, large: Answers, *, mix: npt.ArrayLike = OPERATING_MIX) -> FloatArray:
    """Change of AP (percent, mean over IoU .50 to .95 and classes) if the large detector answers a picture, (N,).

    `mix` (a number or (N,)) is the share of the time that the large detector answers each picture of the operating mix.
    Raises InputError if answers and truth are not of equally many pictures, or there are no objects.
    """
    return influence_of(mixed_precision(truth, small, large), mix=mix)

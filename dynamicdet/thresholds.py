"""Variable-speed inference: latency target -> easy share -> threshold, and back. Needs only numpy.

An image is hard if its difficulty exceeds the threshold. The ends do not depend on the difficulties: threshold 1 sends
every image to detector 1, threshold 0 sends every image to detector 2. An image with difficulty NaN is always hard.
Latencies are in milliseconds; any other unit works too if all values have the same.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.text import distinct


def easy_share_for_target(lat1: float, lat2: float, target: float) -> float:
    """Share of easy images that gives the mean latency `target` (paper: k = (lat2 - T) / (lat2 - lat1)).

    `lat1` and `lat2` are the mean latencies of an all-easy and an all-hard server. Targets equal to them give 1 and 0.
    Raises TargetOutOfReachError if the target is outside lat1..lat2 or detector 2 is not slower, and InputError unless
    all values are positive and finite.
    """
    for name, value in (("lat1", lat1), ("lat2", lat2), ("the target", target)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive, finite latency in milliseconds, got {value}")
    if lat2 <= lat1:
        easy, hard = distinct(lat1, lat2)
        raise TargetOutOfReachError(
            f"no threshold changes the latency here: all-hard ({hard} ms) is not slower than all-easy ({easy} ms); "
            "measure again on a quieter machine"
        )
    if not lat1 <= target <= lat2:
        side = "below this server's all-easy" if target < lat1 else "above this server's all-hard"
        asked, low, high = distinct(target, lat1, lat2)
        end = low if target < lat1 else high
        raise TargetOutOfReachError(f"{asked} ms is {side} latency ({end} ms); ask for {low} to {high} ms")
    return (lat2 - target) / (lat2 - lat1)


def mixture_latency(lat1: float, lat2: float, easy_share: float) -> float:
    """Mean latency if this share of the images is easy; between lat1 (all easy) and lat2 (all hard)."""
    return lat1 + (1.0 - _checked_share(easy_share)) * (lat2 - lat1)


def threshold_for_easy_share(difficulties: npt.ArrayLike, easy_share: float) -> float:
    """Threshold at which this share of the given images is easy: the share-quantile of their difficulties.

    Images of equal difficulty take the same route, so only some shares are possible. The nearest one is used; of two
    equally near shares, the larger one, which is faster. The threshold is halfway to the next difficulty, as far as
    possible from every image, and rounded to float32 because servers compare in float32. It is 0 if no image is to be
    easy, and 1 if every image is. Raises InputError if there are no images, for difficulties outside 0..1 (NaN is
    accepted), and for a share outside 0..1.
    """
    values = _checked(difficulties)
    share = _checked_share(easy_share)
    levels = np.unique(values[~np.isnan(values)])
    distances = np.abs(easy_shares(values) - share)  # [j]: where the j lowest levels are easy
    easy_levels = int(np.flatnonzero(distances <= distances.min() + 1e-12)[-1])
    if easy_levels == 0:
        return 0.0
    if easy_levels == levels.size:
        return 1.0
    below, above = float(levels[easy_levels - 1]), float(levels[easy_levels])
    halfway = (below + above) / 2
    rounded = float(np.float32(halfway))
    if 0.0 < rounded and below <= rounded < above:
        return rounded
    return below or halfway  # float32 cannot separate the two neighbours


def easy_shares(difficulties: npt.ArrayLike) -> FloatArray:
    """Every easy share of the given images that a threshold can give, ascending from 0.

    Raises InputError as `threshold_for_easy_share` does.
    """
    values = _checked(difficulties)
    _, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return np.concatenate([[0.0], np.cumsum(counts) / values.size])


def easy_share(difficulties: npt.ArrayLike, threshold: float) -> float:
    """Share of the given images that are easy at a threshold. Raises InputError as `threshold_for_easy_share` does."""
    return float(np.mean(~is_hard(difficulties, threshold)))


def is_hard(difficulties: npt.ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Which images need detector 2, in the order given."""
    values = _checked(difficulties)
    if not 0.0 <= threshold <= 1.0:  # also refuses NaN
        raise InputError(f"a threshold must be from 0 to 1, got {threshold}")
    if threshold == 0.0:
        return np.ones(values.shape, dtype=np.bool_)
    return ~(values <= threshold)  # NaN compares false and is hard


def _checked(difficulties: npt.ArrayLike) -> FloatArray:
    values: FloatArray = np.asarray(difficulties, dtype=np.float64).ravel()
    if values.size == 0:
        raise InputError("no difficulties were given; at least one image is needed")
    if np.any((values < 0) | (values > 1)):
        wrong = values[(values < 0) | (values > 1)][0]
        raise InputError(f"difficulties must be from 0 to 1 (NaN counts as hard), got {wrong}")
    return values


def _checked_share(share: float) -> float:
    if not 0.0 <= share <= 1.0:
        raise InputError(f"an easy share must be from 0 to 1, got {share}")
    return float(share)

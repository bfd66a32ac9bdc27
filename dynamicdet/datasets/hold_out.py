"""Divides a data set into pictures that train the detectors and pictures that are held out for the router.

Detectors find more in pictures that they were trained on than in others, and are surer. A router that learns from such
pictures takes new ones for harder than they are. So some pictures are held out. File names alone decide which ones:
the same data set is divided in the same way later, and pictures of a clip stay together.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict

import numpy as np

from dynamicdet.aliases import BoolArray
from dynamicdet.datasets.clips import clips_of
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import InputError

LEAST_HELD = 20
"""pictures; a router cannot learn from fewer"""


def held_out(data: CocoDataset, share: float) -> BoolArray:
    """Which pictures (N,) are held out: about this share of all, by clips where the file names tell clips.

    Raises InputError if the share is not from 0 to 0.5, or is so small that fewer than 20 pictures are held out.
    """
    if not 0 <= share <= 0.5:  # also refuses NaN
        raise InputError(f"the share of pictures to hold out must be from 0 to 0.5, got {share}")
    if share == 0:
        return np.zeros(len(data), np.bool_)
    wanted = round(share * len(data))
    if wanted < LEAST_HELD:
        raise InputError(
            f"{share:.0%} of {len(data)} pictures are {wanted}, too few for the router to learn from; hold out at "
            f"least {LEAST_HELD}, or none"
        )
    names = [str(image["file_name"]) for image in data.annotations["images"]]
    by_clip = _first_groups(clips_of(names), wanted)
    # A clip that is longer than the share would hold out too little, or far too much.
    return by_clip if by_clip.sum() >= wanted / 2 else _first_groups(names, wanted)


def fingerprint(data: CocoDataset) -> str:
    """SHA-256 that tells a data set from others: file names, sizes and boxes, in any order of the pictures."""
    boxes: dict[int, list[list[float]]] = defaultdict(list)
    for one in data.annotations["annotations"]:
        boxes[one["image_id"]].append(one["bbox"])
    rows = [
        json.dumps([one["file_name"], one["width"], one["height"], sorted(boxes[one["id"]])])
        for one in data.annotations["images"]
    ]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _first_groups(names: list[str], wanted: int) -> BoolArray:
    """Whole groups of pictures with the same name, in the order of the names' hashes, at most `wanted` pictures."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    chosen = np.zeros(len(names), np.bool_)
    for name in sorted(places, key=lambda one: hashlib.sha256(one.encode()).digest()):
        if chosen.sum() + len(places[name]) <= wanted:
            chosen[places[name]] = True
    return chosen

"""What is measured, and what is checked before the long work: the pictures, and how long each detector takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.aliases import Progress
from dynamicdet.errors import InputError
from dynamicdet.images import read_image
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.text import printable
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.classes import ClassPolicy
from dyndet_builder.pairing.loading import Common, Described
from dyndet_builder.pairing.payoff.promises import AccuracyTarget
from dyndet_builder.pairing.payoff.verdict import FEW_PICTURES
from dyndet_builder.pairing.running import Running
from dyndet_builder.pairing.timing import Latency, given_latencies, time_detectors
from dyndet_builder.pairing.truth import Truth
from dyndet_builder.targets import Target

TIMED_PICTURES = 25
_LEAST_PICTURES = 10
RESIZED = "resized in the graph"
"""name of the small detector that reads pictures fitted for the large one"""


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """How a pair is measured."""

    images: Path | None = None
    """folder of pictures; with `data`, that of the data set's pictures"""
    data: Path | None = None
    """COCO data set with labels; None: the large detector stands for labels"""
    trust_pictures: bool = False
    also: tuple[Path, ...] = ()
    """further detectors for comparison"""
    specs: tuple[Path | None, ...] = (None, None)
    """detector.yaml of small, large and the further ones; None: what the file itself tells"""
    classes: ClassPolicy = "same"
    stream: Path | None = None
    """folder of pictures without labels whose difficulties weigh the numbers"""
    latencies: Mapping[str, float] | None = None
    """milliseconds that were measured elsewhere, of every detector; None: they are measured here"""
    latency_targets: tuple[Target, ...] = ()
    accuracy_targets: tuple[AccuracyTarget, ...] = ()
    cache: Path | None = None
    """folder that stores answers; None: nothing is stored"""
    seed: int = 0


def pictures_of(options: PairOptions, common: Common, progress: Progress) -> tuple[Truth | None, tuple[Path, ...], str]:
    """The labels if there are any, the picture files, and where they come from."""
    if options.data is None and options.images is None:
        raise InputError("give the pictures: a folder with --images, or a labelled data set with --data")
    if options.stream is not None:
        pictures_in(options.stream)  # its faults show before the long work
    labels = None
    if options.data is not None:
        labels = Truth.read(
            options.data,
            class_names=common.names,
            images=options.images,
            trust_pictures=options.trust_pictures,
            progress=progress,
        )
        pictures, place = labels.paths, options.data
    else:
        assert options.images is not None
        pictures, place = tuple(pictures_in(options.images)), options.images
    if len(pictures) < _LEAST_PICTURES:
        raise InputError(
            f"{printable(place)} has too few pictures ({len(pictures)}); give at least {FEW_PICTURES}, better 500"
        )
    return labels, pictures, printable("/".join(place.resolve().parts[-2:]))


def latencies_of(
    detectors: Sequence[Described],
    ready: Sequence[Running],
    pictures: Sequence[Path],
    options: PairOptions,
    progress: Progress,
) -> dict[str, Latency]:
    """By the names of the detectors, and of the small one's graph that resizes. Raises InputError if they are swapped.

    They are measured before the pictures are run, because that takes longer and would be in vain.
    """
    if options.latencies is not None:
        words = {one.name: (one.role if one.role != "also" else one.name, one.name) for one in detectors}
        others = [one.name for one in detectors if one.role == "also"]
        if len(others) == 1:
            words[others[0]] = (others[0], "mid")
        found = given_latencies(options.latencies, words)
    else:
        names = [one.name for one in detectors] + [RESIZED] * (len(ready) - len(detectors))
        images = [read_image(path) for path in spread(pictures, TIMED_PICTURES)]
        found = time_detectors(
            {name: one.runner for name, one in zip(names, ready, strict=True)},
            {name: [one.fit(image).image for image in images] for name, one in zip(names, ready, strict=True)},
            progress=progress,
        )
    small, large = (found[one.name] for one in detectors[:2])
    if large.mean_ms < small.mean_ms:
        elsewhere = "; if they will run on another machine, give the latencies there with --latency small=...,large=..."
        raise InputError(
            f"{detectors[0].name} takes {small.mean_ms:.2f} ms and {detectors[1].name} only {large.mean_ms:.2f} ms: "
            f"the small detector comes first, so give them in the other order{'' if options.latencies else elsewhere}"
        )
    return found


def check_found(detectors: Sequence[Described], answers: Sequence[Answers], pictures: int) -> None:
    """Raise InputError for a detector that finds nothing in any picture."""
    for one, own in zip(detectors, answers, strict=False):
        if not any(len(scores) for scores in own.scores):
            raise InputError(
                f"{printable(one.file)} finds nothing in any of the {pictures} pictures; colour, scale or resizing are "
                "probably not those in its description; `dyndet inspect --probe --images DIR` compares the usual ones"
            )

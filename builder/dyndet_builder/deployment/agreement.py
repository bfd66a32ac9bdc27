"""Compares a new build of a detector with the running one, on the server that runs both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.aliases import Float32Array, Progress, UInt8Array, silent
from dynamicdet.errors import AgreementError, InputError
from dynamicdet.images import read_image
from dynamicdet.matching import overlaps
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.measuring.served import Served
from dyndet_builder.defaults import MIN_IOU, MIN_SCORE, PARTNER_SCORE
from dyndet_builder.repository.config import DETECTION_OUTPUTS
from dyndet_builder.server.probe import PARAMETER
from dyndet_builder.server.remote import Candidate

_OUTPUTS = (*DETECTION_OUTPUTS, "route")
_ROUTES = {1: "easy", 2: "hard", -3: "degraded"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What one build answers to an image: boxes (n, 4) in its pixels from `PARTNER_SCORE` on, best first."""

    route: str
    boxes: Float32Array
    scores: Float32Array
    names: tuple[str, ...]
    latency_ms: float
    """at this client, one request at a time"""

    @property
    def objects(self) -> int:
        """Boxes of at least `MIN_SCORE`."""
        return int((self.scores >= MIN_SCORE).sum())


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and the answers of both builds."""

    image: str
    old: Answer
    new: Answer

    @cached_property
    def same_boxes(self) -> bool:
        """Whether every box of one answer has a partner in the other; see `MIN_SCORE`."""
        return _covered(self.old, self.new) and _covered(self.new, self.old)

    @property
    def agrees(self) -> bool:
        """Whether route and boxes are the same."""
        return self.old.route == self.new.route and self.same_boxes


@dataclass(frozen=True, kw_only=True)
class Side:
    """All answers of one build."""

    hard: float
    """share of the images that did not take the easy route"""
    objects: int
    mean_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The answers of two builds to the same images."""

    pairs: tuple[Pair, ...]

    @property
    def share(self) -> float:
        """Share of the images on which both builds agree."""
        return sum(pair.agrees for pair in self.pairs) / len(self.pairs)

    @property
    def differing(self) -> tuple[Pair, ...]:
        """The pairs that do not agree."""
        return tuple(pair for pair in self.pairs if not pair.agrees)

    @property
    def sides(self) -> Mapping[str, Side]:
        """Both builds: old, new."""
        return {name: _side([getattr(pair, name) for pair in self.pairs]) for name in ("old", "new")}

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "images": len(self.pairs),
            "agreement": self.share,
            "same_route": sum(pair.old.route == pair.new.route for pair in self.pairs) / len(self.pairs),
            "same_boxes": sum(pair.same_boxes for pair in self.pairs) / len(self.pairs),
            **{name: asdict(side) for name, side in self.sides.items()},
            "differing": [
                {"image": pair.image, "routes": [pair.old.route, pair.new.route], "same_boxes": pair.same_boxes}
                for pair in self.differing
            ],
        }

    def require(self, share: float) -> None:
        """Raise AgreementError if the builds agree on a smaller share of the images."""
        if self.share < share:
            places = 1 if f"{self.share:.1%}" != f"{share:.1%}" else 6  # else both would look the same
            raise AgreementError(
                f"the new build agrees with the running one on {self.share:.{places}%} of {len(self.pairs)} images, "
                f"and {share:.{places}%} are required; the running build stays in use, and the new one is removed"
            )


def compare_builds(
    candidate: Candidate, images: Path, *, max_images: int = 200, progress: Progress = silent
) -> Agreement | None:
    """Ask the running build and the new one for the same images in turn; None if no build is running.

    Both use their default operating points. Raises InputError if the folder holds no images.
    """
    if max_images < 1:
        raise InputError(f"at least one image must be compared, not {max_images}")
    pictures = spread(pictures_in(images), max_images)
    if candidate.live is None:
        return None
    pairs = []
    with (
        Served(candidate.url, candidate.live, metrics_url=candidate.metrics_url) as old,
        Served(candidate.url, candidate.model, metrics_url=candidate.metrics_url) as new,
    ):
        for number, file in enumerate(pictures):
            progress("compare the builds", number, len(pictures))
            picture = read_image(file)
            sides = {"old": old, "new": new}
            order = sorted(sides, reverse=bool(number % 2))  # neither build always comes first
            answers = {name: _answer(sides[name], picture) for name in order}
            pairs.append(Pair(image=file.name, **answers))
        progress("compare the builds", len(pictures), len(pictures))
    return Agreement(pairs=tuple(pairs))


def _answer(served: Served, picture: UInt8Array) -> Answer:
    boxed = served.detector.fit(picture)
    started = time.perf_counter()
    answer = served.infer(boxed.image, threshold=None, outputs=_OUTPUTS, parameters={PARAMETER: True})
    latency_ms = 1e3 * (time.perf_counter() - started)
    scores = answer["scores"].reshape(-1)[: int(answer["num_detections"].item())]
    rows = [row for row in (-scores).argsort(kind="stable") if scores[row] >= PARTNER_SCORE]
    return Answer(
        route=_ROUTES.get(int(answer["route"].item()), "fallback"),
        boxes=boxed.to_original(answer["boxes"].reshape(-1, 4)[rows]),
        scores=scores[rows],
        names=tuple(served.detector.class_names[int(number)] for number in answer["classes"].reshape(-1)[rows]),
        latency_ms=latency_ms,
    )


def _covered(one: Answer, other: Answer) -> bool:
    """Whether each object of `one` has a partner of its own in `other`; the best object chooses first."""
    free, names = np.ones(len(other.names), bool), np.array(other.names, np.object_)
    boxes = one.boxes[: one.objects]
    same = (boxes[:, None] == other.boxes).all(axis=-1)  # empty boxes in the same place, too
    shared = np.where(same, 1.0, overlaps(boxes, other.boxes))
    for row in range(one.objects):
        fits = np.where(free & (names == one.names[row]), shared[row], 0.0)
        if not len(fits) or fits.max() < MIN_IOU:
            return False
        free[fits.argmax()] = False
    return True


def _side(answers: list[Answer]) -> Side:
    latencies = [answer.latency_ms for answer in answers]
    return Side(
        hard=sum(answer.route != "easy" for answer in answers) / len(answers),
        objects=sum(answer.objects for answer in answers),
        mean_ms=float(np.mean(latencies)),
        p50_ms=float(np.percentile(latencies, 50)),
        p95_ms=float(np.percentile(latencies, 95)),
    )

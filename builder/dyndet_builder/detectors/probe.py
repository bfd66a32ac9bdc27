"""Runs pictures through the usual ways to prepare them, and says which of them a detector was made for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.errors import InputError
from dynamicdet.files import check_writable
from dynamicdet.images import read_image
from dynamicdet.letterbox import Fit, Letterboxed
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.suppression import Detections
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.defaults import PROBE_PICTURES
from dyndet_builder.detectors.graph import build_graph
from dyndet_builder.detectors.probing.pictures import Pictures, few, in_data, in_folder, labels_of
from dyndet_builder.detectors.probing.ranking import WORDS, Labels, Ranking, rank
from dyndet_builder.detectors.probing.sheet import write_sheet
from dyndet_builder.detectors.probing.variants import (
    FIELDS,
    OPTIONS,
    Field,
    Variant,
    by_graph,
    fits_of,
    variants_of,
)
from dyndet_builder.detectors.runner import DetectorRunner

FEW_PICTURES = 20
"""fewer seldom tell variants apart"""
_SHEET_PICTURES = 6
_BATCH = 8
_OTHER_SCORE = 0.4
"""least score at which an object of the other detector counts as a label"""
_NMS = Nms()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The result of a probe."""

    ranking: Ranking
    spec: DetectorSpec | None
    """of the detector with the winner's way; None if no variant is clearly the best"""
    sheet: Path | None
    known: str = ""
    """what is known without the probe beside what it found, one sentence; empty if it was run to fill gaps alone"""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the ranking says, and what the user is to decide."""
        return (*_sentences(self.ranking), *([self.known] if self.known else []))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        ranking = self.ranking
        return {
            "measure": ranking.measure,
            "pictures": ranking.pictures,
            "variants": [
                {
                    "colour": row.variant.colour,
                    "scale": row.variant.scale,
                    "resize": row.variant.rule,
                    "value": row.value,
                    "ap50": row.ap50,
                    "score_sum": row.score_sum,
                    "agreement": row.agreement,
                    "behind": row.behind,
                    "behind_range": row.behind_range,
                    "beaten": row.beaten,
                }
                for row in ranking.rows
            ],
            "clear": ranking.winner is not None,
            "open": list(ranking.open_fields) if ranking.finds_something else list(FIELDS),
            "spec": None if self.spec is None else self.spec.model_dump(mode="json"),
            "sheet": None if self.sheet is None else str(self.sheet),
            "sentences": list(self.sentences),
        }


def probe(
    file: Path,
    spec: DetectorSpec,
    *,
    images: Path | None = None,
    data: Path | None = None,
    other: tuple[Path, DetectorSpec] | None = None,
    vary: Collection[Field] = FIELDS,
    pictures: int = PROBE_PICTURES,
    sheet: Path | None = None,
    progress: Progress = silent,
) -> Probe:
    """Run a detector's file on a few pictures in every usual way to prepare them, and rank the ways.

    `spec` is right but for what `vary` names. Labelled pictures of `data` rank by average precision. Without them, the
    pictures of the folder `images` rank by agreement with the `other` detector (file and spec), else by the sum of the
    scores above 0.25. `sheet` becomes a PNG with pictures of `images`, else of `data`, as each variant answers them.

    Raises InputError if neither pictures nor labels are given, for files that cannot be used, and for a sheet that
    cannot be written.
    """
    if images is None and data is None:
        raise InputError("a probe needs pictures: a folder of them (--images), or better labelled ones (--data)")
    if pictures < 1:
        raise InputError(f"a probe needs at least one picture, not {pictures}")
    if sheet is not None:
        check_writable(sheet)
    chosen = _pictures(spec, images, data, pictures, progress)
    shown = _shown(chosen, images, data, sheet)
    paths = (*chosen.paths, *shown)
    variants = variants_of(spec, vary)
    fits = fits_of(spec, variants)
    if other is not None:
        fits["other"] = other[1].input.fit
    fitted = _fitted(paths, fits)
    count = len(chosen.paths)
    agreed = None if other is None else _agreed(other, fitted["other"], chosen)
    found = _all_found(file, spec, variants, fitted, chosen, progress)
    ranking = rank({one: these[:count] for one, these in found.items()}, labels=chosen.labels, other=agreed)
    if sheet is not None:
        ranked = {row.variant: found[row.variant][count:] for row in ranking.rows}
        write_sheet(sheet, shown, ranked, ranking=ranking, class_names=chosen.class_names)
    winner = ranking.winner
    return Probe(ranking=ranking, spec=None if winner is None else winner.applied_to(spec), sheet=sheet)


def _pictures(spec: DetectorSpec, images: Path | None, data: Path | None, count: int, progress: Progress) -> Pictures:
    if data is not None:
        return in_data(data, count, class_names=spec.class_names, progress=progress)
    assert images is not None
    return in_folder(images, count, class_names=spec.class_names)


def _shown(chosen: Pictures, images: Path | None, data: Path | None, sheet: Path | None) -> tuple[Path, ...]:
    """Pictures for the sheet; those of the user's folder, where labelled ones of a data set rank."""
    if sheet is None:
        return ()
    from_folder = images is not None and data is not None
    paths = pictures_in(images) if from_folder and images is not None else chosen.paths
    return tuple(spread(paths, _SHEET_PICTURES))


@dataclass(frozen=True)
class _Fitted:
    """Pictures by one rule."""

    images: UInt8Array
    """(N, H, W, 3)"""
    placements: tuple[Letterboxed, ...]


def _fitted(paths: Sequence[Path], fits: Mapping[str, Fit]) -> dict[str, _Fitted]:
    """Every picture by every rule; each is decoded once."""
    images = {name: np.empty((len(paths), *fit.shape), np.uint8) for name, fit in fits.items()}
    placements: dict[str, list[Letterboxed]] = {name: [] for name in fits}
    for row, path in enumerate(paths):
        picture = read_image(path)
        for name, fit in fits.items():
            images[name][row] = fit(picture).image
            placements[name].append(fit.place_of(picture.shape[1], picture.shape[0]))
    return {name: _Fitted(images[name], tuple(placements[name])) for name in fits}


def _all_found(
    file: Path,
    spec: DetectorSpec,
    variants: Sequence[Variant],
    fitted: Mapping[str, _Fitted],
    chosen: Pictures,
    progress: Progress,
) -> dict[Variant, list[Detections]]:
    found: dict[Variant, list[Detections]] = {}
    for group in by_graph(variants):
        runner = _runner(file, group[0].applied_to(spec), chosen.classes)
        for variant in group:
            progress("try variants", len(found), len(variants))
            found[variant] = _found(runner, fitted[variant.rule])
    progress("try variants", len(variants), len(variants))
    return found


def _agreed(other: tuple[Path, DetectorSpec], fitted: _Fitted, chosen: Pictures) -> Labels:
    """The other detector's objects as labels."""
    file, spec = other
    classes = [chosen.class_names.index(name) if name in chosen.class_names else -1 for name in spec.class_names]
    if max(classes) < 0:
        raise InputError(
            f"{printable(file)} has no class in common with these: {few(chosen.class_names)}; its own are "
            f"{few(spec.class_names)}"
        )
    found = _found(_runner(file, spec, classes), fitted)[: len(chosen.paths)]
    return labels_of(found, folder=file.parent, classes=len(chosen.class_names), least_score=_OTHER_SCORE)


def _runner(file: Path, spec: DetectorSpec, classes: Sequence[int]) -> DetectorRunner:
    return DetectorRunner(build_graph(file, spec, fit=spec.input.fit, nms=_NMS, classes=classes), file=file)


def _found(runner: DetectorRunner, fitted: _Fitted) -> list[Detections]:
    """What a graph finds in each picture, boxes in pixels of the original."""
    found = []
    for first in range(0, len(fitted.images), _BATCH):
        given = runner.run(fitted.images[first : first + _BATCH])
        places = fitted.placements[first : first + _BATCH]
        for place, count, boxes, scores, classes in zip(
            places, given["num_detections"][:, 0], given["boxes"], given["scores"], given["classes"], strict=True
        ):
            found.append(
                Detections(
                    boxes=torch.from_numpy(place.to_original(boxes[:count])),
                    scores=torch.from_numpy(scores[:count]),
                    classes=torch.from_numpy(classes[:count].astype(np.int64)),
                )
            )
    return found


def _sentences(ranking: Ranking) -> Iterator[str]:
    best, *others = ranking.rows
    unit = "" if ranking.measure == "scores" else " points"
    if not ranking.finds_something:
        yield (
            f"The detector finds nothing in {ranking.pictures} pictures in any of the {len(ranking.rows)} ways; other "
            "pictures may show more, or its outputs mean something else than its description says"
        )
        return
    if ranking.winner is not None and others:
        second = others[0]
        yield (
            f"Proposed: {best.variant.text}, with {best.value:.1f} {WORDS[ranking.measure]}. The next is "
            f"{second.behind:.1f}{unit} lower ({second.variant.text}), in {second.beaten:.0%} of the draws"
        )
    for field in ranking.open_fields:
        values = sorted({row.variant.value_of(field) for row in ranking.close})
        yield (
            f"These pictures cannot tell {' from '.join(values)}: say which it is with {OPTIONS[field]}, or give "
            f"{'other' if ranking.pictures >= FEW_PICTURES else 'more'} pictures"
        )
    if ranking.measure == "scores":
        yield (
            "Scores alone are weak evidence: a wrong way can make a detector sure of what is not there. Labelled "
            "pictures (--data) or another detector (--with) are better; look at the contact sheet, too"
        )

"""Evaluates a dynamic detector, wherever it runs: average precision at any threshold, and the quality of the router."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, read_dataset, read_files
from dynamicdet.errors import InputError
from dynamicdet.evaluation.evaluate import DEFAULT_HARD_SHARES, Evaluation, check_points, evaluate_results
from dynamicdet.files import check_writable
from dynamicdet.routing.cache import data_sha256, read_results, results_file, write_results
from dynamicdet.routing.routes import RouteResults, check_classes, check_contract
from dyndet_builder.evaluation.card import card_of, check_card, write_card
from dyndet_builder.evaluation.sources import Source, open_source

_PLOT_SUFFIXES = (".png", ".svg")


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """An evaluation and its source."""

    source: str
    """such as `checkpoint pico.safetensors`"""
    data: str
    evaluation: Evaluation
    from_cache: bool
    """whether the detections are those of an earlier run"""
    cache_file: Path | None
    """the file that stores the detections; None if they are not stored"""
    plot: Path | None
    card: Path | None
    notes: tuple[str, ...]
    """what is unusual in the detector or the data set, and how it was handled"""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "source": self.source,
            "data": self.data,
            "notes": list(self.notes),
            **self.evaluation.as_json(),
            "from_cache": self.from_cache,
            "cache_file": None if self.cache_file is None else str(self.cache_file),
            "plot": None if self.plot is None else str(self.plot),
            "card": None if self.card is None else str(self.card),
        }


def evaluate(
    source: Path | None = None,
    *,
    data: Path,
    images: Path | None = None,
    trust_pictures: bool = False,
    url: str | None = None,
    model: str = "dyndet",
    architecture: str | None = None,
    hard_shares: Sequence[float] = (),
    thresholds: Sequence[float] = (),
    random_draws: int = 10,
    seed: int = 0,
    cache: Path | None = None,
    plot: Path | None = None,
    card: Path | None = None,
    progress: Progress = silent,
) -> EvaluationReport:
    """COCO average precision of a checkpoint file, a bundle folder, or (`url`, `model`) a served detector.

    Of boxes; of masks as well, if the detector gives masks and the data set has segmentations.

    `data`, `images` and `trust_pictures` are those of `read_dataset`; of an export with splits, valid/ is used. Classes
    in another order than the detector's are matched by name. Without shares and thresholds, a few shares are used.
    Unless it is None, the folder `cache` stores the detections; the file name is a hash of the content of detector and
    data set. `plot` is a .png or .svg file for AP over hard share, `card` a file for a model card in Markdown. Raises
    InputError for bad input, before any image is run, ServerError, and MissingExtraError for a plot without matplotlib.
    """
    check_points(hard_shares, thresholds)
    draw = None if plot is None else _drawing(plot)
    if card is not None:
        check_card(card)
    detector = open_source(source, url=url, model=model, architecture=architecture)
    truth, notes = read_truth(detector, data, images=images, trust_pictures=trust_pictures, progress=progress)
    check_contract(f"the {detector.label}", detector.class_names, detector.fit, truth)
    file = None if cache is None else _file(cache, detector, truth)
    results = None if file is None else read_results(file, len(truth))
    from_cache = results is not None
    if results is None:
        results = detector.run(truth, progress)
        file = None if file is None else _kept(file, results)
    evaluation = evaluate_results(
        results,
        truth,
        hard_shares=hard_shares or (() if thresholds else DEFAULT_HARD_SHARES),
        thresholds=thresholds,
        random_draws=random_draws,
        seed=seed,
    )
    name = "/".join(data.resolve().parts[-2:])
    all_notes = (*detector.notes, *notes)
    if draw is not None:
        draw(evaluation, f"{name} ({len(truth)} images), {detector.label}")
    if card is not None:
        written = card_of(detector.name, detector.facts(truth), truth, evaluation, data=name, notes=all_notes)
        write_card(replace(written, plot=plot), card)
    return EvaluationReport(
        source=detector.label,
        data=name,
        evaluation=evaluation,
        from_cache=from_cache,
        cache_file=file,
        plot=plot,
        card=card,
        notes=all_notes,
    )


def read_truth(
    detector: Source,
    data: Path,
    *,
    images: Path | None = None,
    trust_pictures: bool = False,
    progress: Progress = silent,
) -> tuple[CocoDataset, tuple[str, ...]]:
    """The data set with its classes in the detector's order, and notes about it. Raises InputError if it has faults."""
    read = read_dataset(
        data,
        detector.fit,
        images=images,
        split="valid",
        trust_pictures=trust_pictures,
        masks=None if detector.has_masks else False,
        progress=progress,
    )
    ordered = in_class_order(read, detector.class_names)
    notes = read.summary.sentences()[1:]
    if ordered is not read:
        notes.append("the classes are in another order than the detector's; they were matched by name")
    if detector.has_masks and not ordered.has_masks:
        notes.append("not all objects have a segmentation, so the AP is that of the boxes alone, not of the masks")
    return ordered, tuple(notes)


def check_truth(
    detector: str,
    class_names: Sequence[str],
    data: Path,
    *,
    trust_pictures: bool = False,
    progress: Progress = silent,
) -> None:
    """Check a data set before long work that ends in an evaluation; only the headers of its pictures are read.

    Raises InputError if it has faults, or other classes than the `detector`.
    """
    found = read_files(data, split="valid", trust_pictures=trust_pictures, progress=progress)
    check_classes(detector, class_names, sorted(found.files.class_names), data)


def _drawing(plot: Path) -> Callable[[Evaluation, str], None]:
    """The function that will draw the plot. Every error about the plot is raised now."""
    if plot.suffix.lower() not in _PLOT_SUFFIXES:
        raise InputError(f"a plot is a {' or '.join(_PLOT_SUFFIXES)} file, not {plot}")
    check_writable(plot)
    drawing = importlib.import_module("dyndet_builder.evaluation.plot")
    return lambda evaluation, caption: drawing.draw(evaluation, plot, caption=caption)


def _file(cache: Path, detector: Source, data: CocoDataset) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"detections cannot be stored in {cache} ({error.strerror}); try --no-cache") from error
    return results_file(cache, {**detector.identity(), "data": data_sha256(data)})


def _kept(file: Path, results: RouteResults) -> Path | None:
    """The written file; None if it could not be written. The results are used in either case."""
    try:
        write_results(file, results)
    except InputError:
        return None
    return file

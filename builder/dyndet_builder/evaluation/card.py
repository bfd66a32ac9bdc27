"""A model card in Markdown: what was evaluated, on which data, with which results, and what its author has to add."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation.evaluate import CURVE_HARD_SHARES, Evaluation
from dynamicdet.evaluation.points import OperatingPoint, RoutePrecision
from dynamicdet.files import check_writable, whole_file
from dynamicdet.text import counted, markdown, printable

SHOWN_SHARES = (0.0, 0.1, 0.2, 0.5, 0.9, 1.0)
KEPT_AT = (0.2, 0.5)
"""hard shares whose kept gain is told in a sentence"""
_WIDTH = 120
_MOST_CLASSES = 40
"""whose names are listed"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is written from."""

    name: str
    """of the detector"""
    facts: Mapping[str, str]
    """about the detector, by what they are"""
    data: str
    """name of the data set"""
    images: int
    objects: int
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    """what is unusual in the detector or the data set, and how it was handled"""
    evaluation: Evaluation
    plot: Path | None
    """a picture of AP over the hard share"""


def card_of(
    name: str, facts: Mapping[str, str], truth: CocoDataset, evaluation: Evaluation, *, data: str, notes: Sequence[str]
) -> Card:
    """The card of an evaluation on a data set, without a plot."""
    return Card(
        name=name,
        facts=facts,
        data=data,
        images=len(truth),
        objects=sum(not one.get("iscrowd", 0) for one in truth.annotations["annotations"]),
        class_names=truth.class_names,
        notes=tuple(notes),
        evaluation=evaluation,
        plot=None,
    )


def check_card(path: Path) -> None:
    """Raise InputError if the file has not the name of a Markdown file, or if it cannot be written."""
    if path.suffix.lower() != ".md":
        raise InputError(f"a model card is a .md file, not {printable(path.name)}")
    check_writable(path)


def write_card(card: Card, path: Path) -> None:
    """Write the card, whole or not at all. Raises InputError if the file cannot be written."""
    with whole_file(path, durable=False) as temporary:
        temporary.write_text(card_markdown(card, beside=path.parent), encoding="utf-8")


def card_markdown(card: Card, *, beside: Path = Path()) -> str:
    """The card as Markdown; its picture is named as it is found from the folder `beside` which the card lies.

    What the author has to add stands in square brackets.
    """
    parts = [
        f"# Model card: {markdown(card.name)}",
        "[What the detector finds, in which images, and what it is not meant for.]",
        "## Detector",
        _table(("", ""), [(what, markdown(value)) for what, value in card.facts.items()], figures=0),
        "## Data",
        _data(card),
        "[Where the images come from, who labelled them, and whether images like these trained the detector.]",
        "## Accuracy",
        *_accuracy(card.evaluation),
        *_picture(card, beside),
        "### Difficulty",
        *_difficulty(card.evaluation),
        "## Training",
        "[Data, commands, and the time that they took.]",
        "## Licence",
        "- Weights: [licence]\n- Images that trained the detector: [licence, authors]\n"
        "- Images of this evaluation: [licence, authors]",
        f"<!-- Written by `dyndet evaluate --card` of dyndet {metadata.version('dyndet')}. -->",
    ]
    return "\n\n".join(_wrapped(part) for part in parts if part) + "\n"


def _data(card: Card) -> str:
    names = ", ".join(markdown(name) for name in card.class_names[:_MOST_CLASSES])
    if len(card.class_names) > _MOST_CLASSES:
        names += f" and {len(card.class_names) - _MOST_CLASSES} more"
    content = (
        counted(card.images, "image", "images"),
        counted(card.objects, "object", "objects"),
        counted(len(card.class_names), "class", "classes"),
    )
    sentence = "{} of {} with {} of {}: {}.".format(content[0], markdown(card.data), *content[1:], names)
    return "\n".join([_wrapped(sentence), *([""] if card.notes else []), *(f"- {markdown(one)}" for one in card.notes)])


def _accuracy(evaluation: Evaluation) -> list[str]:
    kinds: dict[str, RoutePrecision] = {"box": evaluation}
    if evaluation.masks is not None:
        kinds["mask"] = evaluation.masks
    words = "of boxes and of masks" if evaluation.masks is not None else "of boxes"
    heads = [head for kind in kinds for head in (f"{kind} AP", f"{kind} AP50")]
    rows = [
        ("all easy (detector 1)", *(text for one in kinds.values() for text in _both(one.easy.ap, one.easy.ap50))),
        ("all hard (detector 2)", *(text for one in kinds.values() for text in _both(one.hard.ap, one.hard.ap50))),
        ("gain", *(text for one in kinds.values() for text in _both(one.gap, one.hard.ap50 - one.easy.ap50))),
    ]
    parts = [f"COCO AP {words} in percent, by pycocotools.", _table(("route", *heads), rows)]
    for kind, precision in kinds.items():
        parts += [f"### Routing by difficulty: {kind} AP", _points(precision), _kept(precision)]
    parts.append(_references(evaluation))
    warnings = (*evaluation.shortcomings(), *evaluation.remarks())
    if warnings:
        parts.append("\n".join(f"- {markdown(one)}" for one in warnings))
    return parts


def _both(ap: float, ap50: float) -> tuple[str, str]:
    return f"{ap:.1f}", f"{ap50:.1f}"


def _points(precision: RoutePrecision) -> str:
    """The curve at a few shares; the share of a row is the real one."""
    points = [_at(precision, share) for share in SHOWN_SHARES]
    shown = [name for name, one in points[0].choices().items() if one is not None]
    rows = []
    for point in points:
        choices = point.choices()
        known = [(one, precision.recovered(one)) for name in shown if (one := choices[name]) is not None]
        rows.append(
            (
                f"{point.hard_share:.0%}",
                f"{point.threshold:.4f}",
                *(f"{one.ap:.1f}" for one, _ in known),
                *("-" if kept is None else f"{kept:.0%}" for _, kept in known),
            )
        )
    heads = (f"{what}, {name}" for what in ("AP", "kept") for name in shown)
    return _table(("images sent to detector 2", "threshold", *heads), rows)


def _at(precision: RoutePrecision, share: float) -> OperatingPoint:
    return precision.curve[CURVE_HARD_SHARES.index(share)]


def _kept(precision: RoutePrecision) -> str:
    points = [_at(precision, share) for share in KEPT_AT]
    if precision.recovered(precision.hard) is None:
        return "Detector 2 gains nothing, or too little to tell what a router keeps of it."
    told = []
    for name, words in (("router", "the router keeps"), ("random", "random routing"), ("oracle", "the oracle")):
        shares = [precision.recovered(point.choices()[name]) for point in points]
        known = [f"{share:.0%}" for share in shares if share is not None]
        if known:
            told.append(f"{words} {' and '.join(known)}")
    at = " and ".join(f"{point.hard_share:.0%}" for point in points)
    return f"Of the gain of {precision.gap:.1f} AP, at {at} hard images: {', '.join(told)}."


def _references(evaluation: Evaluation) -> str:
    draws = counted(evaluation.random_draws, "random order", "random orders")
    text = f"*Kept* is the share of the gain from all easy to all hard. *Random* is the mean of {draws} of the images."
    if all(point.oracle is not None for point in evaluation.curve):
        text += (
            " The *oracle* sends those images whose detection loss detector 2 lowers most. It can be above all hard, "
            "because detector 1 answers some images better."
        )
    return text


def _picture(card: Card, beside: Path) -> list[str]:
    if card.plot is None:
        return []
    place = Path(os.path.relpath(card.plot.resolve(), beside.resolve()))
    return [f"![AP over the share of images sent to detector 2](<{markdown(place.as_posix())}>)"]


def _difficulty(evaluation: Evaluation) -> list[str]:
    quantiles = evaluation.difficulty_quantiles
    heads = ("share of the images below", *(level.replace("%", " %") for level in quantiles))
    return [
        "An image goes to detector 2 if its difficulty, 0 to 1, is above the threshold.",
        _table(heads, [("difficulty", *(f"{value:.3f}" for value in quantiles.values()))]),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, figures: int = 1) -> str:
    """A table whose columns from number `figures` on are figures, if that is not 0."""
    rules = ["---:" if 0 < figures <= column else "---" for column in range(len(heads))]
    return "\n".join(_line(cells) for cells in (heads, rules, *rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _wrapped(part: str) -> str:
    """A paragraph in lines of readable width; other parts have their own lines."""
    if "\n" in part or part.startswith(("#", "|", "!", "<", "-")):
        return part
    return textwrap.fill(part, _WIDTH, break_long_words=False, break_on_hyphens=False)

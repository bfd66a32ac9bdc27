"""Names of classes: what is accepted, and COCO's 80, in the order that published checkpoints were trained in."""

from __future__ import annotations

from collections.abc import Sequence

from dynamicdet.errors import InputError
from dynamicdet.text import printable

MOST_CLASSES = 1000
LONGEST_NAME = 200

COCO = tuple(
    name.strip()
    for name in (
        "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
        "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
        "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
        "skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, "
        "sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, "
        "dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
        "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
    ).split(",")
)


def default_class_names(count: int) -> tuple[str, ...]:
    """COCO's names for 80 classes, else "class 0", "class 1", ..."""
    return COCO if count == len(COCO) else tuple(f"class {index}" for index in range(count))


def check_class_names(names: Sequence[object]) -> tuple[str, ...]:
    """The names of a detector's classes, in the order of their numbers.

    Checkpoints, data sets and bundles accept 1 to 1,000 different names, each of 1 to 200 printable characters. Raises
    InputError that says which name is wrong; callers put the file in front.
    """
    if not names:
        raise InputError("a detector needs at least one class, got 0")
    if len(names) > MOST_CLASSES:
        raise InputError(f"a detector has at most {MOST_CLASSES:,} classes, got {len(names):,}")
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"the name of class {number} is not a text")
        shown = f"'{printable(name, limit=50)}'"
        if not name or len(name) > LONGEST_NAME:
            raise InputError(
                f"the name of class {number} has {len(name):,} characters ({shown}); expected 1 to {LONGEST_NAME}"
            )
        if not name.isprintable():
            raise InputError(f"the name of class {number} has characters that cannot be printed: {shown}")
        if name in seen:
            raise InputError(f"classes {seen[name]} and {number} have the same name: {shown}")
        seen[name] = number
    return tuple(seen)

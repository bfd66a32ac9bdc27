"""The demo's contact sheet: pictures by difficulty alone, labels that cover no other, any names and any answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from dynamicdet.errors import ServerError
from dynamicdet.matching import Objects, match
from dyndet_builder.demo_pictures import LEVELS, Showing, Shown, Side, Total, Totals, choose
from dyndet_builder.demo_sheet import WIDTH, draw_sheet
from dyndet_client import Detections
from dyndet_client.drawing import Mark, draw_marks, label_font
from tests.support.hostility.words import PRINTABLE


def test_pictures_are_chosen_by_the_rank_of_their_difficulty_alone() -> None:
    rng = np.random.default_rng(0)
    difficulties = rng.random(101) ** 9  # nearly all are easy
    chosen = choose(np.append(difficulties, np.nan))
    order = np.argsort(difficulties).tolist()
    assert chosen == [(level, order[level]) for level in LEVELS]
    assert choose(np.array([0.7, np.nan, 0.2])) == [(8, 2), (58, 0)]
    with pytest.raises(ServerError, match="no picture a difficulty"):
        choose(np.array([np.nan, np.nan]))


def side(boxes: int, name: str, truth: Objects) -> Side:
    found = Detections(
        boxes=np.array([[4 * one, 5, 4 * one + 30, 40] for one in range(boxes)], np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.4, boxes, dtype=np.float32),
        classes=np.zeros(boxes, np.int32),
        names=(name,) * boxes,
        difficulty=0.5,
        route="easy",
        image_size=(60, 80),
    )
    return Side(detections=found, matches=match(truth, found), latency_ms=12.3)


@pytest.mark.parametrize("name", ["cat", PRINTABLE, "a\nb \x1b[31m", "w" * 200])
def test_any_answer_about_any_names_gives_a_sheet(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (60, 80), (90, 120, 60)).save(tmp_path / "a.png")
    shown = []
    for objects in (0, 1, 9):
        boxes = np.array([[4.0 * one, 5, 4 * one + 30, 40] for one in range(objects)]).reshape(-1, 4)
        truth = Objects(boxes=boxes, names=(name,) * objects, crowd=np.zeros(objects, np.bool_))
        sides = {"easy": side(objects // 2, name, truth), "hard": side(objects + 2, name, truth)}
        place = {"picture": tmp_path / "a.png", "truth": truth, "level": 8, "difficulty": 0.5, "is_hard": objects > 0}
        shown.append(Shown(**place, **sides))  # type: ignore[arg-type]
    some, most = Total(found=3, wrong=1), Total(found=3, wrong=2)  # more wrong boxes by route, which the sheet explains
    totals = Totals(pictures=1, objects=0, hard_share=0.5, easy=some, routed=most, hard=some)
    sheets = [draw_sheet(Showing(threshold=0.5, shown=tuple(shown[:count]), totals=totals)) for count in (1, 3)]
    assert {sheet.width for sheet in sheets} == {WIDTH} and sheets[0].height < sheets[1].height
    for sheet in sheets:  # nothing reaches the margin: the paper's colour is all around inside the edge
        inside = sheet.crop((4, 4, sheet.width - 4, sheet.height - 4))
        for strip in (inside.crop((0, 0, 12, inside.height)), inside.crop((inside.width - 12, 0, *inside.size))):
            assert len(strip.getcolors() or []) == 1


def test_no_label_covers_another() -> None:
    marks = [
        Mark(box=(20 + 2 * one, 40 + 2 * one, 120 + 2 * one, 100), colour=(9 * one, 90, 0), label=f"object {one}")
        for one in range(20)
    ]
    blank = Image.new("RGB", (220, 130), (255, 255, 255))
    alone = []
    for count in range(1, len(marks) + 1):
        picture = blank.copy()
        plain = [Mark(box=mark.box, colour=mark.colour) for mark in marks]
        draw_marks(picture, [*marks[:count], *plain[count:]], font=label_font(13), line=2, covers=False)
        alone.append(picture)
    # Each further label changes only places that were free of labels: the earlier ones stay as they were.
    changed = [ImageChops.difference(*pair).getbbox() for pair in pairwise(alone)]
    boxes = [box for box in changed if box is not None]
    assert 3 <= len(boxes) < len(changed)  # some labels have no place
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]

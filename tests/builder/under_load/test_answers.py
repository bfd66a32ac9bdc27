"""AP of answers: each is an image of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from dynamicdet.datasets.dataset import read_dataset
from dynamicdet.letterbox import Fit
from dyndet_bench.load.messages import Found
from dyndet_builder.under_load.answers import AnswerPrecision

SIZE = 64
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def precision(tmp_path_factory: pytest.TempPathFactory) -> AnswerPrecision:
    """Three pictures; the second has two objects, the third none. COCO's ids are not their places."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    for number in (7, 8, 9):
        Image.new("RGB", (SIZE, SIZE)).save(folder / "images" / f"{number}.png")
    boxes = [(7, 2, [0, 0, 30, 30]), (8, 1, [4, 4, 20, 20]), (8, 2, [30, 30, 30, 30])]
    content = {
        "images": [{"id": one, "file_name": f"{one}.png", "width": SIZE, "height": SIZE} for one in (7, 8, 9)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
            for number, (image, category, box) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    found = AnswerPrecision.read(folder, Fit.square(SIZE), class_names=NAMES)
    assert len(found.images) == len(read_dataset(folder, SIZE)) == 3
    return found


def _found(*boxes: tuple[float, float, float, float], label: int = 0, score: float = 0.9) -> Found:
    return Found(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), score, np.float32),
        classes=np.full(len(boxes), label, np.int64),
        difficulty=0.5,
        route=1,
    )


RIGHT, WRONG = _found((0, 0, 30, 30)), _found((40, 40, 60, 60), score=0.95)


def test_right_answers_give_everything_and_wrong_ones_nothing(precision: AnswerPrecision) -> None:
    assert precision([(0, RIGHT, 1)]) == pytest.approx(100)
    assert precision([(0, WRONG, 1)]) == 0 == precision([(0, None, 1)])
    assert np.isnan(precision([(2, WRONG, 1)]))


def test_an_answer_weighs_as_much_as_the_requests_that_got_it(precision: AnswerPrecision) -> None:
    """A count is the same as the answer that many times; half of the objects found gives half of the recall."""
    second = _found((30, 30, 60, 60))
    counted = precision([(0, RIGHT, 3), (0, WRONG, 1), (1, second, 2), (2, WRONG, 1)])
    repeated = precision([*[(0, RIGHT, 1)] * 3, (0, WRONG, 1), *[(1, second, 1)] * 2, (2, WRONG, 1)])
    assert counted == pytest.approx(repeated)
    assert 0 < counted < 100
    assert precision([(0, RIGHT, 1), (0, None, 1)]) == pytest.approx(50, abs=1)
    assert precision([(0, RIGHT, 9), (0, None, 1)]) == pytest.approx(90, abs=1)

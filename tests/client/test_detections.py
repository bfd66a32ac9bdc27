"""Detections as a value: picked from, compared, printed, shown in a notebook, and given to other libraries."""

from __future__ import annotations

import gc
import io
import math
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyndet_client import Detection, Detections, Detector, MissingExtraError, ServerError
from dyndet_client.results.operating_points import default_of, parse_operating_points

WIDTH, HEIGHT = 64, 48


def found(count: int = 3, *, difficulty: float = 0.2, name: str = "cat") -> Detections:
    return Detections(
        boxes=np.array([[row, 1, row + 10.26, 20] for row in range(count)], np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.1, count, dtype=np.float32),
        classes=np.arange(count, dtype=np.int32),
        names=tuple(f"{name}{row}" for row in range(count)),
        difficulty=difficulty,
        route="hard",
        image_size=(WIDTH, HEIGHT),
    )


def test_they_are_a_sequence_of_objects_and_a_mask_picks_some() -> None:
    three = found()
    assert [one.name for one in three] == ["cat0", "cat1", "cat2"] and three[0] in three
    assert three[-1] == three[np.int64(2)] and isinstance(three[-1], Detection)
    last = three[-1]
    assert (last.class_number, last.score, last.box) == (2, pytest.approx(0.1), (2, 1, pytest.approx(12.26), 20))
    for rows, names in (
        (slice(None, None, -1), ("cat2", "cat1", "cat0")),
        (three.scores > 0.3, ("cat0", "cat1")),
        ([True, False, True], ("cat0", "cat2")),
        ([2, 0], ("cat2", "cat0")),
        ([], ()),
    ):
        some = three[rows]
        assert isinstance(some, Detections) and some.names == names
        assert (some.route, some.difficulty, some.image_size) == ("hard", 0.2, (WIDTH, HEIGHT))
    wrong: tuple[Any, ...] = (3, -4, True, "a", [0.5], [True], np.ones((3, 3), bool), None)
    for rows in wrong:
        with pytest.raises(IndexError):
            three[rows]


def test_equal_ones_have_equal_fields_and_the_same_hash() -> None:
    assert found() == found() and len({found(), found(), found(2)}) == 2
    assert found(difficulty=math.nan) == found(difficulty=math.nan) != found()
    assert found() not in (found(2), found(name="dog"), found()[::-1], "detections", None)
    moved = found()
    moved.boxes[0, 0] += 1
    assert moved != found() and hash(moved) == hash(found())


def test_what_is_printed_is_short_rounded_and_without_control_characters() -> None:
    assert str(found(2)).splitlines() == [
        "hard route, difficulty 0.20, 2 objects in 64 x 48 pixels",
        "  cat0 0.90 at 0 1 10 20",
        "  cat1 0.10 at 1 1 11 20",
    ]
    assert repr(found(1)) == "<Detections: hard route, difficulty 0.20, 1 object in 64 x 48 pixels: cat0 0.90>"
    assert repr(found()[1]) == "Detection('cat1', 0.50, box=(1.0, 1.0, 11.3, 20.0), class_number=1)"
    assert str(found(100)).endswith("and 80 more") and repr(found(100)).endswith("and 95 more>")
    hostile = found(1, name="\x1b[31m\n")
    assert not re.search(r"\x1b|\n.*\n", f"{hostile}{hostile!r}")
    unused = Detector(["127.0.0.1:9", "[::1]:9"], model="street", token="SECRET", headers={"x": "SECRET"})
    assert repr(unused) == "<Detector 'street' at 127.0.0.1:9, [::1]:9, not connected>"
    unused.close()
    assert repr(unused).endswith("closed>")


def test_a_notebook_shows_the_picture_while_it_is_known_and_else_a_table(tmp_path: Path) -> None:
    table = found(name="<script>&").with_picture(b"a file")._repr_html_()
    assert table is not None and "<script" not in table and "&lt;script&gt;&amp;0" in table
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "file.png")
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for source in (str(tmp_path / "file.png"), tmp_path / "file.png", pixels, Image.fromarray(pixels)):
        known = found().with_picture(source)[:2]
        png = known._repr_png_()
        assert png is not None and known._repr_html_() is None
        assert Image.open(io.BytesIO(png)).width == WIDTH
        assert known == found()[:2] == pickle.loads(pickle.dumps(known))
    held = found().with_picture(pixels)
    del pixels, source, known
    gc.collect()
    assert held._repr_png_() is None and held._repr_html_()
    Image.new("RGB", (9, 9)).save(tmp_path / "file.png")
    other = found().with_picture(tmp_path / "file.png")
    assert other._repr_png_() is None and other._repr_html_()


def test_pandas_gets_a_table_and_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = found().to_pandas()
    assert frame.columns.tolist() == ["x1", "y1", "x2", "y2", "score", "class", "name"]
    assert frame["name"].tolist() == ["cat0", "cat1", "cat2"] and frame["x2"].dtype == np.float32
    assert frame.attrs["route"] == "hard" and len(found(0).to_pandas()) == 0
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"^pandas is not installed: pip install pandas$"):
        found().to_pandas()


_POINT = b'{"threshold": 0, "goal": 12, "reached": 11.5, "unit": "ms", "statistic": "p95"}'
GOOD = b'{"default": "a", "points": {"a": ' + _POINT + b"}}"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"default": "b", "points": {"a": {"threshold": 0}}}',
        b'{"default": "a", "points": {"a": {}}}',
        b'{"default": "a", "points": {"a": {"threshold": 2}}}',
        b'{"default": "a", "points": {"a": {"threshold": NaN}}}',
        b'{"default": "a", "points": {"a": {"threshold": 0, "goal": 1' + b"0" * 400 + b"}}}",
        b'{"default": "a", "points": {"a": {"threshold": 0, "percentiles_ms": [1]}}}',
        b'{"default": "\\u001b", "points": {"\\u001b": {"threshold": 0}}}',
        GOOD.replace(b'"ms"', b'"' + b"m" * 300 + b'"'),
        GOOD.replace(b'"goal"', b'"promise_ms": "70", "goal"'),
    ],
)
def test_malformed_operating_points_are_one_sentence(text: bytes) -> None:
    with pytest.raises(ServerError, match=r"^model 'street' returned malformed operating points: .{1,200}$"):
        parse_operating_points({"operating_points": np.array([[text]], object)}, "street")


def test_operating_points_read_well_and_can_be_pickled() -> None:
    points = parse_operating_points({"operating_points": np.array([[GOOD]], object)}, "street")
    point = default_of(points)
    assert str(point) == "a: threshold 0, p95 11.5 ms (promise 12 ms), default" and point.is_calibrated
    assert repr(point).startswith("OperatingPoint(name='a', threshold=0.0, is_default=True, statistic='p95'")
    assert pickle.loads(pickle.dumps(points)) == points and len({point, point}) == 1


def test_an_operating_point_says_whether_it_follows_the_load() -> None:
    told = GOOD.replace(b'"goal"', b'"promise_ms": 70.5, "goal"')
    (following,) = parse_operating_points({"operating_points": np.array([[told]], object)}, "street").values()
    (fixed,) = parse_operating_points({"operating_points": np.array([[GOOD]], object)}, "street").values()
    assert (following.follow_load, following.promise_ms) == (True, 70.5)
    assert str(following) == "a: threshold 0, p95 11.5 ms (promise 12 ms), follows the load (p95 70.5 ms), default"
    assert (fixed.follow_load, fixed.promise_ms) == (False, None) and "follow" not in str(fixed) + repr(fixed)

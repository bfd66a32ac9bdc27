"""What a tab remembers, and how its words reach the page."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from dynamicdet.errors import InputError, PictureTooLargeError
from dyndet_builder.trying import intake, markup
from dyndet_builder.trying.asking import Answers
from dyndet_builder.trying.history import Seen, match
from dyndet_builder.trying.intake import Picture, read_upload
from dyndet_builder.trying.points import Points, Promise
from dyndet_builder.trying.tab import MOST_SEEN, MOST_SHOTS, Tab
from dyndet_client import Detections, Masks
from dyndet_client.detections import Route
from dyndet_client.drawing import class_colour

_HOSTILE = "<script>alert('1')</script>\x1b[31m"
_POINTS = Points(
    default="10ms",
    first_threshold=0.3,
    promises={
        "10ms": Promise(threshold=0.3, statistic="mean", goal=12.0),
        "20ms": Promise(threshold=0.1, statistic="mean", goal=20.0),
    },
)


def _tab(pictures: int = 0, *, name: str = "picture", difficulty: float = 0.5, from_camera: bool = False) -> Tab:
    tab = Tab()
    picture = Picture(name=name, pixels=np.zeros((8, 10, 3), np.uint8), shown=b"shown", thumbnail=b"small")
    for _ in range(pictures):
        tab.add(picture, _answers(difficulty), from_camera=from_camera)
    return tab


def _answers(difficulty: float) -> Answers:
    easy, hard = _found("easy", 0), _found("hard", 2)
    seen = Seen(difficulty=difficulty, easy_ms=10, hard_ms=20, matches=match(easy, hard))
    return Answers(easy=easy, hard=hard, seen=seen)


def _found(route: Route, count: int) -> Detections:
    return Detections(
        boxes=np.tile(np.array([[1, 1, 5, 5]], np.float32), (count, 1)),
        scores=np.linspace(0.9, 0.3, count, dtype=np.float32),
        classes=np.zeros(count, np.int32),
        names=(_HOSTILE,) * count,
        difficulty=0.5,
        route=route,
        image_size=(10, 8),
    )


def test_masks_are_a_layer_between_picture_and_boxes() -> None:
    """Of the shown objects alone, the surest on top, each in the colour of its class."""
    boxes = np.array([[0, 0, 200, 100], [100, 0, 400, 100]], np.float32)
    found = Detections(
        boxes=boxes,
        scores=np.array([0.9, 0.4], np.float32),
        classes=np.array([1, 2], np.int32),
        names=("cat", "dog"),
        difficulty=0.5,
        route="hard",
        image_size=(1600, 100),
        masks=Masks(values=np.full((2, 28, 28), 255, np.uint8), boxes=boxes, image_size=(1600, 100)),
    )
    layer = markup.boxes(found, [0, 1]).partition('src="data:image/png;base64,')[2].partition('"')[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(layer))))
    assert pixels.shape == (50, 800, 4)
    assert [tuple(pixels[25, x, :3]) for x in (10, 90, 150)] == [class_colour(1), class_colour(1), class_colour(2)]
    assert pixels[25, 10, 3] == 110 and not pixels[25, 300:].any()
    assert "base64" not in markup.boxes(found, []) + markup.boxes(_found("hard", 2), [0, 1])


def test_a_tab_remembers_only_the_last_pictures_and_no_frame_of_a_camera_can_be_looked_at_again() -> None:
    tab = _tab(MOST_SEEN + 10)
    assert tab.numbers is not None and tab.numbers.pictures == MOST_SEEN
    assert [shot.number for shot in tab.shots] == list(range(MOST_SEEN + 11 - MOST_SHOTS, MOST_SEEN + 11))
    assert tab.shot(1) is None
    assert tab.shot(MOST_SEEN + 10) is tab.current
    camera = _tab(3, from_camera=True)
    assert (len(camera.shots), camera.shot(2), camera.shot(3)) == (0, None, camera.current)
    assert camera.numbers is not None and camera.numbers.pictures == 3


def test_the_servers_operating_points_are_taken_unless_the_user_chose_before() -> None:
    tab = _tab()
    tab.learn(_POINTS)
    assert (tab.point, tab.threshold) == ("10ms", 0.3)
    assert tab.promise is not None and tab.promise.text == "mean of 12 ms"
    tab.choose_threshold(0.8)
    tab.learn(Points(default="20ms", first_threshold=0.1, promises=_POINTS.promises))
    assert (tab.point, tab.threshold, tab.promise) == (None, 0.8, None)
    tab.choose_point("10ms")
    tab.choose_point("no such point")
    assert (tab.point, tab.threshold) == ("10ms", 0.3)
    tab.learn(Points(first_threshold=0.6))  # the chosen one is gone
    assert (tab.point, tab.threshold) == (None, 0.3)


def test_names_of_others_are_text_wherever_they_are_shown() -> None:
    tab = _tab(1, name=_HOSTILE)
    assert tab.current is not None
    found, rows = tab.current.answers.hard, (0, 1)
    for shown in (
        markup.verdict(tab),
        markup.finds_more(tab.current, 0.25),
        markup.boxes(found, rows, tab.current.more(0.25)),
    ):
        assert "&lt;script&gt;alert(&#x27;1&#x27;)" in shown
        assert "<script" not in shown and "\x1b" not in shown
    assert markup.boxes(found, rows, (1,)).count('class="box more') == 1


def test_a_promise_is_kept_up_to_3_percent() -> None:
    tab = _tab(4, difficulty=0.5)  # 20 ms each
    tab.learn(_POINTS)
    assert 'class="over">20.0 ms, above it' in markup.promised(tab.promise, tab.numbers)
    tab.choose_point("20ms")
    assert 'class="kept">20.0 ms' in markup.promised(tab.promise, tab.numbers)
    faster = Promise(threshold=0.5, statistic="throughput", goal=80.0, unit="/s")
    assert "cannot show a throughput" in markup.promised(faster, tab.numbers)


def test_a_picture_without_a_difficulty_is_hard_and_says_so() -> None:
    tab = _tab(2, difficulty=math.nan)
    tab.choose_threshold(1.0)
    assert tab.is_hard
    assert "gave no difficulty" in markup.verdict(tab)
    assert sum(map(sum, tab.histogram())) == 0
    assert 'class="here"' not in markup.histogram(tab)


def test_an_upload_is_bounded_in_bytes_and_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, format="PNG")
    picture = read_upload(buffer.getvalue(), "a\x1b.png")
    assert (picture.name, picture.size, picture.pixels.shape) == ("a\\x1b.png", (300, 200), (200, 300, 3))
    assert Image.open(io.BytesIO(picture.thumbnail)).size == (192, 128)
    for name, value in (("MAX_UPLOAD_BYTES", 100), ("MAX_UPLOAD_PIXELS", 59_999)):
        with monkeypatch.context() as patch, pytest.raises(PictureTooLargeError, match=r"^red.png: too large"):
            patch.setattr(intake, name, value)
            read_upload(buffer.getvalue(), "red.png")
    with pytest.raises(InputError, match=r"^notes: not a readable image"):
        read_upload(b"notes", "notes")

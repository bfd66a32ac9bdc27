"""Requests and answers without a server: what is sent, how answers are read, what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dyndet_client
from dynamicdet.letterbox import Fit, letterbox
from dyndet_client import Detections, InputError, NotADetectorError, ServerError
from dyndet_client.codec import OUTPUTS, Options, ServedModel, decode, encode, parse_model
from dyndet_client.session import detectors_among
from dyndet_client.transport import parse_url

MODEL = ServedModel(name="dyndet", fit=Fit.square(64), class_names=("cat", "dog"))
PICTURE = np.zeros((50, 100, 3), np.uint8)


def config(**changes) -> dict:
    """A model configuration as Triton's gRPC JSON gives it: numbers of dims are strings."""
    good = {
        "name": "dyndet",
        "max_batch_size": 8,
        "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["64", "64", "3"]}],
        "output": [{"name": name} for name in OUTPUTS],
        "parameters": {
            "dyndet_input_size": {"string_value": "64"},
            "dyndet_class_names": {"string_value": json.dumps(["cat", "dog"])},
        },
    }
    return {**good, **changes}


def answer(**changes) -> dict[str, np.ndarray]:
    boxes = np.zeros((1, 5, 4), np.float32)
    boxes[0, :3] = [[0, 16, 32, 32], [10, 20, 30, 40], [-5, 0, 70, 64]]
    good = {
        "num_detections": np.array([[3]], np.int32),
        "boxes": boxes,
        "scores": np.array([[0.3, 0.9, 0.1, 0, 0]], np.float32),
        "classes": np.array([[0, 1, 1, 0, 0]], np.int32),
        "difficulty": np.array([[0.4]], np.float32),
        "route": np.array([[2]], np.int32),
    }
    return {**good, **{name: np.asarray(value) for name, value in changes.items()}}


def test_the_public_names_are_these() -> None:
    """Removing or renaming one breaks programs of users; adding one changes this list and the changelog."""
    assert sorted(dyndet_client.__all__) == [
        "AbandonedCalls",
        "AccessDeniedError",
        "AsyncDetector",
        "BadRequestError",
        "DeadlineExceededError",
        "Detection",
        "Detections",
        "Detector",
        "DyndetError",
        "InputError",
        "KeepAlive",
        "Masks",
        "MissingExtraError",
        "ModelNotReadyError",
        "NoMasksError",
        "NotADetectorError",
        "OperatingPoint",
        "OverloadedError",
        "Retries",
        "Route",
        "ServerError",
        "ServerUnreachableError",
        "SharedMemoryError",
        "Tls",
        "TransportChoice",
        "UnknownOperatingPointError",
    ]
    assert all(hasattr(dyndet_client, name) for name in dyndet_client.__all__)


def test_a_detector_is_recognised_by_its_configuration() -> None:
    assert parse_model(config()) == MODEL


def config_of(fit: str, dims: list[int]) -> dict:
    parameters = {"dyndet_fit": {"string_value": fit}, "dyndet_class_names": {"string_value": "[]"}}
    return config(input=[{"name": "image", "data_type": "TYPE_UINT8", "dims": dims}], parameters=parameters)


def test_a_detector_with_a_rule_of_its_own_says_how_pictures_are_fitted() -> None:
    fit = Fit(height=32, width=96, resize="stretch", filter="linear")
    served = parse_model(config_of(fit.as_json(), [32, 96, 3]))
    assert (served.fit, served.input_size) == (fit, 96)
    with pytest.raises(NotADetectorError, match=r"takes TYPE_UINT8 \[32, 96, 3\]"):
        parse_model(config_of(fit.as_json(), [96, 32, 3]))


@pytest.mark.parametrize(
    "fit",
    [
        "",
        "[" * 100_000,
        '{"height": ' + "[" * 200,
        '{"height": 1}',
        '{"height": 99999, "width": 64}',
        '{"height": 1e999, "width": 64}',
        '{"height": true, "width": 64}',
        '{"height": 64, "width": 64, "resize": {"\\u001b[31m": []}}',
        '{"height": 64, "width": 64, "mirror": true}',
        '{"height": 64, "width": 64, "filter": "lanczos\\u202e"}',
    ],
)
def test_a_damaged_or_unknown_rule_is_refused_in_one_sentence(fit: str) -> None:
    """A newer server may have rules that this client does not know."""
    with pytest.raises(NotADetectorError, match="damaged dyndet parameters") as caught:
        parse_model(config_of(fit, [64, 64, 3]))
    assert len(str(caught.value)) < 700 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": ["3"]}]}, "no input image"),
        ({"output": [{"name": "boxes"}]}, "no output num_detections"),
        ({"parameters": {}}, "no parameter dyndet_class_names"),
        ({"input": [{"name": "image", "data_type": "TYPE_FP32", "dims": ["64", "64", "3"]}]}, "TYPE_FP32"),
        ({"input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["3", "64", "64"]}]}, r"\[3, 64, 64\]"),
        ({"max_batch_size": 0}, "max_batch_size 0"),
    ],
)
def test_other_models_are_refused_with_the_first_difference(changes, reason: str) -> None:
    with pytest.raises(NotADetectorError, match=reason):
        parse_model(config(**changes))


def test_the_parts_of_a_pair_are_not_named_as_detectors() -> None:
    parts = [f"street{slot}_{part}" for slot in ("", "_b") for part in ("detector1", "detector1_own", "detector2")]
    assert detectors_among(["street", "street_encoded", *parts, "lone_detector1"]) == ["lone_detector1", "street"]


def test_a_request_carries_the_letterboxed_picture_and_only_what_was_asked_for() -> None:
    plain = encode(MODEL, PICTURE, Options())
    assert list(plain.tensors) == ["image"] and not plain.parameters
    assert plain.tensors["image"].shape == (1, 64, 64, 3) and plain.tensors["image"].dtype == np.uint8
    forced = encode(MODEL, PICTURE, Options(threshold=0.5))
    assert forced.tensors["threshold"].tolist() == [[0.5]] and forced.tensors["threshold"].dtype == np.float32
    assert encode(MODEL, PICTURE, Options(operating_point="fast")).parameters == {"dyndet_operating_point": "fast"}
    assert encode(MODEL, PICTURE, Options(request_id="street-7")).request_id == "street-7"
    with pytest.raises(InputError, match="request_id"):
        Options(request_id="two\nlines")


def test_a_picture_that_fills_the_square_is_not_copied() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    request = encode(MODEL, pixels, Options())
    assert np.shares_memory(request.tensors["image"], pixels)
    np.testing.assert_array_equal(request.image, letterbox(pixels, 64).image)
    boxes = np.array([[1, 2, 30, 64]], np.float32)
    np.testing.assert_array_equal(request.letterboxed.to_original(boxes), letterbox(pixels, 64).to_original(boxes))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": float("nan")},
        {"threshold": float("inf")},
        {"threshold": 2},
        {"threshold": -0.1},
        {"threshold": "0.5"},
        {"threshold": True},
        {"threshold": 0.5, "operating_point": "fast"},
        {"operating_point": ""},
        {"min_score": 1.5},
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_sent(options) -> None:
    with pytest.raises(InputError):
        Options(**options)


def test_an_answer_is_mapped_back_sorted_and_filtered() -> None:
    found = decode(MODEL, encode(MODEL, PICTURE, Options(min_score=0.2)), answer())
    assert found.names == ("dog", "cat") and found.classes.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    scale, top = 100 / 64, 16  # the 100 x 50 picture fills the width of the square
    assert found.boxes[0].tolist() == pytest.approx([10 * scale, (20 - top) * scale, 30 * scale, (40 - top) * scale])
    assert (found.route, found.image_size, len(found)) == ("hard", (100, 50), 2)
    everything = decode(MODEL, encode(MODEL, PICTURE, Options(min_score=0)), answer())
    assert everything.boxes[2].tolist() == [0, 0, 100, 50]  # clipped to the picture
    assert json.loads(json.dumps(found.to_dict()))["detections"][0]["name"] == "dog"


def test_a_detection_without_area_in_the_picture_is_left_out_with_its_score_and_class() -> None:
    inside = [10, 20, 30, 40]
    nothing = [
        [10, 20, 10, 40], [10, 20, 30, 20], [30, 20, 10, 40], [10, 0, 30, 16], [10, 48, 30, 64], [70, 20, 90, 40],
        [10, 20, np.nan, 40], [np.nan] * 4, [-np.inf, 20, 0, 40], [10, 20, 10.003, 40],
    ]  # fmt: skip
    rows = [*nothing[:5], inside, *nothing[5:]]
    found = decode(
        MODEL,
        encode(MODEL, PICTURE, Options()),
        answer(
            num_detections=[[len(rows)]],
            boxes=np.array([rows], np.float32),
            scores=np.array([np.linspace(0.9, 0.3, len(rows))], np.float32),
            classes=np.array([[0] * 5 + [1] + [0] * 5], np.int32),
        ),
    )
    assert (len(found), found.names, found.classes.tolist()) == (1, ("dog",), [1])
    assert found.scores.tolist() == pytest.approx([0.6]) and found.boxes.shape == (1, 4)
    (box,) = (one["box"] for one in found.to_dict()["detections"])
    assert box[2] > box[0] and box[3] > box[1] and len(found.to_coco(1)) == 1


@given(
    corners=st.lists(st.tuples(*[st.floats(-200, 200, width=32) | st.just(math.nan)] * 4), min_size=1, max_size=8),
    height=st.integers(1, 3000),
)
def test_every_box_has_an_area_also_in_json_and_coco(corners: list[tuple[float, ...]], height: int) -> None:
    request = encode(MODEL, np.zeros((height, 100, 3), np.uint8), Options(min_score=0))
    rows = len(corners)
    found = decode(
        MODEL,
        request,
        answer(
            num_detections=[[rows]],
            boxes=np.array([corners], np.float32),
            scores=np.full((1, rows), 0.5, np.float32),
            classes=np.zeros((1, rows), np.int32),
        ),
    )
    plain = found.to_dict()["detections"]
    assert len(found) == len(found.names) == len(plain) == len(found.boxes)
    for one, coco in zip(plain, found.to_coco(1), strict=True):
        left, top, right, bottom = one["box"]
        assert left < right <= 100 and top < bottom <= height and min(coco["bbox"][2:]) > 0


@settings(max_examples=60, deadline=None)
@given(
    fit=st.builds(
        Fit,
        height=st.integers(8, 200),
        width=st.integers(8, 200),
        resize=st.sampled_from(["letterbox", "stretch"]),
        place=st.sampled_from(["centre", "top-left"]),
        filter=st.sampled_from(["antialias", "linear"]),
    ),
    size=st.tuples(st.integers(8, 1000), st.integers(8, 1000)),
    corner=st.tuples(st.floats(0, 0.7), st.floats(0, 0.7)),
)
def test_an_object_is_found_where_it_is_by_every_rule(fit: Fit, size: tuple[int, int], corner) -> None:
    """A bright object is painted into the picture, and looked up in the pixels that are sent."""
    height, width = size
    left, top = round(corner[0] * width), round(corner[1] * height)
    right, bottom = min(width, left + width // 4 + 2), min(height, top + height // 4 + 2)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    model = ServedModel(name="dyndet", fit=fit, class_names=("object",))
    request = encode(model, pixels, Options())
    assert request.tensors["image"].shape == (1, *fit.shape)
    seen = request.letterboxed.from_original([[left, top, right, bottom]])[0]
    rows, columns = np.nonzero(request.image[:, :, 0] > 250)
    if rows.size:  # an object of a pixel or two can be blurred away
        assert columns.min() >= seen[0] - 1 and columns.max() + 1 <= seen[2] + 1, (columns.min(), columns.max(), seen)
        assert rows.min() >= seen[1] - 1 and rows.max() + 1 <= seen[3] + 1
    found = decode(
        model,
        request,
        answer(
            num_detections=[[1]],
            boxes=np.array([[seen]], np.float32),
            scores=np.ones((1, 1), np.float32),
            classes=np.zeros((1, 1), np.int32),
        ),
    )
    np.testing.assert_allclose(found.boxes, [[left, top, right, bottom]], atol=0.01)
    assert found.image_size == (width, height)


@pytest.mark.parametrize("value", [1.0000001, 1 + 1e-15, -1e-9, np.float32(1.0000001)])
def test_a_threshold_that_is_hardly_out_of_range_is_named_as_it_is(value: float) -> None:
    with pytest.raises(InputError) as caught:
        Options(threshold=value)
    assert str(caught.value).endswith(f"not {value!r}")


@pytest.mark.parametrize(
    ("value", "route"), [(1, "easy"), (2, "hard"), (-1, "fallback"), (-2, "fallback"), (-3, "degraded")]
)
def test_routes_have_names(value: int, route: str) -> None:
    found = decode(MODEL, encode(MODEL, PICTURE, Options()), answer(route=[[value]]))
    assert found.route == found.to_dict()["route"] == route and str(found).startswith(f"{route} route, ")
    assert found.draw(PICTURE).height > found.image_size[1]  # with the route above the picture


def test_a_missing_difficulty_stays_visible_and_gives_valid_json() -> None:
    found = decode(MODEL, encode(MODEL, PICTURE, Options()), answer(difficulty=[[np.nan]]))
    assert np.isnan(found.difficulty) and found.to_dict()["difficulty"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"num_detections": [[9]]},
        {"num_detections": [[-1]]},
        {"classes": [[2, 2, 2, 0, 0]]},
        {"scores": np.array([[7, 0.5, 0.5, 0, 0]], np.float32)},
        {"difficulty": [[1.5]]},
        {"route": [[0]]},
        {"boxes": np.zeros((1, 5, 3), np.float32)},
    ],
)
def test_an_answer_that_breaks_the_contract_is_an_error_of_the_server(changes) -> None:
    with pytest.raises(ServerError, match="dyndet"):
        decode(MODEL, encode(MODEL, PICTURE, Options()), answer(**changes))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost", "localhost:8001"),
        ("grpc://10.0.0.2:9001", "10.0.0.2:9001"),
        ("[::1]:8001", "[::1]:8001"),
        (" host:1/ ", "host:1"),
    ],
)
def test_addresses_come_with_or_without_scheme_and_port(url: str, address: str) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url", ["http://localhost:8000", "grpcs://host", "", "host:port", "host:70000", "a b", "h:1/x"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        parse_url(url)


GOOD = {
    "boxes": np.zeros((1, 4), np.float32),
    "scores": np.ones(1, np.float32),
    "classes": np.zeros(1, np.int32),
    "names": ("cat",),
    "difficulty": 0.5,
    "route": "easy",
    "image_size": (4, 3),
}


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": np.zeros((2, 4), np.float32)},
        {"boxes": np.zeros((1, 4), np.float64)},
        {"scores": np.array([np.nan], np.float32)},
        {"names": ()},
        {"route": "medium"},
        {"image_size": (0, 3)},
    ],
)
def test_detections_are_checked_on_creation(change) -> None:
    Detections(**GOOD)
    with pytest.raises(InputError):
        Detections(**{**GOOD, **change})


def found_objects() -> Detections:
    return Detections(
        boxes=np.array([[10, 20, 110.5, 220], [0, 0, 5, 5]], np.float32),
        scores=np.array([0.9, 0.25], np.float32),
        classes=np.array([1, 0], np.int32),
        names=("dog", "cat"),
        difficulty=0.3,
        route="hard",
        image_size=(640, 480),
    )


def test_coco_results_have_corner_and_size_and_the_data_sets_categories() -> None:
    first, second = found_objects().to_coco(42, category_ids=[17, 18])
    assert first == {"image_id": 42, "category_id": 18, "bbox": [10, 20, 100.5, 200], "score": pytest.approx(0.9)}
    assert second["category_id"] == 17 and found_objects().to_coco("a")[1]["category_id"] == 0
    json.dumps([first, second])
    with pytest.raises(InputError, match="too few"):
        found_objects().to_coco(1, category_ids=[17])


def test_supervision_takes_the_objects_over() -> None:
    supervision = pytest.importorskip("supervision")
    given, taken = found_objects(), found_objects().to_supervision()
    assert isinstance(taken, supervision.Detections) and len(taken) == 2
    np.testing.assert_array_equal(taken.xyxy, given.boxes)
    assert taken.data["class_name"].tolist() == ["dog", "cat"] and taken.metadata["route"] == "hard"


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (20000, 10), (320, 240)])
def test_drawing_works_on_any_shape_and_leaves_the_input_alone(size: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    found = Detections(
        boxes=np.array([[0, 0, *size], [0, 0, 0, 0], [size[0] / 2, 0, size[0], size[1] / 3]], np.float32),
        scores=np.array([0.9, 0.5, 0.4], np.float32),
        classes=np.array([0, 1, 2], np.int32),
        names=("cat", "dog", "traffic light"),
        difficulty=float("nan"),
        route="fallback",
        image_size=size,
    )
    assert found.draw(pixels, header=False).size == size
    with_header = found.draw(pixels)
    assert with_header.width == size[0] and with_header.height > size[1]
    assert (pixels == 200).all()
    assert (np.asarray(found.draw(pixels, header=False)) != 200).any()
    with pytest.raises(InputError, match="pixels, but the objects"):
        found.draw(np.zeros((size[1] + 1, size[0], 3), np.uint8))

"""A file that was edited by hand and is refused: the message names the field, what it holds and what is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import FILE_NAME, read_manifest
from dyndet_builder.operating_points import read_operating_points, uncalibrated
from tests.support.toy_bundle import write_toy_bundle

_POINT = ("points", "uncalibrated")
_POINTS: list[tuple[tuple[str, ...], object, str]] = [
    ((*_POINT, "threshold"), 7, "points.uncalibrated.threshold is 7; a number from 0 to 1 is accepted"),
    ((*_POINT, "threshold"), "0.5", 'points.uncalibrated.threshold is "0.5"; a number from 0 to 1 is accepted'),
    ((*_POINT, "goal"), -1, "points.uncalibrated.goal is -1; a number above 0 and at most 1,000,000,000,000 is"),
    ((*_POINT, "percentiles_ms"), [], "points.uncalibrated.percentiles_ms is a list; an object is accepted"),
    (
        (*_POINT, "percentiles_ms"),
        {str(one): 1 for one in range(21)},
        "percentiles_ms has too many entries; at most 20 are",
    ),
    (("schema_version",), 1, "schema_version is 1; 2 is accepted"),
    (("default",), "a b", 'default is "a b"; a text of the form ^[A-Za-z0-9_.+]'),
    (("points", "a b"), {"threshold": 0.5}, 'a key of points is "a b"; a text of the form ^[A-Za-z0-9_.+]'),
    (("points", "other"), {}, "points.other.threshold: this key is missing"),
]
_BUNDLE: list[tuple[tuple[str, ...], object, str]] = [
    (("precision",), "fp8", "precision is \"fp8\"; 'fp32'"),
    (("name",), "../\x1bx", 'name is "../\\u001bx"; a text of the form'),
    (("nms", "max_detections"), 0, "nms.max_detections is 0; a whole number from 1 to 1,000 is"),
]


def _said(read: Callable[[Path], Any], file: Path, content: str) -> str:
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        read(file)
    said = str(caught.value)
    assert "Input should" not in said and "\n" not in said and said.isprintable() and len(said) < 900
    return said


def _with(content: Any, path: tuple[str, ...], value: object) -> str:
    inner = content
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return json.dumps(content)


def test_a_damaged_file_of_operating_points_is_named_with_field_value_and_what_is_accepted(tmp_path: Path) -> None:
    for path, value, expected in _POINTS:
        content = _with(uncalibrated().model_dump(mode="json"), path, value)
        said = _said(read_operating_points, tmp_path / "points.json", content)
        assert expected in said and "correct it" in said, said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it ends at line 1, column 0"),
        ('{"a": ', "before it is complete"),
        ("{a", "it is not JSON at line 1, column"),
    ],
)
def test_what_is_not_json_is_named_by_its_place(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in _said(read_operating_points, tmp_path / "points.json", text)


def test_a_damaged_description_of_a_bundle_is_named_alike(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    whole = (bundle / FILE_NAME).read_text()
    for path, value, expected in _BUNDLE:
        said = _said(read_manifest, tmp_path / "bundle.json", _with(json.loads(whole), path, value))
        assert expected in said, said

"""Faults of annotations: fatal ones are told in one sentence, others are handled and counted."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.datasets.annotations import LARGEST_FILE
from dynamicdet.datasets.check import check_data
from dynamicdet.datasets.dataset import read_dataset
from dynamicdet.datasets.findings import DataSummary
from dynamicdet.errors import InputError
from tests.support.tiny_data import tiny_content, write_pictures, write_tiny_data

Change = Callable[[dict[str, Any]], object]


def _all(entries: list[dict[str, Any]], **changes: Callable[[Any], Any]) -> None:
    for entry in entries:
        for field, change in changes.items():
            entry[field] = change(entry[field])


@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        ("mixed", r"category ids are text \('1'\) and others are numbers", lambda c: c["categories"][0].update(id="1")),
        ("mixed", "image ids are text", lambda c: c["images"][1].update(id="two")),
        ("id", "image id true is not a whole number", lambda c: c["annotations"][0].update(image_id=True)),
        ("id", "category id 1.5 is not", lambda c: c["annotations"][0].update(category_id=1.5)),
        ("id", "image id 1180591620717411303424 is larger than accepted", lambda c: c["images"][0].update(id=1 << 70)),
        ("field", "has null as 'category_id'", lambda c: c["annotations"][0].update(category_id=None)),
        ("field", "entry 1 of 'annotations' has no 'bbox'", lambda c: c["annotations"][0].pop("bbox")),
        ("field", "entry 2 of 'images' is not a JSON object", lambda c: c["images"].__setitem__(1, None)),
        ("box", "a box is four numbers", lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 4, 0.9])),
        ("box", "a box is four numbers", lambda c: c["annotations"][0].update(bbox=["1", "2", "3", "4"])),
        ("box", "a box is four numbers", lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**400])),
        ("box", "from -1000000000 to 1000000000", lambda c: c["annotations"][0].update(bbox=[1e308] * 4)),
        ("crowd", "iscrowd 2; it is 0 or 1", lambda c: c["annotations"][0].update(iscrowd=2)),
        ("size", "size 'wide' x 30; a size is two whole numbers", lambda c: c["images"][0].update(width="wide")),
        ("size", "has the size 40 x 0", lambda c: c["images"][0].update(height=0)),
        ("same name", "categories 1 and 2 have the same name, 'cat'", lambda c: c["categories"][1].update(name="cat ")),
        ("name", "has the name 7; a class name is", lambda c: c["categories"][0].update(name=7)),
        ("name", r"has the name 'a\\x1b\[2J'", lambda c: c["categories"][0].update(name="a\x1b[2J")),
        ("same file", "1.png belongs to the images 1 and 2", lambda c: c["images"][1].update(file_name="./1.png")),
        ("path", "leaves the image folder", lambda c: c["images"][0].update(file_name="/etc/passwd")),
        ("path", "leaves the image folder", lambda c: c["images"][0].update(file_name="../images/1.png")),
        ("path", "leaves the image folder", lambda c: c["images"][0].update(file_name="C:\\data\\1.png")),
        ("path", r"characters that cannot be printed", lambda c: c["images"][0].update(file_name="1\x1b[2J.png")),
        ("path", r"characters that cannot be printed", lambda c: c["images"][0].update(file_name="\0")),
        ("path", "is not a text", lambda c: c["images"][0].update(file_name=["1.png"])),
        ("missing", "does not exist", lambda c: c["images"][0].update(file_name="9.png")),
        ("unreadable", "cannot be read", lambda c: c["images"][0].update(file_name="x" * 5000)),
        ("nothing", "no objects to learn or to find", lambda c: c["annotations"].clear()),
        ("nothing", "3 boxes have no area", lambda c: _all(c["annotations"], bbox=lambda _: [500, 500, 5, 5])),
        ("nothing", "no objects", lambda c: _all(c["annotations"], iscrowd=lambda _: 1)),
        ("shares", "COCO boxes are in pixels", lambda c: _all(c["annotations"], bbox=lambda _: [0.1, 0.2, 0.5, 0.4])),
        ("corners", "corners x1 y1 x2 y2", lambda c: _all(c["annotations"], bbox=lambda _: [25, 20, 39, 29])),
    ],
)  # fmt: skip
def test_a_fatal_fault_is_named_and_listed(tmp_path: Path, kind: str, message: str, change: Change) -> None:
    content = tiny_content()
    change(content)
    folder = write_tiny_data(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(folder, 32)
    assert str(caught.value).isprintable()
    (checked,) = check_data(folder)
    assert kind in [finding.kind for finding in checked.findings if finding.fatal]
    assert str(checked.error) == str(caught.value)


_EXAMPLES = {
    "cut": "annotation 1 in 1.png",
    "empty": "annotation 1 in 1.png",
    "repeated": "annotation 9 in 1.png",
    "unused": "'none'",
}


@pytest.mark.parametrize(
    ("kind", "count", "change"),
    [
        ("text id", 6, lambda c: (_all(c["images"], id=str), _all(c["annotations"], image_id=str))),
        ("text id", 3, lambda c: _all(c["annotations"], category_id=str)),
        ("named id", 2, lambda c: (_all(c["categories"], id="c{}".format),
                                   _all(c["annotations"], category_id="c{}".format))),
        ("float id", 3, lambda c: _all(c["annotations"], image_id=float)),
        ("text size", 3, lambda c: _all(c["images"], width=str)),
        ("no size", 1, lambda c: c["images"][0].pop("width")),
        ("area", 3, lambda c: _all(c["annotations"], area=lambda _: None)),
        ("area", 1, lambda c: c["annotations"][0].update(area=float("nan"))),
        ("crowd flag", 3, lambda c: _all(c["annotations"], iscrowd=lambda _: "0")),
        ("repeated", 1, lambda c: c["annotations"].append({**c["annotations"][0], "id": 9})),
        ("unused", 1, lambda c: c["categories"].append({"id": 7, "name": "none"})),
        ("root", 1, lambda c: (c["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"}),
                               [one.update(supercategory="pets") for one in c["categories"][1:]])),
        ("cut", 1, lambda c: c["annotations"][0].update(bbox=[4, 6, 90, 10])),
        ("empty", 1, lambda c: c["annotations"][0].update(bbox=[4, 6, -3, 10])),
    ],
)  # fmt: skip
def test_what_is_not_fatal_is_handled_and_counted(tmp_path: Path, kind: str, count: int, change: Change) -> None:
    """The result is that of clean annotations, where the change does not concern the objects themselves."""
    content = tiny_content()
    change(content)
    read = read_dataset(write_tiny_data(tmp_path, content), 32)
    assert read.summary.count(kind) == count
    (example,) = [note.examples[0] for note in read.summary.notes if note.kind == kind]
    assert example == _EXAMPLES.get(kind, example)
    assert read.class_names[:2] == ("cat", "dog")
    assert all(type(one["area"]) is float and one["iscrowd"] == 0 for one in read.annotations["annotations"])
    if kind not in ("repeated", "cut", "empty"):
        assert [one["bbox"] for one in read.annotations["annotations"]] == [[4, 6, 20, 10]] * 3
        assert [labels.classes.tolist() for labels in read.labels] == [[1], [0], [1]]


def test_links_are_followed_inside_the_image_folder_alone(tmp_path: Path) -> None:
    folder = write_tiny_data(tmp_path / "data")
    picture = folder / "images" / "1.png"
    picture.rename(folder / "images" / "real.png")
    picture.symlink_to("real.png")
    read_dataset(folder, 32)
    (tmp_path / "outside.png").write_bytes(picture.read_bytes())
    for target in (tmp_path / "outside.png", picture):
        picture.unlink()
        picture.symlink_to(target)
        with pytest.raises(InputError, match=r"link that leaves the image folder; put|cannot be read"):
            read_dataset(folder, 32)


def test_a_pipe_is_not_a_picture(tmp_path: Path) -> None:
    folder = write_tiny_data(tmp_path)
    (folder / "images" / "1.png").unlink()
    os.mkfifo(folder / "images" / "1.png")
    with pytest.raises(InputError, match=r"is not a regular file$"):
        read_dataset(folder, 32)


def test_the_number_of_equal_faults_is_a_clause_of_its_own(tmp_path: Path) -> None:
    """And there is none where the first clause already speaks of all boxes."""
    for change, end in (
        (lambda c: _all(c["annotations"], image_id=lambda _: 9), "unknown image 9; the same fault occurs 2 more times"),
        (lambda c: _all(c["annotations"], bbox=lambda _: [0.1, 0.2, 0.5, 0.4]), "COCO boxes are in pixels"),
    ):
        content = tiny_content()
        change(content)
        with pytest.raises(InputError, match=f"{end}($|; `dyndet data check` also)"):
            read_dataset(write_tiny_data(tmp_path, content), 32)


def test_files_that_are_too_large_too_deep_or_no_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    for text, message in (
        ("[" * 200_000, "is not valid JSON: it is nested too deeply$"),
        ('{"images": ' + "9" * 5000 + "}", "JSON: it has a whole number of more than 4,300 digits$"),
        ("\xff\xff", "JSON: it is not text in UTF-8"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images and no categories$"),
        ("[]", "no list 'images'"),
    ):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=message):
            read_dataset(tmp_path, 32)
    with file.open("wb") as sparse:
        sparse.truncate(LARGEST_FILE + 1)
    with pytest.raises(InputError, match="bytes, and at most"):
        read_dataset(tmp_path, 32)
    with pytest.raises(InputError, match="is not a regular file"):
        read_dataset("/dev/zero", 32)


_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2.5, 1e308, 1 << 53, 1 << 64, 10**400, float("nan"), float("inf"), "", "1", "007", "\0",
    "\ud800", "x" * 300, "\x1b[2J", "..", "/", [], {}, [[]], [1, 2, 3], [1, 2, 3, 4, 5], [0, 0, 0, 0],
    [float("nan")] * 4, [[1], 2, 3, 4], {"a": 1}, [10**400, 1, 1, 1],
)  # fmt: skip


def mutated(rng: random.Random) -> str:
    """Annotations with a few changes anywhere: a value of another kind, an entry that is gone or doubled, bytes."""
    content: Any = tiny_content()
    for _ in range(rng.randint(1, 4)):
        place, key = content, rng.choice(list(content))
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.9:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        change = rng.random()
        if change < 0.15:
            del place[key]
        elif change < 0.25 and isinstance(place, list):
            place.append(deepcopy(place[key]))
        else:
            place[key] = deepcopy(rng.choice(_STRANGE))
        if not content:
            break
    text = json.dumps(content)
    if rng.random() < 0.1:
        start = rng.randrange(len(text))
        text = text[:start] + chr(rng.randrange(256)) * rng.randrange(3) + text[start + rng.randrange(5) :]
    return text


def test_changed_annotations_give_a_data_set_or_one_sentence(tmp_path: Path) -> None:
    rng = random.Random(7)
    write_pictures(tmp_path / "images")
    refused = 0
    for number in range(400):
        (tmp_path / "annotations.json").write_bytes(mutated(rng).encode("latin-1", "replace"))
        try:
            read = read_dataset(tmp_path, 32)
        except InputError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 1500, number
        else:
            assert any(len(one.classes) for one in read.labels) and len(set(read.class_names)) == len(read.class_names)
    assert 200 < refused < 400


def test_the_content_of_a_data_set_is_counted_in_words() -> None:
    one, many = (DataSummary(images=n, objects=n, classes=n, notes=()) for n in (1, 1200))
    assert one.sentences() == ["1 image, 1 object of 1 class"]
    assert many.sentences() == ["1,200 images, 1,200 objects of 1,200 classes"]
